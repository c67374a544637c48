"""Feast's side of the benchmarks; runs in the environment that has Feast, and imports nothing of ours but the watch."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, Int64

from benchmarks.child import Stopwatch


def asof(*, project: str, features: str, labels: str, answer: str, store: str, ttl_days: int) -> Stopwatch:
    """Retrieve the features of `pit` for all labels with one of Feast's offline stores."""
    types = {"rate": Float64, "trips": Int64, "score": Float64}
    feast = _store(project, store)
    _apply(feast, "newest", types, features, ttl_days)
    frame = pq.read_table(labels).to_pandas()
    with Stopwatch() as watch:
        found = feast.get_historical_features(frame, [f"newest:{name}" for name in types]).to_arrow()
    pq.write_table(found, answer)
    return watch


def materialize(
    *, project: str, features: str, answer: str, columns: Sequence[str], start: int, end: int, ids: Sequence[int]
) -> Stopwatch:
    """Materialize rows into SQLite with the DuckDB offline store, then look some keys up."""
    feast = _store(project, "duckdb")
    _apply(feast, "wide", dict.fromkeys(columns, Float64), features, 0)
    with Stopwatch() as watch:
        feast.materialize(_time(start), _time(end))
    references = [f"wide:{name}" for name in columns]
    found = feast.get_online_features(references, [{"id": key} for key in ids]).to_dict()
    pq.write_table(pa.table({"row": ids, **{name: found[name] for name in columns}}), answer)
    return watch


def load_redis(*, project: str, features: str, columns: Sequence[str], start: int, end: int, redis: int) -> Stopwatch:
    """Materialize rows into Redis with the DuckDB offline store, and leave a repository that `feast serve` runs."""
    feast = _store(project, "duckdb", redis)
    _apply(feast, "wide", dict.fromkeys(columns, Float64), features, 0)
    text = yaml.safe_dump(_settings(project, "duckdb", redis))
    (Path(project) / "feature_store.yaml").write_text(text, encoding="utf-8")
    with Stopwatch() as watch:
        feast.materialize(_time(start), _time(end))
    return watch


def look_up(*, project: str, requests: Sequence[Sequence[int]], columns: Sequence[str], answer: str) -> Stopwatch:
    """Look keys up with the SDK, a request after the other; `seconds` is the median."""
    feast = FeatureStore(project)
    references = [f"wide:{name}" for name in columns]
    rows = [[{"id": key} for key in ids] for ids in requests]
    found = [feast.get_online_features(references, some).to_dict() for some in rows[:20]]
    times = []
    with Stopwatch() as watch:
        for some in rows:
            started = time.perf_counter()
            feast.get_online_features(references, some).to_dict()
            times.append(time.perf_counter() - started)
    watch.seconds = statistics.median(times)
    Path(answer).write_text(json.dumps([each[columns[0]] for each in found]), encoding="ascii")
    return watch


def _settings(project: str, offline: str, redis: int | None) -> dict[str, Any]:
    folder = Path(project)
    sqlite = {"type": "sqlite", "path": str(folder / "online.db")}
    return {
        "project": "bench",
        "registry": str(folder / "registry.db"),
        "provider": "local",
        "offline_store": {"type": offline},
        "online_store": sqlite if redis is None else {"type": "redis", "connection_string": f"127.0.0.1:{redis}"},
        "entity_key_serialization_version": 3,
    }


def _store(project: str, offline: str, redis: int | None = None) -> FeatureStore:
    Path(project).mkdir(parents=True, exist_ok=True)
    return FeatureStore(config=RepoConfig(**_settings(project, offline, redis)))


def _apply(feast: FeatureStore, name: str, types: dict[str, object], features: str, ttl_days: int) -> None:
    thing = Entity(name="thing", join_keys=["id"], value_type=ValueType.INT64)
    view = FeatureView(
        name=name,
        entities=[thing],
        ttl=timedelta(days=ttl_days),  # zero: any age
        schema=[Field(name=column, dtype=dtype) for column, dtype in types.items()],
        source=FileSource(path=features, timestamp_field="ts"),
    )
    feast.apply([thing, view])


def _time(micros: int) -> datetime:
    return datetime.fromtimestamp(micros // 1_000_000, UTC)
