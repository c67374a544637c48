"""Numbered lines of a growing file, read in large blocks."""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

from featurestore.errors import SourceError

_BLOCK = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line without its newline, its number from 0, and the offset of the byte after both."""

    number: int
    text: bytes
    end: int


class LineReader:
    """Reads lines from an offset on.

    Parameters
    ----------
    file
        The open file; nobody else may move its position.
    number, offset
        The next line's number, and the offset of its first byte.

    Raises
    ------
    SourceError
        From `next` and `skip`, where a line that was read as the last one turns out to go on.
    """

    def __init__(self, file: BinaryIO, number: int = 0, offset: int = 0) -> None:
        self._file = file
        self._number = number
        self._offset = offset
        self._lines: list[bytes] = []
        self._place = 0
        self._rest = b""
        file.seek(max(0, offset - 1))
        # A last line may have been read before its newline was there.
        self._unended = offset > 0 and file.read(1) != b"\n"
        self.consumed = offset

    def next(self, *, final: bool) -> Line | None:
        """Return the next line, or None at the end; `final` says that a last line needs no newline."""
        if self._place == len(self._lines) and not self._fill():
            return self._last() if final and self._rest else None
        text = self._lines[self._place]
        self._place += 1
        self._offset += len(text) + 1
        return self._numbered(text)

    def skip(self, count: int, *, final: bool) -> bool:
        """Pass over so many lines; False where there are fewer."""
        while count > 0:
            if self._place == len(self._lines) and not self._fill():
                return count == 1 and final and bool(self._rest) and self._last() is not None
            taken = self._lines[self._place : self._place + count]
            self._place += len(taken)
            self._offset += sum(map(len, taken)) + len(taken)
            self._number += len(taken)
            count -= len(taken)
        return True

    def _fill(self) -> bool:
        """Read on until at least one whole line is there; False at the end of the file."""
        pieces = [self._rest]
        while data := self._file.read(_BLOCK):
            self.consumed += len(data)
            if self._unended:
                if not data.startswith(b"\n"):
                    raise SourceError(
                        f"line {self._number} was read as complete and has been continued since; "
                        "read a file as final only when nobody writes to it any more"
                    )
                self._unended = False
                self._offset += 1
                data = data[1:]
            pieces.append(data)
            if b"\n" in data:
                *self._lines, self._rest = b"".join(pieces).split(b"\n")
                self._place = 0
                return True
        self._rest = b"".join(pieces)
        return False

    def _last(self) -> Line:
        text, self._rest = self._rest, b""
        self._unended = True
        self._offset += len(text)
        return self._numbered(text)

    def _numbered(self, text: bytes) -> Line:
        number = self._number
        self._number += 1
        return Line(number, text if number else text.removeprefix(_BYTE_ORDER_MARK), self._offset)
