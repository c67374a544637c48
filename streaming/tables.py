"""What callers push, data frames or dicts, as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from featurestore.definitions import FeatureView
from featurestore.errors import RowError, suggest
from featurestore.types import ValueType, from_arrow

_MICROSECONDS = pa.timestamp("us", "UTC")
# What a column may hold for a declared type; each value is still checked on its own.
_TAKEN: dict[str, set[str]] = {
    "bool": {"bool"},
    "int32": {"int32", "int64"},
    "int64": {"int32", "int64"},
    "float32": {"int32", "int64", "float32", "float64"},
    "float64": {"int32", "int64", "float32", "float64"},
    "string": {"string"},
    "bytes": {"bytes", "string"},
    "timestamp": {"timestamp", "string"},
    "array": {"array", "vector"},
    "vector": {"array", "vector"},
}


def records_of(table: object, label: str) -> tuple[list[Mapping[str, Any]], dict[str, pa.DataType | None]]:
    """Return the rows of a table as records, and its columns with their Arrow types (None where they have none).

    Parameters
    ----------
    table
        A list of dicts, or anything that hands out Arrow data: pandas, polars, pyarrow. Timestamps without a time
        zone are UTC, and are floored to microseconds.
    label
        Names the push, for error messages.

    Raises
    ------
    RowError
        Where it is something else.
    """
    if isinstance(table, Sequence) and not isinstance(table, (str, bytes)):
        for row in table:
            if not isinstance(row, Mapping):
                raise RowError(f"{label}: {row!r:.60} is not a row; give dicts such as {{'id': 1, 'amount': 2.5}}")
        return list(table), {name: None for row in table for name in row}
    if not any(hasattr(table, method) for method in ("__arrow_c_stream__", "__arrow_c_array__")):
        raise RowError(
            f"{label}: rows come as a pandas, polars or Arrow table or a list of dicts, not {type(table).__name__}"
        )
    try:
        arrow = pa.table(table)
        types = dict(zip(arrow.column_names, arrow.schema.types, strict=True))
        if len(types) < arrow.num_columns:
            raise RowError(f"{label}: a column name is there twice; give each column its own name")
        columns = {name: _in_micros(arrow[name]) for name in types}
        return pa.table(columns).to_pylist(), types
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise RowError(f"{label}: the table cannot be read: {error}") from error


def check_columns(
    view: FeatureView, timestamp_field: str, columns: Mapping[str, pa.DataType | None], label: str
) -> None:
    """Refuse a table that lacks a column of the view, or has one of a type that no value can be taken from.

    Raises
    ------
    RowError
        Naming the column, what it is and what it should be.
    """
    wanted = {field.name: field.dtype for field in (*view.join_keys, *view.columns)}
    for name in (timestamp_field, *wanted):
        if name not in columns:
            raise RowError(f"{label}: the column {name!r} of view {view.name!r} is missing{suggest(name, columns)}")
    for name, dtype in {timestamp_field: ValueType("timestamp"), **wanted}.items():
        arrow = columns[name]
        if arrow is not None and not pa.types.is_null(arrow) and not _takes(dtype, arrow):
            raise RowError(
                f"{label}: the column {name!r} is {arrow}; view {view.name!r} needs {dtype}{_hint(dtype, arrow)}"
            )


def _takes(dtype: ValueType, arrow: pa.DataType) -> bool:
    if pa.types.is_uint64(arrow):
        return dtype.is_number
    held = from_arrow(arrow)
    return held is not None and held.kind in _TAKEN[dtype.kind]


def _hint(dtype: ValueType, arrow: pa.DataType) -> str:
    if dtype.is_integer and pa.types.is_floating(arrow):
        return " (pandas makes integers with gaps floats: use its nullable type, astype('Int64'))"
    return ""


def _in_micros(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Return times as microseconds in UTC, floored; other columns as they are."""
    if pa.types.is_date(column.type):
        return column.cast(pa.timestamp("ms")).cast(_MICROSECONDS)
    if not pa.types.is_timestamp(column.type):
        return column
    if column.type.unit != "ns":
        return column.cast(pa.timestamp("us", column.type.tz)).cast(_MICROSECONDS)
    nanos = column.cast(pa.int64()).combine_chunks()
    floored = nanos.fill_null(0).to_numpy(zero_copy_only=False) // 1000
    return pa.array(floored, mask=nanos.is_null().to_numpy(zero_copy_only=False)).cast(_MICROSECONDS)
