"""Two windows x (count, sum, max) for each label, beside a DuckDB range join; Feast has no such retrieval."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.agree import differences, kept
from benchmarks.data import HOT_KEYS, Inputs, Shape, make
from benchmarks.options import Options
from benchmarks.ours import WINDOWS
from benchmarks.race import Contestant, Outcome, finish, race
from benchmarks.report import Row

HOP = 3_600_000_000
"""The hop that windows of a day and of a week have by default, in microseconds."""
BOUNDS = {f"{window.days}d": (window.days * 86_400_000_000, HOP) for window in WINDOWS}
FEATURES = [f"{function}_{name}" for name in BOUNDS for function in ("count", "sum", "max")]
SUMS = [name for name in FEATURES if name.startswith("sum")]
SAMPLE = 1_000
"""Labels whose answers are compared where the hand-written join of all is stopped."""


@dataclass(frozen=True)
class Run:
    """One column of one shape: what was measured, and whether the answers agree."""

    case: str
    ours: tuple[float, int]
    written: Outcome
    wrong: list[str]
    notes: list[str]

    def rows(self, bar: float) -> list[Row]:
        """Return the rows of the report."""
        agree, notes = not self.wrong, (*self.wrong, *self.notes)
        return [
            Row(f"{self.case}: time", self.ours[0], None, self.written.seconds, bar, agree, notes=notes),
            Row(f"{self.case}: memory", self.ours[1], None, self.written.peak, None, agree, "B"),
        ]


def run(options: Options) -> list[Row]:
    """Measure sparse keys and hot ones; amounts whose sums are exact in any order, and amounts in cents.

    For sparse keys the bar is the range join. Its work on hot keys grows with the square of their rows and is no
    measure: there the bar is twice what it takes for sparse keys, or for hot ones where that is less.
    """
    rows, labels = options.scaled(10_000_000), options.scaled(1_000_000)
    sparse = Shape("windows", rows, labels, options.scaled(1_000_000))
    found = []
    for plain, hot in zip(_runs(options, sparse), _runs(options, replace(sparse, keys=HOT_KEYS)), strict=True):
        most = plain.written.at_least
        found += plain.rows(most) + hot.rows(2 * min(most, hot.written.at_least))
    return found


def _runs(options: Options, shape: Shape) -> list[Run]:
    inputs = make(options, shape)
    with options.workspace() as folder:
        load = {"project": folder / "ours", "features": inputs.features, "kind": "windows"}
        finish("load the log", Contestant("benchmarks.ours:load", load))
        return [_run(options, shape, inputs, folder, column) for column in ("exact", "cents")]


def _run(options: Options, shape: Shape, inputs: Inputs, folder: Path, column: str) -> Run:
    ours = {"project": folder / "ours", "labels": inputs.labels, "calls": [[f"{column}:{name}" for name in FEATURES]]}
    written: dict[str, Any] = {"features": inputs.features, "labels": inputs.labels}
    written |= {"column": column, "windows": BOUNDS, "answer": folder / "handwritten.parquet"}
    range_join = Contestant(
        "benchmarks.handwritten:range_join", written, repeat=options.repeat, timeout=options.timeout
    )
    outcomes = race(
        {
            "ours": Contestant(
                "benchmarks.ours:retrieve", {**ours, "answer": folder / "ours.parquet"}, repeat=options.repeat
            ),
            "handwritten": range_join,
        }
    )
    measured = outcomes["ours"].measured
    answer = pq.read_table(folder / "ours.parquet")
    notes, wrong = [], kept(pq.read_table(inputs.labels), answer)
    joined = outcomes["handwritten"]
    if joined.failure:
        notes.append(f"handwritten: {joined.failure}; only the answers to {SAMPLE:,} labels are compared")
        answer = answer.slice(0, SAMPLE)
        joined = race({"sample": replace(range_join, arguments={**written, "first": SAMPLE}, repeat=1)})["sample"]
    if joined.failure:
        wrong.append(f"handwritten, {SAMPLE:,} labels: {joined.failure}")
    else:
        right = pq.read_table(folder / "handwritten.parquet")
        wrong += differences(answer, right, FEATURES, rounded=SUMS if column == "cents" else [])
    return Run(f"{shape.describe()}, {column} sums", measured, outcomes["handwritten"], wrong, notes)
