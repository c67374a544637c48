"""What a job reads of a source that is files: typed columns or whole records, file by file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import pyarrow as pa

from featurestore.definitions.sources import FileSource
from featurestore.errors import SourceError
from featurestore.materialize.chunks import Chunk, Reject, Wanted, check_columns, missing_column, renamed
from featurestore.materialize.files import JsonFormat, source_files
from featurestore.materialize.places import Place, stamps
from featurestore.materialize.tables import Partition, Span
from featurestore.materialize.text import Rejected, json_lines


class FileRows:
    """Gives the rows of a file source.

    Parameters
    ----------
    source
        The source.
    place
        Where they are.

    Raises
    ------
    SourceError
        Where there is no such file or its format cannot be told.
    """

    def __init__(self, source: FileSource, place: Place) -> None:
        self._label = f"FileSource {source.name!r}"
        self._mapping = source.field_mapping
        self._format_name = source.file_format or "files"
        with self._errors(place):
            self._format_name, self._format, self._files = source_files(source, place)
        self.prunes = self._format.prunes
        self._first_stamps: list[str] | None = None
        self._schemas: dict[str, pa.Schema | None] = {}

    def names(self) -> list[str] | None:
        """Return the names of the columns; None where each record has its own."""
        stored = self._stored(self._files[0])
        return None if stored is None else list(stored.names)

    def typed(self, wanted: Sequence[Wanted], span: Span, reject: Reject) -> Iterator[Chunk]:
        """Yield the wanted columns in their declared types, file by file."""
        with self._unchanged():
            for place in self._files:
                stored = self._stored(place)
                if stored is not None:
                    check_columns(self._label, str(place), stored, wanted)
            seen = set()
            for place in self._files:
                with self._errors(place):
                    for chunk in self._format.typed(place, wanted, span, reject):
                        seen |= _present(wanted, chunk)
                        yield chunk
        if isinstance(self._format, JsonFormat):
            self._check_seen(wanted, seen)

    def records(self, reject: Reject) -> Iterator[list[dict[str, Any]]]:
        """Yield all records as Python values, under the names used in definitions."""
        with self._unchanged():
            for place in self._files:
                with self._errors(place):
                    yield from self._file_records(place, reject)

    def schema(self) -> pa.Schema:
        """Return the columns over all files, with the types inferred."""
        schemas = []
        for place in self._files:
            with self._errors(place):
                schemas.append(self._format.inferred(place))
        try:
            return pa.unify_schemas(schemas, promote_options="permissive")
        except pa.ArrowException as error:
            raise SourceError(f"{self._label}: its files do not have the same columns: {error}") from error

    def sample(self) -> Iterator[pa.RecordBatch]:
        """Yield rows with all columns in their own types."""
        for place in self._files:
            with self._errors(place):
                yield from self._format.sample(place)

    def partitions(self) -> list[Partition]:
        """Return the files, where there are several."""
        return [Partition(str(place)) for place in self._files] if len(self._files) > 1 else []

    def version(self) -> str | None:
        """Return a token that changes whenever a file came, went or was written to."""
        digest = sha256()
        for place, stamp in zip(self._files, self._stamps(), strict=True):
            digest.update(f"{place}\n{stamp}\n".encode())
        return digest.hexdigest()

    def changed_since(self, version: str, column: str) -> None:
        """Return None: a file that was written to may have changed anywhere."""

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    def _file_records(self, place: Place, reject: Reject) -> Iterator[list[dict[str, Any]]]:
        mapping = self._mapping
        if isinstance(self._format, JsonFormat):
            for lines in json_lines(place, reject):
                yield [{mapping.get(k, k): v for k, v in line.record.items()} for line in lines]
            return
        for batch in self._format.table(place):
            yield renamed(batch, mapping).to_pylist()

    def _stamps(self) -> list[str]:
        try:
            return stamps(self._files)
        except OSError as error:
            raise SourceError(f"{self._label}: a file can no longer be read: {error}; run again") from error

    def _first(self) -> list[str]:
        """Return the stamps that the files had before any of them was opened."""
        if self._first_stamps is None:
            self._first_stamps = self._stamps()
        return self._first_stamps

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Refuse what was read where a file was written to since it was first looked at: it may be partly old."""
        before = self._first()
        yield
        for place, old, new in zip(self._files, before, self._stamps(), strict=True):
            if old != new:
                raise SourceError(
                    f"{self._label}: {place} was changed while it was read; run again when its writer is done, or keep "
                    "the data as a Delta table, which can be written while it is read"
                )

    def _stored(self, place: Place) -> pa.Schema | None:
        if place.path not in self._schemas:
            self._first()
            with self._errors(place):
                self._schemas[place.path] = self._format.schema(place)
        return self._schemas[place.path]

    def _check_seen(self, wanted: Sequence[Wanted], seen: set[str]) -> None:
        """Refuse JSON in which a wanted field never occurs: an absent field is null, a misspelt one is a mistake."""
        absent = [item for item in wanted if item.column not in seen]
        if not absent:
            return
        known = {name for place in self._files for lines in json_lines(place, _ignore) for name in _fields(lines)}
        for item in absent:
            if known and item.column not in known:
                raise missing_column(self._label, str(self._files[0]), item, sorted(known))

    @contextmanager
    def _errors(self, place: Place) -> Iterator[None]:
        try:
            yield
        except SourceError as error:
            text = str(error)
            if self._label in text:
                raise
            where = "" if str(place) in text else f"{place}: "
            raise SourceError(f"{self._label}: {where}{text}") from error
        except (OSError, pa.ArrowException) as error:
            detail = " ".join(str(error).split())
            raise SourceError(
                f"{self._label}: {place} cannot be read as {self._format_name}: {detail}; is the file complete?"
            ) from error


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
