"""How far a file was read, and what it looked like up to there: kept in a small file of its own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from featurestore.errors import SourceError

_HASHED = 4096


class FilePosition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A position in a file, and what shows that the file is still the one it was.

    Attributes
    ----------
    writer
        The writer whose position it is.
    sequence
        Number of the last processed line.
    offset
        Offset of the byte after it.
    size
        The file's size when the position was taken, in bytes.
    first, last
        SHA-256 of up to 4,096 bytes at the beginning and before `offset`, in hex.
    """

    writer: str
    sequence: int
    offset: int
    size: int
    first: str
    last: str

    @classmethod
    def take(cls, descriptor: int, writer: str, sequence: int, offset: int) -> FilePosition:
        """Describe an open file up to an offset; its read position stays where it is."""
        size = os.fstat(descriptor).st_size
        first, last = _hashes(descriptor, offset)
        return cls(writer, sequence, offset, size, first, last)

    def fits(self, descriptor: int) -> bool:
        """Return whether an open file still holds what was read, as far as size and hashes tell."""
        if os.fstat(descriptor).st_size < self.offset:
            return False
        return _hashes(descriptor, self.offset) == (self.first, self.last)


class PositionFile:
    """Loads and saves one writer's position, atomically and durably.

    Parameters
    ----------
    folder
        Where positions are kept; created on the first save.
    writer
        The writer.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        name = hashlib.sha256(writer.encode()).hexdigest()[:32]
        self.path = folder / f"{name}.json"
        self._writer = writer

    def load(self) -> FilePosition | None:
        """Return the saved position, or None where none was saved.

        Raises
        ------
        SourceError
            Where the file cannot be read or holds something else.
        """
        try:
            position = msgspec.json.decode(self.path.read_bytes(), type=FilePosition)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SourceError(
                f"{self.path}, the position of {self._writer!r}, cannot be read ({error}); "
                "delete it: the row log knows how far it got, only the check of the file's beginning is lost"
            ) from error
        return position if position.writer == self._writer else None

    def save(self, position: FilePosition) -> None:
        """Replace the saved position; after a crash there is the old one or the new one.

        Raises
        ------
        SourceError
            Where the folder cannot be written.
        """
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(position))
                file.flush()
                os.fsync(file.fileno())
            # The folder is not synced: should the rename be lost, the former position is as good, only older.
            temporary.replace(self.path)
        except OSError as error:
            raise SourceError(f"the position of {self._writer!r} cannot be saved in {self.path}: {error}") from error


def _hashes(descriptor: int, offset: int) -> tuple[str, str]:
    length = min(offset, _HASHED)
    first, last = (os.pread(descriptor, length, start) for start in (0, offset - length))
    return hashlib.sha256(first).hexdigest(), hashlib.sha256(last).hexdigest()
