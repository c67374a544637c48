"""The DuckDB side of a retrieval: reads the rows of a scan that labels of some keys may see."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import OfflineStoreError
from featurestore.offline.buffers import column_buffer
from featurestore.offline.duckdb.session import engine_errors, identifier, literal_path, session
from featurestore.offline.engine import Found
from featurestore.offline.kernels import Bools, Ints
from featurestore.offline.keys import KeyNumbers, integers_of
from featurestore.offline.plan import Scan
from featurestore.offline.rows import POSITION, Table

SOURCE = "read_parquet($files, hive_partitioning = false)"

_BATCH_ROWS = 1 << 17
_NUMBER = "_number"


class DuckDbRows:
    """Reads rows of logs by DuckDB, in this process."""

    def limit(self, scan: Scan) -> int:
        """Return how many rows the scan's files hold."""
        files = scan.log.files(scan.start, scan.end)
        with engine_errors("the log could not be read"):
            try:
                return sum(pq.read_metadata(file).num_rows for file in files)
            except (OSError, pa.ArrowException) as error:
                raise OfflineStoreError(f"a file of {scan.log.path} cannot be read: {error}") from error

    def read(self, scan: Scan, keys: KeyNumbers, wanted: Bools | None, *, positions: bool) -> Found:
        """Read the rows whose keys are wanted; see `RowSource`."""
        columns = [*dict.fromkeys([*scan.columns, *(POSITION if positions else ())])]
        schema = pa.schema([scan.log.schema.field(name) for name in columns])
        limit = self.limit(scan)
        key, time = np.empty(limit, dtype=np.int64), np.empty(limit, dtype=np.int64)
        kept = {field.name: column_buffer(field.type, limit) for field in schema}
        count = 0
        for batch, numbers in _numbered(scan, keys, wanted, positions=positions):
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
    scan: Scan, keys: KeyNumbers, wanted: Bools | None, *, positions: bool
) -> Iterator[tuple[pa.RecordBatch, Ints]]:
    """Yield the rows with the numbers of their keys: computed here, or found by a join."""
    files = scan.log.files(scan.start, scan.end)
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
                values = integers_of(batch.column(scan.view.join_keys[0].name))
                assert values is not None  # noqa: S101  (a base is only of integer keys)
                yield batch, keys.numbers(values)
