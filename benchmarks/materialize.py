"""Rows of 20 features from Parquet into the log and LMDB, beside bare puts, and Feast into its SQLite."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.agree import differences
from benchmarks.data import SPAN, START, WIDE, Inputs, Shape, make
from benchmarks.options import Options
from benchmarks.race import Contestant, Outcome, finish, race
from benchmarks.report import Row

SAMPLE = 1_000


def run(options: Options) -> list[Row]:
    """Measure one row for each key, so that as many are put online as are read.

    Ours writes the offline log as well; Feast has none to write, and bare puts have nothing else to do.
    """
    count = max(SAMPLE, options.scaled(200_000))
    inputs = make(options, Shape("wide", rows=count, labels=1, keys=count))
    ids = list(range(0, count, count // SAMPLE))
    with options.workspace() as folder:
        outcomes = race(_contestants(options, inputs, folder, ids))
        look_up = {"project": folder / "ours", "answer": folder / "ours.parquet", "ids": ids}
        finish("look up", Contestant("benchmarks.ours:look_up", look_up))
        features = pq.read_table(inputs.features)
        expected = features.filter(pc.is_in(features["id"], pa.array(ids))).rename_columns({"id": "row"})
        notes = [f"ours: {said}" for said in differences(expected, pq.read_table(folder / "ours.parquet"), WIDE)]
        agree = not notes
        peer = outcomes.get("Feast", Outcome())
        if peer.failure:
            notes.append(f"Feast: {peer.failure}")
        elif peer.finished:
            found = pq.read_table(folder / "feast.parquet")
            notes += [f"Feast: {said}" for said in differences(expected, found, WIDE)]
    ours, bare = outcomes["ours"].measured, outcomes["bare puts"].measured
    notes += [f"{name}: {count / o.seconds:,.0f} rows/s" for name, o in outcomes.items() if o.seconds]
    case = f"materialize, {count:,} rows of {len(WIDE)} features"
    return [
        Row(f"{case}: time", ours[0], peer.seconds, bare[0], None, agree, notes=tuple(notes)),
        Row(f"{case}: memory", ours[1], peer.peak, bare[1], None, agree, "B"),
    ]


def _contestants(options: Options, inputs: Inputs, folder: Path, ids: list[int]) -> dict[str, Contestant]:
    shared = {"features": inputs.features}
    found = {
        "ours": Contestant("benchmarks.ours:load", {**shared, "project": folder / "ours", "kind": "wide"}),
        "bare puts": Contestant(
            "benchmarks.handwritten:lmdb_puts", {**shared, "columns": WIDE, "folder": folder / "bare"}
        ),
    }
    if options.feast:
        feast = {**shared, "project": folder / "feast", "answer": folder / "feast.parquet", "columns": WIDE}
        found["Feast"] = Contestant(
            "benchmarks.feast_peer:materialize",
            {**feast, "start": START, "end": START + SPAN, "ids": ids},
            python=options.feast_python,
            timeout=options.timeout,
        )
    return found
