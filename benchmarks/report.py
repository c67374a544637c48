"""What every benchmark gives: rows of one shape, as a table or as JSON, and whether all bars are met."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple


class Row(NamedTuple):
    """One measured case.

    Attributes
    ----------
    ours, peer, limit
        What ours took, what a peer took, and the least that the work could cost, or what an expert would write by
        hand for it; None where not measured. Medians of quick work, the best of few runs of long work.
    bar
        What `ours` must be at most; None where nothing is promised.
    agree
        Whether our answers are right: the same as those of the limit, or as the input says.
    unit
        ``"s"`` for seconds, ``"B"`` for bytes of peak memory.
    notes
        What else a reader should know, such as where a peer's answers are wrong.
    """

    case: str
    ours: float
    peer: float | None
    limit: float | None
    bar: float | None
    agree: bool
    unit: Literal["s", "B"] = "s"
    notes: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """Whether the bar is met with the right answers."""
        return self.agree and (self.bar is None or self.ours <= self.bar)

    def to_dict(self) -> dict[str, object]:
        """Return the row with its ratio to the limit, or else to the peer, and its ratio to the peer."""
        other = self.limit or self.peer
        ratios = {
            "ratio": self.ours / other if other else None,
            "peer_ratio": self.ours / self.peer if self.peer else None,
        }
        return {**self._asdict(), **ratios, "met": self.met}


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
        _print_table(rows)
    return 0 if all(row.met for row in rows) else 1


def _print_table(rows: Sequence[Row]) -> None:
    width = max([44, *(len(row.case) for row in rows)])
    titles = f"{'ours':>10} {'peer':>10} {'limit':>10} {'of peer':>8} {'of limit':>8} {'bar':>10}"
    print(f"{'case':<{width}} {titles}  agree  met")
    for row in rows:
        amounts = [format_amount(amount, row.unit) for amount in (row.ours, row.peer, row.limit, row.bar)]
        ratios = [f"{row.ours / other:.3g}" if other else "-" for other in (row.peer, row.limit)]
        measured = " ".join(f"{shown:>10}" for shown in amounts[:3])
        compared = " ".join(f"{shown:>8}" for shown in ratios)
        met = "NO" if not row.met else "-" if row.bar is None else "yes"
        print(f"{row.case:<{width}} {measured} {compared} {amounts[3]:>10}  {'yes' if row.agree else 'NO':<5}  {met}")
        for note in row.notes:
            print(f"    {note}")


def format_amount(amount: float | None, unit: str) -> str:
    """Return seconds or bytes in a unit that keeps them short, or ``-`` for None."""
    if amount is None:
        return "-"
    steps = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")] if unit == "B" else [(1, "s"), (1e-3, "ms"), (1e-6, "us")]
    size, name = next((step for step in steps if amount >= step[0]), steps[-1])
    return f"{amount / size:.1f} {name}"
