"""Generated feature views: state and window, over every type, function, hop, offset and kind of source."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from featurestore.definitions import (
    FUNCTIONS,
    Aggregation,
    Entity,
    FeatureView,
    Field,
    FileSource,
    PushSource,
)
from featurestore.definitions.sources import Source
from featurestore.semantics.windows import DAY, HOUR, MINUTE, SECOND
from featurestore.testing.choices import Choices
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

KINDS = ("state", "window")
SOURCES = ("batch", "stream", "lambda")

COLUMNS: dict[str, ValueType] = {
    "x": Float64,
    "i": Int64,
    "s": String,
    "flag": Bool,
    "y": Float32,
    "j": Int32,
    "b": Bytes,
    "at": UnixTimestamp,
    "arr": Array(Float64),
    "words": Array(String),
    "vec": Vector(2),
}
"""Every column that a generated view may have, with its type."""

_BATCH = FileSource("src_batch", path="x.parquet", timestamp_field="ts")
_SOURCES: dict[str, Source] = {
    "batch": _BATCH,
    "stream": PushSource("src", timestamp_field="ts"),
    "lambda": PushSource("src", batch_source=_BATCH),
}
_ID = Entity("id", value_type=Int64)
_PAIR = Entity("pair", join_keys=[Field("id", Int64), Field("code", String)])
_ENTITIES: tuple[tuple[Entity, ...], ...] = (
    (_ID,),
    (_PAIR,),
    (_PAIR,),
    (Entity("code", value_type=String),),
    (Entity("code", value_type=Bytes),),
    (_ID, Entity("flag_key", value_type=Bool)),
    (Entity("moment", value_type=UnixTimestamp), Entity("small", value_type=Int32)),
    (),
)
"""Of what the views are: keys of one part and of two, of every type, and the whole world."""

_TTLS = (None, HOUR, 1, 90 * SECOND, DAY, 30 * DAY)
_HOPS = (
    (SECOND, MINUTE, HOUR, DAY),
    (HOUR, 12 * HOUR, DAY, 2 * DAY, 6 * DAY),
    (2 * SECOND, 6 * SECOND, 30 * SECOND, 15 * MINUTE),
    (DAY, 7 * DAY),
    (1, 1000, SECOND),
)
"""Hops that divide each other, so that one view may have them."""

_DEFAULT_LENGTHS = (10 * SECOND, 5 * MINUTE, HOUR, 90 * MINUTE, 12 * HOUR, 12 * DAY, 45 * SECOND)


def build_view(
    choices: Choices,
    *,
    kinds: tuple[str, ...] = KINDS,
    sources: tuple[str, ...] = SOURCES,
    columns: tuple[str, ...] = tuple(COLUMNS),
    functions: tuple[str, ...] = tuple(FUNCTIONS),
) -> FeatureView:
    """Return a valid view named ``v`` of one of the kinds, over one of the sources and some of the `COLUMNS`.

    Window views have 1 to 6 features, named by position, function and column; their functions are among those
    given, and join keys are aggregated too, now and then.
    """
    kind, source, entities = choices.pick(kinds), choices.pick(sources), choices.pick(_ENTITIES)
    schema = [Field(name, COLUMNS[name]) for name in _some(choices, columns)]
    if kind == "state":
        ttl = choices.pick(_TTLS)
        return FeatureView(
            "v",
            entities=entities,
            schema=schema,
            source=_SOURCES[source],
            ttl=None if ttl is None else timedelta(microseconds=ttl),
        )
    typed = {field.name: field.dtype for field in schema}
    if choices.chance(20):
        typed.update({field.name: field.dtype for entity in entities for field in entity.keys})
    hops = choices.pick((None, *_HOPS))
    features = choices.many(lambda inner: _aggregation(inner, typed, functions, hops), 1, 6)
    names = ("_".join(filter(None, (f"f{i}", a.function, a.column))) for i, a in enumerate(features))
    return FeatureView(
        "v",
        entities=entities,
        schema=schema,
        source=_SOURCES[source],
        aggregations=[msgspec.structs.replace(a, name=name) for a, name in zip(features, names, strict=True)],
    )


def _some(choices: Choices, names: tuple[str, ...]) -> list[str]:
    count = choices.integer(1, min(4, len(names)))
    first = choices.integer(0, len(names) - 1)
    step = choices.pick((1, 2, 3, 5)) if len(names) == len(COLUMNS) else 1  # 11 columns: each step visits all
    return [names[(first + i * step) % len(names)] for i in range(count)]


def _aggregation(
    choices: Choices,
    typed: dict[str, ValueType],
    functions: tuple[str, ...],
    hops: tuple[int, ...] | None,
) -> Aggregation:
    """Return an aggregation of one of the columns by a function that takes it."""
    numbers = [name for name, dtype in typed.items() if dtype.is_number]
    column = choices.pick(numbers if numbers and choices.chance(40) else tuple(typed))
    takes = [name for name in functions if typed[column].kind in FUNCTIONS[name]] or ["count"]
    function = choices.pick(takes)
    length, hop, offset = _window(choices, hops)
    return Aggregation(
        column=None if function == "count" and choices.chance(40) else column,
        function=function,
        time_window=None if length is None else timedelta(microseconds=length),
        slide_interval=None if hop is None else timedelta(microseconds=hop),
        offset=timedelta(microseconds=offset),
        n=choices.pick((1, 2, 3, 10)) if function in {"first_n", "last_n"} else None,
        q=choices.pick((0.5, 0.0, 1.0, 0.1, 0.3, 0.7, 0.9, 0.99)) if function == "approx_quantile" else None,
        max_distinct=choices.pick((None, 1, 2, 3, 5)) if function == "count_distinct" else None,
    )


def _window(choices: Choices, hops: tuple[int, ...] | None) -> tuple[int | None, int | None, int]:
    """Return length, hop and offset: with the default hop of the length, or with one of ``hops``."""
    if hops is None:
        length, hop = choices.pick((*_DEFAULT_LENGTHS, None)), None
        unit = length or DAY
    else:
        hop = unit = choices.pick(hops)
        length = choices.pick((hop, 2 * hop, 3 * hop, 5 * hop // 2, hop + 1, 24 * hop, None))
    offset = choices.pick((0, 0, 0, unit, 1, 3 * unit, unit - 1, unit // 2, DAY))
    return length, hop, offset if choices.chance(60) else 0
