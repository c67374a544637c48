"""Entity frames: every kind of table, times of every unit and zone, and refusals that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from featurestore.definitions import Field
from featurestore.errors import EntityFrameError, FeatureStoreError
from featurestore.offline.frame import EntityFrame, to_arrow
from featurestore.types import Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp, ValueType

NOON = datetime(2024, 5, 1, 12, 0, 0, 123_456, tzinfo=UTC)
MICROS = 1_714_564_800_123_456


def keyed(**columns: Any) -> pa.Table:
    table = pa.table(columns)
    times = pa.array([MICROS] * table.num_rows, pa.timestamp("us", "UTC"))
    return table.append_column("event_timestamp", times)


def typed(values: Any, dtype: ValueType) -> pa.ChunkedArray:
    return EntityFrame(keyed(k=values)).typed(Field("k", dtype), "the join key of view 'v',")


FORMS: dict[str, Callable[[], Any]] = {
    "table": lambda: keyed(k=[1, 2]),
    "record batch": lambda: keyed(k=[1, 2]).to_batches()[0],
    "pandas": lambda: pd.DataFrame({"k": [1, 2], "event_timestamp": [NOON, NOON]}),
    "pandas, other index": lambda: pd.DataFrame({"k": [1, 2], "event_timestamp": [NOON, NOON]}, index=[7, 7]),
    "polars": lambda: pl.DataFrame({"k": [1, 2], "event_timestamp": [NOON, NOON]}),
    "dicts": lambda: [{"k": 1, "event_timestamp": NOON}, {"k": 2, "event_timestamp": NOON}],
    "columns": lambda: {"k": [1, 2], "event_timestamp": [NOON, NOON]},
    "Arrow stream": lambda: pa.RecordBatchReader.from_batches(keyed(k=[1]).schema, keyed(k=[1, 2]).to_batches()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_table_is_read(form: str) -> None:
    frame = EntityFrame(FORMS[form]())
    assert frame.table.column_names == ["k", "event_timestamp"]
    assert frame.typed(Field("k", Int64), "a key").to_pylist() == [1, 2]
    assert frame.times.tolist() == [MICROS, MICROS]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pa.array([-1, 1], pa.timestamp("us")), [-1, 1]),
        (pa.array([-1, 1_000_001], pa.timestamp("us", "America/New_York")), [-1, 1_000_001]),
        (pa.array([-1, 1999, -1001], pa.timestamp("ns")), [-1, 1, -2]),
        (pa.array([MICROS * 1000, MICROS * 1000 - 1], pa.timestamp("ns", "Asia/Kolkata")), [MICROS, MICROS - 1]),
        (pa.array([-1, 3], pa.timestamp("ms")), [-1000, 3000]),
        (pa.array([-1, 3], pa.timestamp("s", "UTC")), [-1_000_000, 3_000_000]),
        (pa.array([date(1969, 12, 31), date(1970, 1, 2)]), [-86_400_000_000, 86_400_000_000]),
        (pa.array([], pa.timestamp("ns")), []),
    ],
)
def test_times_of_every_unit_and_zone(times: pa.Array, expected: list[int]) -> None:
    assert EntityFrame(pa.table({"event_timestamp": times})).times.tolist() == expected


def test_a_naive_time_is_utc_and_another_zone_is_converted() -> None:
    naive = pd.DataFrame({"event_timestamp": [pd.Timestamp("2024-05-01 12:00:00.123456")]})
    oslo = pd.DataFrame({"event_timestamp": [pd.Timestamp("2024-05-01 14:00:00.123456", tz="Europe/Oslo")]})
    assert EntityFrame(naive).times.tolist() == EntityFrame(oslo).times.tolist() == [MICROS]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (pa.array([1, None], pa.int8()), Int64, [1, None]),
        (pa.array([2**31 - 1], pa.int64()), Int32, [2**31 - 1]),
        (pa.array([2**63 - 1], pa.uint64()), Int64, [2**63 - 1]),
        (pa.array([None, None]), Int64, [None, None]),
        (pa.array([None, None], pa.float64()), Int64, [None, None]),
        (pa.array(["a", None], pa.large_string()), String, ["a", None]),
        (pa.array(["a", None], pa.string_view()), String, ["a", None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), String, ["a", "b", "a"]),
        (pa.array([b"ab"], pa.binary(2)), Bytes, [b"ab"]),
        (pa.array([True, None]), Bool, [True, None]),
        (pa.array([0.1], pa.float32()), Float64, [0.10000000149011612]),
        (pa.array([3]), Float64, [3.0]),
        (pa.array([0.1]), Float32, [0.10000000149011612]),
        (
            pa.array([-1, None], pa.timestamp("ns")),
            UnixTimestamp,
            [datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), None],
        ),
        (pa.array([0], pa.timestamp("s")), UnixTimestamp, [datetime(1970, 1, 1, tzinfo=UTC)]),
        (pa.array([0], pa.timestamp("us", "Asia/Tokyo")), UnixTimestamp, [datetime(1970, 1, 1, tzinfo=UTC)]),
    ],
)
def test_columns_become_the_declared_type(values: pa.Array, dtype: ValueType, expected: list[Any]) -> None:
    column = typed(values, dtype)
    assert column.type == dtype.to_arrow()
    assert column.to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "dtype", "words"),
    [
        (pa.array([1.0, 2.0]), Int64, ["'k'", "double", "view 'v'", "int64", ".astype('Int64')"]),
        (pa.array(["1"]), Int64, ["'k'", "string", "int64", "convert it"]),
        (pa.array([1]), String, ["'k'", "int64", "string", "convert it"]),
        (pa.array([True]), Int64, ["'k'", "bool", "int64"]),
        (pa.array([1]), Bool, ["'k'", "int64", "bool"]),
        (pa.array(["a"]), Bytes, ["'k'", "string", "bytes"]),
        (pa.array([1]), UnixTimestamp, ["'k'", "int64", "timestamp"]),
        (pa.array([2**31]), Int32, ["'k'", "2147483648"]),
        (pa.array([2**64 - 1], pa.uint64()), Int64, ["'k'", "18446744073709551615"]),
        (pa.array([2**53 + 1]), Float64, ["'k'", "9007199254740993"]),
        (pa.array([b"\xff"]), String, ["'k'", "binary", "string"]),
        (pa.array([2**61], pa.timestamp("s")), UnixTimestamp, ["'k'"]),
    ],
)
def test_a_conversion_that_could_change_a_value_is_refused(
    values: pa.Array, dtype: ValueType, words: list[str]
) -> None:
    with pytest.raises(EntityFrameError) as caught:
        typed(values, dtype)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (pa.table({"k": [1]}), ["event_timestamp", "time as of which", "there are: k"]),
        (pa.table({"event_timestmp": [NOON]}), ["'event_timestamp'", "did you mean 'event_timestmp'?"]),
        ([], ["'event_timestamp'", "there are none"]),
        (pa.table({"event_timestamp": ["2024-05-01"]}), ["string", "pandas.to_datetime"]),
        (pa.table({"event_timestamp": [1_714_564_800]}), ["int64", "make it a timestamp"]),
        (pa.table({"event_timestamp": [NOON, None, None]}), ["null in 2 rows", "drop them"]),
        (pa.table({"event_timestamp": pa.array([2**62], pa.timestamp("s"))}), ["event_timestamp", "9999"]),
        (pa.table([[NOON], [1], [2]], names=["event_timestamp", "k", "k"]), ["'k'", "twice"]),
        (pd.DataFrame([[NOON, 1, 2]], columns=["event_timestamp", "k", "k"]), ["k"]),
        (pd.DataFrame({"event_timestamp": [NOON, NOON], "k": [1, "a"]}), ["k"]),
        ({"event_timestamp": [NOON], "k": [1, 2]}, ["columns"]),
        ([{"k": 1}, 5], ["table"]),
        (42, ["a int is no table", "pandas", "SQL"]),
        (b"SELECT 1", ["a bytes is no table"]),
    ],
)
def test_an_unusable_frame_is_refused_with_what_to_do(source: Any, words: list[str]) -> None:
    with pytest.raises(EntityFrameError) as caught:
        EntityFrame(source)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_missing_column_names_its_use_and_the_nearest_one() -> None:
    frame = EntityFrame(keyed(driver_ids=[1]))
    with pytest.raises(
        EntityFrameError, match=r"no column 'driver_id', the join key of view 'v'; did you mean 'driver_ids'"
    ):
        frame.typed(Field("driver_id", Int64), "the join key of view 'v',")


def test_the_errors_are_value_errors_of_the_package() -> None:
    assert issubclass(EntityFrameError, FeatureStoreError)
    assert issubclass(EntityFrameError, ValueError)


def test_an_arrow_table_is_taken_as_it_is() -> None:
    table = keyed(k=pa.array(["a"]).dictionary_encode(), x=pa.array([1], pa.uint8()))
    assert to_arrow(table) is table
