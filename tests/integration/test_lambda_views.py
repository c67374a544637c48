"""Batch and stream of the same events: after every job, stream and correction, each path answers as the reference."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.clock import ManualClock, from_micros
from featurestore.config import Config
from featurestore.definitions import (
    Aggregation,
    Entity,
    FeatureView,
    Field,
    FileSource,
    FileStreamSource,
    PushSource,
)
from featurestore.offline.retrieval import arrow_values, evaluate_view
from featurestore.online.memory import MemoryStore
from featurestore.semantics import reference
from featurestore.semantics.rows import Result, Row, Status
from featurestore.semantics.values import same_result
from featurestore.semantics.windows import DAY, HOUR, MINUTE
from featurestore.store import FeatureStore
from featurestore.types import Float64, Int64, String, python_values

SKEW = 10 * MINUTE
START = 100 * DAY
KEYS = [(1, "23"), (12, "3"), (1, "")]
SCENARIOS = 8
STEPS = 5
ALL = None
Event = dict[str, Any]


def window(column: str | None, function: str, length: int | None, hop: int | None = None, lag: int = 0) -> Aggregation:
    span, slide = (None if micros is None else timedelta(microseconds=micros) for micros in (length, hop))
    n = 3 if function == "last_n" else None
    return Aggregation(column, function, span, slide_interval=slide, offset=timedelta(microseconds=lag), n=n)


def definitions(source: PushSource | FileStreamSource) -> list[FeatureView]:
    """Return state and window views that read one log, whose cuts move in steps of an hour, a day and two days."""
    pair = Entity("pair", join_keys=[Field("id", Int64), Field("code", String)])
    aggregations = {
        "hours": [window("x", "sum", 3 * HOUR), window("x", "last_n", HOUR), window(None, "count", 12 * HOUR)],
        "days": [
            window("x", "stddev", DAY, HOUR),
            window("note", "count_distinct", 2 * DAY, 2 * DAY),
            window("x", "mean", DAY, DAY, lag=DAY),
        ],
        "ever": [
            window("x", "sum", ALL),
            window("x", "last", ALL),
            window("note", "first", ALL),
            window(None, "count", 6 * HOUR, HOUR),
        ],
        "ever_since": [
            window(None, "count", ALL, HOUR),
            window("x", "max", ALL, 5 * MINUTE, lag=30 * MINUTE),
            window("x", "variance", DAY, HOUR, lag=HOUR),
        ],
    }
    schema = [Field("x", Float64), Field("note", String)]
    return [
        FeatureView("newest", [pair], schema, source),
        FeatureView("fresh", [pair], schema, source, ttl=timedelta(hours=5)),
        *(FeatureView(name, [pair], schema, source, aggregations=found) for name, found in aggregations.items()),
    ]


class Scenario:
    """A random life of one project: events happen, some stream in, a file holds what the warehouse thinks of them."""

    store: FeatureStore

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.pushes = self.random.random() < 0.4
        delay = timedelta(minutes=self.random.choice([0, 0, 7]))
        created = self.random.choice(["", "created"])
        batch = FileSource(
            "b", path="b.parquet", timestamp_field="ts", created_timestamp_column=created, availability_delay=delay
        )
        source = (
            PushSource("s", batch_source=batch)
            if self.pushes
            else FileStreamSource("s", path="s.jsonl", batch_source=batch, arrival_field="at")
        )
        self.views = definitions(source)
        self.clock = ManualClock(START)
        self.online = MemoryStore()
        self.warehouse: list[Event] = []
        self.told: list[str] = []
        (folder / "s.jsonl").touch()
        self.open()
        self.store.apply(self.views)

    def open(self) -> None:
        """Start a process: the first one, or one that finds what others left."""
        if hasattr(self, "store"):
            self.store.close()
        config = Config(project="p", online_type="memory", repo_path=self.folder, max_clock_skew=SKEW)
        self.store = FeatureStore(config=config, clock=self.clock)
        self.store.__dict__["online_store"] = self.online
        if self.store.registry.revision():
            self.store._load(self.store.registry.revision(), self.views)

    # What happens

    def event(self) -> Event:
        """Return an event of now, of long ago or soon, often on an edge of a tile, a day or a cut."""
        now = self.clock.now()
        ts = now - self.random.choice([0, 0, MINUTE, HOUR, 5 * HOUR, DAY, 3 * DAY, -MINUTE, -HOUR]) - self.edge()
        ts = ts if self.random.random() < 0.6 else ts // HOUR * HOUR if self.random.random() < 0.6 else ts // DAY * DAY
        key = self.random.choice(KEYS)
        x = self.random.choice([None, float("nan"), -0.0, 0.1, 0.2, 1e9 + 1, -3.5, 1e-11])
        note = self.random.choice([None, "", "a", "b", "c"])
        return {"id": key[0], "code": key[1], "ts": ts, "created": max(ts, now), "x": x, "note": note}

    def edge(self) -> int:
        return self.random.choice([0, 1, -1, self.random.randrange(5 * MINUTE)])

    def step(self) -> None:
        """Let time pass, then do one thing."""
        self.clock.set(self.clock.now() + self.random.choice([1, MINUTE, HOUR, 7 * HOUR, DAY, 2 * DAY]))
        happened = [self.event() for _ in range(self.random.randrange(6))]
        self.warehouse += [event for event in happened if self.random.random() < 0.8]
        streamed = [event for event in happened if self.random.random() < 0.8]
        acts: dict[str, Callable[[], object]] = {
            "stream": partial(self.stream, streamed),
            "job": self.job,
            "increment": self.increment,
            "lose": self.lose,
            "open": self.open,
        }
        act = self.random.choice(["stream", "stream", "job", *acts])
        self.told.append(f"{act} at {self.clock.now()}")
        acts[act]()

    def stream(self, events: list[Event]) -> None:
        now = self.clock.now()
        if self.pushes:
            rows = [{**event, "ts": from_micros(event["ts"])} for event in events]
            if rows:
                self.store.push("s", rows)
            return
        with (self.folder / "s.jsonl").open("a") as file:
            for event in events:
                at = now + self.random.choice([0, 0, -MINUTE, MINUTE, -HOUR])
                row = {**event, "ts": from_micros(event["ts"]).isoformat(), "at": from_micros(at).isoformat()}
                row["x"] = None if event["x"] != event["x"] else event["x"]
                file.write(json.dumps(row) + "\n")
        self.store.stream(until=now)

    def write(self) -> None:
        """Write the batch file: late rows are there by now, some rows were corrected, some are gone."""
        for event in self.warehouse:
            if self.random.random() < 0.1:
                event |= {"x": self.random.choice([None, 7.0, 0.3]), "created": self.clock.now()}
        self.warehouse = [event for event in self.warehouse if self.random.random() > 0.05]
        rows = self.random.sample(self.warehouse, len(self.warehouse))
        stamp = pa.timestamp("us", "UTC")
        types = {"id": pa.int64(), "code": pa.string(), "ts": stamp, "created": stamp}
        types |= {"x": pa.float64(), "note": pa.string()}
        columns = {name: pa.array([row[name] for row in rows], dtype) for name, dtype in types.items()}
        pq.write_table(pa.table(columns), self.folder / "b.parquet")

    def job(self) -> None:
        self.write()
        now = self.clock.now()
        start = self.random.choice([0, now // DAY * DAY - DAY, now - 3 * DAY, now // HOUR * HOUR - 2 * HOUR])
        end = self.random.choice([now, now // DAY * DAY, now // HOUR * HOUR, now + 1, now // DAY * DAY + DAY])
        self.store.materialize(start, max(end, start + 1))

    def increment(self) -> None:
        self.write()
        self.store.materialize_incremental(self.clock.now())

    def lose(self) -> None:
        """Lose the online store; the next write of any kind brings everything back."""
        self.online = MemoryStore()
        self.open()
        self.job()

    # What must be so

    def check(self) -> None:
        checks = Checks(self)
        checks.offline()
        checks.served()


class Checks:
    """One comparison of every path with the reference over the rows that the log holds."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.store, self.random = scenario, scenario.store, scenario.random
        self.rows = logged(self.store, scenario.views[0])
        self.cuts = {view.name: self.store.cuts(view) for view in scenario.views}
        now = scenario.clock.now()
        edges = [row.event_timestamp for row in self.rows] + [row.arrival for row in self.rows]
        near = [self.random.choice([*edges, now]) + self.random.choice([-1, 0, 1, HOUR, DAY]) for _ in range(4)]
        self.queries = [(key, t) for key in KEYS for t in (now, *near)]

    def offline(self) -> None:
        for view in self.random.sample(self.scenario.views, 3):
            self.offline_view(view, self.random.choice(["event", "arrival"]))

    def offline_view(self, view: FeatureView, known_at: Literal["event", "arrival"]) -> None:
        cuts, names = self.cuts[view.name], [field.name for field in view.features]
        keys = [
            arrow_values([key[place] for key, _ in self.queries], field.dtype)
            for place, field in enumerate(view.join_keys)
        ]
        times = np.array([t for _, t in self.queries], dtype=np.int64)
        answer = evaluate_view(view, names, self.store.log(view), cuts, keys, times=times, known_at=known_at)
        columns = {name: python_values(answer[name].values) for name in names}
        for place, (key, t) in enumerate(self.queries):
            expected = reference.evaluate(view, key, t, self.rows, known_at=known_at, cuts=cuts)
            for name in names:
                got = Result(columns[name][place], Status(int(answer[name].statuses[place])))
                self.compare(f"offline ({known_at}) {view.name}", key, t, name, expected=expected[name], got=got)

    def served(self) -> None:
        now = self.scenario.clock.now()
        earliest = max((row.arrival for row in self.rows), default=now) - SKEW
        names = [f"{view.name}:{field.name}" for view in self.scenario.views for field in view.features]
        clocks = {max(now, earliest), max(earliest, now - SKEW), earliest, max(now, earliest) + HOUR}
        for clock in sorted(clocks):
            rows = [{"id": key[0], "code": key[1]} for key in KEYS]
            answer = self.store.get_online_features(names, rows, full_feature_names=True, now=clock)
            for place, key in enumerate(KEYS):
                t = answer.evaluated_at[place]
                for view in self.scenario.views:
                    expected = reference.evaluate(view, key, t, self.rows, cuts=self.cuts[view.name])
                    for name, result in expected.items():
                        got = answer.results[f"{view.name}__{name}"][place]
                        self.compare(f"online {view.name}", key, t, name, expected=result, got=got)

    def compare(self, path: str, key: tuple[Any, ...], t: int, name: str, *, expected: Result, got: Result) -> None:
        if not same_result(expected, got):
            rows = "\n".join(repr(row) for row in self.rows if row.key == key)
            what = f"{path}: {name} of {key} at {t} is {got}, not {expected}"
            pytest.fail(f"{what}\n{self.scenario.told}\n{self.cuts}\n{rows}")


def logged(store: FeatureStore, view: FeatureView) -> list[Row]:
    """Return the rows of a view's log."""
    log = store.log(view)
    if not log.exists():
        return []
    table = pa.Table.from_batches(log.sorted_rows(), log.schema)
    times = {name: table.column(name).cast(pa.int64()).to_pylist() for name in ("event_timestamp", "arrival")}
    return [
        Row((row["id"], row["code"]), ts, arrival, row["_writer"], row["_sequence"], {n: row[n] for n in ("x", "note")})
        for row, ts, arrival in zip(table.to_pylist(), times["event_timestamp"], times["arrival"], strict=True)
    ]


@pytest.mark.parametrize("seed", range(13))
def test_every_path_answers_as_the_reference_after_every_step(seed: int, tmp_path: Path) -> None:
    for number in range(SCENARIOS):
        folder = tmp_path / str(number)
        folder.mkdir()
        scenario = Scenario(folder, seed * 1000 + number)
        scenario.job()
        for _ in range(STEPS):
            scenario.step()
            scenario.check()
        scenario.store.close()
