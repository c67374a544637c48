"""Lines about requests, gathered in memory and written together, so that a request pays for no system call."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TextIO

_MOST_LINES = 20_000
_SHOWN = 2_000


class AccessLog:
    """Writes a line for each request: when, from where, what, the status and how long it took; never a value.

    Parameters
    ----------
    with_values
        Whether to write bodies too: they hold the values that were asked for and answered.
    """

    def __init__(self, *, with_values: bool, stream: TextIO | None = None) -> None:
        self._with_values = with_values
        self._stream = stream or sys.stdout
        self._lines: list[str] = []
        self._lost = 0

    def add(  # noqa: PLR0917
        self, client: str, method: str, path: str, status: int, seconds: float, asked: bytes = b"", answer: bytes = b""
    ) -> None:
        """Keep a line until the next `flush`."""
        if len(self._lines) >= _MOST_LINES:
            self._lost += 1
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        # A path may hold anything, also the ends of lines that were never written.
        line = f"{now} {client} {method} {ascii(path)[1:-1]} {status} {seconds * 1000:.1f}ms"
        if self._with_values:
            line += f" request={ascii(asked[:_SHOWN])[2:-1]} answer={ascii(answer[:_SHOWN])[2:-1]}"
        self._lines.append(line)

    def flush(self) -> None:
        """Write what was kept."""
        lines, self._lines = self._lines, []
        if self._lost:
            lines.append(f"{self._lost} requests more, whose lines there was no room for")
            self._lost = 0
        if lines:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()
