"""What commands print: JSON for scripts, tables and progress for people."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from featurestore.clock import from_micros, to_micros

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(step, done, total)``: a step's name, how far it is, and its end where that is known."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, and nothing else.")


def emit_json(data: Any) -> None:
    """Print ``data`` as indented JSON; timestamps are ISO 8601, bytes base64, NaN and infinities null."""
    click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


def iso(value: datetime | int | None) -> str | None:
    """Return a time (microseconds count as time since the epoch) as ISO 8601 in UTC, ending in ``Z``."""
    if value is None:
        return None
    return from_micros(to_micros(value)).isoformat().replace("+00:00", "Z")


def show(value: Any) -> str:
    """Return one value as text for a table."""
    if value is None:
        return "null"
    if isinstance(value, datetime):
        return iso(value) or ""
    if isinstance(value, list):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 row``, ``26,115 rows``."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under their columns: ruled on a terminal, aligned with spaces in a pipe."""
    cells = [[show(value) for value in row] for row in rows]
    right = [bool(rows) and all(_is_number(row[index]) for row in rows) for index in range(len(columns))]
    if sys.stdout.isatty():
        _print_rich(columns, cells, right)
        return
    for line in aligned([columns, *cells], right):
        click.echo(line)


def aligned(rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> list[str]:
    """Return each row as a line, columns as wide as their widest cell; those in ``right`` end together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = right or [False] * len(widths)
    return [
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, sides, strict=True)
        ).rstrip()
        for row in rows
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _print_rich(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, number in zip(columns, right, strict=True):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


class _Lines:
    """One line when a step begins."""

    def __init__(self) -> None:
        self._step = ""

    def __call__(self, step: str, _done: int = 0, total: int | None = None) -> None:
        if step != self._step:
            self._step = step
            click.echo(step if total is None else f"{step} ({total:,})", err=True)


class _Bars:
    """One bar per step."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    def __call__(self, step: str, done: int = 0, total: int | None = None) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=total)
        self._bars.update(self._tasks[step], completed=done, total=total)


@contextmanager
def progress(
    *, quiet: bool, lines: Callable[[], Progress] = _Lines, bars: Callable[[RichProgress], Progress] = _Bars
) -> Iterator[Progress | None]:
    """Report progress on stderr: bars on a terminal, lines in a pipe, nothing where ``quiet``."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _rich_progress() as shown:
            yield bars(shown)
    else:
        yield lines()


def _rich_progress() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),  # else what a command prints would go to stderr, not into the pipe
    )
