"""A file of JSON lines as a stream."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from featurestore.clock import delta_micros
from featurestore.definitions import FileStreamSource
from featurestore.errors import SourceError
from featurestore.streaming.columns import timestamp
from featurestore.streaming.lines import Line, LineReader
from featurestore.streaming.position import FilePosition, PositionFile
from featurestore.streaming.records import NEVER, Record, StreamReader


class FileReader(StreamReader):
    """Reads the JSON lines of a `FileStreamSource`, also while the file grows.

    The writer is ``file/<source>/<file name>``, a record's sequence the number of its line, from 0. Blank lines count
    as lines but are no records. A last line without a newline is not delivered until it is complete, because its
    writer may still be at it; with `final` it is.

    The position is kept in a small JSON file, with hashes of the file's first bytes and of those before the position.
    It saves reading from the start, and shows when the file was cut, replaced or rewritten: that is an error, since
    line numbers would then name other records. It may lag behind: the row log decides what is new.

    Parameters
    ----------
    source
        The source. Where it has an `arrival_field`, a record's arrival is that field's ISO 8601 text, and a record
        without a readable one is delivered with none. Otherwise the arrival is the event's time plus the source's
        `availability_delay`; the reader then uses the record's own time field to tell when it is due.
    path
        The file, resolved.
    state
        Folder for the position; it is created.
    final
        Whether the file is complete.

    Raises
    ------
    SourceError
        From any method, where the file cannot be read, or is not what it was before the position.
    """

    def __init__(self, source: FileStreamSource, path: Path, state: Path, *, final: bool = False) -> None:
        self.source = source
        self.path = path
        self.writer = f"file/{source.name}/{path.name}"
        self._label = f"FileStreamSource {source.name!r}: {path}"
        self._final = final
        self._has_arrival = bool(source.arrival_field)
        self._delay = 0 if self._has_arrival else delta_micros(source.availability_delay)
        self._time_of = _field_decoder(source.arrival_field or source.timestamp_field)
        self._positions = PositionFile(state, self.writer)
        self._committed = self._positions.load()
        self._delivered: deque[tuple[int, int]] = deque()
        self._head: Line | None = None
        with self._errors():
            self._file = path.open("rb")
            self._lines = LineReader(self._file)

    @property
    def writers(self) -> Sequence[str]:
        """The one writer: source and file name."""
        return (self.writer,)

    @property
    def exhausted(self) -> bool:
        """Whether all that the file holds now has been delivered."""
        with self._errors():
            return self._peek() is None

    def poll(self, limit: int, until: int | None = None) -> list[Record]:
        """Return up to `limit` of the next lines; see `StreamReader.poll`."""
        records: list[Record] = []
        timed = self._has_arrival or until is not None
        with self._errors():
            while len(records) < limit:
                line = self._peek()
                if line is None:
                    break
                due = self._due(line.text) if timed else None
                if until is not None and due is not None and due > until:
                    break
                arrival = due if self._has_arrival else None
                records.append(Record(self.writer, line.number, arrival, line.text))
                self._delivered.append((line.number, line.end))
                self._head = None
        return records

    def seek(self, positions: Mapping[str, int]) -> None:
        """Continue with the line after the one that is named for this reader's writer."""
        if self.writer not in positions:
            return
        sequence = positions[self.writer]
        with self._errors():
            start, offset = self._start(sequence)
            self._lines = LineReader(self._file, start, offset)
            self._head = None
            self._delivered.clear()
            if not self._lines.skip(sequence + 1 - start, final=self._final):
                raise self._changed(f"ends before line {sequence + 1}, up to which it was read")

    def commit(self, positions: Mapping[str, int]) -> None:
        """Save the position on disk, atomically; see `StreamReader.commit`."""
        sequence = positions.get(self.writer, NEVER)
        last = None
        while self._delivered and self._delivered[0][0] <= sequence:
            last = self._delivered.popleft()
        if last is not None:
            with self._errors():
                self._committed = FilePosition.take(self._file.fileno(), self.writer, *last)
            self._positions.save(self._committed)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _peek(self) -> Line | None:
        while self._head is None:
            line = self._lines.next(final=self._final)
            if line is None:
                self._check_whole()
                return None
            if line.text and not line.text.isspace():
                self._head = line
        return self._head

    def _due(self, payload: bytes) -> int | None:
        """Return when a record is due, None where that cannot be read."""
        try:
            text = self._time_of.decode(payload).value
            return timestamp(text) + self._delay if isinstance(text, str) else None
        except (ValueError, RecursionError):  # not JSON, or not a time: whoever decodes the record says why
            return None

    def _start(self, sequence: int) -> tuple[int, int]:
        """Return number and offset of a line at or before the one after `sequence`, having checked the file."""
        known = self._committed
        if known is None or sequence == NEVER:
            return 0, 0
        if not known.fits(self._file.fileno()):
            raise self._changed(f"is not the file that was read up to line {known.sequence + 1}")
        return (known.sequence + 1, known.offset) if known.sequence <= sequence else (0, 0)

    def _check_whole(self) -> None:
        """Refuse a file that lost what was read of it, and another file under its name."""
        opened, named = os.fstat(self._file.fileno()), self.path.stat()
        if not os.path.samestat(opened, named) or opened.st_size < self._lines.consumed:
            raise self._changed("was cut or replaced while it was read")

    def _changed(self, how: str) -> SourceError:
        return SourceError(
            f"{self._label} {how}. Put the former file back, or give the new one a name of its own: "
            "a row's position is the file's name and the number of its line"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SourceError(f"{self._label} cannot be read ({error.strerror}); check the source's path") from error


def _field_decoder(name: str) -> msgspec.json.Decoder[Any]:
    """Return a decoder that reads one field of an object, as `value`, and passes over the others."""
    return msgspec.json.Decoder(msgspec.defstruct("Timed", [("value", Any, None)], rename={"value": name}))
