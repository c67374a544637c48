"""Rows of 20 features from Parquet into the log and Redis, beside bare pipelined SETs, and Feast into Redis."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.agree import differences
from benchmarks.data import SPAN, START, WIDE, Shape, make
from benchmarks.options import Options
from benchmarks.race import Contestant, Outcome, finish, race
from benchmarks.report import Row
from benchmarks.servers import redis_server

SAMPLE = 1_000
FEAST_RATIO = 20
PACKED = 8 * len(WIDE)
"""Bytes of a row's values, one after the other."""
BYTES_A_ROW = 1.5 * PACKED + 100


def run(options: Options) -> list[Row]:
    """Measure one row for each key, each contestant into a Redis of its own."""
    count = max(SAMPLE, options.scaled(200_000))
    inputs = make(options, Shape("wide", rows=count, labels=1, keys=count))
    ids = list(range(0, count, count // SAMPLE))
    found: dict[str, Outcome] = {}
    with options.workspace() as folder:
        shared = {"features": inputs.features}
        ours = {**shared, "project": folder / "ours", "kind": "wide"}
        feast = {**shared, "project": folder / "feast", "columns": WIDE, "start": START, "end": START + SPAN}
        contestants = {
            "handwritten": Contestant("benchmarks.handwritten:redis_sets", {**shared, "columns": WIDE}),
            "ours": Contestant("benchmarks.ours:load", ours),
        }
        if options.feast:
            contestants["Feast"] = Contestant(
                "benchmarks.feast_peer:load_redis", feast, python=options.feast_python, timeout=options.timeout
            )
        bytes_a_row = 0.0
        for name, contestant in contestants.items():
            with redis_server() as port:
                before = _held(port)
                contestant = Contestant(
                    contestant.target,
                    {**contestant.arguments, "redis": port},
                    python=contestant.python,
                    timeout=contestant.timeout,
                )
                found |= race({name: contestant})
                if name == "ours":
                    bytes_a_row = (_held(port) - before) / count
                    look_up = {"project": folder / "ours", "answer": folder / "ours.parquet", "ids": ids}
                    finish("look up", Contestant("benchmarks.ours:look_up", look_up))
        features = pq.read_table(inputs.features)
        expected = features.filter(pc.is_in(features["id"], pa.array(ids))).rename_columns({"id": "row"})
        notes = [f"ours: {said}" for said in differences(expected, pq.read_table(folder / "ours.parquet"), WIDE)]
    agree = not notes
    seconds, bare = found["ours"].measured[0], found["handwritten"].measured[0]
    peer = found.get("Feast", Outcome())
    notes += [f"Feast: {peer.failure}"] if peer.failure else []
    notes += [f"{name}: {count / o.seconds:,.0f} rows/s" for name, o in found.items() if o.seconds]
    case = f"materialize online, {count:,} rows of {len(WIDE)} features"
    bar = peer.at_least / FEAST_RATIO if peer.at_least else None
    return [
        Row(f"{case}: time", seconds, peer.seconds, bare, bar, agree, notes=tuple(notes)),
        Row(f"{case}: Redis' memory for each", bytes_a_row, None, PACKED, BYTES_A_ROW, agree, "B"),
    ]


def _held(port: int) -> int:
    from redis import Redis

    with Redis(port=port) as client:
        used: int = client.info("memory")["used_memory"]
    return used
