"""Our side of the benchmarks, through the public interface only."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import featurestore.offline
from benchmarks.child import Stopwatch
from benchmarks.data import SPAN, START, WIDE
from featurestore import Aggregation, Entity, FeatureStore, FeatureView, Field, FileSource
from featurestore.config import CONFIG_FILE
from featurestore.types import Float64, Int64

TTL = timedelta(days=10)
WINDOWS = (timedelta(days=1), timedelta(days=7))
VIEWS = 10
RECENT = (timedelta(hours=1), *WINDOWS)


def load(project: str, features: str, kind: str, redis: int | None = None) -> Stopwatch:
    """Make a project and bring its rows into the offline log, and the online store where its views are there.

    Parameters
    ----------
    redis
        Port of the Redis that is the online store; by default LMDB is.
    """
    Path(project).mkdir(parents=True)
    online = "" if redis is None else f"online_store: redis://127.0.0.1:{redis}\n"
    (Path(project) / CONFIG_FILE).write_text(f"project: bench\n{online}", encoding="utf-8")
    with closing(_store(project)) as store:
        store.apply(_views(kind, features))
        with Stopwatch() as watch:
            store.materialize(START, START + SPAN)
    return watch


def retrieve(
    project: str, labels: str, answer: str, calls: Sequence[Sequence[str]], full_feature_names: bool = False
) -> Stopwatch:
    """Retrieve features for all labels, in one call or several, and write all columns as one answer."""
    for module in pkgutil.walk_packages(featurestore.offline.__path__, "featurestore.offline."):
        importlib.import_module(module.name)
    table = pq.read_table(labels)
    with closing(_store(project)) as store:
        store.project  # noqa: B018  (the definitions are loaded once, when a process starts)
        with Stopwatch() as watch:
            found = [store.get_historical_features(table, call, full_feature_names).to_arrow() for call in calls]
    joined = found[0]
    for more in found[1:]:
        for name in more.column_names[table.num_columns :]:
            joined = joined.append_column(more.schema.field(name), more[name])
    pq.write_table(joined, answer)
    return watch


def look_up(project: str, answer: str, ids: Sequence[int]) -> Stopwatch:
    """Look keys up online and write what comes back."""
    with closing(_store(project)) as store, Stopwatch() as watch:
        entity_rows = [{"id": key} for key in ids]
        found = store.get_online_features([f"wide:{name}" for name in WIDE], entity_rows).to_dict()
    pq.write_table(pa.table({"row": ids, **{name: found[name] for name in WIDE}}), answer)
    return watch


def _store(project: str) -> FeatureStore:
    return FeatureStore(project)


def _views(kind: str, features: str) -> list[FeatureView]:
    source = FileSource("rows", path=features, timestamp_field="ts")
    thing = [Entity("thing", join_keys=["id"], value_type=Int64)]
    if kind == "wide":
        return [FeatureView("wide", thing, [Field(name, Float64) for name in WIDE], source)]
    if kind == "many":  # one log, read by ten views
        schema = [Field(name, Float64) for name in WIDE]
        return [FeatureView(f"wide{place}", thing, schema, source) for place in range(VIEWS)]
    if kind == "recent":
        schema = [Field("amount", Float64)]
        return [FeatureView("recent", thing, schema, source, aggregations=recent_aggregations())]
    if kind == "windows":
        schema = [Field("exact", Float64), Field("cents", Float64)]
        return [
            FeatureView(column, thing, schema, source, aggregations=_aggregations(column), online=False)
            for column in ("exact", "cents")
        ]
    schema = [Field("rate", Float64), Field("trips", Int64), Field("score", Float64)]
    newest = FeatureView("newest", thing, schema, source, ttl=TTL, online=False)
    aged = [
        FeatureView(f"within{days}d", thing, schema, source, ttl=timedelta(days=days), online=False)
        for days in range(1, 11)
    ]
    return [newest, *aged]


def recent_aggregations() -> list[Aggregation]:
    """Return 3 windows x 5 aggregates."""
    return [
        Aggregation("amount", function, window, name=f"{function}_{window // timedelta(hours=1)}h")
        for window in RECENT
        for function in ("count", "sum", "mean", "min", "max")
    ]


def _aggregations(column: str) -> list[Aggregation]:
    return [
        Aggregation(column, function, window, name=f"{function}_{window.days}d")
        for window in WINDOWS
        for function in ("count", "sum", "max")
    ]
