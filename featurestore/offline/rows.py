"""Rows and labels by key and time: rows come grouped by ranges of keys, and are sorted a part of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.offline.kernels import Ints, search
from featurestore.offline.wanted import NUMBER, Grouped

POSITION = ("arrival", "_writer", "_sequence")
"""The columns that order rows of one key with one event time."""

_BITS = 63
_NONE = np.zeros(0, dtype=np.int64)


def order_of(key: Ints, time: Ints) -> Ints:
    """Return rows in the order of (key, time); both must not be empty."""
    low, first = int(key.min()), int(time.min())
    bits = (int(time.max()) - first).bit_length()
    if (int(key.max()) - low).bit_length() + bits > _BITS:
        return np.lexsort((time, key))
    return np.argsort(((key - low) << bits) | (time - first))


class Labels:
    """What is asked for: the number of each label's key (-1: a key without rows) and its time in microseconds."""

    def __init__(self, key: Ints, t: Ints) -> None:
        self.key = key
        self.t = t

    @cached_property
    def by_key(self) -> Ints:
        """The labels in the order of their keys."""
        bits = len(self.key).bit_length()
        packed = (self.key << bits) | np.arange(len(self.key))
        packed.sort()
        packed &= (1 << bits) - 1
        return packed

    def take(self, places: Ints) -> Labels:
        """Return some of the labels."""
        return Labels(self.key[places], self.t[places])


class Found(NamedTuple):
    """Rows as they were read, some at a time, each time grouped alike.

    Attributes
    ----------
    groups
        The rows, with their times, the numbers of their keys and all columns.
    schema
        The types to give values back in; the rows may have others that are cast to them.
    """

    groups: Sequence[Grouped]
    schema: pa.Schema

    def part(self, number: int) -> Rows:
        """Return all rows of a part of the keys."""
        slices = [
            rows.slice(offsets[number], offsets[number + 1] - offsets[number])
            for rows, offsets in self.groups
            if offsets[number + 1] > offsets[number]
        ]
        if not slices:
            return Rows(_NONE, _NONE, _NONE, self.schema.empty_table(), self.schema)
        table = pa.Table.from_batches(slices).combine_chunks()
        key = table.column(NUMBER).cast(pa.int64()).to_numpy()
        time = table.column("event_timestamp").cast(pa.int64()).to_numpy()
        order = order_of(key, time)
        return Rows(key[order], time[order], order, table, self.schema)


class Rows:
    """Rows of any number of keys in the order of (key, event_timestamp, arrival, writer, sequence).

    Attributes
    ----------
    key, event_timestamp
        Number of each row's key, and its event time in microseconds.
    positioned
        Whether the table has the columns `POSITION`; else rows of one key and time stand in any order.

    Parameters
    ----------
    order, table
        The rows' places in a table of their columns.
    schema
        The types to give values back in.
    """

    def __init__(self, key: Ints, event_timestamp: Ints, order: Ints, table: pa.Table, schema: pa.Schema) -> None:
        self.key = key
        self.event_timestamp = event_timestamp
        self.positioned = set(POSITION) <= set(table.column_names)
        self._order = order
        self._table = table
        self._schema = schema
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
        arrival, writer, sequence = (_sortable(self._gather(name, rows)) for name in POSITION)
        self._order = self._order.copy()
        self._order[inside] = rows[np.lexsort((sequence, writer, arrival, run))]

    @cached_property
    def arrival(self) -> Ints:
        """Arrivals in microseconds; the table must hold them."""
        return _sortable(self.column("arrival"))

    def column(self, name: str) -> pa.Array:
        """Return a column."""
        return self._gather(name, self._order)

    def take(self, name: str, places: Ints, mask: np.ndarray | None = None) -> pa.Array:
        """Return the values of a column at some places; null where masked."""
        if not len(self):
            return pa.nulls(len(places), self._schema.field(name).type)
        rows = self._order[places if mask is None else np.where(mask, 0, places)]
        return self._gather(name, rows, mask)

    def _gather(self, name: str, rows: Ints, mask: np.ndarray | None = None) -> pa.Array:
        taken = self._table.column(name).combine_chunks().take(pa.array(rows, mask=mask))
        dtype = self._schema.field(name).type
        return taken if taken.type == dtype else taken.cast(dtype)

    def bounds(self, labels: Labels) -> tuple[Ints, Ints]:
        """Return the half-open range of each label's key."""
        first = np.searchsorted(self.key, labels.key, side="left").astype(np.int64)
        return first, np.searchsorted(self.key, labels.key, side="right").astype(np.int64)

    def before(self, bounds: tuple[Ints, Ints], times: Ints, *, right: bool = False) -> Ints:
        """Return, within each range of a key's rows, the first place whose time is not before (right: after) a time."""
        return search(self.event_timestamp, *bounds, times, right=right)


def _sortable(column: pa.Array) -> Ints:
    """Return integers that order as the values do: times and integers themselves, text by its UTF-8 bytes."""
    if pa.types.is_string(column.type):
        texts = np.array([text.encode() for text in column.to_pylist()], dtype=object)
        codes: Ints = np.unique(texts, return_inverse=True)[1].astype(np.int64).reshape(-1)
        return codes
    numbers: Ints = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return numbers
