"""Feast's side of the benchmarks; runs in the environment that has Feast, and imports nothing of ours but the watch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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


def _store(project: str, offline: str) -> FeatureStore:
    folder = Path(project)
    folder.mkdir(parents=True, exist_ok=True)
    config = RepoConfig(
        project="bench",
        registry=str(folder / "registry.db"),
        provider="local",
        offline_store={"type": offline},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


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
