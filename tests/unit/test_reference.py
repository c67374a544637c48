"""The reference against answers worked out by hand from section 2 of the design: rows, states and windows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from featurestore.definitions import Aggregation, Entity, FeatureView, Field, FileSource, PushSource
from featurestore.errors import ClockError
from featurestore.semantics.reference import cut_at, evaluate
from featurestore.semantics.rows import BATCH_WRITER, Cut, Result, Row, Status
from featurestore.types import Bool, Float64, Int64, String

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
T = 19_675 * DAY  # a midnight
BATCH = FileSource("src", path="x.parquet", timestamp_field="ts")
PUSH = PushSource("src", timestamp_field="ts")
BOTH = PushSource("src", batch_source=BATCH)
ID = Entity("id", value_type=Int64)

NOT_FOUND = Result(None, Status.NOT_FOUND)
OUTSIDE = Result(None, Status.OUTSIDE_MAX_AGE)


def state_view(ttl: timedelta | None = None, source: Any = BATCH) -> FeatureView:
    return FeatureView("v", entities=[ID], schema=[Field("i", Int64)], source=source, ttl=ttl)


def window_view(*aggregations: Aggregation, source: Any = BATCH) -> FeatureView:
    return FeatureView("v", entities=[ID], schema=[Field("i", Int64)], source=source, aggregations=aggregations)


def events(length: timedelta | None, hop: timedelta | None = None, offset: int = 0) -> Aggregation:
    """Make an aggregation that lists the rows its window covers."""
    return Aggregation("i", "last_n", length, hop, timedelta(microseconds=offset), name="seen", n=100)


def row(event: int, i: int | None, *, arrival: int | None = None, writer: str = "push/src/0", seq: int = 0) -> Row:
    return Row((1,), event, event if arrival is None else arrival, writer, seq, {"i": i})


def covered(aggregation: Aggregation, t: int, times: list[int]) -> list[int]:
    rows = [row(time, time - t, seq=seq) for seq, time in enumerate(times)]
    seen = evaluate(window_view(aggregation), (1,), t, rows)["seen"].value
    return [time + t for time in seen]


def state(rows: list[Row], t: int, **options: Any) -> Result:
    view = options.pop("view", state_view())
    return evaluate(view, options.pop("key", (1,)), t, rows, **options)["i"]


# --- State views: 2.2 ---


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (-1, NOT_FOUND),
        (0, Result(7, Status.PRESENT)),
        (HOUR, Result(7, Status.PRESENT)),
        (HOUR + 1, OUTSIDE),
        (2 * HOUR, OUTSIDE),
        (2 * HOUR + 1, NOT_FOUND),
    ],
)
def test_a_row_counts_from_its_time_until_ttl_then_is_outside_then_gone(age: int, expected: Result) -> None:
    view = state_view(timedelta(hours=1))
    assert state([row(T, 7)], T + age, view=view) == expected
    assert state([row(-T - 1, 7)], -T - 1 + age, view=view) == expected


def test_the_newest_row_answers_whole_even_with_nulls() -> None:
    view = FeatureView("v", entities=[ID], schema=[Field("a", Int64), Field("b", Int64)], source=BATCH)
    rows = [
        Row((1,), T, T, "batch", 0, {"a": 1, "b": 2}),
        Row((1,), T + 1, T, "batch", 1, {"a": None, "b": 3}),
    ]
    answer = evaluate(view, (1,), T + 1, rows)
    assert answer == {"a": Result(None, Status.NULL_VALUE), "b": Result(3, Status.PRESENT)}
    assert list(answer) == ["a", "b"]


@pytest.mark.parametrize(
    ("lesser", "greater"),
    [
        (row(T, 1, arrival=T + 9, writer="z", seq=9), row(T + 1, 2, arrival=T, writer="a", seq=1)),
        (row(T, 1, arrival=T, writer="z", seq=9), row(T, 2, arrival=T + 1, writer="a", seq=1)),
        (row(T, 1, writer="push/src/10", seq=9), row(T, 2, writer="push/src/9", seq=1)),
        (row(T, 1, writer="\uffff", seq=9), row(T, 2, writer="\U0001f600", seq=1)),
        (row(T, 1, seq=9), row(T, 2, seq=10)),
    ],
    ids=["event timestamp", "arrival", "writer", "writer by UTF-8, not UTF-16", "sequence as a number"],
)
def test_ties_are_decided_by_the_order_tuple(lesser: Row, greater: Row) -> None:
    for rows in ([lesser, greater], [greater, lesser]):
        assert state(rows, T + 1).value == 2
        first_and_last = window_view(
            Aggregation("i", "first", None, name="first"), Aggregation("i", "last", None, name="last")
        )
        answer = evaluate(first_and_last, (1,), T + 2, rows)
        assert (answer["first"].value, answer["last"].value) == (1, 2)


def test_composite_keys_match_part_by_part_and_nulls_match_nothing() -> None:
    pair = Entity("pair", join_keys=[Field("id", Int64), Field("code", String)])
    view = FeatureView("v", entities=[pair], schema=[Field("i", Int64)], source=BATCH)
    rows = [
        Row((1, "23"), T, T, "batch", 0, {"i": 1}),
        Row((12, "3"), T, T, "batch", 1, {"i": 2}),
        Row((1, None), T, T, "batch", 2, {"i": 3}),
    ]
    found = [evaluate(view, key, T, rows)["i"] for key in [(1, "23"), (12, "3"), (1, None), (123, "")]]
    assert found == [Result(1, Status.PRESENT), Result(2, Status.PRESENT), NOT_FOUND, NOT_FOUND]


def test_a_bool_key_is_not_an_integer_key() -> None:
    rows = [Row((True,), T, T, "batch", 0, {"i": 1})]
    flagged = FeatureView("v", entities=[Entity("k", value_type=Bool)], schema=[Field("i", Int64)], source=BATCH)
    assert evaluate(flagged, (True,), T, rows)["i"].value == 1
    assert evaluate(flagged, (1,), T, rows)["i"] == NOT_FOUND


# --- Windows: 2.3 ---

HOURLY = events(timedelta(hours=1), timedelta(minutes=5))


def test_the_tail_moves_in_hops_and_the_head_is_exact() -> None:
    at = [T - HOUR - 1, T - HOUR, T - 1, T, T + 5 * MINUTE - 1]
    assert covered(HOURLY, T - 1, at) == at[:2]  # [T - 65 min, T - 1)
    assert covered(HOURLY, T, at) == at[1:3]  # [T - 60 min, T)
    assert covered(HOURLY, T + 1, at) == at[1:4]
    assert covered(HOURLY, T + 5 * MINUTE - 1, at) == at[1:4]  # the tail has not moved yet
    assert covered(HOURLY, T + 5 * MINUTE, at) == at[2:]


def test_floors_go_toward_minus_infinity_before_1970() -> None:
    at = [-HOUR - 5 * MINUTE - 1, -HOUR - 5 * MINUTE, -HOUR - 1, -HOUR, -2, -1, 0]
    assert covered(HOURLY, -1, at) == at[1:5]  # floor((-1 - 1 h) / 5 min) = -13 hops
    assert covered(HOURLY, 0, at) == at[3:6]


def test_an_offset_window_starts_and_ends_on_hops() -> None:
    yesterday = events(timedelta(hours=1), timedelta(minutes=5), offset=DAY)
    at = [T - DAY - HOUR - 1, T - DAY - HOUR, T - DAY - 1, T - DAY, T - DAY + 5 * MINUTE]
    assert covered(yesterday, T - 1, at) == at[:2]
    assert covered(yesterday, T, at) == at[1:3]
    assert covered(yesterday, T + 5 * MINUTE - 1, at) == at[1:3]  # the end waits for the hop
    assert covered(yesterday, T + 5 * MINUTE, at) == at[2:4]


def test_all_history_has_no_start_and_an_offset_ends_it() -> None:
    at = [-(10**15), 0, T - HOUR - 1, T - HOUR, T - 1, T]
    assert covered(events(None), T, at) == at[:5]
    assert covered(events(None, timedelta(hours=1), offset=HOUR), T, at) == at[:3]


def test_a_length_that_is_no_multiple_of_its_hop() -> None:
    odd = events(timedelta(seconds=7), timedelta(seconds=2))
    at = [T - 8_000_001, T - 8_000_000, T - 7_000_000]
    assert covered(odd, T, at) == at[1:]  # floor(-7 / 2) = -4 hops


# --- Delivery: 2.6 and 2.7 ---


def test_a_row_delivered_twice_is_applied_once_and_equal_rows_apart() -> None:
    view = window_view(Aggregation(function="count", name="n"), Aggregation("i", "sum", name="sum"))
    rows = [row(T, 5, seq=0), row(T, 5, seq=0), row(T, 5, seq=1), row(T, 5, seq=0, writer="push/src/1")]
    assert evaluate(view, (1,), T + 1, rows) == {
        "n": Result(3, Status.PRESENT),
        "sum": Result(15, Status.PRESENT),
    }


def test_arrival_sees_rows_from_their_arrival_on() -> None:
    rows = [row(T, 1), row(T + 1, 2, arrival=T + 60, seq=1)]
    assert [state(rows, t).value for t in (T + 1, T + 59, T + 60)] == [2, 2, 2]
    assert [state(rows, t, known_at="arrival").value for t in (T + 1, T + 59, T + 60)] == [1, 1, 2]


def test_a_future_row_waits_for_its_own_time_on_both_clocks() -> None:
    rows = [row(T + 60, 1, arrival=T)]
    for known_at in ("event", "arrival"):
        assert state(rows, T + 59, known_at=known_at) == NOT_FOUND
        assert state(rows, T + 60, known_at=known_at).value == 1


def test_an_unknown_clock_is_refused() -> None:
    with pytest.raises(ClockError, match="known_at='now'"):
        evaluate(state_view(), (1,), T, [], known_at="now")
    with pytest.raises(ClockError, match="'event'"):
        cut_at([], T, "now")


# --- Lambda views: 2.4 ---

CUTS = [Cut(T, T + HOUR), Cut(T + DAY, T + DAY + HOUR)]
LAMBDA_ROWS = [
    *(row(T + at, i, writer=BATCH_WRITER, seq=i) for at, i in ((-1, 1), (0, 2), (DAY, 3))),
    *(row(T + at, i, seq=-i) for at, i in ((-1, -1), (0, -2), (DAY, -3))),
    row(T + DAY - 1, -4, writer="deadletter/log"),
]


def lambda_seen(t: int, cuts: list[Cut], **options: Any) -> set[int]:
    view = window_view(events(timedelta(days=9), timedelta(days=1)), source=BOTH)
    return set(evaluate(view, (1,), t, LAMBDA_ROWS, cuts=cuts, **options)["seen"].value)


def test_batch_rows_count_before_the_cut_and_stream_rows_from_it_on() -> None:
    after = T + 2 * DAY
    assert lambda_seen(after, []) == {-1, -2, -3, -4}
    assert lambda_seen(after, CUTS[:1]) == {1, -2, -3, -4}
    assert lambda_seen(after, CUTS) == {1, 2, -3}


def test_arrival_uses_the_cut_in_force_then_and_event_the_last_one() -> None:
    assert cut_at(CUTS, T) == CUTS[1]
    assert cut_at([], T) is None
    known = [cut_at(CUTS, T + at, "arrival") for at in (HOUR - 1, HOUR, DAY + HOUR - 1, DAY + HOUR)]
    assert known == [CUTS[0], CUTS[0], CUTS[0], CUTS[1]]
    assert lambda_seen(T + HOUR - 1, CUTS, known_at="arrival") == {1, -2}
    assert lambda_seen(T + HOUR, CUTS, known_at="arrival") == {1, -2}
    assert lambda_seen(T + HOUR, CUTS) == {1, 2}


def test_cuts_mean_nothing_to_views_with_one_source() -> None:
    rows = [row(T, 1, writer=BATCH_WRITER), row(T - DAY, 2)]
    for source in (BATCH, PUSH):
        assert state(rows, T, view=state_view(source=source), cuts=CUTS).value == 1
        assert state(rows, T - 1, view=state_view(source=source), cuts=CUTS).value == 2


def test_a_view_of_the_whole_world_has_the_empty_key() -> None:
    view = FeatureView("v", schema=[Field("x", Float64)], source=BATCH)
    assert evaluate(view, (), T, [Row((), T, T, "batch", 0, {"x": 0.5})])["x"].value == 0.5
