"""Online lookups: what is asked comes back in order, at a stated time, with statuses, receipts and clear errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore.definitions import (
    Aggregation,
    Entity,
    FeatureView,
    Field,
    OnDemandFeatureView,
    Project,
    PushSource,
    RequestSource,
)
from featurestore.definitions.project import feature_fingerprint
from featurestore.definitions.resolve import resolve
from featurestore.errors import ClockError, NotReadyError, RowError
from featurestore.offline.log import RowLog
from featurestore.online.lookup import Lookup, OnlineResponse, Receipt
from featurestore.online.memory import MemoryStore
from featurestore.online.view import OnlineView
from featurestore.semantics.rows import Row
from featurestore.semantics.windows import DAY, HOUR, MINUTE
from featurestore.testing.conformance import log_table
from featurestore.types import Array, Float64, Int64, String, UnixTimestamp

NOON = 200 * DAY + 12 * HOUR
SKEW = 10 * MINUTE
DRIVER = Entity("driver", value_type=Int64)
SOURCE = PushSource("s", timestamp_field="ts")
SCHEMA = [Field("x", Float64), Field("at", UnixTimestamp), Field("days", Array(UnixTimestamp))]
STATE = FeatureView("state", [DRIVER], SCHEMA, SOURCE, ttl=timedelta(hours=1))
WINDOW = FeatureView(
    "window",
    [DRIVER],
    SCHEMA,
    SOURCE,
    aggregations=[
        Aggregation("x", "sum", timedelta(hours=1), name="total"),
        Aggregation("x", "count_distinct", timedelta(hours=1), name="kinds", max_distinct=1),
    ],
)


def divide(row: dict[str, Any]) -> dict[str, Any]:
    return {"ratio": row["x"] / row["by"]}


RATIO = OnDemandFeatureView(
    "ratio",
    sources=[STATE[["x"]], RequestSource("asked", schema=[Field("by", Float64)])],
    schema=[Field("ratio", Float64)],
    function=divide,
)


class Bench:
    """Online state without anything around it."""

    def __init__(self, *views: FeatureView, ready: bool = True) -> None:
        self.store = MemoryStore()
        self.views = {view.name: OnlineView(self.store, "p", view, SKEW) for view in views or (STATE, WINDOW)}
        self.project = Project([*(view.view for view in self.views.values()), RATIO])
        self.count = 0
        if ready:
            for view in self.views.values():
                view.mark_ready()

    def write(self, driver: int, ts: int, x: float | None, *, arrival: int | None = None, writer: str = "w") -> None:
        for view in self.views.values():
            values = {"x": x, "at": ts, "days": [ts, None]}
            row = Row((driver,), ts, ts if arrival is None else arrival, writer, self.count, values)
            table = log_table(view.view, [row], RowLog(Path(), view.view).schema)
            view.apply(table, writer, view.watermark(writer), self.count)
        self.count += 1

    def ask(self, features: list[str], rows: Any, now: int = NOON) -> OnlineResponse:
        return Lookup(resolve(self.project, features), self.store, self.views).answer(rows, now)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.write(1, NOON - MINUTE, 1.5)
    bench.write(2, NOON - 90 * MINUTE, 2.5)
    bench.write(3, NOON - MINUTE, None)
    return bench


def test_rows_come_back_in_the_order_asked_repeated_unknown_and_null_keys_too(bench: Bench) -> None:
    drivers = [3, 1, None, 9, 1, 2]
    answer = bench.ask(["state:x", "window:total"], [{"driver": driver} for driver in drivers])
    assert answer.to_dict() == {
        "driver": drivers,
        "x": [None, 1.5, None, None, 1.5, None],
        "total": [None, 1.5, None, None, 1.5, None],
    }
    assert answer.statuses == {
        "x": ["NULL_VALUE", "PRESENT", "NOT_FOUND", "NOT_FOUND", "PRESENT", "OUTSIDE_MAX_AGE"],
        "total": ["NULL_VALUE", "PRESENT", "NULL_VALUE", "NULL_VALUE", "PRESENT", "NULL_VALUE"],
    }
    columns = bench.ask(["state:x", "window:total"], {"driver": drivers})
    assert columns.to_dict() == answer.to_dict()


def test_no_rows_are_no_rows(bench: Bench) -> None:
    assert bench.ask(["state:x"], []).to_dict() == {"driver": [], "x": []}
    assert bench.ask(["state:x"], {"driver": []}).to_arrow().num_rows == 0


@pytest.mark.parametrize(
    ("age", "status"),
    [
        (0, "PRESENT"),
        (HOUR, "PRESENT"),
        (HOUR + 1, "OUTSIDE_MAX_AGE"),
        (2 * HOUR, "OUTSIDE_MAX_AGE"),
        (2 * HOUR + 1, "NOT_FOUND"),
    ],
)
def test_the_age_of_a_row_is_judged_when_it_is_read(age: int, status: str) -> None:
    bench = Bench(STATE)
    bench.write(1, NOON, 1.0)
    now = NOON + max(age, 1)
    assert bench.ask(["state:x"], [{"driver": 1}], now).statuses["x"] == [status]


def test_too_many_distinct_values_are_an_overflow_and_no_guess(bench: Bench) -> None:
    bench.write(1, NOON - MINUTE, 7.0)
    answer = bench.ask(["window:kinds"], [{"driver": 1}])
    assert (answer.to_dict()["kinds"], answer.statuses["kinds"]) == ([None], ["OVERFLOW"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"driver": 1}, {"diver": 1}], r"entity row 1 lacks 'driver'; did you mean 'diver'\?"),
        ([{"driver": "1"}], r"entity row 0, 'driver': '1' \(str\) is not a int64"),
        ([{"driver": 1}, {"driver": 1.0}], r"entity row 1, 'driver': 1.0 \(float\) is not a int64"),
        ([{"driver": True}], r"entity row 0, 'driver': True \(bool\)"),
        ([{"driver": 2**63}], "does not fit into int64"),
        ({"driver": [1, 2], "other": [1]}, r"different lengths: \[1, 2\]"),
    ],
)
def test_unusable_rows_are_refused_by_number_and_name(bench: Bench, rows: Any, message: str) -> None:
    with pytest.raises(RowError, match=message):
        bench.ask(["state:x"], rows)


def test_a_view_that_was_never_filled_is_not_ready() -> None:
    bench = Bench(ready=False)
    bench.views["window"].mark_ready()
    assert bench.ask(["window:total"], [{"driver": 1}]).statuses == {"total": ["NULL_VALUE"]}
    with pytest.raises(NotReadyError, match=r"no state of view 'state' yet; run featurestore materialize"):
        bench.ask(["window:total", "state:x"], [{"driver": 1}])


def test_a_clock_behind_by_more_than_the_skew_is_refused(bench: Bench) -> None:
    bench.write(1, NOON - MINUTE, 2.0, arrival=NOON)
    assert bench.ask(["window:total"], [{"driver": 1}], NOON - SKEW).evaluated_at == [NOON - SKEW]
    with pytest.raises(ClockError) as caught:
        bench.ask(["window:total"], [{"driver": 1}], NOON - SKEW - 1)
    assert str(caught.value) == (
        "view 'window': the reader's clock 1970-07-20 11:49:59.999999+00:00 is more than max_clock_skew (10m) behind "
        "rows that arrived at 1970-07-20 12:00:00+00:00; the online store answers for the present, use "
        "get_historical_features for the past"
    )


def test_rows_newer_than_the_clock_move_the_time_of_their_row_alone(bench: Bench) -> None:
    bench.write(1, NOON + 10, 4.0)
    answer = bench.ask(["state:x", "window:total"], [{"driver": 1}, {"driver": 3}])
    assert answer.evaluated_at == [NOON + 11, NOON]
    assert answer.to_dict()["x"] == [4.0, None]
    assert answer.to_dict()["total"] == [5.5, None]
    assert [row["window"].t for row in answer.receipts] == [NOON + 11, NOON]


def test_a_pending_row_waits_for_the_readers_clock(bench: Bench) -> None:
    bench.write(1, NOON + 30 * MINUTE, 8.0, arrival=NOON)
    features, rows = ["state:x", "window:total"], [{"driver": 1}]
    before = bench.ask(features, rows, NOON + 30 * MINUTE - 1)
    assert (before.to_dict()["x"], before.evaluated_at) == ([1.5], [NOON + 30 * MINUTE - 1])
    at = bench.ask(features, rows, NOON + 30 * MINUTE)
    assert (at.to_dict()["x"], at.to_dict()["total"]) == ([8.0], [1.5]), "an event at t is not in its own window"
    assert bench.ask(features, rows, NOON + 30 * MINUTE + 1).to_dict()["total"] == [9.5]


def test_receipts_say_what_was_visible(bench: Bench) -> None:
    bench.write(1, NOON - 1, 2.0, writer="other")
    first, unknown = bench.ask(["state:x", "window:total"], [{"driver": 1}, {"driver": 9}]).receipts
    assert first == {
        "state": Receipt(feature_fingerprint(STATE), NOON, {"w": 0, "other": 3}, None),
        "window": Receipt(feature_fingerprint(WINDOW), NOON, {"w": 0, "other": 3}, None),
    }
    assert unknown["state"].sequences == {}


def test_answers_as_dicts_tables_and_frames(bench: Bench) -> None:
    answer = bench.ask(["state:x", "state:at", "state:days"], [{"driver": 1}, {"driver": 9}])
    at = datetime(1970, 7, 20, 11, 59, tzinfo=UTC)
    plain = {"driver": [1, 9], "x": [1.5, None], "at": [at, None], "days": [[at, None], None]}
    assert answer.to_dict() == plain
    timed = answer.to_dict(include_event_timestamps=True)
    noon = at + timedelta(minutes=1)
    assert timed == {**plain, "state__event_timestamp": [at, None], "evaluated_at": [noon, noon]}
    table = answer.to_arrow()
    stamp = pa.timestamp("us", "UTC")
    assert [field.type for field in table.schema] == [pa.int64(), pa.float64(), stamp, pa.list_(stamp)]
    assert table.to_pylist()[0] == {"driver": 1, "x": 1.5, "at": at, "days": [at, None]}
    frame = answer.to_df()
    assert list(frame.columns) == list(plain)
    assert frame["driver"].tolist() == [1, 9]
    assert frame["at"][0] == at


def test_on_demand_features_are_worked_out_and_their_errors_are_statuses(bench: Bench) -> None:
    rows = [{"driver": 1, "by": 3.0}, {"driver": 1, "by": 0.0}, {"driver": 9, "by": 1.0}, {"driver": 1, "by": None}]
    answer = bench.ask(["ratio:ratio", "state:x"], rows)
    assert answer.to_dict() == {
        "driver": [1, 1, 9, 1],
        "ratio": [0.5, None, None, None],
        "x": [1.5, 1.5, None, 1.5],
    }
    assert answer.statuses["ratio"] == ["PRESENT", "ERROR", "ERROR", "ERROR"]
    with pytest.raises(RowError, match="entity row 0 lacks 'by'"):
        bench.ask(["ratio:ratio"], [{"driver": 1}])


def test_composite_keys_do_not_run_together() -> None:
    pair = Entity("pair", join_keys=[Field("a", Int64), Field("b", String)])
    bench = Bench(STATE)
    online = OnlineView(bench.store, "p", FeatureView("v", [pair], [Field("x", Float64)], SOURCE), SKEW)
    online.mark_ready()
    rows = [Row(key, NOON, NOON, "w", n, {"x": float(n)}) for n, key in enumerate([(1, "23"), (12, "3")])]
    online.apply(log_table(online.view, rows, RowLog(Path(), online.view).schema), "w", -1, 1)
    lookup = Lookup(resolve(Project([online.view]), ["v:x"]), bench.store, {"v": online})
    asked: list[dict[str, Any]] = [{"a": 12, "b": "3"}, {"a": 1, "b": "23"}, {"a": 1, "b": None}, {"a": 123, "b": ""}]
    assert lookup.answer(asked, NOON + 1).to_dict()["x"] == [1.0, 0.0, None, None]
