"""The DuckDB side of a retrieval: reads the rows of a scan that labels of some keys may see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import OfflineStoreError
from featurestore.offline.duckdb.session import engine_errors, identifier, literal_path, session
from featurestore.offline.kernels import Ints
from featurestore.offline.keys import KeyNumbers, integers_of
from featurestore.offline.plan import Scan
from featurestore.offline.rows import Found
from featurestore.offline.threads import in_threads
from featurestore.offline.wanted import NUMBER, Grouped, Wanted

SOURCE = "read_parquet($files, hive_partitioning = false)"

_BATCH_ROWS = 1 << 15
_SPLIT_ROWS = 1 << 18


class DuckDbRows:
    """Reads rows of logs by DuckDB, in this process."""

    def limit(self, scan: Scan) -> int:
        """Return how many rows the scan's files hold."""
        return sum(_row_counts(scan, scan.log.files(scan.start, scan.end)))

    def read(self, scan: Scan, keys: KeyNumbers, wanted: Wanted, *, positions: bool) -> Found:
        """Read the rows that are wanted, some files by one thread, some by another; see `RowSource`."""
        schema = scan.schema(positions=positions)
        columns = list(dict.fromkeys(["event_timestamp", *schema.names]))
        files = scan.log.files(scan.start, scan.end)

        def work(some: Sequence[str]) -> list[Grouped]:
            batches = _numbered(scan, some, keys, wanted, positions=positions)
            return [wanted.group(batch.select(columns), numbers) for batch, numbers in batches]

        return Found(list(chain(*in_threads(work, _halves(files, _row_counts(scan, files))))), schema)


def _row_counts(scan: Scan, files: Sequence[str]) -> list[int]:
    try:
        return [pq.read_metadata(file).num_rows for file in files]
    except (OSError, pa.ArrowException) as error:
        raise OfflineStoreError(f"a file of {scan.log.path} cannot be read: {error}") from error


def _halves(files: Sequence[str], counts: Sequence[int]) -> list[Sequence[str]]:
    """Split files into two parts with about as many rows."""
    before = [0, *accumulate(counts)]
    if before[-1] < _SPLIT_ROWS or len(files) < 2:
        return [files]
    middle = min(range(1, len(files)), key=lambda number: abs(2 * before[number] - before[-1]))
    return [files[:middle], files[middle:]]


def _numbered(
    scan: Scan, files: Sequence[str], keys: KeyNumbers, wanted: Wanted, *, positions: bool
) -> Iterator[tuple[pa.RecordBatch, Ints]]:
    """Yield the rows of some files with the numbers of their keys: computed here, or found by a join."""
    if not files:
        return
    names = [key.name for key in scan.view.join_keys]
    sql = scan.sql(SOURCE, positions=positions)
    what = f"the rows of view {scan.view.name!r} could not be read"
    with engine_errors(what), session() as connection:
        if names and keys.base is None:
            numbers = wanted.numbers
            table = keys.distinct.take(pa.array(numbers)).append_column(NUMBER, pa.array(numbers))
            connection.register("label_keys", table)
            using = ", ".join(identifier(name) for name in keys.distinct.column_names)
            sql = f"SELECT * FROM ({sql}) JOIN label_keys USING ({using})"
        reader = connection.sql(sql, params={"files": [literal_path(file) for file in files]})
        for batch in reader.to_arrow_reader(_BATCH_ROWS):
            if not names:
                yield batch, np.zeros(batch.num_rows, dtype=np.int64)
            elif keys.base is None:
                yield batch, batch.column(NUMBER).to_numpy()
            else:
                values = integers_of(batch.column(names[0]))
                assert values is not None  # noqa: S101  (a base is only of integer keys)
                yield batch, keys.numbers(values)
