"""A repository with views of every kind over a Redis server, what it serves, and the ways to fill it again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.clock import ManualClock, from_micros
from featurestore.config import load_config
from featurestore.definitions import Aggregation, Entity, FeatureView, Field, FileSource, FileStreamSource, PushSource
from featurestore.online.redis import RedisStore
from featurestore.semantics.windows import DAY, HOUR, MINUTE
from featurestore.store import FeatureStore
from featurestore.types import Float64, Int64

NOW = 300 * DAY + 12 * HOUR
DRIVER = Entity("driver", value_type=Int64)
SCHEMA = [Field("x", Float64)]
BATCH = FileSource("b", path="b.parquet", timestamp_field="ts")
PUSHED = PushSource("pushed", timestamp_field="ts")
STREAM = FileStreamSource("events", path="events.jsonl", timestamp_field="ts")
VIEWS = [
    FeatureView("newest", [DRIVER], SCHEMA, PUSHED),
    FeatureView(
        "recent", [DRIVER], SCHEMA, PUSHED, aggregations=[Aggregation("x", "sum", timedelta(hours=2), name="total")]
    ),
    FeatureView("counted", [DRIVER], SCHEMA, STREAM, aggregations=[Aggregation(None, "count", None, name="n")]),
    FeatureView("loaded", [DRIVER], SCHEMA, BATCH),
    FeatureView(
        "both", [DRIVER], SCHEMA, PushSource("mixed", batch_source=BATCH), aggregations=[Aggregation("x", "sum", None)]
    ),
]
FEATURES = [f"{view.name}:{field.name}" for view in VIEWS for field in view.features]
EVERYTHING = {
    "newest__x": [0.1, 5.0],
    "recent__total": [0.1 + 0.2, 5.0],
    "counted__n": [3, 2],
    "loaded__x": [10.0, 20.0],
    "both__sum_x_all": [10.5, 20.0],
}
Open = Callable[[str], FeatureStore]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens the repository's store over a server, as a new process would."""
    stores: list[FeatureStore] = []
    rows = {"driver": [1, 2], "ts": pa.array([NOW - DAY, NOW - 2 * DAY], pa.timestamp("us")), "x": [10.0, 20.0]}
    pq.write_table(pa.table(rows), tmp_path / "b.parquet")
    (tmp_path / "events.jsonl").write_text("".join(map(event, range(5))))

    def make(online_store: str) -> FeatureStore:
        (tmp_path / "feature_store.yaml").write_text(f"project: p\nonline_store: {online_store}\n")
        stores.append(FeatureStore(config=load_config(tmp_path), clock=ManualClock(NOW)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def event(minute: int) -> str:
    row = {"driver": 1 + minute % 2, "ts": from_micros(NOW - HOUR + minute * MINUTE).isoformat(), "x": 1.0}
    return json.dumps(row) + "\n"


def pushed(driver: int, x: float, ago: int = 0) -> dict[str, Any]:
    return {"driver": driver, "ts": from_micros(NOW - MINUTE - ago), "x": x}


def load(store: FeatureStore) -> None:
    store.apply(VIEWS)
    store.push("pushed", [pushed(1, 0.1), pushed(1, 0.2, MINUTE), pushed(2, 5.0)])
    store.materialize(0, NOW)
    store.push("mixed", [pushed(1, 0.5)])
    store.stream()


def served(store: FeatureStore) -> dict[str, list[Any]]:
    answer = store.get_online_features(FEATURES, {"driver": [1, 2]}, full_feature_names=True).to_dict()
    return {name: column for name, column in answer.items() if name != "driver"}


def served_in_loop(store: FeatureStore) -> dict[str, list[Any]]:
    async def ask() -> dict[str, list[Any]]:
        try:
            response = await store.get_online_features_async(FEATURES, {"driver": [1, 2]}, full_feature_names=True)
        finally:
            await store._readers.pop(asyncio.get_running_loop()).close()
        return {name: column for name, column in response.to_dict().items() if name != "driver"}

    return asyncio.run(ask())


def refill(store: FeatureStore) -> None:
    """Write to every view, as daemons and jobs do."""
    for push in ("pushed", "mixed"):
        store.push(push, [pushed(3, 1.0)])
    store.materialize(0, NOW)
    store.stream()


def read_in_loop(store: RedisStore, *keys: bytes) -> list[bytes | None]:
    """Return the values of keys, read by an event loop of its own."""

    async def ask() -> list[bytes | None]:
        reader = store.reader()
        try:
            return await reader.get(keys)
        finally:
            await reader.close()

    return asyncio.run(ask())
