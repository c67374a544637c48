"""A row as sections hold it, and which rows of a section are pending."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa


class OnlineRow(NamedTuple):
    """A row as a section holds it: its order within its writer, and its input columns in the view's order."""

    event_timestamp: int
    arrival: int
    sequence: int
    values: list[Any]


def split_pending(
    pending: list[OnlineRow], rows: Iterable[OnlineRow], arrival: int | None
) -> tuple[int, list[OnlineRow], list[OnlineRow]]:
    """Return the greatest arrival now, the rows that are due by it, and those that are pending, in order."""
    everything = [*pending, *rows]
    greatest = max(row.arrival for row in everything)
    if arrival is not None and arrival > greatest:
        greatest = arrival
    due = [row for row in everything if row.event_timestamp <= greatest]
    return greatest, due, sorted((row for row in everything if row.event_timestamp > greatest), key=row_order)


def row_order(row: OnlineRow) -> tuple[int, int, int]:
    """Return what orders the rows of one writer."""
    return row[:3]


def python_values(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """Return a column as the store's Python values: timestamps as integers."""
    dtype = column.type
    if pa.types.is_timestamp(dtype):
        column = column.cast(pa.int64())
    elif pa.types.is_list(dtype) and pa.types.is_timestamp(dtype.value_type):
        column = column.cast(pa.list_(pa.int64()))
    result: list[Any] = column.to_pylist()
    return result
