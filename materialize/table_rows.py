"""What a job reads of a source that is a table: its columns in their declared types, or its whole records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from featurestore.definitions.sources import BatchSource
from featurestore.errors import SourceError
from featurestore.materialize.chunks import Chunk, Reject, Wanted, check_columns, renamed, typed_chunk
from featurestore.materialize.tables import Partition, Span, TableReader
from featurestore.types import UnixTimestamp

_EVERYTHING = Span("", None, None)


class TableRows:
    """Gives a table's rows with the checks that all sources share.

    Parameters
    ----------
    source
        The source; errors name it.
    table
        Reads it.
    """

    def __init__(self, source: BatchSource, table: TableReader) -> None:
        self.prunes = table.prunes
        self._label = f"{type(source).__name__} {source.name!r}"
        self._place = source.location
        self._mapping = source.field_mapping
        self._table = table
        self._known: pa.Schema | None = None

    def names(self) -> list[str]:
        """Return the names of the columns."""
        return list(self.schema().names)

    def schema(self) -> pa.Schema:
        """Return the columns and their types, as they were when first asked for."""
        if self._known is None:
            with self._errors():
                self._known = self._table.schema()
        return self._known

    def typed(self, wanted: Sequence[Wanted], span: Span, reject: Reject) -> Iterator[Chunk]:  # noqa: ARG002
        """Yield the wanted columns in their declared types."""
        needed = [*wanted, Wanted("event_timestamp", span.column, UnixTimestamp)] if span.column else wanted
        check_columns(self._label, self._place, self.schema(), needed)
        columns = list(dict.fromkeys(item.column for item in wanted))
        checked: pa.Schema | None = None
        with self._errors():
            for batch in self._table.batches(columns, span):
                if batch.schema != checked:  # the table may have changed since its schema was asked for
                    check_columns(self._label, self._place, batch.schema, wanted)
                    checked = batch.schema
                yield typed_chunk(batch, wanted)

    def records(self, reject: Reject) -> Iterator[list[dict[str, Any]]]:  # noqa: ARG002
        """Yield all records as Python values, under the names used in definitions."""
        with self._errors():
            for batch in self._table.batches(None, _EVERYTHING):
                yield renamed(batch, self._mapping).to_pylist()

    def sample(self) -> Iterator[pa.RecordBatch]:
        """Yield rows with all columns in the table's own types."""
        with self._errors():
            yield from self._table.batches(None, _EVERYTHING)

    def partitions(self) -> list[Partition]:
        """Return the table's partitions."""
        with self._errors():
            return self._table.partitions()

    def version(self) -> str | None:
        """Return a token that changes whenever the contents may have changed, or None."""
        with self._errors():
            return self._table.version()

    def changed_since(self, version: str, column: str) -> list[tuple[int, int]] | None:
        """Return the spans of a time column that changed since a version, or None."""
        with self._errors():
            return self._table.changed_since(version, column)

    def close(self) -> None:
        """Let go of connections."""
        self._table.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SourceError as error:
            if self._label in str(error):
                raise
            raise SourceError(f"{self._label}: {self._place}: {error}") from error
        except (OSError, pa.ArrowException) as error:
            detail = " ".join(str(error).split())
            raise SourceError(f"{self._label}: {self._place} cannot be read: {detail}") from error
