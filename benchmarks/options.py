"""What a run of the benchmarks was asked for."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FEAST_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
FEAST_STORES = ("duckdb", "dask")


@dataclass(frozen=True)
class Options:
    """What to measure, and how large.

    Attributes
    ----------
    folder
        Where inputs are made, once for each shape, and where projects and answers go.
    scale
        1 stands for 10 M feature rows and 1 M labels.
    feast
        Feast's offline stores to run beside ours.
    feast_python
        The interpreter that has Feast.
    repeat
        Runs of each contestant, of which the best counts; Feast runs once.
    timeout
        Seconds after which a peer is stopped.
    large
        Whether to add the join of 100 M rows.
    minutes
        How long a soak takes.
    """

    folder: Path
    scale: float = 0.1
    feast: tuple[str, ...] = FEAST_STORES
    feast_python: Path = FEAST_PYTHON
    repeat: int = 3
    timeout: float = 600.0
    large: bool = False
    minutes: float = 10.0

    def scaled(self, number: int) -> int:
        """Return a count of scale 1 at this scale."""
        return max(1, round(number * self.scale))

    def with_feast_that_is_there(self) -> Options:
        """Return the options, without Feast where its environment has not been made."""
        if not self.feast or self.feast_python.exists():
            return self
        progress(f"Feast is left out: there is no {self.feast_python}; make bench installs it")
        return replace(self, feast=())

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Make a folder for the projects and answers of one case, and remove it at the end."""
        with tempfile.TemporaryDirectory(prefix="case-", dir=self.folder) as folder:
            yield Path(folder)


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def progress(message: str) -> None:
    """Tell a person who waits what is going on, beside the report on standard output."""
    print(f"  {message}", file=sys.stderr, flush=True)
