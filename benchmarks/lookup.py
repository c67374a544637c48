"""Lookup of one entity of a state view of 20 features from LMDB, beside a bare read and decode of the same bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import lmdb
import msgspec

from benchmarks.options import Options
from benchmarks.report import Row, median_seconds
from featurestore import Entity, FeatureStore, FeatureView, Field, PushSource
from featurestore.clock import ManualClock
from featurestore.config import Config
from featurestore.types import Float64, Int64

KEYS = 10_000
FEATURES = 20
NOW = 1_700_000_000_000_000


def run(_: Options, repeat: int = 9, number: int = 2000) -> list[Row]:
    """Fill a store with rows and look keys up in turn."""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"f{place:02}" for place in range(FEATURES)]
        values = [[key + place / 7 for place in range(FEATURES)] for key in range(KEYS)]
        store = _store(Path(folder), names, values)
        references = tuple(f"wide:{name}" for name in names)
        keys = iter(range(10**9))

        def ours() -> list[float]:
            answer = store.get_online_features(references, [{"id": next(keys) % KEYS}]).to_dict()
            return [answer[name][0] for name in names]

        environment = lmdb.open(str(Path(folder) / "bare"), map_size=1 << 28)
        with environment.begin(write=True) as transaction:
            for key, row in enumerate(values):
                transaction.put(b"%d" % key, msgspec.msgpack.encode(row))

        def bare() -> list[float]:
            with environment.begin() as transaction:
                row: list[float] = msgspec.msgpack.decode(transaction.get(b"%d" % (next(keys) % KEYS), b""))
            return row

        agree = [ours() for _ in range(100)] == values[:100]
        measured = [median_seconds(work, repeat=repeat, number=number) for work in (ours, bare)]
        environment.close()
        store.close()
    return [Row("lookup, LMDB, 1 entity, 20 features", measured[0], None, measured[1], 50e-6, agree)]


def _store(folder: Path, names: list[str], values: list[list[float]]) -> FeatureStore:
    store = FeatureStore(config=Config(project="lookup", repo_path=folder), clock=ManualClock(NOW))
    entity = Entity("thing", join_keys=["id"], value_type=Int64)
    source = PushSource("rows", timestamp_field="ts")
    store.apply([FeatureView("wide", [entity], [Field(name, Float64) for name in names], source)])
    rows = {name: [row[place] for row in values] for place, name in enumerate(names)}
    stamps = ["2023-11-14T00:00:00Z"] * len(values)
    columns = {"id": list(range(len(values))), "ts": stamps, **rows}
    store.push("rows", [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    return store
