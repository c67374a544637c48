"""One measured thing in a process of its own: its time without imports, and its peak memory.

``python -m benchmarks.child MODULE:FUNCTION ARGUMENTS RESULT`` calls the function with the keyword arguments (JSON),
which returns a `Stopwatch`, and writes what that read to the file RESULT. Uses only the standard library, because
the peers' environments import it too.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Self

STATUS = Path("/proc/self/status")


class Stopwatch:
    """Reads the time of its block, and the process's peak memory from the start to the end of the block.

    Attributes
    ----------
    seconds, peak
        The time, and the most bytes that the process held in memory at any moment of it, imports, mapped files and
        input included.
    figures
        What else was measured, by name.
    """

    seconds: float = 0.0
    peak: int = 0

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    def __enter__(self) -> Self:
        forget_peak()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.peak = peak_memory()


def forget_peak() -> None:
    """Let the peak start again at what the process holds now, where the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # not Linux, or not allowed: the peak since the start counts, which is no less
        return


def peak_memory() -> int:
    """Return the most bytes that this process has held in memory.

    The kernel's own figure, because `getrusage` gives a child its parent's peak where that was higher.
    """
    if STATUS.exists():
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main() -> None:
    """Call what the command line names and write what it read."""
    target, arguments, result = sys.argv[1:]
    module, _, function = target.partition(":")
    watch: Stopwatch = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    Path(result).write_text(
        json.dumps({"seconds": watch.seconds, "peak": watch.peak, "figures": watch.figures}), encoding="ascii"
    )


if __name__ == "__main__":
    main()
