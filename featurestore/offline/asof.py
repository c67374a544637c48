"""Point-in-time evaluation of one view for many labels, over rows sorted by key and total order.

A label is a pair (key, t). Which rows it sees is a contiguous range of the sorted rows wherever rows became visible in
the order in which they count; only labels with a row in their window that arrived after ``t`` while a later one
arrived before are worked out row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.definitions import Aggregation, FeatureView
from featurestore.offline.columns import PresentValues
from featurestore.offline.exact import Statuses
from featurestore.offline.kernels import Bools, Ints, expand, range_extremes, search
from featurestore.offline.plan import ORDERED, KnownAt
from featurestore.offline.rows import Labels, Rows, order_of
from featurestore.offline.windows import Feature, aggregate
from featurestore.semantics.rows import Status
from featurestore.semantics.windows import Window
from featurestore.types import ValueType

_FOREVER = np.iinfo(np.int64).max
Visible = Callable[[Ints, Ints], Bools]
"""``visible(rows, labels)``: whether each row may be seen by the label beside it."""

_ROWS_AT_ONCE = 1 << 22


class AmbiguousOrderError(Exception):
    """Rows of one key and time matter to an answer, and without their positions their order is not known."""


class _Task(NamedTuple):
    """Rows, labels, and the range of rows that each label's key has."""

    rows: Rows
    labels: Labels
    bounds: tuple[Ints, Ints]


def evaluate(
    view: FeatureView,
    features: list[str],
    rows: Rows,
    labels: Labels,
    *,
    known_at: KnownAt = "event",
    visible: Visible | None = None,
) -> dict[str, Feature]:
    """Return the named features of a view for each label, in the order of the labels.

    Parameters
    ----------
    known_at
        ``"arrival"``: a label sees only rows with ``arrival <= t``.
    visible
        A further condition on what a label sees.

    Raises
    ------
    AmbiguousOrderError
        Where the rows have no positions and the answer depends on them.
    """
    if visible is None and known_at == "arrival":
        in_time: Visible | None = lambda row, label: rows.arrival[row] <= labels.t[label]  # noqa: E731
    else:
        in_time = _both(rows, labels, visible) if known_at == "arrival" else visible
    task = _Task(rows, labels, rows.bounds(labels))
    if view.is_window:
        chosen = [aggregation for aggregation in view.aggregations if aggregation.name in set(features)]
        return _windows(view, chosen, task, in_time, plain=visible is None)
    return _newest(view, features, task, in_time, plain=visible is None)


def _both(rows: Rows, labels: Labels, visible: Visible | None) -> Visible:
    def both(row: Ints, label: Ints) -> Bools:
        mask: Bools = rows.arrival[row] <= labels.t[label]
        return mask if visible is None else mask & visible(row, label)

    return both


def _newest(
    view: FeatureView, features: list[str], task: _Task, in_time: Visible | None, *, plain: bool
) -> dict[str, Feature]:
    """Return the values of the newest visible row, within the ttl."""
    rows, labels = task.rows, task.labels
    if in_time is None:
        newest = _last(task, rows.before(task.bounds, labels.t, right=True))
        if not rows.positioned and len(rows.ties) and np.isin(newest, rows.ties).any():
            raise AmbiguousOrderError
    elif plain:
        newest = _newest_known(task)
    else:
        newest = _newest_visible(view, task, in_time)
    statuses = np.full(len(labels.t), Status.PRESENT, dtype=np.int8)
    found = newest >= 0
    statuses[~found] = Status.NOT_FOUND
    ttl = view.ttl_micros
    if ttl is not None and len(rows):
        happened = rows.event_timestamp[np.where(found, newest, 0)]
        statuses[found & (happened < labels.t - ttl)] = Status.OUTSIDE_MAX_AGE
        statuses[found & (happened < labels.t - 2 * ttl)] = Status.NOT_FOUND
    absent = statuses != Status.PRESENT
    result = {}
    for name in features:
        values = rows.take(name, newest, absent)
        own = statuses.copy()
        if values.null_count:
            own[~absent & values.is_null().to_numpy(zero_copy_only=False)] = Status.NULL_VALUE
        result[name] = Feature(values, own)
    return result


def _last(task: _Task, end: Ints) -> Ints:
    """Return the place before each end, or -1 where the label's key has no row there."""
    return np.where(end > task.bounds[0], end - 1, -1)


def _newest_known(task: _Task) -> Ints:
    """Return the greatest row with ``max(event_timestamp, arrival) <= t``: a running maximum over that time."""
    rows = task.rows
    if not len(rows):
        return np.full(len(task.labels.t), -1, dtype=np.int64)
    known = np.maximum(rows.event_timestamp, rows.arrival)
    order = order_of(rows.key, known)
    best = np.maximum.accumulate(order)
    place = _last(task, search(known[order], *task.bounds, task.labels.t, right=True))
    return np.where(place >= 0, best[np.maximum(place, 0)], -1)


def _newest_visible(view: FeatureView, task: _Task, visible: Visible) -> Ints:
    rows, labels = task.rows, task.labels
    end = rows.before(task.bounds, labels.t, right=True)
    ttl = view.ttl_micros
    start = task.bounds[0] if ttl is None else rows.before(task.bounds, labels.t - 2 * ttl)
    newest = np.full(len(labels.t), -1, dtype=np.int64)
    for chosen in _portions(start, end):
        indices, offsets = _visible_rows(start, end, chosen, visible)
        some = offsets[1:] > offsets[:-1]
        newest[chosen[some]] = indices[offsets[1:][some] - 1]
    return newest


def _windows(
    view: FeatureView, aggregations: list[Aggregation], task: _Task, in_time: Visible | None, *, plain: bool
) -> dict[str, Feature]:
    rows = task.rows
    if not rows.positioned and any(a.function in ORDERED for a in aggregations) and len(rows.ties):
        raise AmbiguousOrderError
    types = {field.name: field.dtype for field in (*view.schema, *view.join_keys)}
    spans = _spans(aggregations, task, in_time, plain=plain)
    names = dict.fromkeys(a.column for a in aggregations if a.column is not None)
    present = {name: PresentValues(rows.column(name), types[name]) for name in names}
    # The longest windows first: they bound how wide the digits of sums may be.
    ordered = sorted(aggregations, key=lambda a: a.window.length or _FOREVER, reverse=True)
    result = {
        a.name: aggregate(a, present.get(a.column or ""), spans[a.window].start, spans[a.window].end) for a in ordered
    }
    if in_time is not None:
        for window, span in spans.items():
            if span.hard.any():
                mine = [aggregation for aggregation in aggregations if aggregation.window == window]
                seen = _seen_by(span.start, span.full_end, np.flatnonzero(span.hard), in_time)
                _patch_windows(mine, result, rows, types, seen)
    return {aggregation.name: result[aggregation.name] for aggregation in aggregations}


class _Span(NamedTuple):
    """A window's rows for each label: a half-open range; `hard` labels see only some rows up to `full_end`."""

    start: Ints
    end: Ints
    full_end: Ints
    hard: Bools


def _spans(
    aggregations: list[Aggregation], task: _Task, in_time: Visible | None, *, plain: bool
) -> dict[Window, _Span]:
    """Return the rows that each window holds at each label."""
    rows, labels = task.rows, task.labels
    windows = list(dict.fromkeys(aggregation.window for aggregation in aggregations))
    places: dict[tuple[str, int, int], Ints] = {}  # bounds that windows share are searched for once
    for window in windows:
        for key, times in _bounds(window, labels).items():
            if key not in places:
                places[key] = rows.before(task.bounds, times)
    spans = {}
    for window in windows:
        end = full_end = places["end", window.hop if window.offset else 0, window.offset]
        unbounded = window.length is None
        start = task.bounds[0] if unbounded else places["start", window.hop, window.offset + (window.length or 0)]
        hard = np.zeros(len(end), dtype=bool)
        if in_time is not None:
            end, hard = _known_range(rows, labels, start, end) if plain else (end, np.ones_like(hard))
            end = np.where(hard, start, end)
        spans[window] = _Span(start, end, full_end, hard)
    return spans


def _bounds(window: Window, labels: Labels) -> dict[tuple[str, int, int], Ints]:
    """Return the times between which a window lies at each label, by what they depend on."""
    hop, offset = window.hop, window.offset
    upto = labels.t if offset == 0 else (labels.t - offset) // hop * hop
    bounds = {("end", hop if offset else 0, offset): upto}
    if window.length is not None:
        reach = offset + window.length
        bounds["start", hop, reach] = (labels.t - reach) // hop * hop
    return bounds


def _known_range(rows: Rows, labels: Labels, start: Ints, end: Ints) -> tuple[Ints, Bools]:
    """Return ranges cut to rows that arrived by ``t``, and the labels whose visible rows are no such range."""
    some = end > start
    if not len(rows):
        return end, np.zeros(len(end), dtype=bool)
    latest = range_extremes(rows.arrival, start, end, largest=True).astype(np.int64)
    late = some & (latest > labels.t)
    if not late.any():
        return end, late
    key = rows.key
    falls = np.zeros(len(rows), dtype=np.int64)
    falls[1:] = (rows.arrival[1:] < rows.arrival[:-1]) & (key[1:] == key[:-1])
    count = np.concatenate(([0], np.cumsum(falls)))
    ordered = count[np.where(some, end, start)] - count[np.where(some, start + 1, start)] == 0
    cut = search(rows.arrival, start, np.where(late & ordered, end, start), labels.t, right=True)
    return np.where(late & ordered, cut, end), late & ~ordered


def _seen_by(start: Ints, end: Ints, chosen: Ints, visible: Visible) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Yield labels, a portion at a time, the rows that they see, and where each label's rows begin among these."""
    for portion in _portions(start, end, chosen):
        yield (portion, *_visible_rows(start, end, portion, visible))


def _patch_windows(
    aggregations: list[Aggregation],
    result: dict[str, Feature],
    rows: Rows,
    types: dict[str, ValueType],
    seen: Iterator[tuple[Ints, Ints, Ints]],
) -> None:
    """Work out labels from copies of the rows that each sees, and put them in their places."""
    for chosen, indices, offsets in seen:
        present: dict[str, PresentValues] = {}
        for aggregation in aggregations:
            name = aggregation.column
            if name is not None and name not in present:
                present[name] = PresentValues(rows.take(name, indices), types[name])
            patch = aggregate(aggregation, present.get(name or ""), offsets[:-1], offsets[1:])
            result[aggregation.name] = _put(result[aggregation.name], chosen, patch)


def _put(feature: Feature, places: Ints, patch: Feature) -> Feature:
    statuses: Statuses = feature.statuses.copy()
    statuses[places] = patch.statuses
    pick = np.arange(len(statuses), dtype=np.int64)
    pick[places] = len(statuses) + np.arange(len(places))
    return Feature(pa.concat_arrays([feature.values, patch.values]).take(pa.array(pick)), statuses)


def _portions(start: Ints, end: Ints, chosen: Ints | None = None) -> list[Ints]:
    """Split labels into portions with a bounded number of rows together."""
    chosen = np.arange(len(start), dtype=np.int64) if chosen is None else chosen
    if not len(chosen):
        return []
    total = np.cumsum(np.maximum(end[chosen] - start[chosen], 1)) // _ROWS_AT_ONCE
    return np.split(chosen, np.flatnonzero(np.diff(total)) + 1)


def _visible_rows(start: Ints, end: Ints, chosen: Ints, visible: Visible) -> tuple[Ints, Ints]:
    """Return the rows that the chosen labels see, one label after the other, and where each label's begin."""
    indices, offsets = expand(start[chosen], end[chosen])
    owners = np.repeat(np.arange(len(chosen)), np.diff(offsets))
    mask = visible(indices, chosen[owners])
    counts = np.bincount(owners[mask], minlength=len(chosen))
    return indices[mask], np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
