"""Proof for the flights example: what was served equals what offline computes, and what the reference says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.clock import from_micros
from featurestore.definitions import FeatureService, FeatureView
from featurestore.definitions.project import Project
from featurestore.online.lookup import OnlineResponse
from featurestore.semantics.reference import evaluate
from featurestore.semantics.rows import Result, Row, Status
from featurestore.semantics.values import same_result
from featurestore.semantics.windows import DAY
from featurestore.store import FeatureStore

Cell = tuple[int, str]
"""A served value: the number of its vector and its feature."""


class Difference(NamedTuple):
    """A served value that is not what it should be, bit for bit."""

    view: str
    key: dict[str, Any]
    feature: str
    evaluated_at: str
    served: Any
    served_status: str
    expected: Any
    expected_status: str
    found_by: str


class Served:
    """Every vector that was served.

    Attributes
    ----------
    rows
        The entity row each was asked for with.
    at
        The time each answer says it was evaluated at, in microseconds.
    results
        Feature to the values and statuses served, in the order of `rows`.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.at: list[int] = []
        self.results: dict[str, list[Result]] = {}

    def add(self, rows: list[dict[str, Any]], features: list[str], response: OnlineResponse) -> None:
        """Keep one response of the online store."""
        values, statuses = response.to_dict(), response.statuses
        self.rows += rows
        self.at += response.evaluated_at
        for name in features:
            pairs = zip(values[name], statuses[name], strict=True)
            self.results.setdefault(name, []).extend(Result(value, Status[status]) for value, status in pairs)

    @property
    def cells(self) -> int:
        """How many values were served."""
        return sum(map(len, self.results.values()))

    def frame(self) -> pa.Table:
        """Return the entity frame that asks offline for the same values."""
        at = pa.array(self.at, pa.int64()).cast(pa.timestamp("us", "UTC"))
        names = list(self.rows[0])
        columns = {name: pa.array([row[name] for row in self.rows]) for name in names}
        return pa.table({"event_timestamp": at, **columns})


class Checker:
    """Compares served values with other ways to compute them.

    Parameters
    ----------
    store
        The store that served them.
    service
        The service they belong to.
    """

    def __init__(self, store: FeatureStore, service: FeatureService, served: Served) -> None:
        self.served = served
        self._store = store
        self._project: Project = store.project
        self._view_of = {
            feature: projection.view for projection in service.projections for feature in projection.features
        }
        self._service = service
        self.differences: dict[Cell, Difference] = {}

    def against_offline(self) -> int:
        """Compare every value with `get_historical_features` at its time; return how many were compared."""
        for name, values in self.served.results.items():
            for vector, (mine, theirs) in enumerate(zip(values, self._known[name], strict=True)):
                if not same_result(mine, theirs):
                    self._note(vector, name, theirs, "offline")
        return self.served.cells

    def changed_by_late_data(self) -> int:
        """Return how many values would be others, had everything been known when it happened."""
        happened = self._offline("event")
        return sum(
            not same_result(one, other)
            for name, values in self._known.items()
            for one, other in zip(values, happened[name], strict=True)
        )

    @cached_property
    def _known(self) -> dict[str, list[Result]]:
        return self._offline("arrival")

    def against_reference(self, wanted: int) -> int:
        """Compare `wanted` values (or as many as there are) with the reference, evenly over the stored views.

        The reference is given the rows of the log that any of the view's windows could reach, and more.
        """
        views = [self._project.view(projection.view) for projection in self._service.projections]
        stored = [view for view in views if isinstance(view, FeatureView)]
        each = -(-wanted // len(stored))
        return sum(self._reference(view, each) for view in stored)

    def _offline(self, known_at: Literal["event", "arrival"]) -> dict[str, list[Result]]:
        job = self._store.get_historical_features(
            entity_df=self.served.frame(), features=self._service, known_at=known_at
        )
        table, statuses = job.to_arrow(), job.statuses()
        return {
            name: list(map(Result, table[name].to_pylist(), map(Status, statuses[name].tolist())))
            for name in self.served.results
        }

    def _reference(self, view: FeatureView, wanted: int) -> int:
        features = [name for name, owner in self._view_of.items() if owner == view.name]
        vectors = spread(len(self.served.rows), -(-wanted // len(features)))
        keys = [key.name for key in view.join_keys]
        rows = _rows_by_key(self._store, view, [self.served.rows[vector] for vector in vectors])
        cuts = self._store.cuts(view)
        for vector in vectors:
            t = self.served.at[vector]
            key = tuple(self.served.rows[vector][name] for name in keys)
            seen = rows.until(key, t) if None not in key else []
            results = evaluate(view, key, t, seen, known_at="arrival", cuts=cuts)
            for name in features:
                if not same_result(self.served.results[name][vector], results[name]):
                    self._note(vector, name, results[name], "reference")
        return len(vectors) * len(features)

    def _note(self, vector: int, feature: str, expected: Result, found_by: str) -> None:
        view = self._project.view(self._view_of[feature])
        row, mine = self.served.rows[vector], self.served.results[feature][vector]
        names = [key.name for key in view.join_keys] if isinstance(view, FeatureView) else list(row)
        self.differences.setdefault(
            (vector, feature),
            Difference(
                view=view.name,
                key={name: row[name] for name in names},
                feature=feature,
                evaluated_at=from_micros(self.served.at[vector]).isoformat().replace("+00:00", "Z"),
                served=mine.value,
                served_status=mine.status.name,
                expected=expected.value,
                expected_status=expected.status.name,
                found_by=found_by,
            ),
        )


class _Rows:
    """Rows of a view's log for some keys, as the reference takes them."""

    def __init__(self, view: FeatureView, table: pa.Table) -> None:
        self._view = view
        self._table = table
        self._keys = list(zip(*(table[key.name].to_pylist() for key in view.join_keys), strict=True))
        self._happened = table["event_timestamp"].cast(pa.int64()).to_numpy()
        self._rows: dict[tuple[Any, ...], list[int]] = {}
        for number, key in enumerate(self._keys):
            self._rows.setdefault(key, []).append(number)
        self._reach = _reach(view)

    def until(self, key: tuple[Any, ...], t: int) -> list[Row]:
        """Return a key's rows up to a day after `t`, and back to a day before any that could count."""
        numbers = np.array(self._rows.get(key, []), dtype=np.int64)
        happened = self._happened[numbers]
        near = happened <= t + DAY
        if self._reach is not None:
            near &= happened >= t - self._reach - DAY
        return list(self._convert(self._table.take(pa.array(numbers[near])), key))

    def _convert(self, table: pa.Table, key: tuple[Any, ...]) -> Iterator[Row]:
        names = [field.name for field in self._view.columns]
        values = zip(*(table[name].to_pylist() for name in names), strict=True)
        happened, arrived = (table[name].cast(pa.int64()).to_pylist() for name in ("event_timestamp", "arrival"))
        position = zip(table["_writer"].to_pylist(), table["_sequence"].to_pylist(), strict=True)
        for at, arrival, (writer, sequence), row in zip(happened, arrived, position, values, strict=True):
            yield Row(key, at, arrival, writer, sequence, dict(zip(names, row, strict=True)))


def _reach(view: FeatureView) -> int | None:
    """Return how long before `t` a row can have happened that a view's values at `t` depend on; None: any time."""
    if not view.is_window:
        return None if view.ttl_micros is None else 2 * view.ttl_micros
    windows = [aggregation.window for aggregation in view.aggregations]
    if any(window.length is None for window in windows):
        return None
    return max((window.length or 0) + window.offset + window.hop for window in windows)


def _rows_by_key(store: FeatureStore, view: FeatureView, rows: Sequence[Mapping[str, Any]]) -> _Rows:
    names = sorted(key.name for key in view.join_keys)
    wanted = sorted({key for row in rows if None not in (key := tuple(row[name] for name in names))})
    types = {key.name: key.dtype.to_arrow() for key in view.join_keys}
    keys = pa.table({name: pa.array([key[n] for key in wanted], types[name]) for n, name in enumerate(names)})
    log = store.log(view)
    table = pa.Table.from_batches(log.sorted_rows(keys=keys), log.schema)
    return _Rows(view, table.combine_chunks())


def spread(total: int, wanted: int) -> list[int]:
    """Return `wanted` numbers below `total` (all, where there are fewer), evenly spread."""
    if wanted >= total:
        return list(range(total))
    return [number * total // wanted for number in range(wanted)]
