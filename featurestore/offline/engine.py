"""Carries out a plan: reads each scan once, and evaluates every view on it, in portions that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import pyarrow as pa

from featurestore.offline.asof import AmbiguousOrderError, Visible, evaluate
from featurestore.offline.kernels import Ints
from featurestore.offline.keys import KeyColumns, KeyNumbers, number_keys
from featurestore.offline.plan import KnownAt, Scan, ViewTask, reach
from featurestore.offline.rows import POSITION, Found, Labels, Rows
from featurestore.offline.threads import in_threads
from featurestore.offline.wanted import MAX_PARTS, Asked, Wanted
from featurestore.offline.windows import Feature

Features = dict[tuple[str, str], Feature]
"""Values and statuses by (task, feature)."""
KeysOf = Callable[[ViewTask], Mapping[str, pa.ChunkedArray | pa.Array]]
"""By join key, the column of a task's keys, typed as declared."""
VisibleOf = Callable[[Rows, Ints], Visible]
"""Given rows, and which labels ask about them, says which of the rows each of these labels may see besides."""


class RowSource(Protocol):
    """Reads a scan's rows, wherever the log's files are read."""

    def limit(self, scan: Scan) -> int:
        """Return how many rows there may be, at most."""

    def read(self, scan: Scan, keys: KeyNumbers, wanted: Wanted, *, positions: bool) -> Found:
        """Read the rows that are wanted.

        Parameters
        ----------
        keys
            Numbers the keys; that of every row of a view without join keys is 0.
        wanted
            Which rows labels may see.
        positions
            Whether the columns `POSITION` are needed too.
        """


ROW_MEMORY = 640 << 20
"""About how many bytes of rows are held at a time."""

_PART_ROWS = 1 << 18
_PART_LABELS = 1 << 16
_PER_ROW = 32  # number, time, and what sorting needs
_WIDTHS = {"bool": 1, "int32": 4, "float32": 4, "string": 32, "bytes": 32}
_WIDE = 96


def answer(
    scans: Sequence[Scan],
    keys_of: KeysOf,
    times: Ints,
    *,
    source: RowSource,
    known_at: KnownAt = "event",
    visible_of: VisibleOf | None = None,
    memory: int = ROW_MEMORY,
) -> Features:
    """Return the features of a plan, one value for each label.

    Parameters
    ----------
    scans
        The plan.
    times
        The labels' times in microseconds.
    source
        Reads the rows.
    memory
        About how many bytes of rows to hold at a time; beyond it keys are worked off in portions, each of which reads
        the scan's files again.
    """
    found: Features = {}
    for scan in scans:
        at = times if scan.labels is None else times[scan.labels]
        part = _Execution(scan, keys_of, at, source, known_at=known_at, visible_of=visible_of).run(memory)
        for name, feature in part.items():
            chosen = scan.labels
            found[name] = feature if chosen is None else scatter(found.get(name), feature, chosen, len(times))
    return found


class _Execution:
    """One scan at work."""

    def __init__(
        self,
        scan: Scan,
        keys_of: KeysOf,
        times: Ints,
        source: RowSource,
        *,
        known_at: KnownAt,
        visible_of: VisibleOf | None,
    ) -> None:
        self._scan = scan
        self._source = source
        self._times = times
        self._known_at: KnownAt = known_at
        self._visible_of = visible_of
        self._limit = source.limit(scan)
        self._positions = known_at == "arrival" or visible_of is not None
        sets: dict[tuple[str, ...], KeyColumns] = {}
        names = sorted(key.name for key in scan.view.join_keys)
        for task in scan.tasks:
            if task.keys not in sets:
                columns = keys_of(task)
                sets[task.keys] = [_chosen(columns[name], scan.labels) for name in names]
        if names:
            self._keys, numbers = number_keys(names, list(sets.values()))
        else:
            self._keys, numbers = KeyNumbers(None, pa.table({})), [np.zeros(len(times), np.int64) for _ in sets]
        self._numbers = dict(zip(sets, numbers, strict=True))
        self._size = max((int(some.max(initial=-1)) for some in numbers), default=-1) + 1

    def run(self, memory: int) -> Features:
        """Evaluate every view."""
        bounds = self._portions(-(-self._limit * self._row_bytes() // memory))
        found: Features = {}
        for start, end in pairwise(bounds):
            whole = len(bounds) == 2
            chosen = {keys: None if whole else _inside(numbers, start, end) for keys, numbers in self._numbers.items()}
            for task, features in self._evaluated(chosen):
                for name, feature in features.items():
                    places, known = chosen[task.keys], found.get((task.name, name))
                    total = len(self._times)
                    found[task.name, name] = feature if places is None else scatter(known, feature, places, total)
        return found

    def _evaluated(self, chosen: Mapping[tuple[str, ...], Ints | None]) -> list[tuple[ViewTask, dict[str, Feature]]]:
        """Return each task's features for the labels of a portion."""
        try:
            return self._evaluated_once(chosen)
        except AmbiguousOrderError:  # rare: rows of one key and one time; read again what orders them
            self._positions = True
            return self._evaluated_once(chosen)

    def _evaluated_once(
        self, chosen: Mapping[tuple[str, ...], Ints | None]
    ) -> list[tuple[ViewTask, dict[str, Feature]]]:
        labels = {keys: self._labels(keys, places) for keys, places in chosen.items()}
        ordered = {keys: some.take(some.by_key) for keys, some in labels.items()}
        wanted = self._wanted(ordered)
        found = self._source.read(self._scan, self._keys, wanted, positions=self._positions)
        answers = []
        for keys, some in ordered.items():
            mine = [task for task in self._scan.tasks if task.keys == keys]
            cuts = [0, *np.searchsorted(some.key, wanted.bounds).tolist(), len(some.key)]
            answers += self._in_parts(mine, found, some, cuts, labels[keys].by_key, chosen[keys])
        return answers

    def _in_parts(  # noqa: PLR0917
        self,
        tasks: Sequence[ViewTask],
        found: Found,
        labels: Labels,
        cuts: Sequence[int],
        by_key: Ints,
        chosen: Ints | None,
    ) -> list[tuple[ViewTask, dict[str, Feature]]]:
        """Evaluate tasks on every part of the keys, several at the same time, and put the answers in order.

        Parameters
        ----------
        labels, by_key
            The labels in the order of their keys, and which labels these are.
        cuts
            Where each part's labels begin, and the last one's end.
        chosen
            Which of all labels these are; None for all.
        """

        def work(part: int) -> list[dict[str, Feature]]:
            mine = slice(cuts[part], cuts[part + 1])
            rows, some, asking = found.part(part), Labels(labels.key[mine], labels.t[mine]), by_key[mine]
            if chosen is not None:
                asking = chosen[asking]
            visible = None if self._visible_of is None else self._visible_of(rows, asking)
            return [
                evaluate(task.view, list(task.features), rows, some, known_at=self._known_at, visible=visible)
                for task in tasks
            ]

        parts = [part for part, (start, end) in enumerate(pairwise(cuts)) if start < end]
        answers = in_threads(work, parts or [0])
        back = np.empty_like(by_key)
        back[by_key] = np.arange(len(back))
        names = [(place, name) for place, task in enumerate(tasks) for name in task.features]

        def put(item: tuple[int, str]) -> Feature:
            place, name = item
            return joined([answer[place][name] for answer in answers], back)

        features = dict(zip(names, in_threads(put, names), strict=True))
        return [(task, {name: features[place, name] for name in task.features}) for place, task in enumerate(tasks)]

    def _labels(self, keys: tuple[str, ...], places: Ints | None) -> Labels:
        numbers = self._numbers[keys]
        return Labels(numbers, self._times) if places is None else Labels(numbers[places], self._times[places])

    def _wanted(self, ordered: Mapping[tuple[str, ...], Labels]) -> Wanted:
        """Return which rows some labels may see, given by their columns of keys, in the order of their keys."""
        asked = []
        for keys, labels in ordered.items():
            reaches = [reach(task.view) for task in self._scan.tasks if task.keys == keys]
            known = [number for number in reaches if number is not None]
            asked.append(Asked(labels.key, labels.t, max(known) if len(known) == len(reaches) else None))
        parts = max(self._limit // _PART_ROWS, len(self._times) // _PART_LABELS) + 1
        return Wanted(self._size, asked, min(parts, MAX_PARTS))

    def _portions(self, count: int) -> list[int]:
        """Return bounds between which lie the numbers of keys with about as many labels each."""
        if count <= 1 or not self._scan.view.join_keys:
            return [-1, self._size]
        ascending = np.sort(np.concatenate(list(self._numbers.values())))
        inner = np.unique(ascending[np.arange(1, count) * len(ascending) // count]).tolist()
        return [-1, *(bound for bound in inner if bound > 0), self._size]

    def _row_bytes(self) -> int:
        schema = self._scan.view.columns
        widths = {field.name: _WIDTHS.get(field.dtype.kind, _WIDE if field.dtype.is_list else 8) for field in schema}
        names = [*self._scan.columns, *(POSITION if self._positions else ())]
        return _PER_ROW + sum(widths.get(name, 8) for name in names)


def _chosen(column: pa.ChunkedArray | pa.Array, places: Ints | None) -> pa.ChunkedArray | pa.Array:
    return column if places is None else column.take(pa.array(places))


def _inside(numbers: Ints, start: int, end: int) -> Ints:
    return np.flatnonzero((numbers >= start) & (numbers < end))


def joined(parts: Sequence[Feature], order: Ints) -> Feature:
    """Return the parts of a feature one after the other, then in an order."""
    values = pa.concat_arrays([part.values for part in parts]).take(pa.array(order))
    return Feature(values, np.concatenate([part.statuses for part in parts])[order])


def scatter(known: Feature | None, part: Feature, places: Ints, total: int) -> Feature:
    """Return a feature of `total` labels with the values of some of them put in their places."""
    base = known.values if known else pa.nulls(total, part.values.type)
    statuses = known.statuses.copy() if known else np.zeros(total, dtype=np.int8)
    statuses[places] = part.statuses
    pick = np.arange(total, dtype=np.int64)
    pick[places] = total + np.arange(len(places))
    return Feature(pa.concat_arrays([base, part.values]).take(pa.array(pick)), statuses)
