"""Definitions that are wrong in themselves: each is refused with words that say what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from featurestore.definitions import (
    Aggregation,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    FileStreamSource,
    OnDemandFeatureView,
    PushSource,
    RequestSource,
    on_demand_feature_view,
)
from featurestore.errors import DefinitionError, FeatureStoreError
from featurestore.types import Array, Float32, Float64, Int64, String, Vector

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
driver = Entity("driver", join_keys=["driver_id"], value_type=Int64)
trips = FileSource("trips", path="trips.parquet", timestamp_field="ts")
FIELDS = [Field("fare", Float64), Field("city", String)]


def view(**parts: Any) -> FeatureView:
    return FeatureView("v", **{"entities": [driver], "schema": FIELDS, "source": trips, **parts})


def windows(*aggregations: Aggregation) -> FeatureView:
    return view(aggregations=list(aggregations))


def identity(row: dict[str, Any]) -> dict[str, Any]:
    return row


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    # Bad input that the issue names.
    "unknown column": (
        lambda: windows(Aggregation("fair", "sum", HOUR)),
        (
            "FeatureView 'v': 'sum_fair_1h' aggregates the unknown column 'fair'; did you mean 'fare'?; "
            "columns are declared in schema=[...]"
        ),
    ),
    "sum over a string": (
        lambda: windows(Aggregation("city", "sum", HOUR)),
        "FeatureView 'v': sum does not take the column 'city' of type string; it takes float32, float64, int32, int64",
    ),
    "hop longer than window": (
        lambda: Aggregation("fare", "sum", HOUR, slide_interval=2 * HOUR),
        "Aggregation sum(fare): the slide_interval 2h is longer than the time_window 1h; make it at most that",
    ),
    "no event timestamp": (
        lambda: FileSource("trips", path="trips.parquet"),
        "FileSource 'trips': say which column is the event's time: timestamp_field='ts'",
    ),
    "no event timestamp in a push": (
        lambda: PushSource("clicks"),
        "PushSource 'clicks': say which field is the event's time: timestamp_field='ts'",
    ),
    "no event timestamp in a stream": (
        lambda: FileStreamSource("clicks", path="c.jsonl"),
        "FileStreamSource 'clicks': say which field is the event's time: timestamp_field='ts'",
    ),
    "wrong type": (
        lambda: Field("fare", float),  # type: ignore[arg-type]
        "Field 'fare': <class 'float'> is not a type; write Field('fare', Float64), for one",
    ),
    "duplicate columns": (
        lambda: view(schema=[*FIELDS, Field("fare", Float32)]),
        "FeatureView 'v': the column 'fare' is there twice; give each its own name",
    ),
    "duplicate features": (
        lambda: windows(Aggregation("fare", "sum", HOUR), Aggregation("fare", "sum", HOUR)),
        "FeatureView 'v': the feature 'sum_fare_1h' is there twice; give each its own name",
    ),
    "duplicate join keys": (
        lambda: view(entities=[driver, Entity("other", join_keys=["driver_id"], value_type=Int64)]),
        "FeatureView 'v': the join key 'driver_id' is there twice; give each its own name",
    ),
    # Entities and fields.
    "key without type": (
        lambda: Entity("driver"),
        "Entity 'driver': say the type of 'driver': value_type=Int64 or Field('driver', Int64)",
    ),
    "float key": (
        lambda: Entity("driver", value_type=Float64),
        "Entity 'driver': the join key 'driver' is a float64; keys are integers, strings, bytes, bools or timestamps",
    ),
    "key list as text": (
        lambda: Entity("driver", join_keys="driver_id", value_type=Int64),
        "Entity 'driver': join_keys is a list, not str: write join_keys=[\"driver_id\"]",
    ),
    "name": (
        lambda: Entity("my driver", value_type=Int64),
        "Entity name 'my driver': use 1 to 128 letters, digits and underscores, not starting with a digit",
    ),
    "name with the separator": (
        lambda: Entity("a__b", value_type=Int64),
        "Entity name 'a__b': '__' separates view and feature in full names; use one '_'",
    ),
    "reserved column": (
        lambda: Field("event_timestamp", Int64),
        "Field 'event_timestamp': the column name 'event_timestamp' is reserved for the store; rename the column",
    ),
    "tags": (
        lambda: Entity("driver", value_type=Int64, tags={"a": 1}),  # type: ignore[dict-item]
        "Entity 'driver': tags must map text to text, for example tags={'team': 'growth'}",
    ),
    "half a character": (
        lambda: Entity("driver", value_type=Int64, description="a\ud800"),
        "Entity 'driver': description holds half a character (a lone surrogate): 'a\\ud800'",
    ),
    # Sources.
    "no path": (
        lambda: FileSource("trips", timestamp_field="ts"),
        "FileSource 'trips': give a path, for example path='data/trips.parquet'",
    ),
    "format": (
        lambda: FileSource("trips", path="t.xls", timestamp_field="ts", file_format="excel"),
        "FileSource 'trips': file_format 'excel': use 'parquet', 'csv', 'json' or 'delta'",
    ),
    "negative delay": (
        lambda: FileSource("trips", path="t.csv", timestamp_field="ts", availability_delay=-HOUR),
        "FileSource 'trips': availability_delay must be zero or more, not -1 day, 23:00:00",
    ),
    "mapping onto one name": (
        lambda: FileSource("trips", path="t.csv", timestamp_field="ts", field_mapping={"a": "c", "b": "c"}),
        "FileSource 'trips': the mapped name 'c' is there twice; give each its own name",
    ),
    "timestamp field of a wrong type": (
        lambda: FileSource("trips", path="t.csv", timestamp_field=3),  # type: ignore[arg-type]
        "FileSource 'trips': timestamp_field must be text, not int",
    ),
    "empty request": (
        lambda: RequestSource("ask"),
        "RequestSource 'ask': give its fields: schema=[Field('amount', Float64)]",
    ),
    # Views.
    "no source": (
        lambda: view(source=None),
        "FeatureView 'v': source must be a FileSource, PushSource, FileStreamSource or another source, not None",
    ),
    "no features": (
        lambda: view(schema=[]),
        "FeatureView 'v': a view without aggregations needs a schema; its fields are the features",
    ),
    "one aggregation for a list": (
        lambda: view(aggregations=Aggregation("fare", "sum", HOUR)),
        "FeatureView 'v': aggregations is a list, not Aggregation: write aggregations=[Aggregation(...)]",
    ),
    "no list of fields": (
        lambda: view(schema=None),
        "FeatureView 'v': schema is a list, not NoneType: write schema=[Field('amount', Float64)]",
    ),
    "entity by name": (
        lambda: view(entities=["driver"]),
        "FeatureView 'v': entities is a list of Entity objects: entities=[driver]",
    ),
    "ttl of zero": (lambda: view(ttl=timedelta(0)), "FeatureView 'v': ttl must be positive, not 0:00:00"),
    "ttl as a number": (
        lambda: view(ttl=3600),
        "FeatureView 'v': ttl must be a timedelta, for example timedelta(hours=1), not 3600",
    ),
    "ttl on windows": (
        lambda: view(ttl=DAY, aggregations=[Aggregation("fare", "sum", HOUR)]),
        "FeatureView 'v': windows bound what an aggregate sees; leave ttl out",
    ),
    "feature named like a join key": (
        lambda: windows(Aggregation("fare", "sum", HOUR, name="driver_id")),
        "FeatureView 'v': the feature or join key 'driver_id' is there twice; give each its own name",
    ),
    "key of another type in the schema": (
        lambda: view(schema=[*FIELDS, Field("driver_id", String)]),
        (
            "FeatureView 'v': 'driver_id' is a string in the schema and a join key of type int64; "
            "join keys need not stand in the schema"
        ),
    ),
    "transform that is no function": (
        lambda: view(transform={"fare": 1}),
        "FeatureView 'v': {'fare': 1} is not a function",
    ),
    "transform without source text": (
        lambda: view(transform=len),
        "FeatureView 'v': the source text of 'len' cannot be read; define it in a file with def",
    ),
    "unknown feature of a projection": (
        lambda: view()[["fares"]],
        "view 'v' has no feature 'fares'; did you mean 'fare'?",
    ),
    "projection by text": (lambda: view()["fare"], "v['fare']: give a list: v[['fare']]"),
    # Aggregations.
    "unknown function": (
        lambda: Aggregation("fare", "average", HOUR),
        (
            "Aggregation average(fare): unknown function 'average'; there are: approx_quantile, count, "
            "count_distinct, first, first_n, last, last_n, max, mean, min, ..."
        ),
    ),
    "no column": (
        lambda: Aggregation(function="sum", time_window=HOUR),
        "Aggregation sum(*): sum needs a column; only count may go without",
    ),
    "hop that fits no day": (
        lambda: Aggregation("fare", "sum", DAY, slide_interval=7 * HOUR),
        "Aggregation sum(fare): the slide_interval 7h neither divides one day nor is whole days; take 5m, 1h or 1d",
    ),
    "hops that do not divide": (
        lambda: windows(
            Aggregation("fare", "sum", DAY, slide_interval=2 * HOUR),
            Aggregation("fare", "max", DAY, slide_interval=3 * HOUR),
        ),
        "FeatureView 'v': the slide_intervals of one view must divide each other; 2:00:00 does not divide 3:00:00",
    ),
    "window of zero": (
        lambda: Aggregation("fare", "sum", timedelta(0)),
        "Aggregation sum(fare): time_window must be positive, not 0:00:00",
    ),
    "last_n without n": (
        lambda: Aggregation("fare", "last_n", HOUR),
        "Aggregation last_n(fare): last_n needs n, from 1 to 10,000, for example n=5",
    ),
    "quantile without q": (
        lambda: Aggregation("fare", "approx_quantile", HOUR, q=1.5),
        "Aggregation approx_quantile(fare): approx_quantile needs q, from 0 to 1, for example q=0.9",
    ),
    "parameter of another function": (
        lambda: Aggregation("fare", "sum", HOUR, n=3),
        "Aggregation sum(fare): sum takes no n",
    ),
    "max_distinct": (
        lambda: Aggregation("fare", "count_distinct", HOUR, max_distinct=True),
        "Aggregation count_distinct(fare): max_distinct is a whole number from 1 to 100,000",
    ),
    # On-demand views and services.
    "inputs of one name": (
        lambda: OnDemandFeatureView(
            "d",
            sources=[view(), RequestSource("ask", schema=(Field("fare", Float64),))],
            schema=[Field("z", Float64)],
            function=identity,
        ),
        "OnDemandFeatureView 'd': the input 'fare' is there twice; give each its own name",
    ),
    "no function": (
        lambda: OnDemandFeatureView("d", sources=[view()], schema=[Field("z", Float64)]),
        "OnDemandFeatureView 'd': give the function, or write it under @on_demand_feature_view(...)",
    ),
    "mode": (
        lambda: OnDemandFeatureView(
            "d", sources=[view()], schema=[Field("z", Float64)], function=identity, mode="spark"
        ),
        "OnDemandFeatureView 'd': mode 'spark': use one of python, pandas, arrow",
    ),
    "no outputs": (
        lambda: OnDemandFeatureView("d", sources=[view()], function=identity),
        "OnDemandFeatureView 'd': name what it returns: schema=[Field('ratio', Float64)]",
    ),
    "no inputs": (
        lambda: OnDemandFeatureView("d", schema=[Field("z", Float64)], function=identity),
        "OnDemandFeatureView 'd': name its inputs: sources=[view, RequestSource(...)]",
    ),
    "service of names": (
        lambda: FeatureService("s", features=["v:fare"]),
        "FeatureService 's': features are views and projections of them: view[['a', 'b']]",
    ),
    "service of nothing": (lambda: FeatureService("s"), "FeatureService 's': name at least one view"),
    "service with a view twice": (
        lambda: FeatureService("s", features=[view()[["fare"]], view()[["city"]]]),
        "FeatureService 's': the view 'v' is there twice; give each its own name",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_definition_is_refused_with_words(case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(DefinitionError) as caught:
        build()
    assert str(caught.value) == message
    assert isinstance(caught.value, FeatureStoreError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("function", "refused"),
    [
        ("sum", [String, Array(Int64), Vector(2)]),
        ("min", [Array(Int64)]),
        ("first_n", [Vector(2), Array(String)]),
        ("count_distinct", [Array(Int64)]),
        ("approx_quantile", [String]),
    ],
)
def test_functions_refuse_the_types_they_do_not_take(function: str, refused: list[Any]) -> None:
    parameters: dict[str, dict[str, Any]] = {"first_n": {"n": 2}, "approx_quantile": {"q": 0.5}}
    extra = parameters.get(function, {})
    for dtype in refused:
        with pytest.raises(DefinitionError, match=f"{function} does not take the column 'x' of type {dtype}"):
            view(schema=[Field("x", dtype)], aggregations=[Aggregation("x", function, HOUR, **extra)])


def test_definitions_are_frozen() -> None:
    with pytest.raises(AttributeError):
        driver.name = "rider"  # type: ignore[misc]


def test_single_objects_stand_for_lists_where_that_is_clear() -> None:
    assert view(entities=driver).entities == (driver,)
    assert FeatureService("s", features=view()).projections == FeatureService("s", features=[view()]).projections
    one = OnDemandFeatureView("d", sources=view(), schema=[Field("z", Float64)], function=identity)
    assert [projection.view for projection in one.view_inputs] == ["v"]


def test_join_keys_in_the_schema_are_no_features() -> None:
    assert [f.name for f in view(schema=[Field("driver_id", Int64), *FIELDS]).features] == ["fare", "city"]


@pytest.mark.parametrize(
    ("aggregation", "name"),
    [
        (Aggregation("fare", "sum", HOUR), "sum_fare_1h"),
        (Aggregation(function="count", time_window=7 * DAY), "count_7d"),
        (Aggregation("fare", "mean"), "mean_fare_all"),
        (Aggregation("fare", "last_n", DAY, n=3), "last_3_fare_1d"),
        (Aggregation("fare", "approx_quantile", DAY, q=0.99), "p99_fare_1d"),
        (Aggregation("fare", "approx_quantile", DAY, q=0.999), "p99_9_fare_1d"),
        (Aggregation("fare", "max", timedelta(minutes=90), offset=DAY), "max_fare_90m_lag_1d"),
    ],
)
def test_names_of_features(aggregation: Aggregation, name: str) -> None:
    assert aggregation.name == name


@pytest.mark.parametrize(
    ("window", "hop"),
    [
        (timedelta(seconds=1), timedelta(seconds=1)),
        (timedelta(minutes=1), timedelta(seconds=1)),
        (timedelta(minutes=5), timedelta(seconds=5)),
        (timedelta(minutes=59), timedelta(seconds=30)),
        (HOUR, timedelta(minutes=5)),
        (timedelta(hours=11, minutes=59), timedelta(minutes=5)),
        (12 * HOUR, HOUR),
        (12 * DAY - timedelta(microseconds=1), HOUR),
        (12 * DAY, DAY),
        (None, DAY),
    ],
)
def test_default_hops(window: timedelta | None, hop: timedelta) -> None:
    assert Aggregation("fare", "sum", window).slide_interval == hop


def test_result_types() -> None:
    number = view(
        schema=[Field("i", Int64), Field("f", Float32), Field("s", String), Field("v", Vector(2))],
        aggregations=[
            Aggregation("i", "sum", HOUR),
            Aggregation("f", "sum", HOUR),
            Aggregation("i", "mean", HOUR),
            Aggregation("f", "max", HOUR),
            Aggregation("s", "last_n", HOUR, n=2),
            Aggregation("s", "count_distinct", HOUR),
            Aggregation("v", "last", HOUR),
            Aggregation(function="count", time_window=HOUR),
        ],
    )
    assert [str(field.dtype) for field in number.features] == [
        "int64",
        "float64",
        "float64",
        "float32",
        "array<string>",
        "int64",
        "vector<float32,2>",
        "int64",
    ]


def test_a_view_on_a_push_source_with_history_is_batch_and_stream() -> None:
    push = PushSource("clicks", batch_source=trips)
    both = view(source=push)
    assert (push.timestamp_field, both.batch_source, both.stream_source, both.is_lambda) == ("ts", trips, push, True)
    assert not view().is_lambda


def test_a_decorated_function_becomes_a_view_named_after_it() -> None:
    @on_demand_feature_view(sources=[view()[["fare"]]], schema=[Field("double", Float64)])
    def doubled(row: dict[str, Any]) -> dict[str, Any]:
        """Twice the fare."""
        return {"double": 2 * row["fare"]}

    assert (doubled.name, doubled.description) == ("doubled", "Twice the fare.")
    assert doubled.code({"fare": 1.5}) == {"double": 3.0}
    assert doubled.code.path.endswith("doubled")


@pytest.mark.parametrize(("names", "other"), [(("Fare", "fare"), "Fare"), (("Arrival",), "arrival")])
def test_columns_that_differ_only_in_case_are_refused(names: tuple[str, ...], other: str) -> None:
    source = FileSource("trips", path="trips.parquet", timestamp_field="ts")
    with pytest.raises(DefinitionError, match=rf"'{names[-1]}' and '{other}' differ only in case; rename one"):
        FeatureView("trips", schema=[Field(name, Float64) for name in names], source=source)
