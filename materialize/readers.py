"""Reads batch sources: typed columns, whole records for a transform, and the schema and sample of what is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import pyarrow as pa

from featurestore.definitions.sources import BatchSource, FileSource
from featurestore.definitions.warehouse import BigQuerySource, HiveSource, SqlSource
from featurestore.errors import SourceError
from featurestore.materialize.chunks import Chunk, Reject, Wanted, renamed
from featurestore.materialize.delta_table import DeltaFiles, is_delta
from featurestore.materialize.file_rows import FileRows
from featurestore.materialize.places import locate
from featurestore.materialize.table_rows import TableRows
from featurestore.materialize.tables import Partition, Span, TableReader
from featurestore.materialize.text import Rejected
from featurestore.types import ValueType, from_arrow

__all__ = ["Chunk", "Rejected", "SourceColumn", "SourceReader", "Wanted", "open_table"]


# What reads each kind of table: a module, imported on first use, and its callable of a source and settings.
_TABLES: dict[type, tuple[str, str]] = {
    SqlSource: ("featurestore.materialize.sql_table", "SqlTable"),
    HiveSource: ("featurestore.materialize.hive_table", "open_hive"),
    BigQuerySource: ("featurestore.materialize.bigquery_table", "BigQueryTable"),
}


class SourceColumn(NamedTuple):
    """A column of a source: its name after the field mapping, the type that holds it (or None), the stored type."""

    name: str
    dtype: ValueType | None
    stored: str


class Rows(Protocol):
    """What files and tables give alike, in the source's own names."""

    prunes: bool

    def names(self) -> list[str] | None:
        """Return the names of the columns; None where each record has its own."""

    def schema(self) -> pa.Schema:
        """Return the columns and their types."""

    def typed(self, wanted: Sequence[Wanted], span: Span, reject: Reject) -> Iterator[Chunk]:
        """Yield the wanted columns in their declared types."""

    def records(self, reject: Reject) -> Iterator[list[dict[str, Any]]]:
        """Yield all records as Python values, under the names used in definitions."""

    def sample(self) -> Iterator[pa.RecordBatch]:
        """Yield rows with all columns in their own types."""

    def partitions(self) -> list[Partition]:
        """Return the parts."""

    def version(self) -> str | None:
        """Return a token of the contents, or None."""

    def changed_since(self, version: str, column: str) -> list[tuple[int, int]] | None:
        """Return the spans of a time column that changed since a version, or None."""

    def close(self) -> None:
        """Let go of connections."""


class SourceReader:
    """Reads one batch source.

    Parameters
    ----------
    source
        The source.
    repo_path
        Folder that its path starts from where it is relative.
    connection
        How to reach it: the settings that the configuration has under ``source.connection``.

    Raises
    ------
    SourceError
        Where there is no such file, its format cannot be told, or a setting is missing or wrong.
    MissingExtraError
        Where what reads it is not installed.
    """

    def __init__(self, source: BatchSource, repo_path: Path, connection: Mapping[str, Any] | None = None) -> None:
        self.source = source
        self._rows = _open(source, repo_path, connection or {})
        self._columns = {name: column for column, name in source.field_mapping.items()}

    @property
    def prunes(self) -> bool:
        """Whether `typed` leaves out what lies outside of the range without reading it."""
        return self._rows.prunes

    def column(self, name: str) -> str:
        """Return the source's column behind a name used in definitions."""
        return self._columns.get(name, name)

    def time_column(self, name: str) -> str:
        """Return the source's column behind ``timestamp_field`` or ``created_timestamp_column``, said either way."""
        known = self._rows.names()
        return name if known is None or name in known else self.column(name)

    def typed(
        self, wanted: Sequence[Wanted], reject: Reject, start: int | None = None, end: int | None = None
    ) -> Iterator[Chunk]:
        """Yield the wanted columns in their declared types, in bounded portions.

        A row whose time is in the range or null is never left out; one outside of it may be there.

        Parameters
        ----------
        wanted
            What to read.
        reject
            Called with each record that cannot even be split into fields.
        start, end
            Event times in microseconds, start inclusive, end exclusive.

        Raises
        ------
        SourceError
            Where a column is missing, its type is not held exactly by the declared one, or the source cannot be read
            to its end: whatever was yielded before then counts for nothing.
        """
        span = Span(self.time_column(self.source.timestamp_field), start, end)
        yield from self._rows.typed(wanted, span, reject)

    def records(self, reject: Reject) -> Iterator[list[dict[str, Any]]]:
        """Yield all records as Python values, under the names used in definitions, some thousands at a time.

        Times are aware UTC datetimes where the source has them as times; in JSON they are text.
        """
        yield from self._rows.records(reject)

    def schema(self) -> list[SourceColumn]:
        """Return the columns of the source, with the types inferred where it has none.

        Raises
        ------
        SourceError
            Where it cannot be read, or two files have a column in types that do not go together.
        """
        names = self.source.field_mapping
        return [
            SourceColumn(names.get(field.name, field.name), from_arrow(field.type), str(field.type))
            for field in self._rows.schema()
        ]

    def sample(self, n: int) -> pa.Table:
        """Return up to ``n`` rows of the source in its own types, under the names used in definitions."""
        for batch in self._rows.sample():
            if batch.num_rows:
                return pa.Table.from_batches([renamed(batch.slice(0, n), self.source.field_mapping)])
        return pa.table({column.name: pa.nulls(0) for column in self.schema()})

    def table(self) -> pa.Table:
        """Return all rows of the source in its own types, under the names used in definitions."""
        mapping = self.source.field_mapping
        parts = [pa.Table.from_batches([renamed(batch, mapping)]) for batch in self._rows.sample()]
        return pa.concat_tables(parts, promote_options="permissive") if parts else self.sample(0)

    def partitions(self) -> list[Partition]:
        """Return the parts of the source that can be read on their own: files, or a table's partitions."""
        return self._rows.partitions()

    def version(self) -> str | None:
        """Return a token that changes whenever the contents may have changed, or None where none is to be had."""
        return self._rows.version()

    def changed_since(self, version: str) -> list[tuple[int, int]] | None:
        """Return spans of event time that hold all rows that were added or removed since a version.

        Least and greatest time in microseconds, both inclusive; None where the source cannot tell.
        """
        return self._rows.changed_since(version, self.time_column(self.source.timestamp_field))

    def close(self) -> None:
        """Let go of connections."""
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(source: BatchSource, repo_path: Path, settings: Mapping[str, Any]) -> Rows:
    if not isinstance(source, FileSource):
        return TableRows(source, open_table(source, settings))
    place = locate(source, repo_path, settings)
    if source.file_format not in {"", "delta"}:
        return FileRows(source, place)
    try:
        found = is_delta(place)
    except OSError as error:
        raise SourceError(f"FileSource {source.name!r}: {place} cannot be read: {error}") from error
    if found:
        return TableRows(source, DeltaFiles(place))
    if source.file_format == "delta":
        raise SourceError(f"FileSource {source.name!r}: there is no Delta table at {place}; check path and file_format")
    return FileRows(source, place)


def open_table(source: BatchSource, settings: Mapping[str, Any]) -> TableReader:
    """Return what reads a source that is a table.

    Parameters
    ----------
    settings
        Its connection's settings.

    Raises
    ------
    SourceError
        Where a setting is missing or wrong.
    MissingExtraError
        Where what reads it is not installed.
    """
    module, name = _TABLES[type(source)]
    reader: TableReader = getattr(import_module(module), name)(source, settings)
    return reader
