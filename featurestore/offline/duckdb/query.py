"""The DuckDB side of a retrieval: prune and scan the log, keep the rows of the keys asked for, sort them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.definitions import FeatureView
from featurestore.errors import EntityFrameError
from featurestore.offline.asof import Rows
from featurestore.offline.duckdb.session import engine_errors, identifier, literal_path, session
from featurestore.offline.kernels import Ints
from featurestore.offline.log import RowLog
from featurestore.semantics.rows import BATCH_WRITER

_ORDER = "_kid, event_timestamp, arrival, _writer, _sequence"


class LabelledRows(NamedTuple):
    """The rows that labels may see, and the labels' key numbers.

    Attributes
    ----------
    rows
        The rows; their table also holds `_writer` and `_sequence` where all columns were asked for.
    labels
        For each label the number of its key; -1 where the key holds a null.
    """

    rows: Rows
    labels: Ints

    @classmethod
    def read(
        cls,
        view: FeatureView,
        features: Sequence[str],
        log: RowLog,
        keys: Sequence[pa.ChunkedArray | pa.Array],
        *,
        times: Ints,
        cut: int | None,
        all_columns: bool = False,
    ) -> LabelledRows:
        """Read from the log what labels with these keys and times may see of a view, given the cut in force."""
        columns = _needed(view, features)
        with session() as connection, engine_errors(f"the rows of view {view.name!r} could not be read"):
            names = [key.name for key in view.join_keys]
            table = pa.table({"_place": np.arange(len(times)), **{f"k{i}": key for i, key in enumerate(keys)}})
            connection.register("labels", table)
            aliases = [f"k{i}" for i in range(len(names))]
            some = " AND ".join(f"{alias} IS NOT NULL" for alias in aliases) or "true"
            distinct = f"SELECT DISTINCT {', '.join(aliases)} FROM labels WHERE {some}" if names else "SELECT 1"
            connection.execute(f"CREATE TEMP TABLE ids AS SELECT row_number() OVER () - 1 AS _kid, * FROM ({distinct})")
            same = " AND ".join(f"labels.{alias} = ids.{alias}" for alias in aliases) or "true"
            numbers = connection.sql(
                f"SELECT coalesce(_kid, -1) AS kid FROM labels LEFT JOIN ids ON {same} ORDER BY _place"
            ).to_arrow_table()
            labels = numbers.column("kid").to_numpy().astype(np.int64)
            start, end = time_bounds(view, times)
            files = log.files(start, end) if len(times) else []
            extra = ["_writer", "_sequence"] if all_columns else []
            wanted = [*columns, *extra]
            if not files:
                return cls(_no_rows(log, wanted), labels)
            source = "read_parquet($files, hive_partitioning = false)"
            joined = " AND ".join(
                f"rows.{identifier(name)} = ids.{alias}" for name, alias in zip(names, aliases, strict=True)
            )
            conditions = _conditions(view, start, end, cut)
            listed = "".join(f", rows.{identifier(name)}" for name in wanted)
            result = connection.sql(
                f"SELECT _kid, epoch_us(event_timestamp) AS _ts, epoch_us(arrival) AS _arrival{listed} "
                f"FROM {source} AS rows JOIN ids ON {joined or 'true'} WHERE {conditions} ORDER BY {_ORDER}",
                params={"files": [literal_path(file) for file in files]},
            ).to_arrow_table()
        return cls(_rows(log, result, wanted), labels)


def run_sql(query: str) -> pa.Table:
    """Run a caller's SQL text in a DuckDB of its own; it may read files such as ``'labels.parquet'``."""
    with session() as connection, engine_errors("the entity frame's SQL query failed"):
        relation = connection.sql(query)
        if relation is None:  # no statement, or one without a result
            raise EntityFrameError("the entity frame's SQL query returns no table; give one SELECT statement")
        return relation.to_arrow_table()


def time_bounds(view: FeatureView, times: Ints) -> tuple[int | None, int | None]:
    """Return event times between which (start inclusive, end exclusive) lies every row that labels may see."""
    if not len(times):
        return None, None
    first, last = int(times.min()), int(times.max())
    if not view.is_window:
        start = None if view.ttl_micros is None else first - 2 * view.ttl_micros
        return start, last + 1
    starts = [aggregation.window.bounds(first)[0] for aggregation in view.aggregations]
    known = [start for start in starts if start is not None]
    return (min(known) if len(known) == len(starts) else None), last


def _needed(view: FeatureView, features: Sequence[str]) -> list[str]:
    if not view.is_window:
        return list(features)
    asked = set(features)
    return list(dict.fromkeys(a.column for a in view.aggregations if a.column is not None and a.name in asked))


def _conditions(view: FeatureView, start: int | None, end: int | None, cut: int | None) -> str:
    conditions = ["true"]
    if start is not None:
        conditions.append(f"event_timestamp >= make_timestamptz({start})")
    if end is not None:
        conditions.append(f"event_timestamp < make_timestamptz({end})")
    if view.is_lambda:
        batch = f"_writer = '{BATCH_WRITER}'"
        if cut is None:
            conditions.append(f"NOT {batch}")
        else:
            conditions.append(
                f"(CASE WHEN {batch} THEN event_timestamp < make_timestamptz({cut}) "
                f"ELSE event_timestamp >= make_timestamptz({cut}) END)"
            )
    return " AND ".join(conditions)


def _rows(log: RowLog, result: pa.Table, wanted: Sequence[str]) -> Rows:
    numbers = [result.column(name).to_numpy().astype(np.int64) for name in ("_kid", "_ts", "_arrival")]
    arrays: dict[str, Any] = {name: result.column(name).cast(log.schema.field(name).type) for name in wanted}
    table = pa.table(arrays) if arrays else pa.table({"_": pa.nulls(result.num_rows)})
    return Rows(numbers[0], numbers[1], numbers[2], table.combine_chunks())


def _no_rows(log: RowLog, wanted: Sequence[str]) -> Rows:
    empty = np.zeros(0, dtype=np.int64)
    return Rows(empty, empty, empty, pa.schema([log.schema.field(name) for name in wanted]).empty_table())


def sample_keys(log: RowLog, view: FeatureView, limit: int) -> pa.Table:
    """Return up to `limit` distinct join keys of a log, the same ones each time, in the declared types."""
    schema = pa.schema([log.schema.field(key.name) for key in view.join_keys])
    files = log.files()
    if not files:
        return schema.empty_table()
    if not view.join_keys:
        return pa.table({"_": [0]}).select([]).slice(0, 1)
    names = ", ".join(identifier(key.name) for key in view.join_keys)
    with session() as connection, engine_errors(f"the keys of view {view.name!r} could not be read"):
        query = (
            f"SELECT DISTINCT {names} FROM read_parquet($files, hive_partitioning = false) "
            f"ORDER BY hash({names}), {names} LIMIT {int(limit)}"
        )
        paths = [literal_path(file) for file in files]
        return connection.sql(query, params={"files": paths}).to_arrow_table().cast(schema)


def newest_arrival(log: RowLog) -> int:
    """Return the greatest arrival in a log that has rows, in microseconds since the epoch."""
    with session() as connection, engine_errors("the log could not be read"):
        query = "SELECT max(epoch_us(arrival)) AS newest FROM read_parquet($files, hive_partitioning = false)"
        rows = connection.sql(query, params={"files": [literal_path(file) for file in log.files()]}).fetchall()
    return int(rows[0][0])


def writers(log: RowLog) -> list[str]:
    """Return the writers of a log's rows, sorted."""
    files = log.files()
    if not files:
        return []
    with session() as connection, engine_errors("the log could not be read"):
        query = "SELECT DISTINCT _writer FROM read_parquet($files, hive_partitioning = false) ORDER BY _writer"
        rows = connection.sql(query, params={"files": [literal_path(file) for file in files]}).fetchall()
    return [str(name) for (name,) in rows]
