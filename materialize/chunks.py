"""Typed columns on their way from a source to a job: what is wanted, whether it is there, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from featurestore.errors import SourceError, suggest
from featurestore.materialize.columns import Bad, convert, fits
from featurestore.materialize.text import Rejected
from featurestore.types import ValueType, from_arrow

Reject = Callable[[Rejected], None]


class Wanted(NamedTuple):
    """A column to read: its name in the result, its name in the source and its declared type."""

    name: str
    column: str
    dtype: ValueType


class Chunk(NamedTuple):
    """Typed columns, what is wrong in which row, and a function that renders a row's record."""

    columns: list[pa.Array]
    bad: Bad
    payload: Callable[[int], Any]


def typed_chunk(
    batch: pa.RecordBatch,
    wanted: Sequence[Wanted],
    make: Callable[[pa.Array, ValueType], tuple[pa.Array, Bad]] = convert,
) -> Chunk:
    """Return the wanted columns of a batch in their declared types.

    Raises
    ------
    SourceError
        Where a column as a whole does not become one of its type.
    """
    columns = []
    bad: Bad = {}
    for item in wanted:
        try:
            array, wrong = make(batch.column(item.column), item.dtype)
        except pa.ArrowException as error:
            raise SourceError(f"column {item.column!r} does not fit {item.dtype}: {error}") from error
        columns.append(array)
        bad.update({row: f"column {item.column!r}: {what}" for row, what in wrong.items() if row not in bad})
    return Chunk(columns, bad, partial(_row, batch))


def check_columns(label: str, place: str, stored: pa.Schema, wanted: Sequence[Wanted]) -> None:
    """Refuse a schema that lacks a wanted column, or has it in a type that the declared one does not hold exactly.

    Parameters
    ----------
    label
        The source's kind and name.
    place
        What has the schema: a file or a table.
    """
    for item in wanted:
        if stored.names.count(item.column) != 1:
            raise missing_column(label, place, item, stored.names)
        arrow = stored.field(item.column).type
        if not fits(arrow, item.dtype):
            raise SourceError(
                f"{label}: the column {item.column!r} is {arrow} in {place}, but declared {item.dtype}, "
                f"which does not hold it exactly; {_fix(arrow)}"
            )


def missing_column(label: str, place: str, item: Wanted, known: Sequence[str]) -> SourceError:
    """Return the error for a column that is not there, or there twice."""
    if item.column in known:
        return SourceError(f"{label}: {place} has the column {item.column!r} more than once; rename one")
    mapped = "" if item.name in {item.column, "event_timestamp", "arrival"} else f" (mapped to {item.name!r})"
    return SourceError(f"{label}: {place} has no column {item.column!r}{mapped}{suggest(item.column, known)}")


def plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch whose every time is a UTC timestamp in microseconds and whose dictionaries are decoded."""
    columns = []
    for column in batch.columns:
        natural = from_arrow(column.type)
        is_time = natural is not None and natural.kind == "timestamp"
        if natural is not None and (is_time or pa.types.is_dictionary(column.type)):
            column = convert(column, natural)[0]
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def renamed(batch: pa.RecordBatch, mapping: Mapping[str, str]) -> pa.RecordBatch:
    """Return a batch of plain values under the names used in definitions."""
    return plain(batch).rename_columns([mapping.get(name, name) for name in batch.schema.names])


def _row(batch: pa.RecordBatch, row: int) -> dict[str, Any]:
    record: dict[str, Any] = plain(batch.slice(row, 1)).to_pylist()[0]
    return record


def _fix(stored: pa.DataType) -> str:
    """Say what to declare for a stored type."""
    dtype = from_arrow(stored)
    if pa.types.is_decimal(stored):
        return "declare it as String, which keeps its digits, or convert it in the source or in a transform"
    if dtype is None:
        return "store it as one of the types in featurestore.types, or convert it in a transform"
    return f"declare it as {dtype}, or convert it in the source or in a transform"
