"""Values at the edges of every type, as columns that a source is asked to hold and give back."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import pyarrow as pa

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

_MICRO_BEFORE = datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
_TIMES = [datetime(1970, 1, 1, tzinfo=UTC), _MICRO_BEFORE, datetime(1905, 3, 1, 4, 5, 6, 7, tzinfo=UTC)]
_ANCIENT = [datetime(1, 1, 1, tzinfo=UTC), datetime(1582, 10, 4, 1, tzinfo=UTC)]
_LAST = [datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)]
_DAYS = [date(1970, 1, 1), date(1969, 12, 31), date(2024, 2, 29), date(9999, 12, 31)]


class Edge(NamedTuple):
    """A column: the type it is stored in, the one it is declared as, its values and what they are when read."""

    stored: pa.DataType
    declared: ValueType
    values: list[Any]
    read: list[Any]


def _edge(stored: pa.DataType, declared: ValueType, values: Iterable[Any]) -> Edge:
    given = list(values)
    read = [_as_time(value) for value in given] if declared == UnixTimestamp else given
    return Edge(stored, declared, given, read)


def _as_time(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    return datetime(value.year, value.month, value.day, tzinfo=UTC)


def _naive(values: Iterable[datetime]) -> list[datetime]:
    return [value.replace(tzinfo=None) for value in values]


_UTC, _NAIVE = pa.timestamp("us", "UTC"), pa.timestamp("us")

EDGES: dict[str, Edge] = {
    "bools": _edge(pa.bool_(), Bool, [True, False]),
    "int32s": _edge(pa.int32(), Int32, [0, -1, 2**31 - 1, -(2**31)]),
    "int64s": _edge(pa.int64(), Int64, [0, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]),
    "widened_int32s": _edge(pa.int32(), Int64, [2**31 - 1, -(2**31)]),
    "float32s": _edge(pa.float32(), Float32, [0.5, 0.10000000149011612, 3.4028234663852886e38, 1.401298464324817e-45]),
    "widened_float32s": _edge(pa.float32(), Float64, [0.10000000149011612, -3.4028234663852886e38]),
    "float64s": _edge(pa.float64(), Float64, [0.1, 1 / 3, 5e-324, -1.7976931348623157e308, 9007199254740993.0]),
    "negative_zeros": _edge(pa.float64(), Float64, [-0.0]),
    "nans": _edge(pa.float64(), Float64, [math.nan]),
    "infinities": _edge(pa.float64(), Float64, [math.inf, -math.inf]),
    "texts": _edge(pa.string(), String, ["", " a ", "é", "\U0001f600", "null", "NA", 'a,"b"\n\r\nc\\', "%s :x ${y}"]),
    "bytes": _edge(pa.binary(), Bytes, [b"\x00", b"\xff\x80", b"a\x00b", b"'\\x"]),
    "empty_bytes": _edge(pa.binary(), Bytes, [b""]),
    "times": _edge(_UTC, UnixTimestamp, _TIMES),
    "naive_times": _edge(_NAIVE, UnixTimestamp, _naive(_TIMES)),
    "ancient_times": _edge(_UTC, UnixTimestamp, _ANCIENT),
    "ancient_naive_times": _edge(_NAIVE, UnixTimestamp, _naive(_ANCIENT)),
    "last_times": _edge(_UTC, UnixTimestamp, _LAST),
    "last_naive_times": _edge(_NAIVE, UnixTimestamp, _naive(_LAST)),
    "days": _edge(pa.date32(), UnixTimestamp, _DAYS),
    "int_lists": _edge(pa.list_(pa.int64()), Array(Int64), [[], [2**63 - 1, None, -1]]),
    "text_lists": _edge(pa.list_(pa.string()), Array(String), [[], ["", None, "é,\"'{}"]]),
    "vectors": _edge(pa.list_(pa.float32()), Vector(2), [[0.5, -3.4028234663852886e38]]),
}
"""Column names, which every SQL dialect takes without quotes, to what the column holds."""


def edge_table(names: Iterable[str], times: pa.DataType) -> pa.Table:
    """Return a table with ``id`` from 0, ``ts`` and some columns of `EDGES`; nulls fill what is shorter."""
    chosen = {name: EDGES[name] for name in names}
    length = 1 + max(len(edge.values) for edge in chosen.values())
    columns = {name: pa.array(_filled(edge.values, length), edge.stored) for name, edge in chosen.items()}
    ts = pa.array(range(length), pa.int64()).cast(times)
    return pa.table({"id": pa.array(range(length)), "ts": ts, **columns})


def bits(value: Any) -> Any:
    """Return what tells two values apart to the bit, floats too."""
    if isinstance(value, float):
        return struct.pack(">d", value)
    return [bits(item) for item in value] if isinstance(value, list) else value


def expected(name: str, length: int) -> list[Any]:
    """Return the bits of what a column of `edge_table` holds when read, in the order of ``id``."""
    return [bits(value) for value in _filled(EDGES[name].read, length)]


def _filled(values: list[Any], length: int) -> list[Any]:
    return [*values, *[None] * (length - len(values))]
