"""Retrieval in Spark as a caller sees it: frames of Spark stay there, other frames come back in order, errors teach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore.clock import ManualClock
from featurestore.config import Config
from featurestore.definitions import (
    Aggregation,
    Entity,
    FeatureView,
    Field,
    PushSource,
    RequestSource,
    on_demand_feature_view,
)
from featurestore.errors import EntityFrameError, OfflineStoreError
from featurestore.store import FeatureStore
from featurestore.types import Float64, Int64, String, UnixTimestamp, Vector
from tests.servers.spark import Spark

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SCHEMA = [Field("km", Float64), Field("seats", Int64), Field("at", UnixTimestamp), Field("spot", Vector(2))]
TRIPS = PushSource("trips", timestamp_field="ts")
DRIVER = Entity("driver", join_keys=[Field("driver", Int64), Field("city", String)])
NEWEST = FeatureView("newest", entities=[DRIVER], schema=SCHEMA, source=TRIPS, ttl=timedelta(hours=1))
RECENT = FeatureView(
    "recent",
    entities=[DRIVER],
    schema=SCHEMA,
    source=TRIPS,
    aggregations=[
        Aggregation("km", "sum", timedelta(hours=1), name="total"),
        Aggregation("at", "last_n", timedelta(hours=1), n=2, name="ats"),
    ],
)
EMPTY = FeatureView("empty", [DRIVER], [Field("x", Float64)], PushSource("none", timestamp_field="ts"), online=False)
FEATURES = ["newest:seats", "newest:spot", "recent:total", "recent:ats", "newest:at", "empty:x"]


@on_demand_feature_view(
    sources=[RECENT[["total"]], RequestSource("request", schema=[Field("fee", Float64)])],
    schema=[Field("cost", Float64)],
)
def fare(row: dict[str, Any]) -> dict[str, Any]:
    return {"cost": row["fee"] + (row["total"] or 0.0)}


def trip(driver: int, city: str, minute: int, km: float | None, seats: int | None = None) -> dict[str, Any]:
    ts = NOON + minute * MINUTE
    return {"driver": driver, "city": city, "ts": ts, "km": km, "seats": seats, "at": ts, "spot": [km or 0.0, 0.1]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    folder: Path = tmp_path_factory.mktemp("spark")
    clock = ManualClock(NOON + 60 * MINUTE)
    with closing(FeatureStore(config=Config(project="p", repo_path=folder, online_type="memory"), clock=clock)) as made:
        made.apply([NEWEST, RECENT, EMPTY, fare])
        rows = [trip(1, "2", 0, 0.1, 2**53 + 1), trip(1, "2", 9, 0.2), trip(12, "", 5, None, 3), trip(2, "é", 1, 1e-11)]
        made.push("trips", rows)
        yield made


def frame() -> pa.Table:
    """Return labels with nulls, repeats and unknown keys, in no order, and columns that must come back as they are."""
    times = [NOON + minute * MINUTE for minute in (30, 5, 30, 30, 0, 70, 30, 30)]
    return pa.table(
        {
            "label `1`.x": pa.array([1, None, 3, 4, 5, 6, 7, 8], pa.int64()),
            "driver": pa.array([1, 1, 12, None, 1, 1, 1, 2], pa.int32()),
            "city": ["2", "2", "", "2", "2", "2", "3", "é"],
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            "fee": [1.0] * 8,
        }
    )


def rows_of(table: pa.Table) -> list[str]:
    return sorted(map(repr, table.to_pylist()))


def test_a_frame_of_this_process_comes_back_in_order_as_duckdb_answers(store: FeatureStore, spark: Spark) -> None:
    ours = store.get_historical_features(frame(), [*FEATURES, "fare:cost"])
    job = store.get_historical_features(frame(), [*FEATURES, "fare:cost"], engine="spark")
    assert job.engine == "spark"
    assert job.to_arrow().equals(ours.to_arrow())
    assert job.to_arrow()["seats"].to_pylist()[0] is None
    for name, statuses in ours.statuses().items():
        assert job.statuses()[name].tolist() == statuses.tolist()


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_a_frame_of_spark_stays_there(store: FeatureStore, spark: Spark, zone: str) -> None:
    before = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", zone)
    try:
        given = spark.createDataFrame(frame())
        job = store.get_historical_features(given, FEATURES)
        answer = job.to_spark()
        assert answer.columns == [*frame().column_names, "seats", "spot", "total", "ats", "at", "x"]
        ours = store.get_historical_features(frame(), FEATURES)
        assert rows_of(job.to_arrow().cast(ours.to_arrow().schema)) == rows_of(ours.to_arrow())
        written = answer.select("`label ``1``.x`", "total", "seats").toArrow()
        assert rows_of(written) == rows_of(ours.to_arrow().select(["label `1`.x", "total", "seats"]))
    finally:
        spark.conf.set("spark.sql.session.timeZone", before)


def test_sql_text_is_read_by_the_engine(store: FeatureStore, spark: Spark) -> None:
    query = "SELECT 1L AS driver, '2' AS city, TIMESTAMP '2024-05-01 12:30:00+00:00' AS event_timestamp"
    job = store.get_historical_features(query, ["recent:total"], engine="spark")
    assert job.to_arrow()["total"].to_pylist() == [0.1 + 0.2]
    assert "recent: total" in job.explain()


def test_one_view_is_joined_twice(store: FeatureStore, spark: Spark) -> None:
    other = NEWEST[["km"]].with_name("other").with_join_key_map({"driver": "second"})
    table = frame().append_column("second", pa.array([2, 12, 1, 1, 12, 1, 1, 1]))
    arguments: dict[str, Any] = {"features": ["newest:km", other], "full_feature_names": True}
    ours = store.get_historical_features(table, **arguments).to_arrow()
    assert store.get_historical_features(table, **arguments, engine="spark").to_arrow().equals(ours)


def test_an_empty_frame_gives_no_rows_and_all_columns(store: FeatureStore, spark: Spark) -> None:
    answer = store.get_historical_features(frame().slice(0, 0), FEATURES, engine="spark").to_arrow()
    assert answer.num_rows == 0
    assert answer.schema == store.get_historical_features(frame(), FEATURES).to_arrow().schema
    assert store.get_historical_features(spark.createDataFrame(frame()).limit(0), FEATURES).to_arrow().num_rows == 0


def test_errors_name_the_column_and_what_to_do(store: FeatureStore, spark: Spark) -> None:
    given = spark.createDataFrame(frame())
    with pytest.raises(EntityFrameError, match="no column 'event_timestamp'"):
        store.get_historical_features(given.drop("event_timestamp"), FEATURES).to_arrow()
    with pytest.raises(EntityFrameError, match="no column 'city'"):
        store.get_historical_features(given.drop("city"), FEATURES).to_arrow()
    with pytest.raises(EntityFrameError, match=r"computed where the job is; use to_arrow"):
        store.get_historical_features(given, ["fare:cost"]).to_spark()
    with pytest.raises(EntityFrameError, match="leave out engine='duckdb'"):
        store.get_historical_features(given, FEATURES, engine="duckdb")
    with pytest.raises(OfflineStoreError, match="no_such_table"):
        store.get_historical_features("SELECT * FROM no_such_table", FEATURES, engine="spark")
    with pytest.raises(EntityFrameError, match="already has a column 'total'"):
        store.get_historical_features(given.withColumnRenamed("fee", "total"), FEATURES)
