"""Adding up tiles: by read and window the sums of digits and the least keys, each part alone or many as one matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featurestore.online.tiles import NO_KEY, Form, Number

Ints = npt.NDArray[np.int64]
Column = tuple[Number, int]
"""A digit of a number."""

_WORD = np.dtype("<i8")
_DIGIT = np.dtype("<i4")
_MOST = 2**62
_FEW = 24
"""Up to how many parts it is quicker to add up one by one."""


class Part(NamedTuple):
    """The tiles that one section has in one chunk.

    Attributes
    ----------
    number
        That of the chunk.
    writer
        That of the section.
    records
        See `featurestore.online.tiles`; in the order of time.
    rest
        MessagePack of the states that have no fixed width; empty where there are none.
    """

    number: int
    writer: str
    form: Form
    records: bytes
    rest: bytes


class Level(NamedTuple):
    """What a query reads of the tiles of one level.

    Attributes
    ----------
    hop
        The length of a tile.
    windows
        The windows (by place) that read them.
    numbers
        The numbers of a tile.
    extremes
        The places, among all the query's, of the least and greatest numbers of a tile.
    """

    hop: int
    windows: list[int]
    numbers: Sequence[Number]
    extremes: list[int]

    def columns(self, form: Form) -> list[Column]:
        """Return what the columns of digits are."""
        return [(self.numbers[place], digit) for place, digit in form.columns]


class Group(NamedTuple):
    """Parts of one level and one form.

    Attributes
    ----------
    owners
        By part, the place of its read; ascending.
    bounds
        By part (or one row for all) and window of the level, start and end: multiples of the level's hop.
    """

    level: Level
    parts: Sequence[Part]
    owners: Sequence[int]
    bounds: Ints


class Totals:
    """What the tiles of all sections add up to.

    Attributes
    ----------
    n
        Number of reads.
    columns
        The place of each column that occurs.
    sums
        By window, column and read.
    keys
        By window, least or greatest number, and read.
    """

    def __init__(self, groups: Sequence[Group], n: int, windows: int, extremes: int) -> None:
        self.n = n
        self.columns: dict[Column, int] = {}
        for group in groups:
            for column in group.level.columns(group.parts[0].form):
                self.columns.setdefault(column, len(self.columns))
        self.sums: list[list[list[int]]]
        self.keys: list[list[list[int]]]
        if sum(len(group.parts) for group in groups) <= _FEW:
            self.sums = [[[0] * n for _ in self.columns] for _ in range(windows)]
            self.keys = [[[NO_KEY] * n for _ in range(extremes)] for _ in range(windows)]
            for group in groups:
                self._add_each(group)
            return
        sums = np.zeros((n, windows, len(self.columns)), np.int64)
        keys = np.full((n, windows, extremes), NO_KEY, np.int64)
        for group in groups:
            self._add_all(group, sums, keys)
        self.sums = sums.transpose(1, 2, 0).tolist()
        self.keys = keys.transpose(1, 2, 0).tolist()

    def _add_each(self, group: Group) -> None:
        level, form = group.level, group.parts[0].form
        columns = [self.columns[column] for column in level.columns(form)]
        for order, (part, owner) in enumerate(zip(group.parts, group.owners, strict=True)):
            matrix = Matrix(form, [part])
            bounds = group.bounds[order if len(group.bounds) > 1 else 0]
            places = matrix.newest.searchsorted(bounds.ravel())
            added, least = (found.tolist() for found in matrix.sums(places))
            ranges = places.tolist()
            for window, sums, keys, first, end in zip(
                level.windows, added, least, ranges[::2], ranges[1::2], strict=True
            ):
                if first < end:
                    mine = self.sums[window]
                    for column, value in zip(columns, sums, strict=True):
                        mine[column][owner] += value
                    mine = self.keys[window]
                    for extreme, key in zip(level.extremes, keys, strict=True):
                        mine[extreme][owner] = min(mine[extreme][owner], key)

    def _add_all(self, group: Group, sums: Ints, keys: Ints) -> None:
        level, form = group.level, group.parts[0].form
        matrix = Matrix(form, group.parts)
        ranges = matrix.ranges(group.bounds, level.hop)
        shape = (len(group.parts), len(level.windows), -1)
        added, least = (found.reshape(shape) for found in matrix.sums(ranges.ravel()))
        empty = ranges[..., 0] >= ranges[..., 1]
        if empty.any():
            added[empty] = 0
            least[empty] = NO_KEY
        owners, starts = _runs(group.owners)
        if len(owners) < len(group.parts):
            added, least = np.add.reduceat(added, starts, axis=0), np.minimum.reduceat(least, starts, axis=0)
        rows, windows = np.array(owners)[:, None, None], np.array(level.windows)[:, None]
        sums[rows, windows, [self.columns[column] for column in level.columns(form)]] += added
        keys[rows, windows, level.extremes] = np.minimum(keys[rows, windows, level.extremes], least)


class Matrix:
    """The tiles of some parts of one form, and a row of zeros after the last.

    Attributes
    ----------
    newest
        The newest event time of each tile.
    """

    def __init__(self, form: Form, parts: Sequence[Part]) -> None:
        data = b"".join([*[part.records for part in parts], bytes(form.size)])
        words = np.frombuffer(data, _WORD).reshape(-1, form.size // 8)
        first = 2 * form.words
        self.newest = words[:-1, 0]
        self._keys = words[:, 1 : form.words]
        self._digits = np.frombuffer(data, _DIGIT).reshape(-1, form.size // 4)[:, first : first + len(form.columns)]
        self.counts = [len(part.records) // form.size for part in parts]

    def ranges(self, bounds: Ints, hop: int) -> Ints:
        """Return, by part and window, the first tile and the one past the last between two times."""
        newest = self.newest
        low, high = int(newest.min()), int(newest.max())
        if len(self.counts) * (high - low + 2) > _MOST:  # by the number of the tile, which takes longer
            newest, bounds = newest // hop, bounds // hop
            low, high = low // hop, high // hop
        width = high - low + 2
        before = np.arange(-low, len(self.counts) * width - low, width)
        order = np.repeat(before, self.counts) + newest
        return order.searchsorted(np.clip(bounds, low, high + 1) + before[:, None, None])

    def sums(self, ranges: npt.NDArray[np.intp]) -> tuple[Ints, Ints]:
        """Return the sums of the digits and the least keys of ranges, each given as two places in a row.

        An empty range gives what its first tile has.
        """
        # of each two results the first is that of the range, the second of what lies between it and the next
        return (
            np.add.reduceat(self._digits, ranges, axis=0, dtype=np.int64)[::2],
            np.minimum.reduceat(self._keys, ranges, axis=0)[::2],
        )


def _runs(items: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the items of which no two in a row are equal, and where each begins."""
    found: list[int] = []
    starts: list[int] = []
    for place, item in enumerate(items):
        if not found or item != found[-1]:
            found.append(item)
            starts.append(place)
    return found, starts


def packed_ranges(group: Group) -> Iterator[tuple[Part, int, Mapping[int, tuple[int, int]]]]:
    """Yield each part with its owner and, by window, the first of its tiles and the one past the last."""
    for order, (part, owner) in enumerate(zip(group.parts, group.owners, strict=True)):
        bounds = group.bounds[order if len(group.bounds) > 1 else 0]
        ranges = Matrix(part.form, [part]).newest.searchsorted(bounds).tolist()
        yield part, owner, dict(zip(group.level.windows, map(tuple, ranges), strict=True))
