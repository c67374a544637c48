"""Which rows labels may see, by key and roughly by time: readers drop the others, and group those by ranges of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.offline.kernels import Ints

NUMBER = "_number"
"""The column of the keys' numbers in what readers give back."""
MAX_PARTS = 256

_STRETCHES = 64
_SAMPLE = 1 << 14
_FAR = 1 << 61
"""Microseconds; no row is so far from the epoch, and sums of a few such times fit into 64 bits."""


class Asked(NamedTuple):
    """What some labels ask for: the numbers of their keys, ascending, and their times in microseconds.

    Attributes
    ----------
    reach
        How far before its time a label may see rows, in microseconds; None for any distance.
    """

    numbers: Ints
    times: Ints
    reach: int | None


class Grouped(NamedTuple):
    """Rows one part after the other, with a column `NUMBER`, and where each part begins (and the last one ends)."""

    rows: pa.RecordBatch
    offsets: Ints


class Wanted:
    """The keys, and for each the stretches of time (64 in all), in which labels may see rows.

    Parameters
    ----------
    size
        Greater than every number.
    asked
        The labels; a number of -1 is of no key.
    parts
        Into how many parts with about as many labels each to divide the keys, at most `MAX_PARTS`.

    Attributes
    ----------
    bounds
        The number at which each part but the first begins, ascending.
    """

    def __init__(self, size: int, asked: Sequence[Asked], parts: int = 1) -> None:
        self.bounds = _bounds(asked, parts)
        begins = np.zeros(size, dtype=np.uint8)
        begins[self.bounds] = 1
        self._part = np.cumsum(begins, dtype=np.uint8)
        self._narrow = pa.int32() if size < 1 << 31 else pa.int64()  # what is held costs time to fill
        some = [_within(labels) for labels in asked if len(labels.numbers) and labels.numbers[-1] >= 0]
        self._first = min((int(labels.times.min()) - (labels.reach or 0) for labels in some), default=0)
        last = max((int(labels.times.max()) for labels in some), default=0)
        self._shift = max((last - self._first).bit_length() - (_STRETCHES - 1).bit_length(), 0)
        self._flags: npt.NDArray[np.uint64] = np.zeros(size, dtype=np.uint64)
        for numbers, times, reach in some:
            flags = (np.uint64(2) << self._stretch(times)) - np.uint64(1)
            if reach is not None:
                flags -= (np.uint64(1) << self._stretch(times - reach)) - np.uint64(1)
            starts = np.flatnonzero(np.diff(numbers, prepend=-1))
            self._flags[numbers[starts]] |= np.bitwise_or.reduceat(flags, starts)

    def _stretch(self, times: Ints) -> npt.NDArray[np.uint64]:
        stretch = times - self._first
        stretch >>= self._shift
        np.clip(stretch, 0, _STRETCHES - 1, out=stretch)
        return stretch.view(np.uint64)

    @property
    def numbers(self) -> Ints:
        """The numbers of the keys, ascending."""
        return np.flatnonzero(self._flags)

    def group(self, rows: pa.RecordBatch, numbers: Ints) -> Grouped:
        """Return the rows that may be seen; `numbers` are those of their keys, which may be of no label's key."""
        places = self._places(numbers, rows.column("event_timestamp").view(pa.int64()).to_numpy())
        offsets = np.array([0, len(places)])
        if len(self.bounds):
            part = self._part[numbers[places]]
            places = places[np.argsort(part, kind="stable")]
            offsets = np.append(0, np.cumsum(np.bincount(part, minlength=len(self.bounds) + 1)))
        rows = rows.take(pa.array(places))
        return Grouped(rows.append_column(NUMBER, pa.array(numbers[places], self._narrow)), offsets)

    def _places(self, numbers: Ints, times: Ints) -> Ints:
        inside = numbers.view(np.uint64) < len(self._flags)
        if inside.all():
            return np.flatnonzero((self._flags[numbers] >> self._stretch(times)) & np.uint64(1))
        chosen = np.flatnonzero(inside)
        return chosen[self._places(numbers[chosen], times[chosen])]


def _bounds(asked: Sequence[Asked], parts: int) -> Ints:
    numbers = [labels.numbers[:: max(len(labels.numbers) // _SAMPLE, 1)] for labels in asked]
    sample = np.sort(np.concatenate([*numbers, np.zeros(1, dtype=np.int64)]))
    bounds = np.unique(sample[np.arange(1, parts) * len(sample) // parts])
    return bounds[bounds > 0]


def _within(labels: Asked) -> Asked:
    """Return the labels of known keys, with times and reach small enough to calculate with."""
    known = int(np.searchsorted(labels.numbers, 0))
    reach = None if labels.reach is None else min(labels.reach, 2 * _FAR)
    return Asked(labels.numbers[known:], np.clip(labels.times[known:], -_FAR, _FAR), reach)
