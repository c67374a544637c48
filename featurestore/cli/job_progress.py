"""What people see of jobs while they run: a bar for each log on a terminal, a line for each step in a pipe."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import click

from featurestore.cli.output import Progress, progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


def job_progress(*, quiet: bool) -> AbstractContextManager[Progress | None]:
    """Report the progress of jobs on stderr; nothing where ``quiet``."""
    return progress(quiet=quiet, lines=_Lines, bars=_Bars)


class _Lines:
    """One line for each step; how many rows a chunk has so far is none."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def __call__(self, step: str, done: int = 0, total: int | None = None) -> None:
        is_tick = total is None and done > 0
        if is_tick or (step, done) == self._last:
            return
        self._last = step, done
        click.echo(step if total is None else f"{step} ({done:,} of {total:,} parts)", err=True)


class _Bars:
    """One bar for each log; what is being done stands before it."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, done: int = 0, total: int | None = None) -> None:
        views = step.partition(": ")[0]
        if views not in self._tasks:
            self._tasks[views] = self._bars.add_task(step, total=None)
        if step.endswith(": done"):
            self._bars.update(self._tasks[views], description=step, completed=1, total=1)
        elif total is None:
            self._bars.update(self._tasks[views], description=step)
        else:
            self._bars.update(self._tasks[views], description=step, completed=done, total=total)
