"""Lookups by the SDK: from LMDB beside a bare read, and from Redis beside a bare MGET of the same keys and Feast.

From Redis: 20 features of a state view, and 3 windows x 5 aggregates, for one entity and for a hundred; and what a
lookup costs by number of entities, features, views and keys.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import ours as ours_side
from benchmarks.data import HOT_KEYS, SPAN, START, WIDE, Shape, make
from benchmarks.lookup_redis import chosen
from benchmarks.options import Options
from benchmarks.race import Contestant, finish, race
from benchmarks.report import Row, median_seconds
from benchmarks.servers import redis_server
from featurestore import Entity, FeatureStore, FeatureView, Field, PushSource
from featurestore.clock import ManualClock
from featurestore.config import Config
from featurestore.types import Float64, Int64

KEYS = 10_000
FEATURES = 20
DAY = 86_400_000_000
NOW = 1_700_000_000_000_000


def run(options: Options) -> list[Row]:
    """Measure lookups from LMDB, then from Redis."""
    return [*embedded(), *_redis(options)]


def embedded(repeat: int = 9, number: int = 2000) -> list[Row]:
    """Fill LMDB with rows and look keys up in turn."""
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


def _redis(options: Options) -> list[Row]:
    wide = [f"wide:{name}" for name in WIDE]
    recent = [f"recent:{each.name}" for each in ours_side.recent_aggregations()]
    rows = []
    with options.workspace() as folder:
        state = _Bench(options, folder, "wide", Shape("wide", rows=KEYS, labels=1, keys=KEYS))
        with state.filled() as bench:
            feast = _feast(options, bench)
            for entities, bar in ((1, 2.0), (100, 2.5)):
                case = f"lookup, Redis, {entities} entities, {FEATURES} features"
                rows.append(bench.row(case, wide, entities, bar, feast(entities)))
            rows += [bench.row(f"lookup, Redis, {n} entities, {FEATURES} features", wide, n) for n in (10, 1000)]
            rows += [bench.row(f"lookup, Redis, 1 entities, {n} features", wide[:n], 1) for n in (1, 5)]
        windows = _Bench(options, folder, "recent", Shape("recent", rows=600 * HOT_KEYS, labels=1, keys=HOT_KEYS))
        with windows.filled() as bench:
            rows += [bench.row(f"lookup, Redis, {n} entities, 3 windows x 5", recent, n, 4.0) for n in (1, 100)]
        with _Bench(options, folder, "many", Shape("wide", rows=KEYS, labels=1, keys=KEYS)).filled() as bench:
            names = [f"wide{place}:{name}" for place in range(ours_side.VIEWS) for name in WIDE[2 * place :][:2]]
            rows.append(bench.row(f"lookup, Redis, 1 entities, {ours_side.VIEWS} views x 2 features", names, 1))
        keys = options.scaled(10_000_000)
        with _Bench(options, folder, "wide", Shape("wide", rows=keys, labels=1, keys=keys)).filled() as bench:
            rows.append(bench.row(f"lookup, Redis, 1 entities, {FEATURES} features, {keys:,} keys", wide, 1))
    return rows


@dataclass
class _Bench:
    """One input in a Redis of its own."""

    options: Options
    folder: Path
    kind: str
    shape: Shape
    port: int = 0

    @contextmanager
    def filled(self) -> Iterator[_Bench]:
        """Run a Redis and fill it."""
        self.inputs = make(self.options, self.shape)
        self.project = Path(tempfile.mkdtemp(prefix=self.kind, dir=self.folder)) / "ours"
        with redis_server() as self.port:
            load = {"project": self.project, "features": self.inputs.features, "kind": self.kind, "redis": self.port}
            finish(f"fill {self.kind}", Contestant("benchmarks.ours:load", load))
            yield self

    def row(
        self, case: str, features: Sequence[str], entities: int, bar: float | None = None, peer: float | None = None
    ) -> Row:
        """Measure one kind of request; `bar` is a multiple of the bare MGET."""
        requests = chosen(self.shape.keys, entities, max(20, 1000 // entities))
        answer = self.folder / "answer.json"
        arguments = {"project": self.project, "redis": self.port, "features": features, "requests": requests}
        arguments |= {"now": START + SPAN, "answer": answer}
        outcome = race({case: Contestant("benchmarks.lookup_redis:measure", arguments, repeat=1)})[case]
        seconds, _ = outcome.measured
        figures = outcome.figures
        wrong = self._wrong(requests, json.loads(answer.read_text(encoding="utf-8")))
        tail = f"p99 {figures['p99'] * 1e6:.0f} us, p99.9 {figures['p999'] * 1e6:.0f} us"
        notes = [f"{tail}, {figures['bytes']:,.0f} bytes, {figures['steps']:.3f} reads a request", *wrong]
        most = None if bar is None else bar * figures["bare"]
        return Row(case, seconds, peer, figures["bare"], most, not wrong, notes=tuple(notes))

    def _wrong(self, requests: Sequence[Sequence[int]], answers: Sequence[dict[str, list[Any]]]) -> list[str]:
        table = pq.read_table(self.inputs.features)
        if self.kind == "recent":
            week = table.filter(pc.greater_equal(table["ts"].cast("int64"), START + SPAN - 7 * DAY))
            counted = week.group_by("id").aggregate([("amount", "count"), ("amount", "max")])
            counts, most = (
                dict(zip(*map(pa.ChunkedArray.to_pylist, (counted["id"], counted[name])), strict=True))
                for name in ("amount_count", "amount_max")
            )
            expected = {"count_168h": counts, "max_168h": most}
        else:
            expected = {"f00": dict(zip(table["id"].to_pylist(), table["f00"].to_pylist(), strict=True))}
        for ids, answer in zip(requests, answers, strict=False):
            for name, values in expected.items():
                right = [values.get(key, 0 if name.startswith("count") else None) for key in ids]
                if answer.get(name, right) != right:
                    return [f"{name} of {ids[:3]}: {answer[name][:3]} instead of {right[:3]}"]
        return []


def _feast(options: Options, bench: _Bench) -> Callable[[int], float | None]:
    """Fill Redis by Feast, and return what measures its lookups."""
    project = bench.project.with_name("feast")
    load = {"project": project, "features": bench.inputs.features, "columns": WIDE, "redis": bench.port}
    load |= {"start": START, "end": START + SPAN}
    filled = (
        bool(options.feast)
        and race({"fill Feast": Contestant("benchmarks.feast_peer:load_redis", load, python=options.feast_python)})[
            "fill Feast"
        ].finished
    )

    def measure(entities: int) -> float | None:
        if not filled:
            return None
        arguments = {"project": project, "requests": chosen(KEYS, entities, 200), "columns": WIDE}
        arguments |= {"answer": project / "answer.json"}
        contestant = Contestant("benchmarks.feast_peer:look_up", arguments, python=options.feast_python)
        return race({f"Feast, {entities} entities": contestant})[f"Feast, {entities} entities"].seconds

    return measure


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
