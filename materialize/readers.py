"""Reads batch sources: typed columns, whole records for a transform, and the schema and sample of what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from featurestore.definitions.sources import BatchSource, FileSource
from featurestore.errors import SourceError, suggest
from featurestore.materialize.files import (
    Chunk,
    FileFormat,
    JsonFormat,
    Reject,
    Span,
    Wanted,
    plain,
    source_files,
)
from featurestore.materialize.text import Rejected, json_lines
from featurestore.types import ValueType, from_arrow

__all__ = ["Chunk", "Rejected", "SourceColumn", "SourceReader", "Wanted"]


class SourceColumn(NamedTuple):
    """A column of a source: its name after the field mapping, the type that holds it (or None), the stored type."""

    name: str
    dtype: ValueType | None
    stored: str


class SourceReader:
    """Reads one file source.

    Parameters
    ----------
    source
        The source.
    repo_path
        Folder that its path starts from where it is relative.

    Raises
    ------
    SourceError
        Where there is no such file or its format cannot be told.
    """

    def __init__(self, source: BatchSource, repo_path: Path) -> None:
        if not isinstance(source, FileSource):
            raise SourceError(f"source {source.name!r} cannot be read yet")
        self.source = source
        self._label = f"FileSource {source.name!r}"
        self._format_name, self._format, self.files = source_files(source, repo_path)
        self._columns = {name: column for column, name in source.field_mapping.items()}

    def column(self, name: str) -> str:
        """Return the source's column behind a name used in definitions."""
        return self._columns.get(name, name)

    def time_column(self, name: str) -> str:
        """Return the source's column behind ``timestamp_field`` or ``created_timestamp_column``, said either way."""
        known = self._names(self.files[0])
        return name if known is None or name in known else self.column(name)

    def typed(
        self, wanted: Sequence[Wanted], reject: Reject, start: int | None = None, end: int | None = None
    ) -> Iterator[Chunk]:
        """Yield the wanted columns in their declared types, file by file.

        Parameters
        ----------
        wanted
            What to read.
        reject
            Called with each record that cannot even be split into fields.
        start, end
            Event times in microseconds; rows outside may be left out, and usually are where that saves reading.

        Raises
        ------
        SourceError
            Where a column is missing, its type is not held exactly by the declared one, or a file is unreadable.
        """
        for path in self.files:
            self._check(path, wanted)
        span = Span(self.time_column(self.source.timestamp_field), start, end)
        seen = set()
        for path in self.files:
            with self._errors(path):
                for chunk in self._format.typed(path, wanted, span, reject):
                    seen |= _present(wanted, chunk)
                    yield chunk
        if isinstance(self._format, JsonFormat):
            self._check_seen(wanted, seen)

    def records(self, reject: Reject) -> Iterator[list[dict[str, Any]]]:
        """Yield all records as Python values, under the names used in definitions, some thousands at a time.

        Times are aware UTC datetimes where the file has them as times; in JSON they are text.
        """
        mapping = self.source.field_mapping
        for path in self.files:
            with self._errors(path):
                if isinstance(self._format, JsonFormat):
                    for lines in json_lines(path, reject):
                        yield [{mapping.get(k, k): v for k, v in line.record.items()} for line in lines]
                    continue
                for batch in self._format.table(path):
                    names = [mapping.get(name, name) for name in batch.schema.names]
                    yield plain(batch).rename_columns(names).to_pylist()

    def schema(self) -> list[SourceColumn]:
        """Return the columns of the source, over all its files, with the types inferred.

        Raises
        ------
        SourceError
            Where a file is unreadable or two files have a column in types that do not go together.
        """
        schemas = []
        for path in self.files:
            with self._errors(path):
                schemas.append(_own_schema(self._format, path))
        try:
            merged = pa.unify_schemas(schemas, promote_options="permissive")
        except pa.ArrowException as error:
            raise SourceError(f"{self._label}: its files do not have the same columns: {error}") from error
        names = self.source.field_mapping
        return [
            SourceColumn(names.get(field.name, field.name), from_arrow(field.type), str(field.type)) for field in merged
        ]

    def sample(self, n: int) -> pa.Table:
        """Return up to ``n`` rows of the source in its own types, under the names used in definitions."""
        names = self.source.field_mapping
        for path in self.files:
            with self._errors(path):
                for batch in self._format.table(path):
                    if batch.num_rows:
                        renamed = [names.get(name, name) for name in batch.schema.names]
                        return pa.Table.from_batches([plain(batch.slice(0, n))]).rename_columns(renamed)
        return pa.table({column.name: pa.nulls(0) for column in self.schema()})

    def _names(self, path: Path) -> list[str] | None:
        with self._errors(path):
            return self._format.names(path)

    def _check(self, path: Path, wanted: Sequence[Wanted]) -> None:
        """Refuse a file that lacks a column or has it in a type that the declared one does not hold."""
        known = self._names(path)
        if known is None:
            return
        for item in wanted:
            if known.count(item.column) != 1:
                raise self._missing(path, item, known)
            with self._errors(path):
                stored = self._format.check(path, item)
            if stored is not None:
                raise SourceError(
                    f"{self._label}: the column {item.column!r} is {stored} in {path}, but declared {item.dtype}, "
                    f"which does not hold it exactly; {_fix(stored)}"
                )

    def _missing(self, path: Path, item: Wanted, known: Sequence[str]) -> SourceError:
        if item.column in known:
            return SourceError(f"{self._label}: {path} has the column {item.column!r} more than once; rename one")
        mapped = "" if item.name in {item.column, "event_timestamp", "arrival"} else f" (mapped to {item.name!r})"
        return SourceError(f"{self._label}: {path} has no column {item.column!r}{mapped}{suggest(item.column, known)}")

    def _check_seen(self, wanted: Sequence[Wanted], seen: set[str]) -> None:
        """Refuse JSON in which a wanted field never occurs: an absent field is null, a misspelt one is a mistake."""
        absent = [item for item in wanted if item.column not in seen]
        if not absent:
            return
        known = {name for path in self.files for lines in json_lines(path, _ignore) for name in _fields(lines)}
        for item in absent:
            if known and item.column not in known:
                raise self._missing(self.files[0], item, sorted(known))

    @contextmanager
    def _errors(self, path: Path) -> Iterator[None]:
        try:
            yield
        except SourceError as error:
            if str(path) in str(error):
                raise
            raise SourceError(f"{self._label}: {path}: {error}") from error
        except (OSError, pa.ArrowException) as error:
            detail = " ".join(str(error).split())
            raise SourceError(
                f"{self._label}: {path} cannot be read as {self._format_name}: {detail}; is the file complete?"
            ) from error


def _own_schema(file_format: FileFormat, path: Path) -> pa.Schema:
    if isinstance(file_format, JsonFormat):
        return pa.unify_schemas(
            [_timed(batch).schema for batch in file_format.table(path)] or [pa.schema([])], promote_options="permissive"
        )
    names = file_format.names(path) or []
    first = next(iter(file_format.table(path)), None)
    return pa.schema([(name, pa.null()) for name in names]) if first is None else first.schema


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


def _present(wanted: Sequence[Wanted], chunk: Chunk) -> set[str]:
    return {
        item.column
        for item, column in zip(wanted, chunk.columns, strict=True)
        if column.null_count < len(column) or not len(column)
    }


def _ignore(rejected: Rejected) -> None:
    """Leave out what was rejected when it was first read."""


def _fields(lines: Sequence[Any]) -> set[str]:
    return {name for line in lines for name in line.record}


def _fix(stored: pa.DataType) -> str:
    """Say what to declare for a stored type."""
    dtype = from_arrow(stored)
    if dtype is None:
        return "store it as one of the types in featurestore.types, or convert it in a transform"
    return f"declare it as {dtype}, or convert it in the source or in a transform"
