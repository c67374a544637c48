"""Random definitions survive their stored form: equal again, with the same bytes and fingerprints."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.definitions import (
    Aggregation,
    Definition,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    FileStreamSource,
    OnDemandFeatureView,
    Project,
    PushSource,
    RequestSource,
    UserCode,
    decode,
    encode,
)
from featurestore.definitions.naming import RESERVED_COLUMNS
from featurestore.definitions.project import feature_fingerprint, fingerprint, row_fingerprint
from featurestore.registry import Registry
from featurestore.semantics.windows import DAY
from featurestore.types import SCALARS, ValueType

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
COLUMNS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Co", "Cn", "Z"]), min_size=1, max_size=6).filter(
    lambda name: name.isprintable() and name.casefold() not in RESERVED_COLUMNS
)
TAGS = st.dictionaries(TEXT, TEXT, max_size=2)
KEY_TYPES = st.sampled_from(["int32", "int64", "string", "bytes", "bool", "timestamp"]).map(ValueType)
TYPES = (
    st.sampled_from(SCALARS).map(ValueType)
    | st.sampled_from(SCALARS).map(lambda item: ValueType("array", item))
    | st.builds(ValueType, st.just("vector"), st.sampled_from(["float32", "float64"]), st.integers(1, 5000))
)
DELAYS = st.timedeltas(timedelta(0), timedelta(days=4000))
HOPS = st.sampled_from([hop for hop in range(1, 10_000) if DAY % hop == 0] + [DAY // 24, DAY, 3 * DAY])


def prose() -> dict[str, Any]:
    return {"description": TEXT, "owner": TEXT, "tags": TAGS}


FILES = st.builds(
    FileSource,
    NAMES,
    path=TEXT.filter(bool),
    timestamp_field=TEXT.filter(bool),
    created_timestamp_column=TEXT,
    field_mapping=st.dictionaries(TEXT, COLUMNS, max_size=1),
    file_format=st.sampled_from(["", "parquet", "csv", "json", "delta"]),
    availability_delay=DELAYS,
    **prose(),
)
PUSHES = st.builds(PushSource, NAMES, batch_source=st.none() | FILES, timestamp_field=TEXT.filter(bool), **prose())
STREAMS = st.builds(
    FileStreamSource,
    NAMES,
    path=TEXT.filter(bool),
    batch_source=st.none() | FILES,
    timestamp_field=TEXT.filter(bool),
    arrival_field=TEXT,
    availability_delay=DELAYS,
    **prose(),
)


def fields(columns: st.SearchStrategy[str], types: st.SearchStrategy[ValueType], low: int) -> st.SearchStrategy[Any]:
    field = st.builds(Field, columns, types, description=TEXT, tags=TAGS)
    return st.lists(field, min_size=low, max_size=4, unique_by=lambda f: f.name.casefold())


ENTITIES = st.builds(Entity, NAMES, join_keys=fields(COLUMNS, KEY_TYPES, 1), **prose())
REQUESTS = st.builds(RequestSource, NAMES, schema=fields(COLUMNS, TYPES, 1).map(tuple), **prose())


@st.composite
def aggregations(draw: st.DrawFn, names: list[str], hop: int) -> Aggregation:
    name = draw(COLUMNS.filter(lambda name: name not in names))
    names.append(name)
    length = draw(st.none() | st.integers(hop, 10**15))
    return Aggregation(
        function="count",
        time_window=None if length is None else timedelta(microseconds=length),
        slide_interval=timedelta(microseconds=hop),
        offset=draw(DELAYS),
        name=name,
    )


def names_differ(source: FileSource | PushSource | FileStreamSource) -> bool:
    """Return whether a source and the batch source behind it have two names, as those of a project must."""
    return isinstance(source, FileSource) or source.batch_source is None or source.batch_source.name != source.name


@st.composite
def views(draw: st.DrawFn) -> FeatureView:
    entity = draw(ENTITIES)
    taken = [key.name for key in entity.keys]
    folded = {name.casefold() for name in taken}
    schema = [field for field in draw(fields(COLUMNS, TYPES, 1)) if field.name.casefold() not in folded]
    hop = draw(HOPS)
    windows = draw(st.lists(st.deferred(lambda: aggregations(taken, hop)), min_size=0 if schema else 1, max_size=3))
    code = st.builds(UserCode, TEXT, TEXT)
    return FeatureView(
        draw(NAMES),
        entities=[entity],
        schema=schema,
        source=draw((FILES | PUSHES | STREAMS).filter(names_differ)),
        ttl=None if windows else draw(st.none() | st.timedeltas(timedelta(microseconds=1), timedelta(days=9999))),
        aggregations=windows,
        transform=draw(st.none() | code),
        online=draw(st.booleans()),
        **{name: draw(strategy) for name, strategy in prose().items()},
    )


@st.composite
def on_demand_views(draw: st.DrawFn) -> OnDemandFeatureView:
    return OnDemandFeatureView(
        draw(NAMES),
        sources=[draw(REQUESTS)],
        schema=draw(fields(COLUMNS, TYPES, 1)),
        function=UserCode(draw(TEXT), draw(TEXT)),
        mode=draw(st.sampled_from(["python", "pandas", "arrow"])),
    )


SERVICES = views().map(lambda view: FeatureService("service", features=[view]))
DEFINITIONS = st.one_of(ENTITIES, FILES, PUSHES, STREAMS, REQUESTS, views(), on_demand_views(), SERVICES)


@given(DEFINITIONS)
@settings(max_examples=300, deadline=None)
def test_a_definition_comes_back_equal(definition: Definition) -> None:
    again = decode(encode(definition))
    assert again == definition
    assert type(again) is type(definition)
    assert encode(again) == encode(definition)
    assert fingerprint(again) == fingerprint(definition)
    if isinstance(definition, (FeatureView, OnDemandFeatureView)):
        assert isinstance(again, (FeatureView, OnDemandFeatureView))
        assert feature_fingerprint(again) == feature_fingerprint(definition)
        assert again.features == definition.features
    if isinstance(definition, FeatureView) and isinstance(again, FeatureView):
        assert row_fingerprint(again) == row_fingerprint(definition)


@given(views(), views())
@settings(max_examples=60, deadline=None)
def test_applying_a_random_view_and_then_another_ends_at_the_other(first: FeatureView, second: FeatureView) -> None:
    registry = Registry("sqlite://", "test")
    for definitions in (Project([first]), Project([second])):
        plan = registry.plan(definitions)
        registry.apply(plan, 0)
        assert plan.to_text()
        assert {key: encode(value) for key, value in registry.load().objects.items()} == {
            key: encode(value) for key, value in definitions.objects.items()
        }
        assert registry.plan(definitions).is_empty
