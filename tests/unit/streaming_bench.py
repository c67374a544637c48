"""A small project with real stores in a folder, a stream that remembers its position, and what to compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from featurestore.clock import to_micros
from featurestore.definitions import (
    Aggregation,
    Entity,
    FeatureView,
    Field,
    FileStreamSource,
    Project,
    PushSource,
    StreamSource,
)
from featurestore.definitions.resolve import resolve
from featurestore.offline.deadletters import DeadLetters
from featurestore.offline.log import RowLog
from featurestore.online.contract import OnlineStore
from featurestore.online.lookup import Lookup
from featurestore.online.memory import MemoryStore
from featurestore.online.view import OnlineView
from featurestore.semantics.windows import DAY, MINUTE
from featurestore.streaming.apply import Applier, no_hook
from featurestore.streaming.log_applier import Hook
from featurestore.streaming.records import NEVER, Record, StreamReader
from featurestore.types import Float64, Int64, String

NOON = to_micros(datetime(2024, 5, 1, 12, tzinfo=UTC))
DRIVER = Entity("driver", value_type=Int64)
FILE = FileStreamSource("trips", path="trips.jsonl", timestamp_field="ts", arrival_field="at")
PUSH = PushSource("trips", timestamp_field="ts")


def double_long_trips(record: dict[str, Any]) -> dict[str, Any] | None:
    """Drop short trips; fail on negative ones."""
    if record["km"] < 0:
        raise ValueError("a trip of negative length")
    return {"driver": record["driver"], "km": record["km"] * 2} if record["km"] > 10 else None


def views(source: StreamSource) -> list[FeatureView]:
    """Return a state and a window view that share a log, one with a log of its own, and one that is not served."""
    schema = [Field("km", Float64), Field("city", String)]
    return [
        FeatureView("newest", [DRIVER], schema, source),
        FeatureView(
            "recent",
            [DRIVER],
            schema,
            source,
            aggregations=[
                Aggregation("km", "sum", timedelta(hours=1)),
                Aggregation("km", "last_n", timedelta(days=1), n=5),
                Aggregation(None, "count", timedelta(days=1)),
            ],
        ),
        FeatureView(
            "long",
            [DRIVER],
            [Field("km", Float64)],
            source,
            transform=double_long_trips,
            aggregations=[Aggregation("km", "count", timedelta(hours=6))],
        ),
        FeatureView("unserved", [DRIVER], [Field("city", String)], source, online=False),
    ]


class Crash(BaseException):
    """The process dies here."""


def crash_at(step: str, times: int = 1) -> Hook:
    """Return a hook that dies when a step has been done so many times."""
    left = [times]

    def hook(done: str) -> None:
        if done == step:
            left[0] -= 1
            if left[0] == 0:
                raise Crash(step)

    return hook


class Bench:
    """Stores that outlive the processes that a test starts and kills."""

    def __init__(self, root: Path, source: StreamSource = FILE, store: OnlineStore | None = None) -> None:
        self.root = root
        self.source = source
        self.store = store or MemoryStore()
        self.views = views(source)

    @property
    def online(self) -> dict[str, OnlineView]:
        return {view.name: OnlineView(self.store, "p", view, 10 * MINUTE) for view in self.views if view.online}

    def log(self, name: str = "newest") -> RowLog:
        return RowLog(self.root, next(view for view in self.views if view.name == name))

    def letters(self, name: str = "newest") -> DeadLetters:
        return DeadLetters(self.root, self.log(name).fingerprint)

    def applier(self, hook: Hook = no_hook) -> Applier:
        return Applier(
            self.source,
            self.views,
            log_factory=lambda view: RowLog(self.root, view),
            letters_factory=lambda log: DeadLetters(self.root, log.fingerprint),
            online=self.online,
            max_future_skew=DAY,
            hook=hook,
        )

    def logged(self) -> dict[str, list[dict[str, Any]]]:
        """Return all rows of all logs."""
        return {
            view.name: [row for batch in self.log(view.name).sorted_rows() for row in batch.to_pylist()]
            for view in self.views
        }

    def rejected(self, name: str = "newest") -> list[tuple[str, int, str]]:
        rows = self.letters(name).read().to_pylist()
        return [(row["writer"], row["sequence"], row["reason"]) for row in rows]

    def served(self, drivers: Sequence[int], now: int) -> dict[str, Any]:
        """Return values, statuses and receipts of all served views."""
        served = [view for view in self.views if view.online]
        features = [f"{view.name}:{field.name}" for view in served for field in view.features]
        request = resolve(Project(self.views), features, full_feature_names=True)
        response = Lookup(request, self.store, self.online).answer([{"driver": d} for d in drivers], now)
        return {**response.to_dict(), "statuses": response.statuses, "receipts": response.receipts}

    def outcome(self, now: int = NOON + DAY, drivers: Sequence[int] = (1, 2, 3)) -> dict[str, Any]:
        """Return everything that a user can see of the stores."""
        letters = {view.name: self.rejected(view.name) for view in self.views}
        return {"log": self.logged(), "letters": letters, "online": self.served(drivers, now)}


class Stream(StreamReader):
    """Records in memory, with a committed position that outlives readers. Delivers what it is told, even nonsense."""

    def __init__(self, records: Sequence[Record], committed: dict[str, int] | None = None) -> None:
        self.records = list(records)
        self.committed = {} if committed is None else committed
        self._next = 0

    @property
    def writers(self) -> Sequence[str]:
        return sorted({record.writer for record in self.records})

    def poll(self, limit: int, until: int | None = None) -> list[Record]:
        batch: list[Record] = []
        for record in self.records[self._next : self._next + limit]:
            if until is not None and record.arrival is not None and record.arrival > until:
                break
            batch.append(record)
        self._next += len(batch)
        return batch

    def seek(self, positions: Mapping[str, int]) -> None:
        behind = [
            place for place, record in enumerate(self.records) if record.sequence > positions.get(record.writer, NEVER)
        ]
        self._next = min(behind, default=len(self.records))

    def commit(self, positions: Mapping[str, int]) -> None:
        self.committed.update(positions)

    def close(self) -> None:
        pass


def event(sequence: int, fields: object, at: int | None = None, writer: str = "file/trips/a") -> Record:
    """Return a record; its arrival is that many minutes after noon, by default its sequence."""
    payload = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    minute = sequence if at is None else at
    return Record(writer, sequence, NOON + minute * MINUTE, payload)


def trip(driver: int, minute: int, km: float, city: str | None = "Oslo") -> dict[str, Any]:
    """Return the fields of a trip that happened that many minutes after noon."""
    time = datetime(2024, 5, 1, 12, tzinfo=UTC) + timedelta(minutes=minute)
    return {"driver": driver, "ts": time.isoformat(), "km": km, "city": city}


def eventful() -> list[Record]:
    """Return late, future, bad and dropped records among good ones."""
    return [
        event(0, trip(1, 0, 12.5)),
        event(1, trip(2, 1, 3.0)),
        event(2, b"{ not json"),
        event(3, trip(1, 3, -1.0)),  # the transform raises
        event(4, trip(1, -600, 40.0)),  # late by ten hours
        event(5, trip(2, 1000, 11.0)),  # future, and pending
        event(6, trip(2, 3 * 1440, 11.0)),  # too far in the future
        event(7, {"driver": None, "ts": "2024-05-01T12:07:00Z", "km": 1.0}),
        event(8, trip(3, 8, 0.1, None)),
        event(9, trip(1, 9, 22.0)),
        event(10, trip(1, 9, 0.2, "Bergen")),
        event(11, [1, 2]),
    ]
