"""The files behind a file source, and what each format can do: name its columns, give typed batches or records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from featurestore.definitions.sources import FileSource
from featurestore.errors import SourceError
from featurestore.materialize.chunks import Chunk, Reject, Wanted, typed_chunk
from featurestore.materialize.columns import Bad
from featurestore.materialize.places import Place, listed
from featurestore.materialize.tables import Span
from featurestore.materialize.text import (
    JsonLine,
    Rejected,
    csv_batches,
    csv_head,
    csv_header,
    csv_inferred,
    json_column,
    json_lines,
    parse_text,
)

ENDINGS = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".csv.gz"),
    "json": (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz"),
}
_BATCH_ROWS = 65_536


class FileFormat(Protocol):
    """What a reader needs of a format. Errors of Arrow and of the file system are turned into ours by the caller."""

    prunes: bool
    """Whether `typed` leaves out what lies outside of the span without reading it."""

    def schema(self, place: Place) -> pa.Schema | None:
        """Return the stored columns, of type null where values are parsed; None where each record has its own."""

    def inferred(self, place: Place) -> pa.Schema:
        """Return the columns with types that hold every value."""

    def typed(self, place: Place, wanted: Sequence[Wanted], span: Span, reject: Reject) -> Iterator[Chunk]:
        """Yield typed columns, in the order wanted."""

    def table(self, place: Place) -> Iterator[pa.RecordBatch]:
        """Yield all columns in the file's own, or inferred, types."""

    def sample(self, place: Place) -> Iterator[pa.RecordBatch]:
        """Yield the first rows likewise, without reading the whole file."""


class ParquetFormat:
    """Parquet files, read row group by row group."""

    prunes = True

    def schema(self, place: Place) -> pa.Schema:
        """Return the columns of a file."""
        with place.opened() as file:
            return pq.read_schema(file)

    inferred = schema

    def typed(self, place: Place, wanted: Sequence[Wanted], span: Span, reject: Reject) -> Iterator[Chunk]:  # noqa: ARG002
        """Yield typed columns of the row groups that may hold rows of the span."""
        columns = list(dict.fromkeys(item.column for item in wanted))
        for batch in self._batches(place, columns, span):
            yield typed_chunk(batch, wanted)

    def table(self, place: Place) -> Iterator[pa.RecordBatch]:
        """Yield all columns."""
        yield from self._batches(place, None, Span("", None, None))

    sample = table

    def _batches(self, place: Place, columns: list[str] | None, span: Span) -> Iterator[pa.RecordBatch]:
        # Far away, a row group's columns are worth fetching at once; all groups at once would fill the memory.
        with place.opened() as raw, pq.ParquetFile(raw, pre_buffer=place.s3 is not None) as file:
            for group in range(file.num_row_groups):
                if _may_hold(file, group, span):
                    yield from file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False)


class CsvFormat:
    """CSV files with a header."""

    prunes = False

    def schema(self, place: Place) -> pa.Schema:
        """Return the columns of the header, without types: text is parsed into any, value by value."""
        return pa.schema([(name, pa.null()) for name in csv_header(place)])

    def inferred(self, place: Place) -> pa.Schema:
        """Return the columns with the types that the whole file needs."""
        return csv_inferred(place).schema

    def typed(self, place: Place, wanted: Sequence[Wanted], span: Span, reject: Reject) -> Iterator[Chunk]:  # noqa: ARG002
        """Yield columns parsed into the declared types."""
        columns = list(dict.fromkeys(item.column for item in wanted))
        for batch in csv_batches(place, columns, reject):
            yield typed_chunk(batch, wanted, parse_text)

    def table(self, place: Place) -> Iterator[pa.RecordBatch]:
        """Yield all columns in inferred types."""
        yield from csv_inferred(place).to_batches(_BATCH_ROWS)

    def sample(self, place: Place) -> Iterator[pa.RecordBatch]:
        """Yield the first rows, in types that hold them; later ones may need others."""
        yield csv_head(place)


class JsonFormat:
    """JSON lines: one object a line, each with its own fields."""

    prunes = False

    def schema(self, place: Place) -> None:
        """Return None: each object has its own fields."""

    def inferred(self, place: Place) -> pa.Schema:
        """Return all fields of all objects; text that is always a time is one."""
        schemas = [_timed(batch).schema for batch in self.table(place)]
        return pa.unify_schemas(schemas or [pa.schema([])], promote_options="permissive")

    def typed(self, place: Place, wanted: Sequence[Wanted], span: Span, reject: Reject) -> Iterator[Chunk]:  # noqa: ARG002
        """Yield fields as the declared types; an absent field is null."""
        for lines in json_lines(place, reject):
            columns: list[pa.Array] = []
            bad: Bad = {}
            for item in wanted:
                array, wrong = json_column(lines, item.column, item.dtype)
                columns.append(array)
                bad.update({row: f"column {item.column!r}: {what}" for row, what in wrong.items() if row not in bad})
            yield Chunk(columns, bad, partial(_record, lines))

    def table(self, place: Place) -> Iterator[pa.RecordBatch]:
        """Yield all fields in inferred types."""
        for lines in json_lines(place, _refuse):
            yield from pa.Table.from_pylist(_with_all_fields([line.record for line in lines])).to_batches()

    sample = table


def _record(lines: Sequence[JsonLine], row: int) -> dict[str, Any]:
    return lines[row].record


def source_files(source: FileSource, place: Place) -> tuple[str, FileFormat, list[Place]]:
    """Return a source's format, by name and as what reads it, and its files, sorted.

    Raises
    ------
    SourceError
        Where there is nothing, or the format cannot be told.
    """
    label = f"FileSource {source.name!r}"
    found = listed(place)
    if not found:
        relative = "" if place.s3 is not None else "; relative paths start at the folder of feature_store.yaml"
        raise SourceError(f"{label}: there is no file at {place}{relative}")
    formats = [source.file_format] if source.file_format else sorted({_format_of(file) for file in found} - {""})
    if len(formats) != 1:
        raise SourceError(f"{label}: cannot tell the format of {place}; say file_format='parquet', 'csv' or 'json'")
    (name,) = formats
    if len(found) > 1 or found[0].path != place.path:
        is_glob = place.kind is not fs.FileType.Directory
        found = [file for file in found if is_glob or file.name.endswith(ENDINGS[name])]
        if not found:
            raise SourceError(f"{label}: no file in {place} ends in {' or '.join(ENDINGS[name])}")
    readers: dict[str, FileFormat] = {"parquet": ParquetFormat(), "csv": CsvFormat(), "json": JsonFormat()}
    return name, readers[name], found


def _format_of(place: Place) -> str:
    return next((name for name, endings in ENDINGS.items() if place.name.endswith(endings)), "")


def _may_hold(file: pq.ParquetFile, group: int, span: Span) -> bool:
    """Return whether a row group may hold rows of the span; rows without a time always count."""
    if not span.column or (span.start is None and span.end is None):
        return True
    arrow = file.schema_arrow.field(span.column).type
    metadata = file.metadata.row_group(group)
    column = next(
        (c for c in map(metadata.column, range(metadata.num_columns)) if c.path_in_schema == span.column), None
    )
    statistics = column.statistics if column is not None and pa.types.is_timestamp(arrow) else None
    if statistics is None or not statistics.has_min_max or statistics.null_count is None or statistics.null_count:
        return True
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[arrow.unit]
    low, high = (int(value) * 10**6 // per_second for value in (statistics.min_raw, statistics.max_raw))
    return (span.end is None or low < span.end) and (span.start is None or high >= span.start)


def _timed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch in which text that is always an ISO 8601 time has become a time."""
    columns = []
    for column in batch.columns:
        if pa.types.is_string(column.type) and column.null_count < len(column):
            values = [_is_time(value) for value in column.to_pylist() if value is not None]
            column = pa.nulls(len(column), pa.timestamp("us", "UTC")) if all(values) else column
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return len(text) >= len("2024-01-01")


def _with_all_fields(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for record in records for name in record)
    return [{name: record.get(name) for name in names} for record in records]


def _refuse(rejected: Rejected) -> None:
    raise SourceError(f"{rejected.detail}")
