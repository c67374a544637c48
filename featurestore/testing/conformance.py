"""The same case on a real path and in the reference: every difference, to the bit.

A new engine or online store joins by running these over `random_cases` or the Hypothesis strategies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.definitions import FeatureView
from featurestore.definitions.project import Project
from featurestore.definitions.resolve import resolve
from featurestore.errors import ClockError
from featurestore.offline.engine import ROW_MEMORY, RowSource
from featurestore.offline.log import RowLog
from featurestore.offline.retrieval import DUCKDB, arrow_values, evaluate_view
from featurestore.offline.windows import Feature
from featurestore.online.contract import OnlineStore
from featurestore.online.lookup import Lookup
from featurestore.online.view import OnlineView
from featurestore.parity.verify import recompute
from featurestore.semantics import reference
from featurestore.semantics.rows import BATCH_WRITER, Cut, Result, Row, Status
from featurestore.semantics.values import same_result
from featurestore.testing.generate import Case
from featurestore.types import python_values, to_python


class Difference(NamedTuple):
    """Where a path and the reference disagree."""

    key: tuple[Any, ...]
    t: int
    feature: str
    expected: Result
    got: Result


def log_table(view: FeatureView, rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Return rows as a table in the schema of the view's log."""
    types = {field.name: field.dtype for field in (*view.join_keys, *view.columns)}
    columns: dict[str, pa.Array] = {}
    for place, key in enumerate(view.join_keys):
        columns[key.name] = arrow_values([row.key[place] for row in rows], key.dtype)
    for field in view.columns:
        columns[field.name] = arrow_values([row.values.get(field.name) for row in rows], types[field.name])
    stamp = pa.timestamp("us", "UTC")
    columns["event_timestamp"] = pa.array([row.event_timestamp for row in rows], pa.int64()).cast(stamp)
    columns["arrival"] = pa.array([row.arrival for row in rows], pa.int64()).cast(stamp)
    columns["_writer"] = pa.array([row.writer for row in rows], pa.string())
    columns["_sequence"] = pa.array([row.sequence for row in rows], pa.int64())
    columns["_origin"] = pa.nulls(len(rows), pa.binary())
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def unique(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without repeated deliveries."""
    return list({(row.writer, row.sequence): row for row in rows}.values())


def fill_log(log: RowLog, view: FeatureView, rows: Sequence[Row], portions: int = 1) -> None:
    """Write rows to a log as jobs and streams would: each stream's in `portions` commits, repeats again at the end."""
    once = unique(rows)
    batch = [row for row in once if row.writer == BATCH_WRITER]
    if batch:
        job = max(row.sequence for row in batch) >> 38
        times = [row.event_timestamp for row in batch]
        log.replace(log_table(view, batch, log.schema), min(times), max(times) + 1, max(job, 1))
    stream = [row for row in once if row.writer != BATCH_WRITER]
    for start in range(0, len(stream), max(1, -(-len(stream) // portions))):
        part = stream[start : start + max(1, -(-len(stream) // portions))]
        _append(log, view, part)
    repeats = [row for row in rows if row.writer != BATCH_WRITER]
    if len(repeats) > len(stream):
        _append(log, view, unique(repeats))


def _append(log: RowLog, view: FeatureView, rows: Sequence[Row]) -> None:
    through = {row.writer: row.sequence for row in sorted(rows, key=lambda row: row.sequence)}
    log.append(log_table(view, rows, log.schema), through)


def offline_differences(
    case: Case,
    log: RowLog,
    *,
    known_at: Literal["event", "arrival"] = "event",
    source: RowSource = DUCKDB,
    memory: int = ROW_MEMORY,
) -> Iterator[Difference]:
    """Compare the offline path, over a log that holds the case's rows, with the reference."""
    view = case.view
    keys = list(case_frame(case).select([key.name for key in view.join_keys]).columns)
    times = np.array([t for _, t in case.queries], dtype=np.int64)
    names = [field.name for field in view.features]
    answer = evaluate_view(
        view, names, log, case.cuts, keys, times=times, known_at=known_at, source=source, memory=memory
    )
    yield from feature_differences(case, answer, known_at=known_at)


def case_frame(case: Case) -> pa.Table:
    """Return a case's queries as an entity frame."""
    columns = {
        field.name: arrow_values([key[place] for key, _ in case.queries], field.dtype)
        for place, field in enumerate(case.view.join_keys)
    }
    times = pa.array([t for _, t in case.queries], pa.int64()).cast(pa.timestamp("us", "UTC"))
    return pa.table({**columns, "event_timestamp": times})


def feature_differences(
    case: Case, answer: Mapping[str, Feature], *, known_at: Literal["event", "arrival"]
) -> Iterator[Difference]:
    """Compare an engine's features for a case's queries, in their order, with the reference."""
    view = case.view
    names = [field.name for field in view.features]
    columns = {name: python_values(feature.values) for name, feature in answer.items()}
    by_key: dict[tuple[Any, ...], list[Row]] = {}
    for row in case.rows:
        by_key.setdefault(row.key, []).append(row)
    for place, (key, t) in enumerate(case.queries):
        expected = reference.evaluate(view, key, t, by_key.get(key, []), known_at=known_at, cuts=case.cuts)
        for name in names:
            got = Result(columns[name][place], Status(int(answer[name].statuses[place])))
            if not same_result(expected[name], got):
                yield Difference(key, t, name, expected[name], got)


def online_differences(
    case: Case,
    store: OnlineStore,
    *,
    skew: int,
    fill: Callable[[OnlineView, Case], None],
) -> Iterator[Difference]:
    """Compare lookups with the reference at the time each answer states; `fill` brings the rows into the store.

    Queries whose clock is too far behind the rows are asked at the earliest clock that is not.
    """
    view = case.view
    online = OnlineView(store, "conformance", view, skew)
    fill(online, case)
    online.mark_ready()
    names = [field.name for field in view.features]
    request = resolve(Project([view]), [f"{view.name}:{name}" for name in names])
    lookup = Lookup(request, store, {view.name: online})
    latest = max((row.arrival for row in case.rows), default=0)
    cuts = case.cuts[-1:]
    for key, asked in case.queries:
        entity = _entity_row(view, key)
        try:
            response = lookup.answer([entity], asked)
        except ClockError:
            response = lookup.answer([entity], max(asked, latest - skew))
        t = response.evaluated_at[0]
        expected = reference.evaluate(view, key, t, case.rows, cuts=cuts)
        for name in names:
            got = response.results[name][0]
            if not same_result(expected[name], got):
                yield Difference(key, t, name, expected[name], got)


def apply_in_batches(online: OnlineView, case: Case, *, sizes: Sequence[int]) -> None:
    """Apply a case's rows to online state in batches of the given sizes, in turn, batch rows as whole sections."""
    rows = unique(case.rows)
    schema = RowLog(Path(), case.view).schema
    batch = [row for row in rows if row.writer == BATCH_WRITER]
    cut: Cut | None = case.cuts[-1] if case.cuts else None
    if batch and (cut is not None or not case.view.is_lambda):
        kept = sorted((row for row in batch if cut is None or row.event_timestamp < cut.at), key=lambda row: row.key)
        table = log_table(case.view, kept, schema)
        job = max(row.sequence for row in batch) >> 38
        online.rewrite(table.to_batches(), {BATCH_WRITER: max(job, 1)}, None if cut is None else cut.at)
    if cut is not None:
        online.set_cut(cut.at)
    for writer in dict.fromkeys(row.writer for row in rows if row.writer != BATCH_WRITER):
        mine = [row for row in rows if row.writer == writer]
        start, turn, after = 0, 0, -1
        while start < len(mine):
            part = mine[start : start + sizes[turn % len(sizes)]]
            online.apply(log_table(case.view, part, schema), writer, after, part[-1].sequence)
            start, turn, after = start + len(part), turn + 1, part[-1].sequence


def receipt_differences(
    case: Case, log: RowLog, store: OnlineStore, *, skew: int, applied: float
) -> Iterator[Difference]:
    """Serve from a store that has seen only the first part of the rows, and recompute by receipt from a log with all.

    Parameters
    ----------
    applied
        Which share of the case's rows the store has seen.
    """
    view = case.view
    known = unique(case.rows)
    part = Case(view, known[: round(len(known) * applied)], case.queries, case.cuts[-1:])
    online = OnlineView(store, "receipts", view, skew)
    apply_in_batches(online, part, sizes=[2, 5])
    online.mark_ready()
    names = [field.name for field in view.features]
    lookup = Lookup(resolve(Project([view]), [f"{view.name}:{name}" for name in names]), store, {view.name: online})
    latest = max((row.arrival for row in part.rows), default=0)
    one_by_one = [[query] for query in case.queries]
    for queries in [*one_by_one, case.queries]:  # and all together, at the latest of their times
        asked = max(latest, *(t for _, t in queries))
        response = lookup.answer([_entity_row(view, key) for key, _ in queries], asked)
        columns = {
            field.name: arrow_values([key[place] for key, _ in queries], field.dtype)
            for place, field in enumerate(view.join_keys)
        }
        keys = pa.table(columns) if columns else pa.table({"_": [0] * len(queries)})
        again = recompute(view, names, log, keys, response)
        for name in names:
            for place, (key, _) in enumerate(queries):
                served, offline = response.results[name][place], again[name][place]
                if not same_result(served, offline):
                    yield Difference(key, response.evaluated_at[place], name, offline, served)


def _entity_row(view: FeatureView, key: tuple[Any, ...]) -> dict[str, Any]:
    return {field.name: to_python(value, field.dtype) for field, value in zip(view.join_keys, key, strict=True)}
