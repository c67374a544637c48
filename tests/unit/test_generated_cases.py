"""Generated cases keep what they promise, and reach the edges that they are aimed at."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from featurestore.definitions import FUNCTIONS, Entity, FeatureView, Field, PushSource
from featurestore.semantics.reference import evaluate
from featurestore.semantics.rows import BATCH_WRITER, Row, Status
from featurestore.testing.generate import MAX_FUTURE, Case, random_cases
from featurestore.testing.strategies import cases, keys, rows_for, times_for, views
from featurestore.types import Float64, Int64

PUSH = PushSource("src", timestamp_field="ts")
CASES = list(random_cases(7, 1500))


def assert_consistent(case: Case) -> None:
    """Check what `Case` promises about rows and cuts."""
    by_position: dict[tuple[str, int], Row] = {}
    last: dict[str, int] = defaultdict(lambda: -1)
    for row in case.rows:
        known = by_position.setdefault((row.writer, row.sequence), row)
        assert known is row or repr(known) == repr(row)  # repr, because NaN is not itself
        if known is row and row.sequence > last[row.writer]:
            last[row.writer] = row.sequence
        else:
            assert row.sequence <= last[row.writer]  # only a repeated delivery
        assert row.event_timestamp <= row.arrival + MAX_FUTURE
        assert len(row.key) == len(case.view.join_keys)
        assert None not in row.key
        assert set(row.values) == {field.name for field in case.view.columns}
        assert (row.writer == BATCH_WRITER) or case.view.stream_source is not None
    assert case.cuts == sorted(case.cuts)
    assert all(cut.at % case.view.cut_step == 0 for cut in case.cuts)
    assert case.view.is_lambda or not case.cuts


def test_cases_of_a_seed_are_the_same_and_consistent() -> None:
    assert repr(list(random_cases(7, 20))) == repr(CASES[:20])
    assert repr(list(random_cases(8, 20))) != repr(CASES[:20])
    for case in CASES:
        assert_consistent(case)


def test_rows_are_delivered_in_order_and_some_again() -> None:
    repeated = 0
    for case in CASES:
        seen: dict[str, int] = {}
        fresh = [row for n, row in enumerate(case.rows) if row not in case.rows[:n]]
        for row in fresh:
            assert row.sequence > seen.get(row.writer, -1)
            seen[row.writer] = row.sequence
        repeated += len(case.rows) > len(fresh)
    assert repeated > 300


def test_every_function_answers_with_a_value_and_without() -> None:
    found: Counter[tuple[str, bool]] = Counter()
    statuses: Counter[Status] = Counter()
    for case in CASES:
        functions = {aggregation.name: aggregation.function for aggregation in case.view.aggregations}
        for key, t in case.queries:
            for name, result in evaluate(case.view, key, t, case.rows, cuts=case.cuts).items():
                statuses[result.status] += 1
                found[functions.get(name, "state"), bool(result.value not in (None, 0, []))] += 1
    for function in (*FUNCTIONS, "state"):
        assert found[function, True] > 50, function
        assert found[function, False] > 50, function
    assert all(statuses[status] > 50 for status in Status if status != Status.ERROR)


def test_the_edges_are_reached() -> None:
    hits: Counter[str] = Counter()
    for case in CASES:
        ttl = case.view.ttl_micros
        windows = {aggregation.window for aggregation in case.view.aggregations}
        orders = {(row.key, row.event_timestamp, row.arrival, row.writer, row.sequence) for row in case.rows}
        for depth, component in ((2, "event timestamp"), (3, "arrival"), (4, "writer")):
            hits[f"tie of {component}"] += len({order[:depth] for order in orders}) < len(
                {order[: depth + 1] for order in orders}
            )
        hits["before 1970"] += any(row.event_timestamp < 0 for row in case.rows)
        hits["future"] += any(row.event_timestamp > row.arrival for row in case.rows)
        hits["on the cut"] += any(row.event_timestamp == cut.at for cut in case.cuts for row in case.rows)
        hits["null key"] += any(None in key for key, _ in case.queries)
        hits["run together"] += {(1, "23"), (12, "3")} <= {row.key for row in case.rows}
        for key, t in case.queries:
            ages = {t - row.event_timestamp for row in case.rows if row.key == key}
            starts = {w.bounds(t)[0] for w in windows}
            ends = {w.bounds(t)[1] for w in windows if w.offset}
            own = {row.event_timestamp for row in case.rows if row.key == key}
            hits["on t"] += 0 in ages
            hits["on t - ttl"] += ttl in ages
            hits["on t - 2*ttl"] += ttl is not None and 2 * ttl in ages
            hits["just past ttl"] += ttl is not None and ttl + 1 in ages
            hits["on a window's start"] += bool(own & starts)
            hits["just before a start"] += bool({time + 1 for time in own} & starts)
            hits["on an offset window's end"] += bool(own & ends)
            hits["known at t"] += any(row.arrival == t for row in case.rows if row.key == key)
    assert {edge: count for edge, count in hits.items() if count < 15} == {}


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(cases(max_rows=8))
def test_the_strategies_draw_consistent_cases_that_can_be_evaluated(case: Case) -> None:
    assert_consistent(case)
    names = [field.name for field in case.view.features]
    for key, t in case.queries:
        assert list(evaluate(case.view, key, t, case.rows, cuts=case.cuts)) == names


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_parts_can_be_drawn_for_a_view_of_a_chosen_kind(data: st.DataObject) -> None:
    view = data.draw(views(kinds=("window",), sources=("stream",), columns=("x", "s"), functions=("sum", "last")))
    assert {aggregation.function for aggregation in view.aggregations} <= {"sum", "last"}
    assert {field.name for field in view.columns} <= {"x", "s"}
    rows = data.draw(rows_for(view, max_rows=5))
    evaluate(view, data.draw(keys(view)), data.draw(times_for(view, rows)), rows)


def test_a_failure_shrinks_to_the_rows_that_matter() -> None:
    view = FeatureView("v", entities=[Entity("id", value_type=Int64)], schema=[Field("x", Float64)], source=PUSH)

    def tied(rows: list[Row]) -> bool:
        return len({(row.writer, row.event_timestamp) for row in rows}) > len({row.event_timestamp for row in rows})

    smallest = find(
        rows_for(view, max_rows=4),
        tied,
        settings=settings(max_examples=1000, database=None, deadline=None, phases=[Phase.generate, Phase.shrink]),
        random=random.Random(1),
    )
    assert 2 <= len(smallest) <= 3
    assert {row.values["x"] for row in smallest} <= {0.0, None}
