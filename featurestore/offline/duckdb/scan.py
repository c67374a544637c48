"""The DuckDB side of a retrieval: reads the rows of a scan that labels of some keys may see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.offline.buffers import column_buffer
from featurestore.offline.duckdb.session import engine_errors, identifier, literal_path, session
from featurestore.offline.kernels import Bools, Ints
from featurestore.offline.keys import KeyNumbers, integers_of
from featurestore.offline.plan import Scan
from featurestore.offline.rows import POSITION, Table

SOURCE = "read_parquet($files, hive_partitioning = false)"

_BATCH_ROWS = 1 << 17
_NUMBER = "_number"


def log_files(scan: Scan) -> list[str]:
    """Return the files that hold a scan's rows."""
    return scan.log.files(scan.start, scan.end)


def row_limit(files: Sequence[str]) -> int:
    """Return how many rows some Parquet files hold."""
    with engine_errors("the log could not be read"):
        return sum(pq.read_metadata(file).num_rows for file in files)


class Found(NamedTuple):
    """Rows as they were read: the number of each one's key, its event time in microseconds, and its columns."""

    key: Ints
    time: Ints
    table: Table


def read_rows(scan: Scan, files: Sequence[str], keys: KeyNumbers, wanted: Bools | None, *, positions: bool) -> Found:
    """Read the rows of a scan whose keys are wanted.

    Parameters
    ----------
    files
        The log's files, from `log_files`.
    keys
        Numbers the keys.
    wanted
        By number, whether rows of the key are needed; None for a view without join keys.
    positions
        Whether to read the columns `POSITION` too.
    """
    columns = [*dict.fromkeys([*scan.columns, *(POSITION if positions else ())])]
    schema = pa.schema([scan.log.schema.field(name) for name in columns])
    limit = row_limit(files)
    key, time = np.empty(limit, dtype=np.int64), np.empty(limit, dtype=np.int64)
    kept = {field.name: column_buffer(field.type, limit) for field in schema}
    count = 0
    for batch, numbers in _numbered(scan, files, keys, wanted, positions=positions):
        if wanted is not None and keys.base is not None:
            mask = _mask(numbers, wanted)
            if not mask.all():
                batch, numbers = batch.filter(pa.array(mask)), numbers[mask]
        end = count + batch.num_rows
        key[count:end] = numbers
        time[count:end] = batch.column("event_timestamp").view(pa.int64()).to_numpy()
        for name, buffer in kept.items():
            buffer.add(batch.column(name))
        count = end
    return Found(key[:count], time[:count], Table({name: buffer.array() for name, buffer in kept.items()}, schema))


def _mask(numbers: Ints, wanted: Bools) -> Bools:
    inside = numbers.view(np.uint64) < len(wanted)
    if inside.all():
        return wanted[numbers]
    mask: Bools = inside
    mask[inside] = wanted[numbers[inside]]
    return mask


def _numbered(
    scan: Scan, files: Sequence[str], keys: KeyNumbers, wanted: Bools | None, *, positions: bool
) -> Iterator[tuple[pa.RecordBatch, Ints]]:
    """Yield the rows with the numbers of their keys: computed here, or found by a join."""
    if not files:
        return
    sql = scan.sql(SOURCE, positions=positions)
    what = f"the rows of view {scan.view.name!r} could not be read"
    with engine_errors(what), session() as connection:
        if wanted is not None and keys.base is None:
            numbers = np.flatnonzero(wanted)
            table = keys.distinct.take(pa.array(numbers)).append_column(_NUMBER, pa.array(numbers))
            connection.register("label_keys", table)
            using = ", ".join(identifier(name) for name in keys.distinct.column_names)
            sql = f"SELECT * FROM ({sql}) JOIN label_keys USING ({using})"
        reader = connection.sql(sql, params={"files": [literal_path(file) for file in files]})
        for batch in reader.to_arrow_reader(_BATCH_ROWS):
            if wanted is None:
                yield batch, np.zeros(batch.num_rows, dtype=np.int64)
            elif keys.base is None:
                yield batch, batch.column(_NUMBER).to_numpy()
            else:
                values = integers_of(batch.column(keys_name(scan)))
                assert values is not None  # noqa: S101  (a base is only of integer keys)
                yield batch, keys.numbers(values)


def keys_name(scan: Scan) -> str:
    """Return the name of the one join key of a scan."""
    return scan.view.join_keys[0].name
