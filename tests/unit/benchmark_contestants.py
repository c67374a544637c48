"""What the tests of the benchmarks measure, in a module that a process imports at once."""

from __future__ import annotations

import threading

from benchmarks.child import Stopwatch


def allocate(size: int) -> Stopwatch:
    with Stopwatch() as watch:
        bytearray(b"x") * size
    return watch


def hang() -> Stopwatch:
    threading.Event().wait()
    return Stopwatch()


def refuse() -> Stopwatch:
    raise ValueError("no such thing")
