"""Small questions that DuckDB answers: a caller's SQL, sample keys, newest arrival and writers of a log."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from featurestore.definitions import FeatureView
from featurestore.errors import EntityFrameError
from featurestore.offline.duckdb.session import engine_errors, identifier, literal_path, session
from featurestore.offline.log import RowLog


def run_sql(query: str) -> pa.Table:
    """Run a caller's SQL text in a DuckDB of its own; it may read files such as ``'labels.parquet'``."""
    with session() as connection, engine_errors("the entity frame's SQL query failed"):
        relation = connection.sql(query)
        if relation is None:  # no statement, or one without a result
            raise EntityFrameError("the entity frame's SQL query returns no table; give one SELECT statement")
        return relation.to_arrow_table()


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


def writers(log: RowLog, files: Sequence[str] | None = None) -> list[str]:
    """Return the writers of a log's rows, sorted; where some of its files are given, of the rows in these."""
    files = log.files() if files is None else files
    if not files:
        return []
    with session() as connection, engine_errors("the log could not be read"):
        query = "SELECT DISTINCT _writer FROM read_parquet($files, hive_partitioning = false) ORDER BY _writer"
        rows = connection.sql(query, params={"files": [literal_path(file) for file in files]}).fetchall()
    return [str(name) for (name,) in rows]
