"""Finds rows of a log by their origin: an idempotency key, or the position of a replayed dead letter."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as ds

from featurestore.errors import OfflineStoreError
from featurestore.offline.log import RowLog


def writers_of(log: RowLog, origin: bytes) -> dict[str, int]:
    """Return the writers of the rows with this origin, and how many rows each has."""
    rows = _select(log, ["_writer"], ds.field("_origin") == pa.scalar(origin, pa.binary()))
    return {row["values"]: row["counts"] for row in rows["_writer"].value_counts().to_pylist()}


def origins_of(log: RowLog, writer: str) -> set[bytes]:
    """Return the origins of all rows of a writer."""
    rows = _select(log, ["_origin"], (ds.field("_writer") == writer) & ds.field("_origin").is_valid())
    return set(rows["_origin"].to_pylist())


def _select(log: RowLog, columns: list[str], condition: ds.Expression) -> pa.Table:
    """Return columns of the rows that fulfil a condition."""
    schema = pa.schema([log.schema.field(name) for name in ("_writer", "_sequence", "_origin")])
    try:
        dataset = ds.dataset(log.files(), schema=schema, format="parquet")
        # The condition is no filter of the scan: compacted files hold views of text, with whose statistics Arrow
        # cannot compare.
        parts = [pa.Table.from_batches([batch]).filter(condition) for batch in dataset.to_batches()]
        return pa.concat_tables([schema.empty_table(), *parts]).select(columns)
    except (OSError, pa.ArrowException) as error:
        raise OfflineStoreError(f"the log in {log.path} cannot be read: {error}") from error
