"""The DuckDB side of a retrieval: reads the rows of a scan that labels of some keys may see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import OfflineStoreError
from featurestore.offline.buffers import close_gaps, column_buffer
from featurestore.offline.duckdb.session import engine_errors, identifier, literal_path, session
from featurestore.offline.engine import Found
from featurestore.offline.kernels import Bools, Ints
from featurestore.offline.keys import KeyNumbers, integers_of
from featurestore.offline.plan import Scan
from featurestore.offline.rows import POSITION, Table
from featurestore.offline.threads import in_threads

SOURCE = "read_parquet($files, hive_partitioning = false)"

_BATCH_ROWS = 1 << 17
_SPLIT_ROWS = 1 << 18
_NUMBER = "_number"


class DuckDbRows:
    """Reads rows of logs by DuckDB, in this process."""

    def limit(self, scan: Scan) -> int:
        """Return how many rows the scan's files hold."""
        return sum(_row_counts(scan, scan.log.files(scan.start, scan.end)))

    def read(self, scan: Scan, keys: KeyNumbers, wanted: Bools | None, *, positions: bool) -> Found:
        """Read the rows whose keys are wanted, some files by one thread, some by another; see `RowSource`."""
        columns = [*dict.fromkeys([*scan.columns, *(POSITION if positions else ())])]
        schema = pa.schema([scan.log.schema.field(name) for name in columns])
        files = scan.log.files(scan.start, scan.end)
        counts = _row_counts(scan, files)
        into = _Columns(schema, sum(counts))

        begun: list[int] = []

        def work(part: tuple[int, Sequence[str]]) -> tuple[int, int]:
            place, some = part
            start = place
            for batch, numbers in _numbered(scan, some, keys, wanted, positions=positions):
                if wanted is not None and keys.base is not None:
                    mask = _mask(numbers, wanted)
                    if not mask.all():
                        batch, numbers = batch.filter(pa.array(mask)), numbers[mask]
                into.put(place, batch, numbers)
                begun.append(place)
                place += batch.num_rows
            return start, place

        spans = in_threads(work, _halves(files, counts))
        row, gap = _gap(spans)
        parts = np.sort(np.array(begun, dtype=np.int64))
        return into.found(spans)._replace(parts=np.where(parts > row, parts - gap, parts) if gap else parts)


class _Columns:
    """What is read, in arrays with a place for every row that there may be."""

    def __init__(self, schema: pa.Schema, limit: int) -> None:
        self._schema = schema
        self._key, self._time = np.empty(limit, dtype=np.int64), np.empty(limit, dtype=np.int64)
        self._columns = {field.name: column_buffer(field.type, limit) for field in schema}

    def put(self, place: int, batch: pa.RecordBatch, numbers: Ints) -> None:
        end = place + batch.num_rows
        self._key[place:end] = numbers
        self._time[place:end] = batch.column("event_timestamp").view(pa.int64()).to_numpy()
        for name, buffer in self._columns.items():
            buffer.put(place, batch.column(name))

    def found(self, spans: Sequence[tuple[int, int]]) -> Found:
        found = {name: buffer.array(spans) for name, buffer in self._columns.items()}
        columns = {name: array for name, (array, _) in found.items()}
        at_places = {name for name, (_, stands) in found.items() if stands}
        key: Ints = close_gaps(self._key, spans).astype(np.int64, copy=False)
        time: Ints = close_gaps(self._time, spans).astype(np.int64, copy=False)
        return Found(key, time, Table(columns, self._schema, _gap(spans), at_places))


def _gap(spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return before which row there is a gap, and how long it is."""
    return (spans[0][1], spans[1][0] - spans[0][1]) if len(spans) == 2 else (0, 0)


def _row_counts(scan: Scan, files: Sequence[str]) -> list[int]:
    try:
        return [pq.read_metadata(file).num_rows for file in files]
    except (OSError, pa.ArrowException) as error:
        raise OfflineStoreError(f"a file of {scan.log.path} cannot be read: {error}") from error


def _halves(files: Sequence[str], counts: Sequence[int]) -> list[tuple[int, Sequence[str]]]:
    """Split files into two parts with about as many rows; each with the place where its rows begin."""
    before = [0, *accumulate(counts)]
    if before[-1] < _SPLIT_ROWS or len(files) < 2:
        return [(0, files)]
    middle = min(range(1, len(files)), key=lambda number: abs(2 * before[number] - before[-1]))
    return [(0, files[:middle]), (before[middle], files[middle:])]


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
    """Yield the rows of some files with the numbers of their keys: computed here, or found by a join."""
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
