"""Point-in-time join of labels with the newest row of their key, beside a DuckDB ASOF join and Feast's stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.agree import differences, kept, reordered
from benchmarks.data import HOT_KEYS, Inputs, Shape, make
from benchmarks.options import Options
from benchmarks.ours import TTL
from benchmarks.race import Contestant, Outcome, finish, race
from benchmarks.report import Row

COLUMNS = ("rate", "trips", "score")
MEMORY = 2 * 10**9
LARGE_MEMORY = 4 * 10**9


def run(options: Options) -> list[Row]:
    """Measure sparse keys and hot ones; Feast on the sparse ones.

    Feast's Dask store pairs every label with every row of its key, which for hot keys is more than memory holds.
    """
    alone = replace(options, feast=())
    rows, labels = options.scaled(10_000_000), options.scaled(1_000_000)
    sparse = Shape("pit", rows, labels, options.scaled(1_000_000))
    found = _case(options, sparse, MEMORY)
    found += _case(alone, replace(sparse, keys=HOT_KEYS), MEMORY)
    if options.large:
        large = _case(replace(alone, repeat=1), replace(sparse, rows=options.scaled(100_000_000)), LARGE_MEMORY)
        found += [row._replace(bar=None) if row.unit == "s" else row for row in large]
    return found


def _case(options: Options, shape: Shape, memory: int) -> list[Row]:
    inputs = make(options, shape)
    with options.workspace() as folder:
        load = {"project": folder / "ours", "features": inputs.features, "kind": "pit"}
        finish("load the log", Contestant("benchmarks.ours:load", load))
        outcomes = race(_contestants(options, inputs, folder))
        ours = outcomes.pop("ours").measured
        answer = pq.read_table(folder / "ours.parquet")
        notes = [f"ours: {said}" for said in kept(pq.read_table(inputs.labels), answer)]
        written = outcomes.pop("handwritten")
        notes += _judge("handwritten", written, answer, folder)
        rows = _rows(shape.describe(), memory, ours, written, outcomes, agree=not notes)
        notes += [note for name, outcome in outcomes.items() for note in _judge(name, outcome, answer, folder)]
    return [rows[0]._replace(notes=tuple(notes)), *rows[1:]]


def _contestants(options: Options, inputs: Inputs, folder: Path) -> dict[str, Contestant]:
    files = {"features": inputs.features, "labels": inputs.labels}
    ours = {"project": folder / "ours", "labels": inputs.labels, "calls": [[f"newest:{name}" for name in COLUMNS]]}
    written = {**files, "columns": COLUMNS, "ttl": TTL.days * 86_400_000_000}
    found = {
        "ours": Contestant(
            "benchmarks.ours:retrieve", {**ours, "answer": folder / "ours.parquet"}, repeat=options.repeat
        ),
        "handwritten": Contestant(
            "benchmarks.handwritten:asof",
            {**written, "answer": folder / "handwritten.parquet"},
            repeat=options.repeat,
            timeout=options.timeout,
        ),
    }
    for store in options.feast:
        name = f"Feast {store}"
        feast = {**files, "project": folder / name, "answer": folder / f"{name}.parquet"}
        found[name] = Contestant(
            "benchmarks.feast_peer:asof",
            {**feast, "store": store, "ttl_days": TTL.days},
            python=options.feast_python,
            timeout=options.timeout,
        )
    return found


def _judge(name: str, outcome: Outcome, answer: pa.Table, folder: Path) -> list[str]:
    """Return why a contestant gave no answer, or where its answer differs from ours."""
    if outcome.failure:
        return [f"{name}: {outcome.failure}"]
    found = pq.read_table(folder / f"{name}.parquet")
    wrong = [] if name == "handwritten" else reordered(found)
    return [f"{name}: {said}" for said in wrong + differences(answer, found, COLUMNS)]


def _rows(
    case: str, memory: int, ours: tuple[float, int], written: Outcome, feast: Mapping[str, Outcome], *, agree: bool
) -> list[Row]:
    """Return time and memory beside the hand-written join and Feast's first store, then beside its other stores."""
    first, *others = feast.items() or [("", Outcome())]
    peer = first[1]
    found = [
        Row(f"{case}: time", ours[0], peer.seconds, written.seconds, written.at_least, agree),
        Row(f"{case}: memory", ours[1], peer.peak, written.peak, memory, agree, "B"),
    ]
    for name, other in others:
        found.append(Row(f"{case}: time, {name}", ours[0], other.seconds, None, None, agree))
        found.append(Row(f"{case}: memory, {name}", ours[1], other.peak, None, None, agree, "B"))
    return found
