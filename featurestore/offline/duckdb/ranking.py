"""Gives rows their rank among those of one job: a function of what they hold, not of how they were delivered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from featurestore.offline.duckdb.session import connect, engine_errors, identifier, literal_path

_BATCH_ROWS = 65_536


def ranked(
    files: Sequence[Path], columns: Sequence[str], order: Sequence[str], folder: Path
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of some Parquet files by event time, with their rank.

    Parameters
    ----------
    files
        The files, at least one; they have the same columns, among them ``event_timestamp``.
    columns
        The columns to return, before ``_rank``.
    order
        Columns that fix the rank, most significant first; nulls come first. Rows that are equal in all of them must
        be equal in all columns.
    folder
        Where to spill what does not fit into memory.

    Raises
    ------
    OfflineStoreError
        Where the rows cannot be sorted, for example because the disk is full.
    """
    by = ", ".join(f"{identifier(name)} ASC NULLS FIRST" for name in order)
    sql = (
        f"SELECT {', '.join(identifier(name) for name in columns)}, row_number() OVER (ORDER BY {by}) - 1 AS _rank "
        "FROM read_parquet($files, hive_partitioning = false) ORDER BY event_timestamp, _rank"
    )
    with engine_errors("cannot rank a job's rows"), connect(temp_directory=folder) as connection:
        yield from connection.sql(sql, params={"files": list(map(literal_path, files))}).to_arrow_reader(_BATCH_ROWS)
