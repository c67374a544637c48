"""What every benchmark gives: rows of one shape, as a table or as JSON, and whether all bars are met."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One measured case; times are in seconds.

    Attributes
    ----------
    ours, peer, limit
        Median of ours, of a peer's and of the least that the work could cost; None where not measured.
    bar
        What `ours` must be at most.
    agree
        Whether all answers were the same.
    """

    case: str
    ours: float
    peer: float | None
    limit: float | None
    bar: float
    agree: bool

    @property
    def met(self) -> bool:
        """Whether the bar is met with the right answers."""
        return self.agree and self.ours <= self.bar

    def to_dict(self) -> dict[str, object]:
        """Return the row with its ratio to the limit, or else to the peer."""
        other = self.limit or self.peer
        return {**self._asdict(), "ratio": self.ours / other if other else None, "met": self.met}


def median_seconds(work: Callable[[], object], *, repeat: int, number: int = 1) -> float:
    """Return the median over `repeat` measurements of the time of one of `number` calls."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        for _ in range(number):
            work()
        times.append((time.perf_counter() - started) / number)
    return statistics.median(times)


def report(rows: Sequence[Row], *, as_json: bool) -> int:
    """Print rows and return the exit code: 1 unless every answer agrees and every bar is met."""
    if as_json:
        print(json.dumps([row.to_dict() for row in rows], indent=2))
    else:
        print(f"{'case':<44} {'ours':>10} {'peer':>10} {'limit':>10} {'ratio':>7} {'bar':>10}  met")
        for row in rows:
            ratio = row.to_dict()["ratio"]
            shown = f"{ratio:.1f}" if isinstance(ratio, float) else "-"
            line = f"{row.case:<44} {_time(row.ours):>10} {_time(row.peer):>10} {_time(row.limit):>10}"
            print(f"{line} {shown:>7} {_time(row.bar):>10}  {'yes' if row.met else 'NO'}")
    return 0 if all(row.met for row in rows) else 1


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"
