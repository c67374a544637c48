"""Pushing rows: what callers hand in, retries, lanes, and errors before anything is written."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from featurestore.clock import ManualClock
from featurestore.definitions import Entity, FeatureView, Field
from featurestore.errors import RowError
from featurestore.semantics.windows import HOUR, MINUTE
from featurestore.streaming.apply import no_hook
from featurestore.streaming.leases import exclusive, free_lane
from featurestore.streaming.log_applier import Hook
from featurestore.streaming.push import Pusher
from featurestore.types import Int64, UnixTimestamp
from tests.unit.streaming_bench import NOON, PUSH, Bench, Crash, crash_at, trip

ROWS = [trip(1, 0, 12.5), trip(2, 1, 3.0, None), trip(1, 2, 20.0)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, PUSH)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON + 5 * MINUTE)


def pusher(bench: Bench, clock: ManualClock, hook: Hook = no_hook) -> Pusher:
    return Pusher(bench.applier(hook), clock, bench.root / "state")


def frame() -> pa.Table:
    return pa.table(
        {
            "driver": pa.array([1, 2, 1], pa.int64()),
            "ts": pa.array([NOON, NOON + MINUTE, NOON + 2 * MINUTE], pa.timestamp("us", "UTC")),
            "km": [12.5, 3.0, 20.0],
            "city": ["Oslo", None, "Oslo"],
            "extra": [1, 2, 3],
        }
    )


FORMS: dict[str, Callable[[], object]] = {
    "dicts": lambda: ROWS,
    "arrow": frame,
    "batch": lambda: frame().to_batches()[0],
    "naive": lambda: frame().set_column(1, "ts", frame()["ts"].cast(pa.timestamp("us"))),
    "nanoseconds": lambda: frame().set_column(1, "ts", frame()["ts"].cast(pa.timestamp("ns", "Europe/Oslo"))),
    "dictionary": lambda: frame().set_column(3, "city", frame()["city"].dictionary_encode()),
    "pandas": lambda: frame().to_pandas(),
    "pandas, other index": lambda: frame().to_pandas().set_index("extra"),
    "polars": lambda: pl.from_arrow(frame()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_table_is_logged_and_served(bench: Bench, clock: ManualClock, form: str) -> None:
    result = pusher(bench, clock).push(FORMS[form]())
    assert (result.rows, result.rejected, result.repeated) == (3, 0, False)
    rows = bench.logged()["recent"]
    assert [(row["driver"], row["km"], row["city"], row["_sequence"]) for row in rows] == [
        (1, 12.5, "Oslo", 0),
        (1, 20.0, "Oslo", 2),
        (2, 3.0, None, 1),
    ]
    assert {row["_writer"] for row in rows} == {"push/trips/0"}
    assert {row["arrival"] for row in rows} == {datetime(2024, 5, 1, 12, 5, tzinfo=UTC)}
    assert [row["event_timestamp"].minute for row in rows] == [0, 2, 1]
    served = bench.served([1, 2], NOON + HOUR)
    assert served["recent__sum_km_1h"] == [32.5, 3.0]
    assert served["long__count_km_6h"] == [2, 0]


def test_nanoseconds_are_floored_also_before_1970(bench: Bench, clock: ManualClock) -> None:
    table = frame().slice(0, 1).set_column(1, "ts", pa.array([-1], pa.timestamp("ns")))
    pusher(bench, clock).push(table)
    (row,) = bench.logged()["newest"]
    assert row["event_timestamp"] == datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


def test_sequences_go_on_from_push_to_push_and_from_process_to_process(bench: Bench, clock: ManualClock) -> None:
    first = pusher(bench, clock)
    first.push(ROWS)
    first.push(ROWS[:1])
    pusher(bench, clock).push(ROWS[1:2])
    sequences = sorted(row["_sequence"] for row in bench.logged()["newest"])
    assert sequences == [0, 1, 2, 3, 4]


def test_an_empty_push_does_nothing(bench: Bench, clock: ManualClock) -> None:
    assert pusher(bench, clock).push([]).rows == 0
    assert pusher(bench, clock).push(frame().slice(0, 0)).rows == 0
    assert bench.logged()["newest"] == []


def test_a_view_that_was_never_pushed_to_answers_after_the_first_push_elsewhere(
    bench: Bench, clock: ManualClock
) -> None:
    pusher(bench, clock).push(ROWS[:1])
    assert bench.served([99], NOON + HOUR)["recent__count_1d"] == [0]


def test_bad_rows_are_reported_and_go_to_the_dead_letters(bench: Bench, clock: ManualClock) -> None:
    rows = [*ROWS, {**trip(1, 3, 1.0), "driver": None}, trip(1, 3, -4.0), trip(1, 4000, 5.0)]
    result = pusher(bench, clock).push(rows)
    assert (result.rows, result.rejected) == (6, 3)
    assert [reason.split(":")[0] for reason in result.reasons] == ["row 3", "row 4", "row 5"]
    assert "driver" in result.reasons[0]
    assert "a trip of negative length" in result.reasons[1]
    writer = "push/trips/0"
    assert bench.rejected("newest") == [(writer, 3, "invalid"), (writer, 5, "future")]
    assert (writer, 4, "invalid") in bench.rejected("long")
    assert b'"km":5.0' in bench.letters().read()["payload"].to_pylist()[1]


def test_dead_letters_of_a_push_that_died_do_not_hide_those_of_the_next(bench: Bench, clock: ManualClock) -> None:
    bad = {**trip(1, 3, 1.0), "driver": None}
    with pytest.raises(Crash):
        pusher(bench, clock, crash_at("rejected")).push([bad, *ROWS])
    pusher(bench, clock).push([ROWS[0], bad])
    assert bench.rejected("newest") == [("push/trips/0", 0, "invalid"), ("push/trips/0", 5, "invalid")]
    assert len(bench.logged()["newest"]) == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([{"driver": 1, "ts": "2024-05-01T12:00:00Z", "km": 1.0}], "the column 'city' of view 'newest' is missing"),
        (
            [{"drivr": 1, "ts": "x", "km": 1.0, "city": "a"}],
            "'driver' of view 'newest' is missing; did you mean 'drivr'",
        ),
        (frame().drop_columns(["ts"]), "the column 'ts' of view 'newest' is missing"),
        (frame().set_column(2, "km", [["a", "b", "c"]]), "'km' is string; view 'newest' needs float64"),
        (frame().set_column(0, "driver", [[1.0, 2.0, None]]), r"'driver' is double.*needs int64 \(pandas makes"),
        (frame().set_column(1, "ts", [[1, 2, 3]]), "'ts' is int64; view 'newest' needs timestamp"),
        (frame().add_column(0, "km", [[1, 2, 3]]), "a column name is there twice"),
        (pd.DataFrame({"driver": [1, "x"]}, dtype=object), "the table cannot be read"),
        ([trip(1, 0, 1.0), 5], "5 is not a row"),
        ("text", "not str"),
        (5, "not int"),
        ({"driver": [1]}, "not dict"),
        (
            [{**ROWS[0], "km": "far"}, {**ROWS[1], "km": "near"}],
            "no row is valid, nothing was written; the first: .*km",
        ),
    ],
)
def test_an_unusable_table_is_refused_and_nothing_is_written(
    bench: Bench, clock: ManualClock, table: object, message: str
) -> None:
    bench.views = bench.views[:2]
    with pytest.raises(RowError, match=message) as refused:
        pusher(bench, clock).push(table)
    assert "push to 'trips'" in str(refused.value)
    assert bench.logged()["newest"] == []
    assert bench.rejected() == []


def test_a_retry_with_the_same_key_writes_nothing(bench: Bench, clock: ManualClock) -> None:
    first = pusher(bench, clock)
    assert not first.push(ROWS, idempotency_key="order-17").repeated
    outcome = bench.outcome()
    clock.set(NOON + HOUR)
    assert first.push(ROWS, idempotency_key="order-17").repeated
    assert pusher(bench, clock).push(frame(), idempotency_key=b"order-17").repeated
    assert bench.outcome() == outcome
    assert {row["_origin"] for row in bench.logged()["newest"]} == {b"order-17"}
    first.push(ROWS[:1], idempotency_key="order-18")
    assert len(bench.logged()["newest"]) == 4


def test_without_a_key_a_retry_doubles(bench: Bench, clock: ManualClock) -> None:
    first = pusher(bench, clock)
    first.push(ROWS)
    first.push(ROWS)
    assert len(bench.logged()["newest"]) == 6


def test_a_retry_by_the_same_process_serves_what_the_first_try_only_logged(bench: Bench, clock: ManualClock) -> None:
    bench.views = bench.views[:2]
    first = pusher(bench, clock, crash_at("logged"))
    with pytest.raises(Crash):
        first.push(ROWS, idempotency_key="k")
    assert bench.served([1], NOON + HOUR)["recent__count_1d"] == [0]
    assert first.push(ROWS, idempotency_key="k").repeated
    assert bench.served([1], NOON + HOUR)["recent__count_1d"] == [2]


def test_two_processes_take_turns_on_a_lane(bench: Bench, clock: ManualClock) -> None:
    appliers = [bench.applier(), bench.applier()]
    pushers = [Pusher(applier, clock, bench.root / "state") for applier in appliers]
    for place in (0, 1, 0, 1, 1, 0):
        pushers[place].push(ROWS)
    assert sorted(row["_sequence"] for row in bench.logged()["newest"]) == list(range(18))
    assert bench.served([1], NOON + HOUR)["recent__count_1d"] == [12]
    for applier in appliers:  # no row was handed in twice
        assert (applier.counters["newest"].rows, applier.counters["newest"].duplicates) == (9, 0)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("step", ["rejected", "logged", "online:newest", "online:long"])
def test_a_retry_after_a_crash_is_exact(tmp_path: Path, clock: ManualClock, step: str, times: int) -> None:
    crashed, undisturbed = Bench(tmp_path / "a", PUSH), Bench(tmp_path / "b", PUSH)
    key = "order-17"
    try:
        pusher(crashed, clock, crash_at(step, times)).push(ROWS, idempotency_key=key)
        assert times > 1
        assert step.startswith("online")
    except Crash:
        pass
    pusher(crashed, clock).push(ROWS, idempotency_key=key)
    pusher(undisturbed, clock).push(ROWS, idempotency_key=key)
    assert crashed.outcome() == undisturbed.outcome()


def test_retries_at_the_same_time_write_once(bench: Bench, clock: ManualClock) -> None:
    pushers = [pusher(bench, clock) for _ in range(4)]
    threads = [threading.Thread(target=each.push, args=(ROWS,), kwargs={"idempotency_key": "k"}) for each in pushers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bench.logged()["newest"]) == 3


def test_pushes_at_the_same_time_lose_nothing(bench: Bench, clock: ManualClock) -> None:
    def work(each: Pusher, driver: int) -> None:
        for minute in range(3):
            each.push([trip(driver, minute, 1.0)])

    pushers = [pusher(bench, clock) for _ in range(4)]
    threads = [threading.Thread(target=work, args=(each, place)) for place, each in enumerate(pushers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = bench.logged()["newest"]
    assert sorted((row["driver"], row["event_timestamp"].minute) for row in rows) == [
        (driver, minute) for driver in range(4) for minute in range(3)
    ]
    assert bench.served(list(range(4)), NOON + HOUR)["recent__count_1d"] == [3, 3, 3, 3]
    assert len({(row["_writer"], row["_sequence"]) for row in rows}) == 12


def test_a_push_whose_lane_somebody_writes_without_lease_loses_no_row(bench: Bench, clock: ManualClock) -> None:
    other = Pusher(bench.applier(), clock, bench.root / "another state folder")

    def intrude(step: str) -> None:
        if step == "rejected" and len(bench.logged()["newest"]) < 2:
            other.push([trip(7, 0, 100.0), trip(7, 1, 100.0)])

    pusher(bench, clock, intrude).push(ROWS)
    rows = bench.logged()["newest"]
    assert sorted((row["driver"], row["km"]) for row in rows) == [
        (1, 12.5),
        (1, 20.0),
        (2, 3.0),
        (7, 100.0),
        (7, 100.0),
    ]
    assert bench.served([1, 2, 7], NOON + HOUR)["recent__count_1d"] == [2, 1, 2]


def test_a_lane_in_use_is_passed_over(bench: Bench, clock: ManualClock) -> None:
    with exclusive(bench.root / "state" / "push" / "trips" / "lane-0.lock"):
        pusher(bench, clock).push(ROWS)
    assert {row["_writer"] for row in bench.logged()["newest"]} == {"push/trips/1"}
    assert bench.served([1], NOON + HOUR)["receipts"][0]["newest"].sequences == {"push/trips/1": 2}


def _hold_and_die(folder: Path, ready: Any) -> None:
    with free_lane(folder, 1):
        ready.set()
        threading.Event().wait()


def test_the_lease_of_a_process_that_dies_is_free_again(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold_and_die, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    with free_lane(tmp_path, 2) as lane:
        assert lane == 1
    process.kill()
    process.join()
    with free_lane(tmp_path, 1) as lane:
        assert lane == 0


@pytest.mark.parametrize("key", ["", b"", "x" * 1025, 5])
def test_a_useless_key_is_refused(bench: Bench, clock: ManualClock, key: Any) -> None:
    with pytest.raises(RowError, match="an idempotency_key is text or bytes, from 1 to 1024 bytes long"):
        pusher(bench, clock).push(ROWS, idempotency_key=key)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("online", "computed from the rows in the offline log.*could never be verified"),
        ("offline", "'newest' is served online from the same log"),
        ("both", "to='both' is not known; use to='online_and_offline'"),
    ],
)
def test_rows_for_one_store_alone_are_refused(bench: Bench, clock: ManualClock, to: str, message: str) -> None:
    with pytest.raises(RowError, match=message):
        pusher(bench, clock).push(ROWS, to=to)
    assert bench.logged()["newest"] == []


def test_offline_rows_are_taken_where_nothing_is_served(bench: Bench, clock: ManualClock) -> None:
    bench.views = [view for view in bench.views if not view.online]
    pusher(bench, clock).push(ROWS, to="offline")
    assert len(bench.logged()["unserved"]) == 3


def test_integers_of_any_width_and_dates_are_taken_where_they_fit(bench: Bench, clock: ManualClock) -> None:
    view = FeatureView("v", [Entity("k", value_type=Int64)], [Field("day", UnixTimestamp), Field("n", Int64)], PUSH)
    bench.views = [view]
    table = pa.table(
        {
            "k": pa.array([1, 2], pa.uint8()),
            "ts": pa.array(["2024-05-01T12:00:00+02:00", "2024-05-01"]),
            "day": pa.array([19844, None], pa.date32()),
            "n": pa.array([2**63 - 1, 2**63], pa.uint64()),
        }
    )
    result = pusher(bench, clock).push(table)
    assert result.rejected == 1
    assert result.reasons[0].startswith("row 1: column 'n': 9223372036854775808 does not fit into int64")
    (row,) = bench.logged()["v"]
    assert (row["day"], row["event_timestamp"].hour) == (datetime(2024, 5, 1, tzinfo=UTC), 10)
