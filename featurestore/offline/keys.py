"""Numbers for join keys, so that rows and labels of a key are found by integers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.offline.kernels import Bools, Ints

KeyColumns = Sequence[pa.ChunkedArray | pa.Array]

_WIDE = 1 << 22
_SPARSE = 16


class KeyNumbers(NamedTuple):
    """The distinct keys of some labels, and how their numbers come about.

    Attributes
    ----------
    base
        Where there is a single join key of an integer kind whose values lie close together: a key's number is its value
        less this. Else None.
    distinct
        Without `base`: the distinct keys, one column each, in the order of their numbers; without join keys it has no
        columns.
    """

    base: int | None
    distinct: pa.Table

    def numbers(self, values: Ints) -> Ints:
        """Return the numbers of a single integer key's values; of no label's key where below 0 or too great."""
        assert self.base is not None  # noqa: S101  (the caller looked)
        return values - self.base


def number_keys(names: Sequence[str], sets: Sequence[KeyColumns]) -> tuple[KeyNumbers, list[Ints]]:
    """Give the keys of labels numbers.

    Parameters
    ----------
    names
        Names of the join keys.
    sets
        For each set of labels the columns with its keys, typed alike in all sets.

    Returns
    -------
    KeyNumbers
        How rows get their numbers.
    list of arrays
        For each set its labels' numbers, -1 where a key holds a null.
    """
    lengths = [len(columns[0]) if columns else 0 for columns in sets]
    joined = [_joined([columns[place] for columns in sets]) for place in range(len(names))]
    if not names:
        raise ValueError("views without join keys need no numbers")
    found = _by_value(joined[0]) if len(joined) == 1 else None
    keys, numbers = found or _by_code(names, joined)
    return keys, np.split(numbers, np.cumsum(lengths)[:-1])


def _joined(columns: KeyColumns) -> pa.Array:
    whole = [column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for column in columns]
    return whole[0] if len(whole) == 1 else pa.concat_arrays(whole)


def integers_of(column: pa.Array) -> Ints | None:
    """Return a column of integers, times or bools as int64, with 0 for nulls; None of any other."""
    t = pa.types
    if t.is_timestamp(column.type):
        column = column.view(pa.int64())
    elif not (t.is_integer(column.type) or t.is_boolean(column.type)):
        return None
    filled = column.cast(pa.int64()).fill_null(0) if column.null_count else column.cast(pa.int64())
    values: Ints = filled.to_numpy(zero_copy_only=False)
    return values


def _valid(column: pa.Array) -> Bools:
    valid: Bools = column.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _by_value(column: pa.Array) -> tuple[KeyNumbers, Ints] | None:
    values = integers_of(column)
    if values is None or column.null_count == len(column):
        return None
    valid = _valid(column) if column.null_count else None
    known = values if valid is None else values[valid]
    low, high = int(known.min()), int(known.max())
    if high - low >= max(_WIDE, _SPARSE * len(values)):  # flags by number would take more memory than the labels
        return None
    numbers = values - low
    if valid is not None:
        numbers[~valid] = -1
    return KeyNumbers(low, pa.table({})), numbers


def _by_code(names: Sequence[str], columns: Sequence[pa.Array]) -> tuple[KeyNumbers, Ints]:
    """Give keys numbers by their distinct values: column by column, pairs of numbers made one again."""
    numbers = np.zeros(len(columns[0]), dtype=np.int64)
    missing = np.zeros(len(columns[0]), dtype=bool)
    for column in columns:
        encoded = column.dictionary_encode()
        missing |= ~_valid(encoded)
        codes = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        pairs = pa.array(numbers * max(len(encoded.dictionary), 1) + codes).dictionary_encode()
        numbers = pairs.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    numbers[missing] = -1
    present = pa.array(np.flatnonzero(~missing))
    chosen = pa.array(numbers).take(present).dictionary_encode()
    first = np.zeros(len(chosen.dictionary), dtype=np.int64)
    places = chosen.indices.to_numpy(zero_copy_only=False)
    first[places[::-1]] = present.to_numpy()[::-1]  # the last write wins: each code's first label
    numbers[present.to_numpy()] = places
    distinct = pa.table({name: column.take(pa.array(first)) for name, column in zip(names, columns, strict=True)})
    return KeyNumbers(None, distinct), numbers
