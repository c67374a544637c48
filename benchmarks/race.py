"""Runs contestants in processes of their own, in turns, within limits of time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.options import ROOT, progress
from benchmarks.report import format_amount

POLL_SECONDS = 0.1
MEMORY_SHARE = 0.85
"""The part of the machine's memory past which a contestant is stopped, so that the machine survives it."""


class ContestantError(RuntimeError):
    """A contestant that has to finish did not."""


@dataclass(frozen=True)
class Contestant:
    """One function to measure, as ``module:function`` with keyword arguments.

    Attributes
    ----------
    python
        The interpreter; by default this one.
    repeat
        How often it runs.
    timeout
        Seconds after which it is stopped, everything included.
    """

    target: str
    arguments: Mapping[str, Any]
    python: Path = field(default_factory=lambda: Path(sys.executable))
    repeat: int = 1
    timeout: float = 3600.0


@dataclass
class Outcome:
    """What became of a contestant: the best time and the highest peak of its runs, or why there are none."""

    seconds: float | None = None
    peak: int | None = None
    failure: str = ""
    at_least: float = 0.0
    """Seconds that the work takes at the least: those measured, or those after which the process was stopped."""
    figures: dict[str, float] = field(default_factory=dict)
    """What else the best run measured."""

    def add(self, seconds: float, peak: int, figures: Mapping[str, float] | None = None) -> None:
        """Take one more run in."""
        if self.seconds is None or seconds < self.seconds:
            self.figures = dict(figures or {})
        self.seconds = self.at_least = min(seconds, self.seconds or seconds)
        self.peak = max(peak, self.peak or 0)

    @property
    def finished(self) -> bool:
        """Whether every run gave an answer."""
        return not self.failure and self.seconds is not None

    @property
    def measured(self) -> tuple[float, int]:
        """Seconds and bytes; `ContestantError` where it did not finish."""
        if self.seconds is None or self.peak is None or self.failure:
            raise ContestantError(self.failure)
        return self.seconds, self.peak


def race(contestants: Mapping[str, Contestant]) -> dict[str, Outcome]:
    """Run every contestant as often as it asks, in turns, so that a slow minute of the machine hits all alike.

    One that fails is not run again.
    """
    outcomes = {name: Outcome() for name in contestants}
    for turn in range(max(contestant.repeat for contestant in contestants.values())):
        for name, contestant in contestants.items():
            outcome = outcomes[name]
            if turn < contestant.repeat and not outcome.failure:
                _run(contestant, outcome)
                shown = outcome.failure or f"{outcome.seconds:.2f} s, {format_amount(outcome.peak, 'B')}"
                progress(f"{name}: {shown}")
    return outcomes


def finish(name: str, contestant: Contestant) -> tuple[float, int]:
    """Run one contestant that has to finish, and return its seconds and bytes."""
    outcome = race({name: contestant})[name]
    if outcome.failure:
        raise ContestantError(f"{name}: {outcome.failure}")
    return outcome.measured


def _run(contestant: Contestant, outcome: Outcome) -> None:
    with tempfile.TemporaryDirectory(prefix="featurestore-bench-run-") as folder:
        result, output = Path(folder) / "result.json", Path(folder) / "output"
        arguments = json.dumps(dict(contestant.arguments), default=str)
        command = [str(contestant.python), "-W", "ignore", "-m", "benchmarks.child", contestant.target, arguments]
        started = time.monotonic()
        with output.open("wb") as log:
            process = subprocess.Popen([*command, str(result)], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            try:
                reason = _watch(process, contestant.timeout)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if reason:
            outcome.failure, outcome.at_least = reason, time.monotonic() - started
        elif process.returncode or not result.exists():
            said = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            outcome.failure = f"failed: {said[-1] if said else f'exit code {process.returncode}'}"
        else:
            read = json.loads(result.read_text(encoding="ascii"))
            outcome.add(read["seconds"], read["peak"], read["figures"])


def _watch(process: subprocess.Popen[bytes], timeout: float) -> str:
    """Wait for a process and return why it has to be stopped, or nothing where it ended."""
    deadline = time.monotonic() + timeout
    most = MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    while time.monotonic() < deadline:
        try:
            process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            held = _held(process.pid)
            if held > most:
                return f"stopped at {format_amount(held, 'B')} of memory"
        else:
            return ""
    return f"stopped after {timeout:g} s"


def _held(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):  # no such file system, or the process has just ended
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
