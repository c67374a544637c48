"""The files behind a file source, and what each format can do: name its columns, give typed batches or records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from featurestore.definitions.sources import FileSource
from featurestore.errors import SourceError
from featurestore.materialize.chunks import Chunk, Reject, Wanted, typed_chunk
from featurestore.materialize.columns import Bad
from featurestore.materialize.tables import Span
from featurestore.materialize.text import (
    JsonLine,
    Rejected,
    csv_batches,
    csv_header,
    csv_inferred,
    json_column,
    json_lines,
    parse_text,
)
from featurestore.offline.delta_files import delta_dataset, is_delta

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

    def schema(self, path: Path) -> pa.Schema | None:
        """Return the stored columns, of type null where values are parsed; None where each record has its own."""

    def typed(self, path: Path, wanted: Sequence[Wanted], span: Span, reject: Reject) -> Iterator[Chunk]:
        """Yield typed columns, in the order wanted."""

    def table(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield all columns in the file's own, or inferred, types."""


class ParquetFormat:
    """Parquet files, read row group by row group."""

    prunes = True

    def schema(self, path: Path) -> pa.Schema:
        """Return the columns of a file."""
        return pq.read_schema(path)

    def typed(self, path: Path, wanted: Sequence[Wanted], span: Span, reject: Reject) -> Iterator[Chunk]:  # noqa: ARG002
        """Yield typed columns of the row groups that may hold rows of the span."""
        columns = list(dict.fromkeys(item.column for item in wanted))
        for batch in self._batches(path, columns, span):
            yield typed_chunk(batch, wanted)

    def table(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield all columns."""
        yield from self._batches(path, None, Span("", None, None))

    def _batches(self, path: Path, columns: list[str] | None, span: Span) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path) as file:
            groups = [group for group in range(file.num_row_groups) if _may_hold(file, group, span)]
            if groups:
                yield from file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False)


class DeltaFormat(ParquetFormat):
    """Delta tables, read as their newest version."""

    def schema(self, path: Path) -> pa.Schema:
        """Return the columns of the newest version."""
        return delta_dataset(path).schema

    def _batches(self, path: Path, columns: list[str] | None, span: Span) -> Iterator[pa.RecordBatch]:
        dataset = delta_dataset(path)
        condition = None
        if span.column and pa.types.is_timestamp(dataset.schema.field(span.column).type):
            condition = _condition(dataset.schema.field(span.column).type, span)
        yield from dataset.to_batches(columns=columns, filter=condition, batch_size=_BATCH_ROWS)


class CsvFormat:
    """CSV files with a header."""

    prunes = False

    def schema(self, path: Path) -> pa.Schema:
        """Return the columns of the header, without types: text is parsed into any, value by value."""
        return pa.schema([(name, pa.null()) for name in csv_header(path)])

    def typed(self, path: Path, wanted: Sequence[Wanted], span: Span, reject: Reject) -> Iterator[Chunk]:  # noqa: ARG002
        """Yield columns parsed into the declared types."""
        columns = list(dict.fromkeys(item.column for item in wanted))
        for batch in csv_batches(path, columns, reject):
            yield typed_chunk(batch, wanted, parse_text)

    def table(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield all columns in inferred types."""
        yield from csv_inferred(path).to_batches(_BATCH_ROWS)


class JsonFormat:
    """JSON lines: one object a line, each with its own fields."""

    prunes = False

    def schema(self, path: Path) -> None:
        """Return None: each object has its own fields."""

    def typed(self, path: Path, wanted: Sequence[Wanted], span: Span, reject: Reject) -> Iterator[Chunk]:  # noqa: ARG002
        """Yield fields as the declared types; an absent field is null."""
        for lines in json_lines(path, reject):
            columns: list[pa.Array] = []
            bad: Bad = {}
            for item in wanted:
                array, wrong = json_column(lines, item.column, item.dtype)
                columns.append(array)
                bad.update({row: f"column {item.column!r}: {what}" for row, what in wrong.items() if row not in bad})
            yield Chunk(columns, bad, partial(_record, lines))

    def table(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield all fields in inferred types."""
        for lines in json_lines(path, _refuse):
            yield from pa.Table.from_pylist(_with_all_fields([line.record for line in lines])).to_batches()


def _record(lines: Sequence[JsonLine], row: int) -> dict[str, Any]:
    return lines[row].record


def source_files(source: FileSource, repo_path: Path) -> tuple[str, FileFormat, list[Path]]:
    """Return a source's format, by name and as what reads it, and its files, sorted.

    Raises
    ------
    SourceError
        Where there is nothing, or the format cannot be told.
    """
    label = f"FileSource {source.name!r}"
    if "://" in source.path:
        raise SourceError(f"{label}: {source.path!r} is not a path on this machine; only local files can be read yet")
    path = repo_path / Path(source.path).expanduser()
    if source.file_format == "delta" or (not source.file_format and is_delta(path)):
        if not is_delta(path):
            raise SourceError(f"{label}: there is no Delta table at {path}; check path and file_format")
        return "delta", DeltaFormat(), [path]
    found = _listed(path)
    if not found:
        raise SourceError(f"{label}: there is no file at {path}; relative paths start at {repo_path}")
    formats = [source.file_format] if source.file_format else sorted({_format_of(file) for file in found} - {""})
    if len(formats) != 1:
        raise SourceError(f"{label}: cannot tell the format of {path}; say file_format='parquet', 'csv' or 'json'")
    (name,) = formats
    if path.is_dir():
        found = [file for file in found if str(file).lower().endswith(ENDINGS[name])]
        if not found:
            raise SourceError(f"{label}: no file in {path} ends in {' or '.join(ENDINGS[name])}")
    readers: dict[str, FileFormat] = {"parquet": ParquetFormat(), "csv": CsvFormat(), "json": JsonFormat()}
    return name, readers[name], found


def _listed(path: Path) -> list[Path]:
    """Return the files at a path: itself, all below a folder, or what a glob matches; never hidden ones."""
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = sorted(path.rglob("*"))
        return [file for file in inside if file.is_file() and not _hidden(file.relative_to(path))]
    base = Path(path.anchor)
    matches = base.glob(str(path.relative_to(base)))
    return sorted(file for file in matches if file.is_file() and not file.name.startswith("."))


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _format_of(path: Path) -> str:
    return next((name for name, endings in ENDINGS.items() if path.name.lower().endswith(endings)), "")


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


def _condition(arrow: pa.DataType, span: Span) -> ds.Expression | None:
    """Return a filter that keeps all rows of the span, and those without a time."""
    scalar = pa.timestamp("us", arrow.tz)
    condition = None
    for bound, is_start in ((span.start, True), (span.end, False)):
        if bound is None:
            continue
        value = ds.scalar(pa.scalar(bound, pa.int64()).cast(scalar))
        part = ds.field(span.column) >= value if is_start else ds.field(span.column) < value
        part |= ds.field(span.column).is_null()
        condition = part if condition is None else condition & part
    return condition


def _with_all_fields(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for record in records for name in record)
    return [{name: record.get(name) for name in names} for record in records]


def _refuse(rejected: Rejected) -> None:
    raise SourceError(f"{rejected.detail}")
