"""The plan of a retrieval: which logs are read once each, for which views, keys, times and columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.clock import format_duration, from_micros
from featurestore.definitions import FeatureView
from featurestore.errors import ClockError
from featurestore.offline.duckdb.session import identifier
from featurestore.offline.kernels import Ints
from featurestore.offline.log import RowLog
from featurestore.offline.rows import POSITION
from featurestore.semantics.rows import BATCH_WRITER, Cut

KnownAt = Literal["event", "arrival"]
LogOf = Callable[[FeatureView], RowLog]
CutsOf = Callable[[FeatureView], Sequence[Cut]]

ORDERED = frozenset({"first", "last", "first_n", "last_n"})
"""The functions for which the order of rows with one event time matters."""


class ViewTask(NamedTuple):
    """A view to evaluate.

    Attributes
    ----------
    name
        What the answer is called: the view's name, or that of its projection.
    features
        The features wanted.
    keys
        For each join key of the view, in order, the entity frame's column that holds it.
    """

    name: str
    view: FeatureView
    features: tuple[str, ...]
    keys: tuple[str, ...]


class Scan(NamedTuple):
    """One reading of one log, for every view that needs it.

    Attributes
    ----------
    columns
        The input columns to read.
    start, end
        Event times between which lies every row that a label may see, in microseconds, inclusive and exclusive; None
        is open.
    cut
        For lambda views, the cut in force: batch rows before it count, and stream rows from it on.
    labels
        The labels it answers; None for all.
    every_cut
        Whether to read the rows of every cut, for a reader that tells them apart itself.
    """

    log: RowLog
    tasks: tuple[ViewTask, ...]
    columns: tuple[str, ...]
    start: int | None
    end: int | None
    cut: int | None = None
    labels: Ints | None = None
    every_cut: bool = False

    @property
    def view(self) -> FeatureView:
        """Any of the views: all have the log's keys, columns and sources."""
        return self.tasks[0].view

    def schema(self, *, positions: bool) -> pa.Schema:
        """Return the columns to read, `POSITION` too where asked for, in the log's types."""
        names = dict.fromkeys([*self.columns, *(POSITION if positions else ())])
        return pa.schema([self.log.schema.field(name) for name in names])

    def sql(self, source: str, *, positions: bool) -> str:
        """Return the query that reads the rows, in standard SQL.

        Parameters
        ----------
        source
            What stands after FROM.
        positions
            Whether to read `POSITION` too.
        """
        keys = [key.name for key in self.view.join_keys]
        extra = POSITION if positions else ()
        names = dict.fromkeys([*keys, "event_timestamp", *self.columns, *extra])
        listed = ", ".join(identifier(name) for name in names)
        conditions = " AND ".join(self.conditions())
        return f"SELECT {listed} FROM {source}{f' WHERE {conditions}' if conditions else ''}"

    def conditions(self) -> list[str]:
        """Return what rows must satisfy, as SQL."""
        start, end = time_literal(self.start), time_literal(self.end)
        conditions = [f"event_timestamp >= {start}"] if start else []
        conditions += [f"event_timestamp < {end}"] if end else []
        if self.view.is_lambda and not self.every_cut:
            batch, cut = f"_writer = '{BATCH_WRITER}'", time_literal(self.cut)
            if cut is None:
                conditions.append(f"NOT {batch}")
            else:
                conditions.append(f"CASE WHEN {batch} THEN event_timestamp < {cut} ELSE event_timestamp >= {cut} END")
        return conditions

    def explain(self) -> str:
        """Return the scan in words."""
        bounds = [_shown(self.start, "the beginning"), _shown(self.end, "the end")]
        lines = [f"scan log {self.log.fingerprint[:12]}: rows from {bounds[0]} to {bounds[1]}"]
        if self.view.is_lambda:
            cut = "there is no cut: stream rows only" if self.cut is None else f"cut at {_shown(self.cut, '')}"
            lines.append(f"  {cut}")
        if self.labels is not None:
            lines.append(f"  for {len(self.labels):,} of the entity rows")
        lines.append(f"  columns: {', '.join(self.columns) or 'none'}")
        for task in self.tasks:
            lines += [f"  {line}" for line in _explained(task)]
        return "\n".join(lines)


def plan(tasks: Sequence[ViewTask], times: Ints, log_of: LogOf, cuts_of: CutsOf, known_at: KnownAt) -> list[Scan]:
    """Return the scans that answer some views at some times: one for each log and cut in force."""
    groups: dict[Any, list[tuple[ViewTask, Ints | None]]] = {}
    for task in tasks:
        fingerprint, cuts = log_of(task.view).fingerprint, cuts_of(task.view)
        for number, (cut, chosen) in enumerate(_by_cut(task.view, cuts, times, known_at)):
            same_labels = None if chosen is None else (number, *cuts)
            groups.setdefault((fingerprint, cut, same_labels), []).append((task, chosen))
    return [_scan(members, log_of, times, cut) for (_, cut, _), members in groups.items()]


def _scan(members: Sequence[tuple[ViewTask, Ints | None]], log_of: LogOf, times: Ints, cut: int | None) -> Scan:
    """Return the scan of some views that read one log; labels under one cut are the same for all of them."""
    chosen = members[0][1]
    at = times if chosen is None else times[chosen]
    tasks = tuple(task for task, _ in members)
    bounds = [time_bounds(task.view, at) for task in tasks]
    starts = [start for start, _ in bounds if start is not None]
    ends = [end for _, end in bounds if end is not None]
    columns = tuple(dict.fromkeys(name for task in tasks for name in needed(task)))
    return Scan(
        log_of(tasks[0].view),
        tasks,
        columns,
        min(starts) if len(starts) == len(bounds) else None,
        max(ends) if len(ends) == len(bounds) else None,
        cut,
        chosen,
    )


def _by_cut(
    view: FeatureView, cuts: Sequence[Cut], times: Ints, known_at: KnownAt
) -> list[tuple[int | None, Ints | None]]:
    """Return each cut in force and the labels it holds for; None for all labels."""
    if not view.is_lambda or not cuts:
        return [(None, None)]
    if known_at == "event":
        return [(cuts[-1].at, None)]
    moved = np.array([cut.arrival for cut in cuts], dtype=np.int64)
    force = np.maximum(np.searchsorted(moved, times, side="right") - 1, 0)  # before the first, the first
    groups = [(index, np.flatnonzero(force == index)) for index in np.unique(force).tolist()]
    return [(cuts[index].at, chosen) for index, chosen in groups] or [(cuts[-1].at, None)]


def time_bounds(view: FeatureView, times: Ints) -> tuple[int | None, int | None]:
    """Return event times between which (start inclusive, end exclusive) lies every row that labels may see."""
    if not len(times):
        return None, None
    first, last = int(times.min()), int(times.max())
    if not view.is_window:
        start = None if view.ttl_micros is None else first - 2 * view.ttl_micros
        return start, last + 1
    starts = [aggregation.window.bounds(first)[0] for aggregation in view.aggregations]
    known = [start for start in starts if start is not None]
    return (min(known) if len(known) == len(starts) else None), last


def reach(view: FeatureView) -> int | None:
    """Return how many microseconds before a label's time a row may lie that the label sees; None for any number."""
    if not view.is_window:
        return None if view.ttl_micros is None else 2 * view.ttl_micros
    windows = [aggregation.window for aggregation in view.aggregations]
    known = [window.offset + window.length + window.hop for window in windows if window.length is not None]
    return max(known) if len(known) == len(windows) else None


def needed(task: ViewTask) -> list[str]:
    """Return the input columns that a task's features are made of."""
    if not task.view.is_window:
        return list(task.features)
    asked = set(task.features)
    return list(dict.fromkeys(a.column for a in task.view.aggregations if a.column is not None and a.name in asked))


def time_literal(micros: int | None) -> str | None:
    """Return a time as SQL, or None where it is None or outside the years 1 to 9999, which bounds nothing."""
    if micros is None:
        return None
    try:
        return f"CAST('{from_micros(micros).isoformat(sep=' ', timespec='microseconds')}' AS TIMESTAMPTZ)"
    except ClockError:
        return None


def _shown(micros: int | None, otherwise: str) -> str:
    try:
        return otherwise if micros is None else from_micros(micros).isoformat()
    except ClockError:
        return otherwise


def _explained(task: ViewTask) -> list[str]:
    view = task.view
    pairs = [
        key.name if key.name == column else f"{key.name} = {column}"
        for key, column in zip(view.join_keys, task.keys, strict=True)
    ]
    by = ", ".join(pairs) or "nothing: one row for the whole world"
    lines = [f"{task.name}: {', '.join(task.features)}", f"  by {by}"]
    if not view.is_window:
        age = "of any age" if view.ttl_micros is None else f"at most {format_duration(view.ttl_micros)} old"
        return [*lines, f"  the newest row at or before each time, {age}"]
    for aggregation in view.aggregations:
        if aggregation.name in task.features:
            column, span = aggregation.column or "*", aggregation.window.describe()
            lines.append(f"  {aggregation.name} = {aggregation.function}({column}) over {span}")
    return lines
