"""Rows and labels by key and time: one sort of 64-bit integers, then pieces that fit into the processor's cache."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.offline.kernels import Ints, expand, search

POSITION = ("arrival", "_writer", "_sequence")
"""The columns that order rows of one key with one event time."""

_BLOCK = 1 << 16
_RUN = 256
_NONE = np.zeros(0, dtype=np.int64)
_PIECE_ROWS = 1 << 20
_PIECE_LABELS = 1 << 17


def order_of(key: Ints, time: Ints, parts: Ints = _NONE) -> tuple[Ints, int, Ints | None]:
    """Sort rows by (key, time).

    Parameters
    ----------
    key
        Numbers from 0. The array is overwritten.
    time
        Microseconds.
    parts
        Where parts begin that may each be in the order of time, ascending; see `_by_time`.

    Returns
    -------
    packed
        Ascending, ``key << bits | place``, where `place` is the row's place in the order of time.
    bits
        How many bits a place has.
    by_time
        The rows in the order of time; None where they were given in it.
    """
    by_time = _by_time(time, parts)
    if by_time is not None:
        key = key[by_time]
    bits = len(time).bit_length()
    key <<= bits
    for start in range(0, len(key), _BLOCK):
        part = key[start : start + _BLOCK]
        part |= np.arange(start, start + len(part))
    key.sort()
    return key, bits, by_time


def _by_time(time: Ints, parts: Ints) -> Ints | None:
    """Return the rows in the order of time, or None where they are in it.

    Logs are written a stretch of time after the other, but by several writers at a time: putting such runs in order is
    cheaper than sorting.
    """
    falls = np.flatnonzero(time[1:] < time[:-1]) + 1
    if not len(falls):
        return None
    starts = np.union1d(falls, np.append(parts[parts < len(time)], 0))
    ends = np.append(starts[1:], len(time))
    order = np.argsort(time[starts], kind="stable")
    if len(starts) * _RUN < len(time) and bool((time[ends[order[:-1]] - 1] <= time[starts[order[1:]]]).all()):
        return expand(starts[order], ends[order])[0]
    return np.argsort(time, kind="stable")


class Labels:
    """What is asked for: the number of each label's key (-1: a key without rows) and its time in microseconds."""

    def __init__(self, key: Ints, t: Ints) -> None:
        self.key = key
        self.t = t

    @cached_property
    def by_key(self) -> Ints:
        """The labels in the order of their keys, then of their times."""
        by_time = np.argsort(self.t)
        rank = np.empty_like(by_time)
        rank[by_time] = np.arange(len(rank))
        return np.argsort((self.key << len(rank).bit_length()) | rank)

    def take(self, places: Ints) -> Labels:
        """Return some of the labels."""
        return Labels(self.key[places], self.t[places])


class Rows:
    """Rows of any number of keys in the order of (key, event_timestamp, arrival, writer, sequence).

    Attributes
    ----------
    key, event_timestamp
        Number of each row's key, and its event time in microseconds.
    positioned
        Whether the table has the columns `POSITION`; else rows of one key and time stand in any order.
    """

    def __init__(self, key: Ints, event_timestamp: Ints, order: Ints, table: Table) -> None:
        self.key = key
        self.event_timestamp = event_timestamp
        self.positioned = set(POSITION) <= set(table.columns)
        self._order = order
        self._table = table
        if self.positioned:
            self._settle_ties()

    def __len__(self) -> int:
        return len(self.key)

    @cached_property
    def ties(self) -> Ints:
        """The places of rows that have the key and event time of the row before them."""
        time, key = self.event_timestamp, self.key
        return np.flatnonzero((time[1:] == time[:-1]) & (key[1:] == key[:-1])) + 1

    def _settle_ties(self) -> None:
        if not len(self.ties):
            return
        tied = np.zeros(len(self) + 1, dtype=bool)
        tied[self.ties] = True
        inside = np.flatnonzero(tied[:-1] | tied[1:])
        rows = self._order[inside]
        run = np.cumsum(~tied[inside])
        arrival, writer, sequence = (_sortable(self._table.take(name, rows)) for name in POSITION)
        self._order = self._order.copy()
        self._order[inside] = rows[np.lexsort((sequence, writer, arrival, run))]

    @cached_property
    def arrival(self) -> Ints:
        """Arrivals in microseconds; the table must hold them."""
        return _sortable(self.column("arrival"))

    def column(self, name: str) -> pa.Array:
        """Return a column."""
        return self._table.take(name, self._order)

    def take(self, name: str, places: Ints, mask: np.ndarray | None = None) -> pa.Array:
        """Return the values of a column at some places; null where masked."""
        if not len(self):
            return pa.nulls(len(places), self._table.schema.field(name).type)
        rows = self._order[places if mask is None else np.where(mask, 0, places)]
        return self._table.take(name, rows, mask)

    def bounds(self, labels: Labels) -> tuple[Ints, Ints]:
        """Return the half-open range of each label's key."""
        first = np.searchsorted(self.key, labels.key, side="left").astype(np.int64)
        return first, np.searchsorted(self.key, labels.key, side="right").astype(np.int64)

    def before(self, bounds: tuple[Ints, Ints], times: Ints, *, right: bool = False) -> Ints:
        """Return, within each range of a key's rows, the first place whose time is not before (right: after) a time."""
        return search(self.event_timestamp, *bounds, times, right=right)


class Table:
    """Columns of rows in any order, each as one Arrow array.

    Parameters
    ----------
    schema
        The types to give values back in; the arrays may have others that are cast to them.
    gap, gapped
        Before which row the arrays of the columns `gapped` have a gap, and how long it is.
    """

    def __init__(
        self,
        columns: dict[str, pa.Array],
        schema: pa.Schema,
        gap: tuple[int, int] = (0, 0),
        gapped: Collection[str] = (),
    ) -> None:
        self.columns = columns
        self.schema = schema
        self._gap = gap
        self._gapped = gapped

    def take(self, name: str, rows: Ints, mask: np.ndarray | None = None) -> pa.Array:
        """Return the values of a column in some rows; null where masked."""
        row, length = self._gap
        if length and name in self._gapped:
            rows = np.where(rows >= row, rows + length, rows)
        taken = self.columns[name].take(pa.array(rows, mask=mask))
        dtype = self.schema.field(name).type
        return taken if taken.type == dtype else taken.cast(dtype)


class Piece(NamedTuple):
    """All rows of some keys, still to be gathered, and which labels have these keys."""

    packed: Ints
    bits: int
    by_time: Ints | None
    time: Ints
    table: Table
    places: Ints

    def rows(self) -> Rows:
        """Gather the rows."""
        order = self.packed & ((1 << self.bits) - 1)
        if self.by_time is not None:
            order = self.by_time[order]
        return Rows(self.packed >> self.bits, self.time[order], order, self.table)


def pieces(key: Ints, time: Ints, table: Table, labels: Labels, parts: Ints = _NONE) -> Iterator[Piece]:
    """Yield rows with the labels of their keys, a few keys at a time, in the order of `Labels.by_key`.

    Parameters
    ----------
    key, time
        Number of each row's key, and its event time. The keys' array is overwritten.
    table
        The rows' columns.
    parts
        Where parts of the rows begin that may each be in the order of time.
    """
    packed, bits, by_time = order_of(key, time, parts)
    label_keys = labels.key[labels.by_key]
    cuts = np.concatenate((packed[_PIECE_ROWS::_PIECE_ROWS] >> bits, label_keys[_PIECE_LABELS::_PIECE_LABELS]))
    keys = np.unique(cuts[cuts > 0])
    rows_at = [0, *np.searchsorted(packed, keys << bits).tolist(), len(packed)]
    labels_at = [0, *np.searchsorted(label_keys, keys).tolist(), len(label_keys)]
    for number in range(len(keys) + 1):
        places = labels.by_key[labels_at[number] : labels_at[number + 1]]
        if len(places) or not len(labels.t):
            yield Piece(packed[rows_at[number] : rows_at[number + 1]], bits, by_time, time, table, places)


def _sortable(column: pa.Array) -> Ints:
    """Return integers that order as the values do: times and integers themselves, text by its UTF-8 bytes."""
    if pa.types.is_string(column.type):
        texts = np.array([text.encode() for text in column.to_pylist()], dtype=object)
        codes: Ints = np.unique(texts, return_inverse=True)[1].astype(np.int64).reshape(-1)
        return codes
    numbers: Ints = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return numbers
