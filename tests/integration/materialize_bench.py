"""A small project whose batch source is a Parquet file that tests rewrite, and jobs that can be cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.clock import ManualClock
from featurestore.config import Config
from featurestore.definitions import Aggregation, Entity, FeatureView, Field, FileSource, PushSource
from featurestore.materialize.context import JobContext
from featurestore.offline.log import RowLog
from featurestore.online.memory import MemoryStore
from featurestore.semantics.windows import DAY, HOUR
from featurestore.store import FeatureStore
from featurestore.types import Float64, Int64, String

NOW = 100 * DAY
SourceRow = tuple[int | None, int | None, float | None, str | None]
"""Driver, event time, amount, note."""


class CutOffError(RuntimeError):
    """What a scripted crash raises."""


def cut_off_at(step: str) -> Callable[[str], None]:
    def hook(done: str) -> None:
        if done == step:
            raise CutOffError(step)

    return hook


def definitions(*, stream: bool = False, **options: Any) -> list[FeatureView]:
    """Return a state view and a window view on one log."""
    source = FileSource("trips", path="trips.parquet", timestamp_field="ts", **options.pop("source", {}))
    shared: dict[str, Any] = {
        "entities": [Entity("driver", value_type=Int64)],
        "schema": [Field("amount", Float64), Field("note", String)],
        "source": PushSource("pushed", batch_source=source) if stream else source,
        **options,
    }
    hours = [Aggregation("amount", "sum", timedelta(hours=2)), Aggregation(None, "count", timedelta(days=40))]
    return [FeatureView("newest", **shared), FeatureView("recent", aggregations=hours, **shared)]


class Bench:
    """A project in a folder. `restart` stands for a new process; the online store outlives it."""

    def __init__(self, folder: Path, views: Sequence[FeatureView] | None = None) -> None:
        self.folder = folder
        self.clock = ManualClock(NOW)
        self.views = list(views) if views is not None else definitions()
        self.online = MemoryStore()
        self.restart()
        self.store.apply(self.views)

    def restart(self) -> None:
        config = Config(project="bench", online_type="memory", repo_path=self.folder)
        self.store = FeatureStore(config=config, clock=self.clock)
        self.store.__dict__["online_store"] = self.online
        if self.store.registry.revision():
            self.store._load(self.store.registry.revision(), self.views)

    def write(self, rows: Sequence[SourceRow], name: str = "trips.parquet", **more: Any) -> None:
        columns = {
            "driver": pa.array([row[0] for row in rows], pa.int64()),
            "ts": pa.array([row[1] for row in rows], pa.timestamp("us")),
            "amount": pa.array([row[2] for row in rows], pa.float64()),
            "note": pa.array([row[3] for row in rows], pa.string()),
        }
        pq.write_table(pa.table({**columns, **more}), self.folder / name, row_group_size=3)

    def context(self, hook: Callable[[str], None] | None = None) -> JobContext:
        context = self.store._jobs()
        return context if hook is None else replace(context, hook=hook)

    @property
    def log(self) -> RowLog:
        return RowLog(self.folder / "data" / "offline", self.views[0])

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the log's batch rows by key and rank: all of them but the number of the job."""
        table = pa.Table.from_batches(self.log.sorted_rows(writers=["batch"]), self.log.schema)
        found = []
        for row in table.to_pylist():
            rank = row["_sequence"] % 2**38
            found.append((row["driver"], row["event_timestamp"], row["arrival"], rank, row["amount"], row["note"]))
        return found

    def values(self, at: Sequence[int] = (NOW,)) -> list[Any]:
        """Return what readers are served, for all drivers, at some times."""
        answers = []
        for time in at:
            for driver in range(6):
                features = [f"{view.name}:{field.name}" for view in self.views for field in view.features]
                answer = self.store.get_online_features(features, [{"driver": driver}], now=time)
                answers.append((time, driver, answer.to_dict(), answer.statuses))
        return answers

    def states(self) -> list[str]:
        return [job.state for job in self.store.registry.jobs(self.log.fingerprint)]


FIRST: list[SourceRow] = [
    (1, 10 * DAY, 1.0, "a"),
    (1, 10 * DAY + HOUR, 2.0, None),
    (2, 10 * DAY + 5, 0.1, "b"),
    (2, 11 * DAY, 0.2, "b"),
    (3, 12 * DAY - 1, -0.0, ""),
    (4, 12 * DAY, 4.0, "d"),
]
SECOND: list[SourceRow] = [
    (1, 10 * DAY, 1.0, "a"),
    (1, 10 * DAY + HOUR, 2.5, "corrected"),
    (2, 10 * DAY + 5, 0.1, "b"),
    (3, 12 * DAY - 1, -0.0, ""),
    (4, 12 * DAY, 4.0, "d"),
    (5, 11 * DAY + 7, 5.0, "late"),
    (4, 13 * DAY, 6.0, "new"),
]
