"""Rows sorted by key and time, and labels that are looked up in them: sorting is one sort of 64-bit integers."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa

from featurestore.offline.kernels import Bools, Ints

POSITION = ("arrival", "_writer", "_sequence")
"""The columns that order rows of one key with one event time."""

_BLOCK = 1 << 16
_BITS = 63


class Labels:
    """What is asked for: the number of each label's key (-1: a key without rows) and its time in microseconds."""

    def __init__(self, key: Ints, t: Ints) -> None:
        self.key = key
        self.t = t

    @cached_property
    def by_time(self) -> Ints:
        """The labels in the order of their times."""
        return np.argsort(self.t, kind="stable")

    @cached_property
    def by_key(self) -> Ints:
        """The labels in the order of their keys, then of their times."""
        rank = np.empty_like(self.by_time)
        rank[self.by_time] = np.arange(len(rank))
        return np.argsort((self.key << len(rank).bit_length()) | rank)


class TimeIndex:
    """Rows in the order of (key, time); rows that are equal in both stay in the order given.

    Parameters
    ----------
    key
        Number of each row's key, from 0. The array is overwritten.
    time
        Each row's time.
    """

    def __init__(self, key: Ints, time: Ints) -> None:
        self._given: Ints | None = None
        if len(time) and not bool((time[1:] >= time[:-1]).all()):
            self._given = np.argsort(time, kind="stable")
            key, time = key[self._given], time[self._given]
        self._time = time
        self._bits = len(time).bit_length()
        if len(key) and int(key.max()).bit_length() + self._bits > _BITS:
            key = np.unique(key, return_inverse=True)[1].reshape(-1)  # pragma: no cover  (callers number keys densely)
        key <<= self._bits
        for start in range(0, len(key), _BLOCK):
            part = key[start : start + _BLOCK]
            part |= np.arange(start, start + len(part))
        key.sort()
        self._packed = key

    @cached_property
    def order(self) -> Ints:
        """For each place in the order, which of the rows given stands there."""
        places = self._packed & ((1 << self._bits) - 1)
        return places if self._given is None else self._given[places]

    def at(self, places: Ints) -> Ints:
        """Return which of the rows given stand at some places of the order."""
        rows = self._packed[places] & ((1 << self._bits) - 1)
        return rows if self._given is None else self._given[rows]

    @cached_property
    def key(self) -> Ints:
        """The rows' keys, in order."""
        return self._packed >> self._bits

    def first(self, labels: Labels) -> Ints:
        """Return how many rows come before each label's key."""
        return self._search(labels, labels.key << self._bits)

    def before(self, labels: Labels, times: Ints, *, right: bool = False) -> Ints:
        """Return how many rows come before each label's (key, time); with ``right``, before or at it.

        Parameters
        ----------
        times
            A time for each label, never falling as the labels' own times rise.
        """
        place = np.empty(len(times), dtype=np.int64)
        chosen = labels.by_time
        place[chosen] = np.searchsorted(self._time, times[chosen], side="right" if right else "left")
        return self._search(labels, (labels.key << self._bits) | place)

    def _search(self, labels: Labels, packed: Ints) -> Ints:
        """Search in the order of the labels' keys: it walks through memory instead of jumping."""
        found = np.empty(len(packed), dtype=np.int64)
        found[labels.by_key] = np.searchsorted(self._packed, packed[labels.by_key])
        return found

    def follows_equal(self, places: Ints) -> Bools:
        """Return whether the row at each place (-1: none) has the key and the time of the row before it."""
        mask = (1 << self._bits) - 1
        result: Bools = places > 0
        here, before = self._packed[places[result]], self._packed[places[result] - 1]
        same_key = here >> self._bits == before >> self._bits
        result[result] = same_key & (self._time[here & mask] == self._time[before & mask])
        return result

    def equal_times(self) -> Ints:
        """Return, ascending, the places of rows that have the key and the time of the row before them in the order."""
        same_time = self._time[1:] == self._time[:-1]
        if not same_time.any():
            return np.zeros(0, dtype=np.int64)
        group = np.zeros(len(self._time), dtype=np.int32)
        np.cumsum(~same_time, out=group[1:], dtype=np.int32)
        groups = group[self._packed & ((1 << self._bits) - 1)]
        return np.flatnonzero((groups[1:] == groups[:-1]) & (self.key[1:] == self.key[:-1])) + 1


class Rows:
    """Rows of any number of keys in the order of (key, event_timestamp, arrival, writer, sequence).

    Parameters
    ----------
    key
        Number of each row's key, from 0. The array is overwritten.
    event_timestamp
        Each row's event time in microseconds.
    table
        The rows' columns, in the order of `key`. Without the columns `POSITION`, rows of one key and event time stand
        in the order given, which `ties` tells.
    schema
        The types of the columns; the table's may be others that are cast to them.
    """

    def __init__(self, key: Ints, event_timestamp: Ints, table: pa.Table, schema: pa.Schema | None = None) -> None:
        self.index = TimeIndex(key, event_timestamp)
        self.table = table
        self.schema = schema or table.schema
        self._times = event_timestamp
        self._arrays: dict[str, pa.Array] = {}

    def __len__(self) -> int:
        return len(self._times)

    @property
    def positioned(self) -> bool:
        """Whether ties are resolved."""
        return set(POSITION) <= set(self.table.column_names)

    @cached_property
    def ties(self) -> Ints:
        """The places of rows that have the key and event time of the row before them."""
        return self.index.equal_times()

    @cached_property
    def order(self) -> Ints:
        """For each place, which row of the table stands there."""
        order = self.index.order
        if self.positioned and len(self.ties):
            order = order.copy()
            tied = np.zeros(len(order) + 1, dtype=bool)
            tied[self.ties] = True
            inside = np.flatnonzero(tied[:-1] | tied[1:])
            rows = order[inside]
            run = np.cumsum(~tied[inside])
            arrival, writer, sequence = (_sortable(self.table.column(name).take(pa.array(rows))) for name in POSITION)
            order[inside] = rows[np.lexsort((sequence, writer, arrival, run))]
        return order

    @cached_property
    def event_timestamp(self) -> Ints:
        """Event times, in order."""
        return self._times[self.order]

    @cached_property
    def arrival(self) -> Ints:
        """Arrivals in microseconds, in order; the table must hold them."""
        return _sortable(self.table.column("arrival"))[self.order]

    def times_at(self, places: Ints) -> Ints:
        """Return the event times at some places."""
        return self._times[self._at(places)]

    def _at(self, places: Ints) -> Ints:
        return self.order[places] if self.positioned else self.index.at(places)

    def column(self, name: str) -> pa.Array:
        """Return a column, in order."""
        return self._array(name).take(pa.array(self.order))

    def take(self, name: str, places: Ints, mask: Bools | None = None) -> pa.Array:
        """Return the values of a column at some places; null where masked."""
        if not len(self):
            return pa.nulls(len(places), self.schema.field(name).type)
        rows = self._at(places if mask is None else np.where(mask, 0, places))
        return self._array(name).take(pa.array(rows, mask=mask))

    def _array(self, name: str) -> pa.Array:
        if name not in self._arrays:
            self._arrays[name] = self.table.column(name).combine_chunks().cast(self.schema.field(name).type)
        return self._arrays[name]


def _sortable(column: pa.ChunkedArray) -> Ints:
    """Return integers that order as the values do: times and integers themselves, text by its UTF-8 bytes."""
    if pa.types.is_string(column.type):
        texts = np.array([text.encode() for text in column.to_pylist()], dtype=object)
        codes: Ints = np.unique(texts, return_inverse=True)[1].astype(np.int64).reshape(-1)
        return codes
    numbers: Ints = column.cast(pa.int64()).to_numpy()
    return numbers
