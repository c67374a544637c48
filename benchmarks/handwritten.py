"""What an expert would write by hand in DuckDB SQL, LMDB and Redis for the same work, over the same files.

Answers are not put in the order of the labels, which is work that ours does and these are spared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import lmdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from redis import Redis

from benchmarks.child import Stopwatch

COMMIT = 10_000
PIPELINE = 1_000


def asof(features: str, labels: str, answer: str, columns: Sequence[str], ttl: int) -> Stopwatch:
    """Join each label with the newest row of its key at or before it and at most `ttl` microseconds older."""
    chosen = ", ".join(
        f"CASE WHEN f.ts >= l.event_timestamp - to_microseconds({ttl}) THEN f.{column} END AS {column}"
        for column in columns
    )
    return _query(
        f"""
        SELECT l.*, {chosen}
        FROM labels l ASOF LEFT JOIN read_parquet('{features}') f
        ON l.id = f.id AND l.event_timestamp >= f.ts
        """,
        pq.read_table(labels),
        answer,
    )


def range_join(
    *,
    features: str,
    labels: str,
    answer: str,
    column: str,
    windows: Mapping[str, tuple[int, int]],
    first: int | None = None,
) -> Stopwatch:
    """Aggregate, for each label, the rows of its key in windows whose tails move in hops.

    Parameters
    ----------
    windows
        Length and hop in microseconds, by name.
    first
        Only so many labels; by default all.
    """
    starts = {
        name: f"make_timestamptz((epoch_us(event_timestamp) - {length}) // {hop} * {hop})"
        for name, (length, hop) in windows.items()
    }
    bounds = ", ".join(f"{start} AS start_{name}" for name, start in starts.items())
    longest = max(windows, key=lambda name: sum(windows[name]))
    aggregates = ", ".join(
        f"{function}(f.{column}) FILTER (f.ts >= l.start_{name}) AS {function}_{name}"
        for name in windows
        for function in ("count", "sum", "max")
    )
    return _query(
        f"""
        SELECT l.row, {aggregates}
        FROM (SELECT *, {bounds} FROM labels) l LEFT JOIN read_parquet('{features}') f
        ON l.id = f.id AND f.ts >= l.start_{longest} AND f.ts < l.event_timestamp
        GROUP BY l.row
        """,
        pq.read_table(labels).slice(0, first),
        answer,
    )


def _query(sql: str, labels: pa.Table, answer: str) -> Stopwatch:
    with Stopwatch() as watch:
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("labels", labels)
        found = connection.sql(sql).to_arrow_table()
    connection.close()
    pq.write_table(found, answer)
    return watch


def lmdb_puts(features: str, columns: Sequence[str], folder: str) -> Stopwatch:
    """Read rows, encode each and put it under its key: no log, no merge, no receipt."""
    Path(folder).mkdir(parents=True)
    with Stopwatch() as watch:
        environment = lmdb.open(folder, map_size=1 << 36)
        for batch in pq.ParquetFile(features).iter_batches(COMMIT, columns=["id", *columns]):
            keys, *values = (column.to_pylist() for column in batch.columns)
            with environment.begin(write=True) as transaction:
                for key, row in zip(keys, zip(*values, strict=True), strict=True):
                    transaction.put(b"%d" % key, msgspec.msgpack.encode(row))
        environment.close()
    return watch


def redis_sets(features: str, columns: Sequence[str], redis: int) -> Stopwatch:
    """Read rows, encode each and set it under its key, a pipeline of a thousand at a time."""
    client = Redis(port=redis)
    with Stopwatch() as watch:
        for batch in pq.ParquetFile(features).iter_batches(PIPELINE, columns=["id", *columns]):
            keys, *values = (column.to_pylist() for column in batch.columns)
            pipeline = client.pipeline(transaction=False)
            for key, row in zip(keys, zip(*values, strict=True), strict=True):
                pipeline.set(b"bare:%d" % key, msgspec.msgpack.encode(row))
            pipeline.execute()
    client.close()
    return watch
