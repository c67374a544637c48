"""Carries out a plan: reads each scan once, and evaluates every view on it, in portions that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from featurestore.offline.asof import AmbiguousOrderError, Visible, evaluate
from featurestore.offline.kernels import Bools, Ints
from featurestore.offline.keys import KeyColumns, KeyNumbers, number_keys
from featurestore.offline.plan import KnownAt, Scan, ViewTask
from featurestore.offline.rows import POSITION, Labels, Piece, Rows, Table, pieces
from featurestore.offline.threads import in_threads
from featurestore.offline.windows import Feature

Features = dict[tuple[str, str], Feature]
"""Values and statuses by (task, feature)."""
KeysOf = Callable[[ViewTask], Mapping[str, pa.ChunkedArray | pa.Array]]
"""By join key, the column of a task's keys, typed as declared."""
VisibleOf = Callable[[Rows, Ints], Visible]
"""Given rows, and which labels ask about them, says which of the rows each of these labels may see besides."""


class Found(NamedTuple):
    """Rows as they were read.

    Attributes
    ----------
    key, time
        The number of each row's key, and its event time in microseconds.
    parts
        Where the portions begin in which they came: each is most likely in the order of time.
    """

    key: Ints
    time: Ints
    table: Table
    parts: Ints = np.zeros(0, dtype=np.int64)


class RowSource(Protocol):
    """Reads a scan's rows, wherever the log's files are read."""

    def limit(self, scan: Scan) -> int:
        """Return how many rows there may be, at most."""

    def read(self, scan: Scan, keys: KeyNumbers, wanted: Bools | None, *, positions: bool) -> Found:
        """Read the rows whose keys are wanted.

        Parameters
        ----------
        keys
            Numbers the keys.
        wanted
            By number, whether rows of the key are needed; None for a view without join keys, whose number is 0.
        positions
            Whether the columns `POSITION` are needed too.
        """


ROW_MEMORY = 640 << 20
"""About how many bytes of rows are held at a time."""

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


class _Portion(NamedTuple):
    """Some keys: the numbers from `start` to `end`, as flags by number; None where there are no join keys."""

    start: int
    end: int
    wanted: Bools | None


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

    def run(self, memory: int) -> Features:
        """Evaluate every view."""
        portions = list(self._portions(-(-self._source.limit(self._scan) * self._row_bytes() // memory)))
        found: Features = {}
        for portion in portions:
            whole = len(portions) == 1
            chosen = {keys: None if whole else _inside(numbers, portion) for keys, numbers in self._numbers.items()}
            for task, features in self._evaluated(portion, chosen):
                for name, feature in features.items():
                    places, known = chosen[task.keys], found.get((task.name, name))
                    total = len(self._times)
                    found[task.name, name] = feature if places is None else scatter(known, feature, places, total)
        return found

    def _evaluated(
        self, portion: _Portion, chosen: Mapping[tuple[str, ...], Ints | None]
    ) -> list[tuple[ViewTask, dict[str, Feature]]]:
        """Return each task's features for the labels of a portion."""
        try:
            return self._evaluated_once(portion, chosen)
        except AmbiguousOrderError:  # rare: rows of one key and one time; read again what orders them
            self._positions = True
            return self._evaluated_once(portion, chosen)

    def _evaluated_once(
        self, portion: _Portion, chosen: Mapping[tuple[str, ...], Ints | None]
    ) -> list[tuple[ViewTask, dict[str, Feature]]]:
        asked = {keys: self._labels(keys, places) for keys, places in chosen.items()}
        with ThreadPoolExecutor(1) as threads:  # labels are sorted while rows are read
            sorting = [threads.submit(getattr, labels, "by_key") for labels in asked.values()]
            found = self._source.read(self._scan, self._keys, portion.wanted, positions=self._positions)
            wait(sorting)
        answers = []
        for number, (keys, labels) in enumerate(asked.items(), start=1):
            mine = [task for task in self._scan.tasks if task.keys == keys]
            key = found.key if number == len(asked) else found.key.copy()  # the last may use it up
            parts = pieces(key, found.time, found.table, labels, found.parts)
            answers += self._in_pieces(mine, parts, labels, chosen[keys])
        return answers

    def _in_pieces(
        self, tasks: Sequence[ViewTask], parts: Iterator[Piece], labels: Labels, chosen: Ints | None
    ) -> list[tuple[ViewTask, dict[str, Feature]]]:
        """Evaluate tasks on every piece, several at the same time, and put the answers in the labels' order."""

        def work(piece: Piece) -> list[dict[str, Feature]]:
            rows, some = piece.rows(), labels.take(piece.places)
            asking = piece.places if chosen is None else chosen[piece.places]  # among all labels
            visible = None if self._visible_of is None else self._visible_of(rows, asking)
            return [
                evaluate(task.view, list(task.features), rows, some, known_at=self._known_at, visible=visible)
                for task in tasks
            ]

        found = in_threads(work, parts)
        back = np.empty_like(labels.by_key)
        back[labels.by_key] = np.arange(len(back))
        wanted = [(place, name) for place, task in enumerate(tasks) for name in task.features]

        def put(item: tuple[int, str]) -> Feature:
            place, name = item
            columns = [answers[place][name] for answers in found]
            return joined(columns, back)

        features = dict(zip(wanted, in_threads(put, wanted), strict=True))
        return [(task, {name: features[place, name] for name in task.features}) for place, task in enumerate(tasks)]

    def _labels(self, keys: tuple[str, ...], places: Ints | None) -> Labels:
        numbers = self._numbers[keys]
        return Labels(numbers, self._times) if places is None else Labels(numbers[places], self._times[places])

    def _portions(self, count: int) -> Iterator[_Portion]:
        """Split the keys' numbers into ranges with about as many labels each."""
        if not self._scan.view.join_keys:
            yield _Portion(0, 1, None)
            return
        numbers = np.concatenate(list(self._numbers.values()))
        size = int(numbers.max(initial=-1)) + 1
        wanted = np.zeros(size, dtype=bool)
        wanted[numbers[numbers >= 0]] = True
        if count <= 1:
            yield _Portion(-1, size, wanted)
            return
        ascending = np.sort(numbers)
        inner = np.unique(ascending[np.arange(1, count) * len(ascending) // count]).tolist()
        bounds = [-1, *(bound for bound in inner if bound > 0), size]
        for start, end in pairwise(bounds):
            mine = np.zeros_like(wanted)
            mine[max(start, 0) : end] = wanted[max(start, 0) : end]
            yield _Portion(start, end, mine)

    def _row_bytes(self) -> int:
        schema = self._scan.view.columns
        widths = {field.name: _WIDTHS.get(field.dtype.kind, _WIDE if field.dtype.is_list else 8) for field in schema}
        names = [*self._scan.columns, *(POSITION if self._positions else ())]
        return _PER_ROW + sum(widths.get(name, 8) for name in names)


def _chosen(column: pa.ChunkedArray | pa.Array, places: Ints | None) -> pa.ChunkedArray | pa.Array:
    return column if places is None else column.take(pa.array(places))


def _inside(numbers: Ints, portion: _Portion) -> Ints:
    return np.flatnonzero((numbers >= portion.start) & (numbers < portion.end))


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
