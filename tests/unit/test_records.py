"""One record becomes one typed row, is dropped by the transform, or is refused with a reason."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from featurestore.definitions import Entity, FeatureView, Field, PushSource
from featurestore.definitions.project import decode, encode
from featurestore.errors import DefinitionError, RowError
from featurestore.semantics.records import convert_record
from featurestore.types import Array, Float32, Float64, Int64, String, UnixTimestamp, Vector

AT = datetime(2024, 5, 1, 12, tzinfo=UTC)
MICROS = 1_714_564_800_000_000


def view(transform: Any = None) -> FeatureView:
    return FeatureView(
        "trips",
        entities=[Entity("route", join_keys=[Field("origin", String), Field("number", Int64)])],
        schema=[
            Field("score", Float64),
            Field("small", Float32),
            Field("seen", UnixTimestamp),
            Field("names", Array(String)),
            Field("v", Vector(2)),
        ],
        source=PushSource("trips_pushed", timestamp_field="ts"),
        transform=transform,
    )


def record(**changes: Any) -> dict[str, Any]:
    return {"origin": "JFK", "number": 1, "ts": AT, "score": 0.1, **changes}


def test_values_are_converted_and_absent_columns_are_null() -> None:
    converted = convert_record(view(), record(small=0.1, seen="1969-12-31T23:59:59.999999Z", extra=object()), "ts")

    assert converted == (
        MICROS,
        {"origin": "JFK", "number": 1},
        {"names": None, "score": 0.1, "seen": -1, "small": 0.10000000149011612, "v": None},
    )


def test_columns_come_sorted_by_name() -> None:
    converted = convert_record(view(), record(), "ts")
    assert converted is not None
    assert list(converted[2]) == ["names", "score", "seen", "small", "v"]


def test_zones_are_converted_and_naive_is_utc() -> None:
    zoned = convert_record(view(), record(ts=AT.astimezone(timezone(timedelta(hours=-5)))), "ts")
    naive = convert_record(view(), record(ts="2024-05-01T12:00:00"), "ts")
    assert zoned is not None
    assert naive is not None
    assert zoned[0] == naive[0] == MICROS


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"origin": None}, "the join key 'origin' is null"),
        ({"origin": 7}, "column 'origin': 7 (int) is not a string"),
        ({"number": 1.0}, "column 'number': 1.0 (float) is not a int64"),
        ({"number": True}, "column 'number': True (bool) is not a int64"),
        ({"ts": None}, "the timestamp 'ts' is null"),
        ({"ts": 5}, "column 'ts': 5"),
        ({"ts": "9999-12-31T23:59:59-12:00"}, "outside the years 1 to 9999"),
        ({"score": 2**53 + 1}, "column 'score': the integer 9007199254740993 is not exact"),
        ({"v": [1.0]}, "column 'v': a vector<float32,2> has 2 elements, this one has 1"),
    ],
)
def test_bad_values_are_refused_with_the_column(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        convert_record(view(), record(**changes), "ts")
    assert reason in str(caught.value)


@pytest.mark.parametrize("field", ["origin", "number", "ts"])
def test_missing_keys_and_timestamps_are_refused(field: str) -> None:
    incomplete = record()
    del incomplete[field]
    with pytest.raises(RowError, match=f"{field}' is missing"):
        convert_record(view(), incomplete, "ts")


def test_a_transform_gets_its_own_dict_and_may_leave_the_timestamp_out() -> None:
    def halve(row: dict[str, Any]) -> dict[str, Any]:
        row["score"] /= 2
        del row["ts"]
        return row

    given = record()
    converted = convert_record(view(halve), given, "ts")

    assert converted is not None
    assert (converted[0], converted[2]["score"]) == (MICROS, 0.05)
    assert given == record()


def test_a_transform_may_set_the_timestamp_and_drop_records() -> None:
    def later(row: dict[str, Any]) -> dict[str, Any] | None:
        return {**row, "ts": row["ts"] + timedelta(microseconds=1)} if row["score"] > 0 else None

    converted = convert_record(view(later), record(), "ts")
    assert converted is not None
    assert converted[0] == MICROS + 1
    assert convert_record(view(later), record(score=-1.0), "ts") is None


def test_a_transform_that_raises_rejects_the_record() -> None:
    def broken(row: dict[str, Any]) -> dict[str, Any]:
        return {"score": row["nothing"]}

    with pytest.raises(RowError, match="the transform raised KeyError: 'nothing'") as caught:
        convert_record(view(broken), record(), "ts")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_transform_that_returns_no_dict_rejects_the_record() -> None:
    def listed(row: dict[str, Any]) -> list[Any]:
        return [row]

    with pytest.raises(RowError, match=r"\(list\); return a dict or None"):
        convert_record(view(listed), record(), "ts")


def test_code_that_is_not_loaded_is_the_callers_mistake_not_the_records() -> None:
    def same(row: dict[str, Any]) -> dict[str, Any]:
        return row

    stored = decode(encode(view(same)))
    assert isinstance(stored, FeatureView)
    with pytest.raises(DefinitionError, match="repo_path"):
        convert_record(stored, record(), "ts")


def test_nan_loses_its_payload_and_float32_overflow_is_refused() -> None:
    converted = convert_record(view(), record(score=-math.nan, small=math.inf), "ts")
    assert converted is not None
    assert math.copysign(1, converted[2]["score"]) == 1
    with pytest.raises(RowError, match="does not fit into float32"):
        convert_record(view(), record(small=1e39), "ts")
