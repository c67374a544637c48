"""Point-in-time retrieval as a caller sees it: order, columns, types, nulls, several views, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.clock import ManualClock
from featurestore.config import Config
from featurestore.definitions import (
    Aggregation,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RequestSource,
    on_demand_feature_view,
)
from featurestore.errors import DefinitionError, EntityFrameError, FeatureNotFoundError, FeatureStoreError
from featurestore.semantics.rows import Status
from featurestore.store import FeatureStore
from featurestore.types import Bool, Float64, Int64, String, UnixTimestamp

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TRIPS = PushSource("trips", timestamp_field="ts")
DRIVER = Entity("driver", value_type=Int64)
NEWEST = FeatureView(
    "newest",
    entities=[DRIVER],
    schema=[Field("km", Float64), Field("seats", Int64), Field("city", String), Field("pets", Bool)],
    source=TRIPS,
    ttl=timedelta(hours=1),
)
RECENT = FeatureView(
    "recent",
    entities=[DRIVER],
    schema=[Field("km", Float64), Field("begun", UnixTimestamp)],
    source=TRIPS,
    aggregations=[
        Aggregation("km", "sum", timedelta(hours=1), name="total"),
        Aggregation("km", "last_n", timedelta(hours=1), n=2, name="kms"),
        Aggregation("begun", "max", timedelta(hours=1), name="begun"),
    ],
)


@on_demand_feature_view(
    sources=[RECENT[["total"]], NEWEST[["seats"]], RequestSource("request", schema=[Field("fee", Float64)])],
    schema=[Field("cost", Float64)],
)
def fare(row: dict[str, Any]) -> dict[str, Any]:
    if row["fee"] is None or row["total"] is None:
        return {"cost": None}
    return {"cost": row["fee"] + 2 * row["total"] / (row["seats"] or 1)}


def trip(driver: int, minute: int, km: float | None, **columns: Any) -> dict[str, Any]:
    ts = NOON + minute * MINUTE
    return {"driver": driver, "ts": ts, "km": km, "seats": None, "city": "Oslo", "pets": None, "begun": ts} | columns


ROWS = [
    trip(1, 0, 12.5, seats=2**53 + 1, pets=True),
    trip(1, 10, 0.5, seats=2, city="Bergen"),
    trip(2, 5, 3.0),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    clock = ManualClock(NOON + 15 * MINUTE)
    config = Config(project="p", repo_path=tmp_path_factory.mktemp("repo"))
    with closing(FeatureStore(config=config, clock=clock)) as opened:
        opened.apply([NEWEST, RECENT, fare, FeatureService("pricing", [RECENT[["total"]], fare])])
        opened.push("trips", ROWS)
        yield opened


def times(*minutes: float) -> list[datetime]:
    return [NOON + minute * MINUTE for minute in minutes]


def labels(drivers: list[int | None], minutes: list[float], **columns: Any) -> pa.Table:
    return pa.table({"driver": pa.array(drivers, pa.int64()), "event_timestamp": times(*minutes), **columns})


def test_rows_come_back_in_the_order_given_with_their_repeats(store: FeatureStore) -> None:
    frame = labels([2, 1, 1, 3, 1, 2], [6, 20, 1, 6, 20, 4])
    out = store.get_historical_features(frame, ["newest:km", "recent:total"]).to_arrow()
    assert out.column_names == ["driver", "event_timestamp", "km", "total"]
    assert out.select(["driver", "event_timestamp"]) == frame
    assert out["km"].to_pylist() == [3.0, 0.5, 12.5, None, 0.5, None]
    assert out["total"].to_pylist() == [3.0, 13.0, 12.5, None, 13.0, None]


def test_the_bounds_of_state_and_window_to_the_microsecond(store: FeatureStore) -> None:
    one = 1 / 60_000_000
    frame = labels([1] * 5, [10 - one, 10, 10 + one, 70, 70 + one])
    job = store.get_historical_features(frame, ["newest:km", "recent:kms"])
    assert job.to_arrow()["km"].to_pylist() == [12.5, 0.5, 0.5, 0.5, None]
    assert job.to_arrow()["kms"].to_pylist() == [[12.5], [12.5], [12.5, 0.5], [0.5], [0.5]]
    assert job.statuses()["km"].tolist() == [Status.PRESENT] * 4 + [Status.OUTSIDE_MAX_AGE]


def test_every_input_column_is_kept_with_its_type(store: FeatureStore) -> None:
    extra = {
        "small": pa.array([1, None], pa.uint8()),
        "kind": pa.array(["a", "b"]).dictionary_encode(),
        "nested": pa.array([{"x": [1]}, None]),
        "when": pa.array([1, 2], pa.timestamp("ns", "Asia/Tokyo")),
    }
    frame = labels([1, 2], [6, 6], **extra)
    out = store.get_historical_features(frame, ["newest:city"]).to_arrow()
    assert out.select(frame.column_names) == frame
    assert out.select(frame.column_names).schema == frame.schema


def test_integers_and_bools_with_nulls_stay_what_they_are(store: FeatureStore) -> None:
    job = store.get_historical_features(labels([1, 2, 1], [1, 6, 11]), ["newest:seats", "newest:pets", "recent:begun"])
    out, df = job.to_arrow(), job.to_df()
    assert [out.schema.field(name).type for name in ("seats", "pets", "begun")] == [
        pa.int64(),
        pa.bool_(),
        pa.timestamp("us", "UTC"),
    ]
    assert out["seats"].to_pylist() == [2**53 + 1, None, 2]
    assert str(df["seats"].dtype) == "Int64"
    assert str(df["pets"].dtype) == "boolean"
    assert int(df["seats"][0]) == 2**53 + 1
    assert df["begun"][0] == NOON
    assert job.statuses()["seats"].tolist() == [Status.PRESENT, Status.NULL_VALUE, Status.PRESENT]


def test_a_pandas_frame_keeps_its_index_and_columns(store: FeatureStore) -> None:
    frame = pd.DataFrame(
        {"driver": [2, 1, 1], "event_timestamp": times(6, 11, 1), "note": ["x", None, "y"]},
        index=pd.Index(["b", "a", "b"], name="label"),
    )
    before = frame.copy()
    out = store.get_historical_features(frame, ["newest:km", "newest:seats"]).to_df()
    pd.testing.assert_frame_equal(out[["driver", "event_timestamp", "note"]], before)
    pd.testing.assert_frame_equal(frame, before)
    assert out["km"].tolist() == [3.0, 0.5, 12.5]
    assert out["seats"].tolist() == [pd.NA, 2, 2**53 + 1]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_times_of_any_unit_and_zone_mean_the_same(store: FeatureStore, unit: str, zone: str | None) -> None:
    moments = pa.array(times(6, 11), pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, "UTC"))
    frame = pa.table({"driver": [1, 1], "event_timestamp": moments.cast(pa.timestamp(unit, zone))})
    out = store.get_historical_features(frame, ["newest:km"]).to_arrow()
    assert out["km"].to_pylist() == [12.5, 0.5]
    assert out.schema.field("event_timestamp").type == pa.timestamp(unit, zone)
    df = store.get_historical_features(frame.to_pandas(), ["newest:km"]).to_df()
    assert df["km"].tolist() == [12.5, 0.5]


def test_a_null_key_matches_nothing_and_its_row_is_kept(store: FeatureStore) -> None:
    job = store.get_historical_features(labels([None, 1, None], [6, 6, 6]), ["newest:km", "recent:kms"])
    assert job.to_arrow()["driver"].to_pylist() == [None, 1, None]
    assert job.to_arrow()["km"].to_pylist() == [None, 12.5, None]
    assert job.to_arrow()["kms"].to_pylist() == [[], [12.5], []]
    assert job.statuses()["km"].tolist() == [Status.NOT_FOUND, Status.PRESENT, Status.NOT_FOUND]


def test_an_empty_frame_has_the_columns_and_no_rows(store: FeatureStore) -> None:
    frame = labels([], [], fee=pa.array([], pa.float64()))
    frame = frame.set_column(1, "event_timestamp", pa.array([], pa.timestamp("us", "UTC")))
    job = store.get_historical_features(frame, ["newest:seats", "recent:kms", "fare:cost"])
    out = job.to_arrow()
    assert out.num_rows == len(job.to_df()) == len(job.to_polars()) == 0
    assert out.column_names == ["driver", "event_timestamp", "fee", "seats", "kms", "cost"]
    assert out.schema.field("kms").type == pa.list_(pa.float64())


def test_several_views_and_an_on_demand_view_in_one_call(store: FeatureStore) -> None:
    frame = labels([1, 2, 1, 3], [11, 6, 11, 6], fee=[1.0, 2.5, None, 1.0])
    job = store.get_historical_features(frame, ["fare:cost", "newest:city", "recent:total"])
    out = job.to_arrow()
    assert out.column_names == ["driver", "event_timestamp", "fee", "cost", "city", "total"]
    assert out["cost"].to_pylist() == [14.0, 8.5, None, None]
    assert out["city"].to_pylist() == ["Bergen", "Oslo", "Bergen", None]
    service = store.get_historical_features(frame, "pricing").to_arrow()
    assert service.select(["cost", "total"]) == out.select(["cost", "total"])


def test_full_feature_names(store: FeatureStore) -> None:
    frame = labels([1], [11], km=[7])
    with pytest.raises(EntityFrameError, match=r"already has a column 'km'.*full_feature_names=True"):
        store.get_historical_features(frame, ["newest:km"])
    out = store.get_historical_features(frame, ["newest:km", "recent:total"], full_feature_names=True).to_arrow()
    assert out.column_names == ["driver", "event_timestamp", "km", "newest__km", "recent__total"]
    assert (out["km"].to_pylist(), out["newest__km"].to_pylist()) == ([7], [0.5])
    with pytest.raises(DefinitionError, match="'km'"):
        store.get_historical_features(labels([1], [11]), ["newest:km", "newest:km"])


def test_known_at_arrival_sees_what_had_arrived(store: FeatureStore) -> None:
    frame = labels([1, 1, 1], [11, 15, 15 - 1 / 60_000_000])  # the rows were pushed a quarter past noon
    job = store.get_historical_features(frame, ["newest:km", "recent:total"], known_at="arrival")
    assert job.to_arrow()["km"].to_pylist() == [None, 0.5, None]
    assert job.to_arrow()["total"].to_pylist() == [None, 13.0, None]
    with pytest.raises(EntityFrameError, match=r"'event' or 'arrival', not 'now'"):
        store.get_historical_features(frame, ["newest:km"], known_at="now")  # type: ignore[arg-type]


def test_an_sql_query_is_an_entity_frame(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    pq.write_table(labels([2, 1, None], [6, 11, 6]), path)
    query = f"SELECT driver, event_timestamp FROM '{path}' ORDER BY driver DESC NULLS LAST"
    job = store.get_historical_features(query, ["newest:km"])
    assert job.to_arrow()["km"].to_pylist() == [3.0, 0.5, None]
    assert job.to_df()["driver"].tolist() == [2, 1, pd.NA]
    assert job.to_arrow()["event_timestamp"].to_pylist() == times(6, 11, 6)
    for wrong in ("SELECT FROM WHERE", "SELECT * FROM 'nowhere.parquet'", ""):
        with pytest.raises(FeatureStoreError, match="SQL query"):
            store.get_historical_features(wrong, ["newest:km"])


def test_a_polars_frame(store: FeatureStore) -> None:
    frame = pl.DataFrame({"driver": [2, 1], "event_timestamp": times(6, 1), "note": ["a", None]})
    out = store.get_historical_features(frame, ["newest:seats", "recent:kms"]).to_polars()
    assert out.select(frame.columns).equals(frame)
    assert out["seats"].to_list() == [None, 2**53 + 1]
    assert out["kms"].to_list() == [[3.0], [12.5]]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["newest:kmm"], r"view 'newest' has no feature 'kmm'; did you mean 'km'\?"),
        (["newst:km"], r"'newst' does not exist; did you mean 'newest'\?"),
        ("prices", r"'prices' does not exist"),
        (["km"], r"'km' is not a feature reference; write 'view:feature'"),
        ([], "no features were asked for"),
    ],
)
def test_an_unknown_feature_is_refused_with_the_nearest(store: FeatureStore, features: Any, message: str) -> None:
    with pytest.raises(FeatureNotFoundError, match=message):
        store.get_historical_features(labels([1], [11]), features)


@pytest.mark.parametrize(
    ("frame", "feature", "message"),
    [
        (labels([1], [1]).drop(["driver"]), "newest:km", r"no column 'driver', the join key of view 'newest'"),
        (labels([1], [1]).drop(["event_timestamp"]), "newest:km", r"no column 'event_timestamp'"),
        (labels([1], [1]), "fare:cost", r"no column 'fee', a request field of view 'fare'"),
        (labels([1], [1], fee=["3"]), "fare:cost", r"'fee' is of type string.*float64"),
        (pd.DataFrame({"driver": [1, None], "event_timestamp": times(1, 2)}), "newest:km", r"\.astype\('Int64'\)"),
        (pd.DataFrame({"driver": ["1"], "event_timestamp": times(1)}), "newest:km", r"'driver' is of type.*int64"),
    ],
)
def test_an_unusable_frame_is_refused(store: FeatureStore, frame: Any, feature: str, message: str) -> None:
    with pytest.raises(EntityFrameError, match=message):
        store.get_historical_features(frame, [feature]).to_arrow()


# --- One view twice, no frame, other frames, plans ---


def test_a_view_is_joined_twice_by_its_name_and_join_key_map(store: FeatureStore) -> None:
    there = NEWEST[["km", "city"]].with_name("rival").with_join_key_map({"driver": "other"})
    frame = pa.table(
        {"driver": [1, 2, None], "other": [2, 1, 1], "event_timestamp": pa.array([NOON + 30 * MINUTE] * 3)}
    )
    job = store.get_historical_features(frame, ["newest:km", there], full_feature_names=True)
    result = job.to_arrow()
    assert result.column_names == ["driver", "other", "event_timestamp", "newest__km", "rival__km", "rival__city"]
    assert result["newest__km"].to_pylist() == [0.5, 3.0, None]
    assert result["rival__km"].to_pylist() == [3.0, 0.5, 0.5]
    assert result["rival__city"].to_pylist() == ["Oslo", "Bergen", "Bergen"]
    assert job.explain().count("scan log") == 1  # both uses from one reading
    assert "driver = other" in job.explain()


def test_a_view_by_itself_stands_for_all_its_features(store: FeatureStore) -> None:
    frame = pa.table({"driver": [1], "other": [2], "event_timestamp": pa.array([NOON + 30 * MINUTE])})
    there = NEWEST.with_name("rival").with_join_key_map({"driver": "other"})
    names = [f"newest:{field.name}" for field in NEWEST.features]
    found = store.get_historical_features(frame, [NEWEST, there], full_feature_names=True).to_arrow()
    expected = store.get_historical_features(frame, [*names, there], full_feature_names=True).to_arrow()
    assert found.equals(expected)
    with pytest.raises(FeatureNotFoundError, match="write 'view:feature', or give a view") as caught:
        store.get_historical_features(frame, [frame])
    assert len(str(caught.value)) < 250


def test_a_service_may_hold_a_view_under_two_names() -> None:
    swapped = NEWEST.with_name("rival").with_join_key_map({"driver": "other"})
    service = FeatureService("pair", [NEWEST, swapped])
    assert [projection.label for projection in service.projections] == ["newest", "rival"]
    with pytest.raises(DefinitionError, match="'newest' is there twice"):
        FeatureService("pair", [NEWEST, NEWEST.with_join_key_map({"driver": "other"})])
    with pytest.raises(DefinitionError, match=r"has no join key 'driven'; did you mean 'driver'"):
        NEWEST.with_join_key_map({"driven": "other"})


def test_two_uses_under_one_name_are_refused(store: FeatureStore) -> None:
    other = NEWEST[["city"]].with_join_key_map({"driver": "other"})
    with pytest.raises(DefinitionError, match=r"'newest' is asked for in two ways; tell them apart by with_name"):
        store.get_historical_features(labels([1], [1]), ["newest:km", other])


def test_without_a_frame_every_change_in_a_range_is_a_row(store: FeatureStore) -> None:
    job = store.get_historical_features(features=["newest:km"], start_date=NOON, end_date=NOON + 10 * MINUTE)
    result = job.to_arrow()
    assert result.column_names == ["driver", "event_timestamp", "km"]
    assert result.to_pylist() == [
        {"driver": 1, "event_timestamp": NOON, "km": 12.5},
        {"driver": 2, "event_timestamp": NOON + 5 * MINUTE, "km": 3.0},
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": ["newest:km"]}, "give start_date and a later end_date"),
        ({"features": ["newest:km"], "start_date": NOON, "end_date": NOON}, "give start_date and a later end_date"),
        (
            {"features": ["newest:km"], "entity_df": [], "start_date": NOON, "end_date": NOON + MINUTE},
            "but not both",
        ),
        ({"features": ["fare:cost"], "start_date": NOON, "end_date": NOON + MINUTE}, "the request needs fee"),
        ({"features": ["newest:km"], "entity_df": [], "engine": "sparc"}, "no engine 'sparc'"),
    ],
)
def test_frames_ranges_and_engines_that_do_not_go_together(
    store: FeatureStore, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(EntityFrameError, match=message):
        store.get_historical_features(**arguments)


def test_a_batch_source_may_be_the_frame(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"driver": [2, 1], "asked": pa.array([NOON + 30 * MINUTE] * 2), "paid": [1.5, 2.5]}), path)
    source = FileSource("labels", path=str(path), timestamp_field="asked")
    result = store.get_historical_features(source, ["newest:km"]).to_arrow()
    assert result.column_names == ["driver", "event_timestamp", "paid", "km"]
    assert result["km"].to_pylist() == [3.0, 0.5]


def test_the_plan_says_what_is_read_and_in_which_order(store: FeatureStore) -> None:
    job = store.get_historical_features(
        labels([1], [30]).append_column("fee", pa.array([1.0])), ["recent:total", "newest:km", "fare:cost"]
    )
    text = job.explain()
    assert text.count("scan log") == 2  # two schemas, two logs
    for part in (
        "rows from 2024-05-01T11:30:00+00:00 to 2024-05-01T12:30:00+00:00",
        "total = sum(km) over 1h",
        "the newest row at or before each time, at most 1h old",
        "compute fare (python): cost\n  from recent:total, newest:seats, request field fee",
        "return every entity row in the order given, with total, km, cost",
    ):
        assert part in text, text
    assert job.to_sql().startswith("SELECT")
    assert "AS TIMESTAMPTZ" in job.to_sql()
    assert "AS TIMESTAMPTZ" not in job.to_sql("spark")
    with pytest.raises(FeatureStoreError, match="no engine speaks 'oracle'"):
        job.to_sql("oracle")
