"""Converting a batch by columns gives what converting its records one by one gives, to the bit."""

from __future__ import annotations

import base64
import struct
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.clock import from_micros
from featurestore.definitions import Entity, FeatureView, Field, PushSource
from featurestore.errors import RowError
from featurestore.semantics.records import convert_record
from featurestore.streaming.columns import BatchConverter, Converted
from featurestore.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
    ValueType,
    Vector,
)

TYPES = [Bool, Int32, Int64, Float32, Float64, String, Bytes, UnixTimestamp]
LISTS = [Array(Int64), Array(String), Array(UnixTimestamp), Vector(2), Vector(2, Float64)]
ZONES = st.sampled_from([None, UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))])
TIMES = st.one_of(
    st.datetimes(timezones=ZONES),
    st.sampled_from([datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), from_micros(-1)]),
)
EDGES: dict[str, list[Any]] = {
    "bool": [True, False],
    "int32": [0, -1, 2**31 - 1, -(2**31), 2**31, 7],
    "int64": [0, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 10**30],
    "float32": [0.0, -0.0, 1, 0.1, 1e-46, 3.4e38, 3.5e38, 16777217, 2**53 + 1, float("nan"), float("inf")],
    "float64": [0.0, -0.0, 1, -3, 0.1, 2**53, 2**53 + 1, 10**400, 5e-324, float("nan"), float("-inf")],
    "string": ["", "a", "\u00e9", "\ud800", "2024-05-01"],
    "bytes": [b"", b"\xff", "AAE=", "not base64"],
    "timestamp": ["2024-05-01T12:00:00Z", "2024-05-01", "1969-12-31T23:59:59.999999", "tomorrow", 5],
}


def good(dtype: ValueType) -> st.SearchStrategy[Any]:
    """Values that are plainly of the type."""
    plain: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(),
        "int32": st.integers(-(2**31), 2**31 - 1),
        "int64": st.integers(-(2**63), 2**63 - 1),
        "float32": st.floats(width=32) | st.integers(-1000, 1000),
        "float64": st.floats() | st.integers(-1000, 1000),
        "string": st.text(max_size=5),
        "bytes": st.binary(max_size=5).map(lambda data: base64.b64encode(data).decode()) | st.binary(max_size=5),
        "timestamp": TIMES | TIMES.map(datetime.isoformat),
    }
    if dtype.kind == "array":
        return st.lists(st.none() | good(dtype.element), max_size=3)
    if dtype.kind == "vector":
        return st.lists(good(dtype.element), min_size=dtype.length, max_size=dtype.length)
    return plain[dtype.kind]


def edge(dtype: ValueType) -> st.SearchStrategy[Any]:
    """Values at the edges of the type and beyond."""
    own = EDGES[dtype.item or dtype.kind]
    strange = st.sampled_from([*own, True, 1, 1.0, "x", b"x", None, [], {"a": 1}])
    return st.lists(strange, max_size=3) | strange if dtype.is_list else strange


@st.composite
def batches(draw: st.DrawFn) -> tuple[FeatureView, list[dict[str, Any]]]:
    key = draw(st.sampled_from([Int32, Int64, String, Bytes, Bool, UnixTimestamp]))
    dtypes = draw(st.lists(st.sampled_from(TYPES + LISTS), min_size=1, max_size=3))
    schema = [Field(f"c{place}", dtype) for place, dtype in enumerate(dtypes)]
    view = FeatureView("v", [Entity("k", value_type=key)], schema, PushSource("p", timestamp_field="ts"))
    fields = {"k": key, "ts": UnixTimestamp, **{field.name: field.dtype for field in schema}}
    wild = draw(st.booleans())
    records = []
    for _ in range(draw(st.integers(0, 6))):
        record = {}
        for name, dtype in fields.items():
            choices = good(dtype)
            if name.startswith("c"):
                choices = st.none() | choices
            if wild:
                choices = st.one_of(choices, choices, edge(dtype))
            if not wild or draw(st.integers(0, 19)):
                record[name] = draw(choices)
        records.append(record)
    return view, records


def bits(value: Any) -> Any:
    """Return a value such that only equal bits are equal."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, list):
        return [bits(item) for item in value]
    return value


def stored(array: pa.Array) -> list[Any]:
    """Return a column as the store's values."""
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    elif pa.types.is_list(array.type) and pa.types.is_timestamp(array.type.value_type):
        array = array.cast(pa.list_(pa.int64()))
    return [bits(value) for value in array.to_pylist()]


def one_by_one(view: FeatureView, records: list[dict[str, Any]]) -> tuple[list[Any], list[tuple[int, str]], int]:
    rows, errors, dropped = [], [], 0
    for place, record in enumerate(records):
        try:
            row = convert_record(view, record, "ts")
        except RowError as error:
            errors.append((place, str(error)))
            continue
        if row is None:
            dropped += 1
        else:
            time, keys, columns = row
            rows.append((place, time, {name: bits(value) for name, value in {**keys, **columns}.items()}))
    return rows, errors, dropped


def by_columns(converted: Converted) -> tuple[list[Any], list[tuple[int, str]], int]:
    columns = {name: stored(array) for name, array in converted.columns.items()}
    times = columns.pop("event_timestamp")
    rows = [
        (place, times[index], {name: values[index] for name, values in columns.items()})
        for index, place in enumerate(converted.places)
    ]
    return rows, converted.errors, converted.dropped


@settings(max_examples=500, deadline=None)
@given(batches())
def test_a_batch_is_converted_like_its_records(batch: tuple[FeatureView, list[dict[str, Any]]]) -> None:
    view, records = batch
    converted = BatchConverter(view, "ts")(records)
    assert by_columns(converted) == one_by_one(view, records)
    for field in (*view.join_keys, *view.columns):
        assert converted.columns[field.name].type == field.dtype.to_arrow()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_edge_value_alone_is_converted_like_a_record(dtype: ValueType) -> None:
    view = FeatureView("v", [Entity("k", value_type=Int64)], [Field("c", dtype)], PushSource("p", timestamp_field="ts"))
    for value in [*EDGES[dtype.kind], None, True, 1, 1.0, "x", b"x", []]:
        for beside in ([], [{"k": 2, "ts": "2024-05-01T12:00:00Z", "c": None}]):
            records = [{"k": 1, "ts": "2024-05-01T12:00:00Z", "c": value}, *beside]
            assert by_columns(BatchConverter(view, "ts")(records)) == one_by_one(view, records)


def test_good_records_take_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = [Field("n", Int64), Field("x", Float64), Field("s", String), Field("t", UnixTimestamp)]
    view = FeatureView("v", [Entity("k", value_type=Int64)], schema, PushSource("p", timestamp_field="ts"))
    convert = BatchConverter(view, "ts")
    monkeypatch.setattr(convert, "_each", None)
    record = {"k": 1, "ts": "2024-05-01T12:00:00Z", "n": 5, "x": 2, "s": "a", "t": "2024-05-01T12:00:00Z"}
    assert convert([record, {**record, "x": 0.5, "s": None, "n": None}]).columns["x"].to_pylist() == [2.0, 0.5]


def test_a_transform_sees_each_record_and_may_drop_or_fail() -> None:
    def keep_even(record: dict[str, Any]) -> dict[str, Any] | None:
        return {"k": record["k"], "x": record["x"] / 2} if record["x"] % 2 == 0 else None

    view = FeatureView(
        "v",
        [Entity("k", value_type=Int64)],
        [Field("x", Float64)],
        PushSource("p", timestamp_field="ts"),
        transform=keep_even,
    )
    records = [{"k": place, "ts": "2024-05-01T12:00:00Z", "x": x} for place, x in enumerate([2.0, 3.0, None, 8.0])]
    converted = BatchConverter(view, "ts")(records)
    assert by_columns(converted) == one_by_one(view, records)
    assert (converted.places, converted.dropped) == ([0, 3], 1)
    assert converted.errors[0][0] == 2
