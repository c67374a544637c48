"""Gives rows their rank among those of one job: a function of what they hold, not of how they were delivered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from featurestore.offline.duckdb.session import connect, engine_errors, identifier, literal_path

_BATCH_ROWS = 65_536


def ranked(spool: Path, columns: Sequence[str], order: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file by event time, with their rank.

    Parameters
    ----------
    spool
        The file; it has a column ``event_timestamp``.
    columns
        The columns to return, before ``_rank``.
    order
        Columns that fix the rank, most significant first; nulls come first. Rows that are equal in all of them must
        be equal in all columns.

    Raises
    ------
    OfflineStoreError
        Where the rows cannot be sorted, for example because the disk is full.
    """
    by = ", ".join(f"{identifier(name)} ASC NULLS FIRST" for name in order)
    sql = (
        f"SELECT {', '.join(identifier(name) for name in columns)}, row_number() OVER (ORDER BY {by}) - 1 AS _rank "
        "FROM read_parquet($file, hive_partitioning = false) ORDER BY event_timestamp, _rank"
    )
    with engine_errors("cannot rank a job's rows"), connect(temp_directory=spool.parent) as connection:
        yield from connection.sql(sql, params={"file": literal_path(spool)}).to_arrow_reader(_BATCH_ROWS)
