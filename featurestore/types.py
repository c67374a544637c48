"""Value types of join keys, input columns and features, and how Python values become them.

Inside the store a value is one of: ``None``, ``bool``, ``int`` (also timestamps, as microseconds since the epoch),
``float``, ``str``, ``bytes``, or a list of these. Users see timestamps as aware UTC datetimes.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore.clock import from_micros, to_micros
from featurestore.errors import DefinitionError, RowError

if TYPE_CHECKING:
    import pyarrow as pa

CANONICAL_NAN = float("nan")
SCALARS = ("bool", "int32", "int64", "float32", "float64", "string", "bytes", "timestamp")
_INT_RANGE = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


class ValueType(msgspec.Struct, frozen=True, order=True):
    """A type: a scalar kind, an array of one, or a vector of fixed length.

    Attributes
    ----------
    kind
        One of `SCALARS`, ``"array"`` or ``"vector"``.
    item
        The scalar kind of the elements, for arrays and vectors (vectors: a float kind), else ``""``.
    length
        The number of elements of a vector, else 0.
    """

    kind: str
    item: str = ""
    length: int = 0

    def __post_init__(self) -> None:
        if self.kind in SCALARS:
            if self.item or self.length:
                raise DefinitionError(f"the scalar type {self.kind} takes neither an element type nor a length")
        elif self.kind == "array":
            if self.item not in SCALARS or self.length:
                raise DefinitionError("Array takes one scalar element type: write Array(Float64), for one")
        elif self.kind == "vector":
            if self.item not in {"float32", "float64"} or self.length < 1:
                raise DefinitionError("Vector takes a positive length and Float32 or Float64: write Vector(64)")
        else:
            raise DefinitionError(f"unknown type {self.kind!r}; use one of the types in featurestore.types")

    def __str__(self) -> str:
        if self.kind == "array":
            return f"array<{self.item}>"
        if self.kind == "vector":
            return f"vector<{self.item},{self.length}>"
        return self.kind

    def __repr__(self) -> str:
        return f"ValueType({str(self)!r})"

    @property
    def is_integer(self) -> bool:
        """Whether values are 32 or 64 bit integers (timestamps are not)."""
        return self.kind in _INT_RANGE

    @property
    def is_float(self) -> bool:
        """Whether values are 32 or 64 bit floats."""
        return self.kind in {"float32", "float64"}

    @property
    def is_number(self) -> bool:
        """Whether values are integers or floats."""
        return self.is_integer or self.is_float

    @property
    def is_list(self) -> bool:
        """Whether values are arrays or vectors."""
        return self.kind in {"array", "vector"}

    @property
    def element(self) -> ValueType:
        """The type of the elements of an array or vector."""
        return ValueType(self.item)

    def to_arrow(self) -> pa.DataType:
        """Return the Arrow type in which columns of this type are stored and returned."""
        import pyarrow as pa

        if self.kind == "array":
            return pa.list_(self.element.to_arrow())
        if self.kind == "vector":
            return pa.list_(self.element.to_arrow(), self.length)
        scalars: dict[str, pa.DataType] = {
            "bool": pa.bool_(),
            "int32": pa.int32(),
            "int64": pa.int64(),
            "float32": pa.float32(),
            "float64": pa.float64(),
            "string": pa.string(),
            "bytes": pa.binary(),
            "timestamp": pa.timestamp("us", "UTC"),
        }
        return scalars[self.kind]


Bool = ValueType("bool")
Int32 = ValueType("int32")
Int64 = ValueType("int64")
Float32 = ValueType("float32")
Float64 = ValueType("float64")
String = ValueType("string")
Bytes = ValueType("bytes")
UnixTimestamp = ValueType("timestamp")
Timestamp = UnixTimestamp


def Array(item: ValueType) -> ValueType:  # noqa: N802  (a type constructor, named as in Feast)
    """Return the type of variable-length lists of ``item``."""
    return ValueType("array", item=item.kind)


def Vector(length: int, item: ValueType = Float32) -> ValueType:  # noqa: N802  (a type constructor)
    """Return the type of float vectors of exactly ``length`` elements."""
    return ValueType("vector", item=item.kind, length=length)


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return an Arrow column as the store's Python values: timestamps as microseconds."""
    import pyarrow as pa

    dtype = column.type
    if pa.types.is_timestamp(dtype):
        column = column.cast(pa.int64())
    elif pa.types.is_list(dtype) and pa.types.is_timestamp(dtype.value_type):
        column = column.cast(pa.list_(pa.int64()))
    values: list[Any] = column.to_pylist()
    return values


def from_arrow(arrow: pa.DataType) -> ValueType | None:
    """Return the value type that holds every value of an Arrow type exactly, or None where there is none."""
    import pyarrow.types as t

    if t.is_dictionary(arrow):
        return from_arrow(arrow.value_type)
    if t.is_list(arrow) or t.is_large_list(arrow) or t.is_fixed_size_list(arrow):
        item = from_arrow(arrow.value_type)
        if item is None or item.is_list:
            return None
        if t.is_fixed_size_list(arrow) and item.is_float:
            return Vector(arrow.list_size, item)
        return Array(item)
    tests: tuple[tuple[Any, ValueType], ...] = (
        (t.is_boolean, Bool),
        (lambda a: t.is_int8(a) or t.is_int16(a) or t.is_int32(a) or t.is_uint8(a) or t.is_uint16(a), Int32),
        (lambda a: t.is_int64(a) or t.is_uint32(a), Int64),
        (lambda a: t.is_float16(a) or t.is_float32(a), Float32),
        (t.is_float64, Float64),
        (lambda a: t.is_string(a) or t.is_large_string(a) or t.is_string_view(a), String),
        (lambda a: t.is_binary(a) or t.is_large_binary(a) or t.is_fixed_size_binary(a) or t.is_binary_view(a), Bytes),
        (lambda a: t.is_timestamp(a) or t.is_date(a), UnixTimestamp),
    )
    for test, result in tests:
        if test(arrow):
            return result
    return None


def round_float32(value: float) -> float:
    """Return the float32 nearest to ``value``, as a Python float; infinite where it is out of range."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return rounded


def convert(value: object, dtype: ValueType) -> Any:
    """Return a Python or decoded JSON value as the store holds it, or refuse it.

    Nothing is guessed: a bool is not an integer, text is not a number, an integer a float cannot hold is refused.
    Timestamps are datetimes (naive is UTC) or ISO 8601 text; bytes in JSON are base64 text. NaN keeps no payload.

    Raises
    ------
    RowError
        Where the value is not of the type; the message says what it is.
    """
    if value is None:
        return None
    if type(value) is _AS_IT_IS.get(dtype.kind) and (value == value if type(value) is float else True):  # noqa: PLR0124
        return value
    if dtype.is_list:
        if not isinstance(value, (list, tuple)):
            raise _wrong(value, dtype)
        if dtype.kind == "vector" and len(value) != dtype.length:
            raise RowError(f"a {dtype} has {dtype.length} elements, this one has {len(value)}")
        items = [convert(item, dtype.element) for item in value]
        if dtype.kind == "vector" and None in items:
            raise RowError(f"a {dtype} has no null elements")
        return items
    return _CONVERT[dtype.kind](value, dtype)


def to_python(value: Any, dtype: ValueType) -> Any:
    """Return a stored value as users see it: timestamps become aware UTC datetimes."""
    if value is None:
        return None
    if dtype.kind == "timestamp":
        return from_micros(value)
    if dtype.kind == "array" and dtype.item == "timestamp":
        return [None if item is None else from_micros(item) for item in value]
    return value


def _wrong(value: object, dtype: ValueType) -> RowError:
    shown = repr(value)
    return RowError(f"{shown[:60]} ({type(value).__name__}) is not a {dtype}")


def _convert_bool(value: object, dtype: ValueType) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong(value, dtype)


def _convert_int(value: object, dtype: ValueType) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(value, dtype)
    low, high = _INT_RANGE[dtype.kind]
    if not low <= value <= high:
        raise RowError(f"{value} does not fit into {dtype} ({low} to {high})")
    return value


def _convert_float(value: object, dtype: ValueType) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(value, dtype)
    try:
        result = float(value)
    except OverflowError as error:
        raise RowError(f"{value} does not fit into {dtype}") from error
    if isinstance(value, int) and int(result) != value:
        raise RowError(f"the integer {value} is not exact as a {dtype}; declare the column as Int64")
    if math.isnan(result):
        return CANONICAL_NAN
    if dtype.kind == "float32":
        narrowed = round_float32(result)
        if math.isinf(narrowed) and not math.isinf(result):
            raise RowError(f"{value} does not fit into {dtype}")
        return narrowed
    return result


def _convert_string(value: object, dtype: ValueType) -> str:
    if not isinstance(value, str):
        raise _wrong(value, dtype)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(f"{value!r:.60} is not valid Unicode text (a lone surrogate)") from error
    return value


def _convert_bytes(value: object, dtype: ValueType) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RowError(f"{value!r:.60} is not base64 text, which is how JSON carries bytes") from error
    raise _wrong(value, dtype)


def _convert_timestamp(value: object, _dtype: ValueType) -> int:
    if isinstance(value, datetime):
        return to_micros(value)
    if isinstance(value, str):
        try:
            return to_micros(datetime.fromisoformat(value))
        except (ValueError, OverflowError) as error:
            raise RowError(f"{value!r:.60} is not an ISO 8601 time such as 2024-05-01T12:00:00Z") from error
    raise RowError(f"{value!r:.60} is not a timestamp: give a datetime or ISO 8601 text such as 2024-05-01T12:00:00Z")


_AS_IT_IS: dict[str, type] = {"bool": bool, "float64": float}
_CONVERT: dict[str, Any] = {
    "bool": _convert_bool,
    "int32": _convert_int,
    "int64": _convert_int,
    "float32": _convert_float,
    "float64": _convert_float,
    "string": _convert_string,
    "bytes": _convert_bytes,
    "timestamp": _convert_timestamp,
}
