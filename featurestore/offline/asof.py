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
from featurestore.offline.rows import Labels, Rows, TimeIndex
from featurestore.offline.windows import Feature, aggregate
from featurestore.semantics.rows import Status
from featurestore.semantics.windows import Window
from featurestore.types import ValueType

Visible = Callable[[Ints, Ints], Bools]
"""``visible(rows, labels)``: whether each row may be seen by the label beside it."""

_ROWS_AT_ONCE = 1 << 22


class AmbiguousOrderError(Exception):
    """Rows of one key and time matter to an answer, and without their positions their order is not known."""


class _Task(NamedTuple):
    """Rows, labels, and for each label how many rows come before its key."""

    rows: Rows
    labels: Labels
    first: Ints


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
    task = _Task(rows, labels, rows.index.first(labels))
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
    rows, labels, first = task
    if in_time is None:
        newest = rows.index.before(labels, labels.t, right=True) - 1
        newest = np.where(newest >= first, newest, -1)
        if not rows.positioned and rows.index.follows_equal(newest).any():
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
        happened = rows.times_at(np.where(found, newest, 0))
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


def _newest_known(task: _Task) -> Ints:
    """Return the greatest row with ``max(event_timestamp, arrival) <= t``: a running maximum over that time."""
    rows, labels, first = task
    if not len(rows):
        return np.full(len(labels.t), -1, dtype=np.int64)
    known = TimeIndex(rows.index.key.copy(), np.maximum(rows.event_timestamp, rows.arrival))
    best = np.maximum.accumulate(known.order)
    place = known.before(labels, labels.t, right=True) - 1
    return np.where(place >= first, best[np.maximum(place, 0)], -1)


def _newest_visible(view: FeatureView, task: _Task, visible: Visible) -> Ints:
    rows, labels, start = task
    end = rows.index.before(labels, labels.t, right=True)
    if view.ttl_micros is not None:
        start = rows.index.before(labels, labels.t - 2 * view.ttl_micros)
    newest = np.full(len(labels.t), -1, dtype=np.int64)
    for chosen in _portions(start, end):
        indices, offsets = _visible_rows(start, end, chosen, visible)
        some = offsets[1:] > offsets[:-1]
        newest[chosen[some]] = indices[offsets[1:][some] - 1]
    return newest


def _windows(
    view: FeatureView, aggregations: list[Aggregation], task: _Task, in_time: Visible | None, *, plain: bool
) -> dict[str, Feature]:
    rows, labels = task.rows, task.labels
    if not rows.positioned and len(rows.ties) and any(a.function in ORDERED for a in aggregations):
        raise AmbiguousOrderError
    types = {field.name: field.dtype for field in (*view.schema, *view.join_keys)}
    present: dict[str, PresentValues] = {}
    result = {}
    for window in dict.fromkeys(aggregation.window for aggregation in aggregations):
        start, full_end = _range(window, task)
        end, hard = full_end, np.zeros(len(labels.t), dtype=bool)
        if in_time is not None:
            end, hard = _known_range(rows, labels, start, end) if plain else (end, np.ones_like(hard))
            end = np.where(hard, start, end)
        mine = [aggregation for aggregation in aggregations if aggregation.window == window]
        for aggregation in mine:
            name = aggregation.column
            if name is not None and name not in present:
                present[name] = PresentValues(rows.column(name), types[name])
            result[aggregation.name] = aggregate(aggregation, present.get(name or ""), start, end)
        if in_time is not None and hard.any():
            seen = _seen_by(start, full_end, np.flatnonzero(hard), in_time)
            _patch_windows(mine, result, rows, types, seen)
    return {aggregation.name: result[aggregation.name] for aggregation in aggregations}


def _range(window: Window, task: _Task) -> tuple[Ints, Ints]:
    """Return the range of rows whose event time lies in the window at each label."""
    rows, labels, first = task
    hop, offset = window.hop, window.offset
    upto = labels.t if offset == 0 else (labels.t - offset) // hop * hop
    end = rows.index.before(labels, upto)
    if window.length is None:
        return first, end
    return rows.index.before(labels, (labels.t - offset - window.length) // hop * hop), end


def _known_range(rows: Rows, labels: Labels, start: Ints, end: Ints) -> tuple[Ints, Bools]:
    """Return ranges cut to rows that arrived by ``t``, and the labels whose visible rows are no such range."""
    some = end > start
    if not len(rows):
        return end, np.zeros(len(end), dtype=bool)
    latest = range_extremes(rows.arrival, start, end, largest=True).astype(np.int64)
    late = some & (latest > labels.t)
    if not late.any():
        return end, late
    key = rows.index.key
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
