"""From the columns of an SQL database to Arrow: which type holds each exactly, and how its values get there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

from featurestore.clock import to_micros

_WHOLE_DIGITS = 18
_DECIMAL_DIGITS = 76
_EXACT_WIDTHS = {"postgresql", "mysql", "mariadb", "mssql"}

# The types of PostgreSQL that Arrow has too, by the number (oid) that it gives each in every database.
_POSTGRES: dict[int, pa.DataType] = {
    16: pa.bool_(),
    17: pa.binary(),
    18: pa.string(),
    19: pa.string(),
    20: pa.int64(),
    21: pa.int16(),
    23: pa.int32(),
    25: pa.string(),
    700: pa.float32(),
    701: pa.float64(),
    1042: pa.string(),
    1043: pa.string(),
    1082: pa.date32(),
    1114: pa.timestamp("us"),
    1184: pa.timestamp("us", "UTC"),
}
_POSTGRES_ARRAYS = {
    1000: 16,
    1001: 17,
    1005: 21,
    1007: 23,
    1009: 25,
    1014: 1042,
    1015: 1043,
    1016: 20,
    1021: 700,
    1022: 701,
    1115: 1114,
    1182: 1082,
    1185: 1184,
}
_POSTGRES_NUMERIC = 1700


class SqlColumn(NamedTuple):
    """A column of a table or query.

    Attributes
    ----------
    name
        Its name in the source.
    arrow
        The type that holds its values exactly; null where only the values themselves tell.
    type
        The type by which SQLAlchemy turns a driver's values into Python's; None leaves them as they are.
    as_text
        Whether the database is asked for its text form, because Arrow has no such type.
    """

    name: str
    arrow: pa.DataType
    type: TypeEngine[Any] | None = None
    as_text: bool = False

    def selected(self, table: sa.FromClause) -> sa.ColumnElement[Any]:
        """Return what to select for the column."""
        column: sa.ColumnElement[Any] = table.c[self.name]
        return sa.cast(column, sa.Text()).label(self.name) if self.as_text else column


def postgres_columns(description: Sequence[Sequence[Any]]) -> list[SqlColumn]:
    """Return the columns of a statement that PostgreSQL described (PEP 249)."""
    columns = []
    for name, oid, _, _, precision, scale, *_ in description:
        arrow = _POSTGRES.get(oid)
        if oid in _POSTGRES_ARRAYS:
            arrow = pa.list_(_POSTGRES[_POSTGRES_ARRAYS[oid]])
        elif oid == _POSTGRES_NUMERIC:
            arrow = _decimal(precision, scale)
        columns.append(SqlColumn(name, arrow or pa.string(), as_text=arrow is None))
    return columns


def reflected_column(name: str, kind: TypeEngine[Any], dialect: str) -> SqlColumn:
    """Return the column behind one that SQLAlchemy reflected."""
    arrow = _arrow(kind, dialect)
    if arrow is not None:
        # SQLAlchemy takes any number for a bool.
        return SqlColumn(name, arrow, None if isinstance(kind, sa.Boolean) else kind)
    if isinstance(kind, sa.types.NullType | sa.Numeric):
        return SqlColumn(name, pa.null())
    return SqlColumn(name, pa.string(), as_text=True)


def _arrow(kind: TypeEngine[Any], dialect: str) -> pa.DataType | None:
    match kind:
        case sa.Boolean():
            return pa.bool_()
        case sa.Integer():
            return _integer(kind, dialect)
        case sa.Float():
            return pa.float32() if isinstance(kind, sa.REAL) and dialect in _EXACT_WIDTHS else pa.float64()
        case sa.Numeric():  # what SQLite keeps in such a column is an integer, a float or text
            return None if dialect == "sqlite" else _decimal(kind.precision, kind.scale)
        case sa.String():
            return pa.string()
        case sa.LargeBinary() | sa.BINARY() | sa.VARBINARY():
            return pa.binary()
        case sa.DateTime():
            return pa.timestamp("us", "UTC" if kind.timezone else None)
        case sa.Date():
            return pa.date32()
        case sa.Uuid():
            return pa.string()
        case _:
            return None


def _integer(kind: TypeEngine[Any], dialect: str) -> pa.DataType:
    bits = 64
    if dialect in _EXACT_WIDTHS and not isinstance(kind, sa.BigInteger):
        bits = 16 if isinstance(kind, sa.SmallInteger) else 32
    unsigned = bool(getattr(kind, "unsigned", False))
    types = {16: (pa.int16(), pa.uint16()), 32: (pa.int32(), pa.uint32()), 64: (pa.int64(), pa.uint64())}
    return types[bits][unsigned]


def _decimal(precision: int | None, scale: int | None) -> pa.DataType | None:
    """Return the type of a number of so many digits; None where Arrow has none, as without a limit."""
    if not precision or precision > _DECIMAL_DIGITS or not 0 <= (scale or 0) <= precision:
        return None
    if not scale and precision <= _WHOLE_DIGITS:
        return pa.int64()
    make = pa.decimal128 if precision <= 38 else pa.decimal256
    return make(precision, scale or 0)


def to_array(values: Sequence[Any], arrow: pa.DataType) -> pa.Array:
    """Return a driver's values as a column of a type.

    Raises
    ------
    pyarrow.ArrowException, TypeError, ValueError
        Where a value is not of the type.
    """
    if pa.types.is_null(arrow):
        return pa.array(values)
    if pa.types.is_timestamp(arrow):
        micros = [None if value is None else to_micros(_moment(value)) for value in values]
        return pa.array(micros, pa.int64()).cast(arrow)
    if pa.types.is_list(arrow) and pa.types.is_timestamp(arrow.value_type):
        rows = [None if row is None else to_array(row, arrow.value_type).cast(pa.int64()).to_pylist() for row in values]
        return pa.array(rows, pa.list_(pa.int64())).cast(arrow)
    check = _CHECKS.get(arrow)
    if check is not None:
        values = [None if value is None else check(value) for value in values]
    return pa.array(values, arrow)


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise TypeError(f"{value!r:.60} is not a time")


def _whole(value: Any) -> int:
    if not isinstance(value, int | float | Decimal) or value != int(value):
        raise TypeError(f"{value!r:.60} is not a whole number")
    return int(value)


def _flag(value: Any) -> bool:
    if value not in (0, 1):
        raise TypeError(f"{value!r:.60} is neither true nor false")
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str | UUID):
        raise TypeError(f"{value!r:.60} is not text")
    return str(value)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{value!r:.60} is not bytes")
    return bytes(value)


# Drivers, and SQLite above all, give values that are not of the column's type.
_CHECKS: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.bool_(): _flag,
    pa.int64(): _whole,
    pa.string(): _text,
    pa.binary(): _bytes,
}
