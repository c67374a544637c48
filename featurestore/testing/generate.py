"""Generated cases: a view, the rows of its log, its cuts and what to ask, aimed at the edges that 2.8 lists.

`random_cases` is fast and seeded, for thousands of cases; `featurestore.testing.strategies` draws the same
cases through Hypothesis, which shrinks them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from featurestore.definitions import Entity, FeatureView
from featurestore.semantics.rows import BATCH_WRITER, Cut, Row
from featurestore.semantics.windows import DAY, HOUR, MINUTE, SECOND, floor_to
from featurestore.testing.choices import Choices, SeededChoices
from featurestore.testing.values import key as build_key
from featurestore.testing.values import value as build_value
from featurestore.testing.view_builder import KINDS, SOURCES, build_view
from featurestore.types import Int64

MAX_FUTURE = DAY
"""How far generated rows are ahead of their arrival, in microseconds: the default of ``max_future_skew``."""

_ORIGINS = (
    0,
    1_700_006_400_000_000,
    951_782_400_000_000,
    -3 * DAY,
    -1,
    1_699_999_999_999_999,
    -365 * DAY - 1,
)
"""Around which times a case's events lie: the epoch, a midnight, a leap day, times before 1970."""

_STREAM_WRITERS = (
    "push/src/0",
    "push/src/10",
    "push/src/9",
    "file/src/a.jsonl",
    "file/src/\uffff.jsonl",
    "file/src/\U0001f600.jsonl",
    "deadletter/log",
)
WRITERS = (BATCH_WRITER, *_STREAM_WRITERS)
_LATENESS = (0, 0, 1, 5 * SECOND, MINUTE, HOUR, DAY, 3 * DAY, 40 * DAY)
_EARLINESS = (1, SECOND, MINUTE, HOUR, MAX_FUTURE)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to evaluate on two paths and compare.

    Attributes
    ----------
    view
        The feature view.
    rows
        The rows of its log in the order of delivery: per writer sequences increase, and a row may come again.
        Of batch rows, ``sequence`` is ``job << 38 | rank``.
    queries
        Pairs of a key (which may hold None, or match no row) and a time in microseconds.
    cuts
        The cuts of a lambda view in the order they were recorded, both members ascending; else empty.
    """

    view: FeatureView
    rows: list[Row]
    queries: list[tuple[tuple[Any, ...], int]]
    cuts: list[Cut]


class _Draft(NamedTuple):
    """A row before its writer numbers it; ``again`` delivers it once more at the end."""

    key: tuple[Any, ...]
    event_timestamp: int
    arrival: int
    writer: str
    gap: int
    again: bool
    values: dict[str, Any]


def random_cases(
    seed: int,
    n: int,
    *,
    view: FeatureView | None = None,
    kinds: tuple[str, ...] = KINDS,
    sources: tuple[str, ...] = SOURCES,
    max_rows: int = 24,
    max_queries: int = 8,
) -> Iterator[Case]:
    """Yield ``n`` cases; the same seed gives the same cases.

    Parameters
    ----------
    view
        The view of every case; by default each case has its own, of the ``kinds`` and ``sources`` named.
    max_rows, max_queries
        Greatest number of rows (before repeated deliveries) and of queries of a case; most have fewer.
    """
    choices = SeededChoices(seed)
    for _ in range(n):
        case_view = view or build_view(choices, kinds=kinds, sources=sources)
        yield build_case(choices, case_view, max_rows=max_rows, max_queries=max_queries)


def merged_case(seed: int, n: int, *, max_rows: int = 24, max_queries: int = 8) -> Case:
    """Return `n` cases of one view as one: the view gets a further join key, which tells the cases apart.

    For engines that take longer to start a query than to answer it.
    """
    choices = SeededChoices(seed)
    view = build_view(choices)
    origin = build_origin(choices, view)
    cuts = build_cuts(choices, view, origin)
    merged = msgspec.structs.replace(view, entities=[*view.entities, Entity("case", value_type=Int64)])
    rows: list[Row] = []
    queries: list[tuple[tuple[Any, ...], int]] = []
    for number in range(n):
        mine = build_rows(choices, view, origin, max_rows=max_rows)
        keys = list(dict.fromkeys(row.key for row in mine))
        first = {writer: 1 + max((r.sequence for r in rows if r.writer == writer), default=-1) for writer in WRITERS}
        for row in mine:
            shift = first[row.writer] - (1 << 38) if row.writer == BATCH_WRITER and first[row.writer] else 0
            shift = first[row.writer] if row.writer != BATCH_WRITER else shift
            rows.append(row._replace(key=(*row.key, number), sequence=row.sequence + shift))
        for _ in range(choices.integer(1, max_queries)):
            key = build_query_key(choices, view, keys)
            t = build_time(choices, view, [row for row in mine if row.key == key] or mine, cuts)
            queries.append(((*key, number), t))
    return Case(merged, rows, queries, cuts)


def build_case(choices: Choices, view: FeatureView, *, max_rows: int = 24, max_queries: int = 8) -> Case:
    """Return a case of the view."""
    origin = build_origin(choices, view)
    rows = build_rows(choices, view, origin, max_rows=max_rows)
    cuts = build_cuts(choices, view, origin)
    keys = list(dict.fromkeys(row.key for row in rows))

    def query(inner: Choices) -> tuple[tuple[Any, ...], int]:
        key = build_query_key(inner, view, keys)
        return key, build_time(inner, view, [row for row in rows if row.key == key] or rows, cuts)

    return Case(view, rows, choices.many(query, 1, max_queries), cuts)


def edges(view: FeatureView) -> tuple[tuple[int, ...], ...]:
    """Return, per window (or for the state), the distances in microseconds at which its answer changes."""
    if not view.is_window:
        ttl = view.ttl_micros or HOUR
        return ((0, ttl, 2 * ttl, ttl // 2),)
    groups = []
    for window in dict.fromkeys(aggregation.window for aggregation in view.aggregations):
        length = window.length or 3 * window.hop
        inside = window.offset + length // 2
        groups.append((0, window.offset, inside, window.hop, window.offset + length, length + window.hop))
    return tuple(groups)


def build_origin(choices: Choices, view: FeatureView) -> int:
    """Return the time around which a case's events lie: as it is, or on a boundary of the largest hop."""
    origin = choices.pick(_ORIGINS)
    return origin if choices.chance(40) else floor_to(origin, view.cut_step)


def build_rows(choices: Choices, view: FeatureView, origin: int, *, max_rows: int = 24) -> list[Row]:
    """Return rows around ``origin``, of a few keys and writers, in order of delivery, some delivered twice."""
    dtypes = tuple(field.dtype for field in view.join_keys)
    few = max(1, len(dtypes))  # at least two composite keys, which may run together
    keys = choices.many(lambda inner: build_key(inner, dtypes), few, choices.pick((few, 2, 3)))
    wild = choices.chance(30)
    groups = edges(view)
    focus = choices.pick(groups)  # most events lie around one window, so that it holds several

    def draft(inner: Choices) -> _Draft:
        event = _event_time(inner, origin, inner.pick(groups) if inner.chance(30) else focus)
        return _Draft(
            key=inner.pick(keys),
            event_timestamp=event,
            arrival=_arrival(inner, event),
            writer=_writer(inner, view),
            gap=inner.pick((1, 1, 1, 5)),
            again=inner.chance(15),
            values={field.name: build_value(inner, field.dtype, wild=wild) for field in view.columns},
        )

    return _number(choices.many(draft, 0, max_rows))


def _event_time(choices: Choices, origin: int, steps: Sequence[int]) -> int:
    if choices.chance(20):
        return origin - choices.integer(0, max(steps))
    back = choices.pick(steps) * choices.pick((1, 1, 1, 1, 2, -1))
    return origin - back + choices.pick((0, 0, 0, -1, 1))


def _arrival(choices: Choices, event: int) -> int:
    if choices.chance(12):
        return event - choices.pick(_EARLINESS)
    return event + choices.pick(_LATENESS)


def _writer(choices: Choices, view: FeatureView) -> str:
    if view.stream_source is None or (view.is_lambda and choices.chance(50)):
        return BATCH_WRITER
    return choices.pick(_STREAM_WRITERS)


def _number(drafts: Sequence[_Draft]) -> list[Row]:
    """Give each writer's rows ascending sequences, in the order of delivery, and repeat some deliveries."""
    last = {BATCH_WRITER: 1 << 38}
    rows, repeated = [], []
    for draft in drafts:
        sequence = last[draft.writer] = last.get(draft.writer, -1) + draft.gap
        row = Row(draft.key, draft.event_timestamp, draft.arrival, draft.writer, sequence, draft.values)
        rows.append(row)
        if draft.again:
            repeated.append(row)
    return rows + repeated


def build_cuts(choices: Choices, view: FeatureView, origin: int) -> list[Cut]:
    """Return up to three cuts of a lambda view around ``origin``, both members ascending; else none."""
    if not view.is_lambda:
        return []
    step = view.cut_step
    cuts: list[Cut] = []
    for move in choices.many(lambda inner: (inner.pick((0, 1, 2)), inner.pick((0, 1, HOUR, step))), 0, 3):
        before = cuts[-1] if cuts else Cut(floor_to(origin, step) - 2 * step, origin - 3 * step)
        cuts.append(Cut(before.at + move[0] * step, before.arrival + 1 + move[1]))
    return cuts


def build_time(choices: Choices, view: FeatureView, rows: Sequence[Row], cuts: Sequence[Cut] = ()) -> int:
    """Return a time to evaluate at: on an edge of some row or cut, one microsecond beside it, or near it."""
    times = [row.event_timestamp for row in rows] or [0]
    if choices.chance(15):
        times = [row.arrival for row in rows] + [time for cut in cuts for time in cut] or times
    steps = choices.pick(edges(view))
    t = choices.pick(times) + choices.pick(steps) + choices.pick((0, 0, 1, -1))
    if choices.chance(15):
        return floor_to(t, choices.pick(view.hops or (DAY,)))
    return t + choices.integer(0, max(steps)) if choices.chance(15) else t


def build_query_key(choices: Choices, view: FeatureView, keys: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return a key to ask for: one of ``keys``, another one, or one with a null."""
    dtypes = tuple(field.dtype for field in view.join_keys)
    if keys and not choices.chance(12):
        return choices.pick(keys)
    key = build_key(choices, dtypes)
    return (*key[:-1], None) if key and choices.chance(50) else key
