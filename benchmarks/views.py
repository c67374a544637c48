"""Ten views of one entity in one call, beside ten calls for one view each."""

from __future__ import annotations

from itertools import chain

import pyarrow.parquet as pq

from benchmarks.agree import differences, kept
from benchmarks.data import Shape, make
from benchmarks.options import Options
from benchmarks.race import Contestant, finish, race
from benchmarks.report import Row

CALLS = [[f"within{days}d:{name}" for name in ("rate", "trips", "score")] for days in range(1, 11)]
COLUMNS = [reference.replace(":", "__") for call in CALLS for reference in call]


def run(options: Options) -> list[Row]:
    """Measure both, in a process each, over the input of `pit`."""
    shape = Shape("pit", *(options.scaled(count) for count in (10_000_000, 1_000_000, 1_000_000)))
    inputs = make(options, shape)
    with options.workspace() as folder:
        load = {"project": folder / "ours", "features": inputs.features, "kind": "pit"}
        finish("load the log", Contestant("benchmarks.ours:load", load))
        shared = {"project": folder / "ours", "labels": inputs.labels, "full_feature_names": True}
        calls = {"one call": [list(chain(*CALLS))], "ten calls": CALLS}
        outcomes = race(
            {
                name: Contestant(
                    "benchmarks.ours:retrieve",
                    {**shared, "calls": lists, "answer": folder / f"{name}.parquet"},
                    repeat=options.repeat,
                )
                for name, lists in calls.items()
            }
        )
        one, ten = (outcomes[name].measured for name in calls)
        together, apart = (pq.read_table(folder / f"{name}.parquet") for name in calls)
    notes = tuple(kept(pq.read_table(inputs.labels), together) + differences(together, apart, COLUMNS))
    case = f"ten views in one call: {shape.describe()}"
    return [
        Row(f"{case}: time", one[0], None, ten[0], ten[0], not notes, notes=notes),
        Row(f"{case}: memory", one[1], None, ten[1], None, not notes, "B"),
    ]
