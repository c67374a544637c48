"""A job's rows on disk: written as they are read, ranked by what they hold, and handed to the log as one data set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from featurestore.materialize.columns import order_bits
from featurestore.offline.duckdb.ranking import ranked
from featurestore.offline.log import RowLog
from featurestore.semantics.rows import BATCH_WRITER, RANK_BITS

_BITS = "_bits_of_"
_GROUP_ROWS = 262_144


class Ranked(NamedTuple):
    """The rows of a job in the log's columns, ordered by event time, and how many."""

    rows: ds.Dataset
    total: int


def rank_rows(log: RowLog, tables: Iterable[pa.Table], job: int, folder: Path) -> Ranked:
    """Write a job's rows to a folder, with ``_sequence = job << 38 | rank``.

    The rank orders by join keys, event time, arrival and then every input column by name, to the bit: it does not
    depend on the order or the portions in which the source delivered the rows.

    Parameters
    ----------
    log
        The log that the rows are for.
    tables
        Valid rows: times, join keys, input columns.
    job
        The job's number.
    folder
        Where to put them; needs about twice the rows' size, and as much again to sort them.
    """
    positions = {"_writer", "_sequence", "_origin"}
    names = [name for name in log.schema.names if name not in positions]
    inputs = [name for name in names if name not in {*log.key_names, "event_timestamp", "arrival"}]
    floats = [name for name in inputs if _holds_floats(log.schema.field(name).type)]
    raw = folder / "raw.parquet"
    count = _write_raw(log, raw, names, floats, tables)
    order = [*log.key_names, "event_timestamp", "arrival"]
    order += [f"{_BITS}{name}" if name in floats else name for name in inputs]
    stored = pa.schema([_stored(field) for field in log.schema])
    path = folder / "rows.parquet"
    with pq.ParquetWriter(path, stored) as writer:
        for batch in ranked(raw, names, order):
            writer.write_batch(_positioned(batch, stored, job), row_group_size=_GROUP_ROWS)
    raw.unlink()
    return Ranked(ds.dataset(path, schema=stored), count)


def _write_raw(log: RowLog, path: Path, names: list[str], floats: list[str], tables: Iterable[pa.Table]) -> int:
    fields = [_stored(log.schema.field(name)) for name in names]
    schema = pa.schema(
        [*fields, *(pa.field(f"{_BITS}{f.name}", _bits_type(f.type)) for f in fields if f.name in floats)]
    )
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            table = table.select(names).combine_chunks()
            for name in floats if table.num_rows else ():
                table = table.append_column(f"{_BITS}{name}", order_bits(table[name].chunk(0)))
            if table.num_rows:
                writer.write_table(table.cast(schema))
            count += table.num_rows
    return count


def _positioned(batch: pa.RecordBatch, stored: pa.Schema, job: int) -> pa.RecordBatch:
    rank = batch.column("_rank").cast(pa.int64()).to_numpy()
    made = {
        "_writer": pa.array([BATCH_WRITER]).take(pa.array([0] * len(rank))),
        "_sequence": pa.array(rank + (job << RANK_BITS)),
        "_origin": pa.nulls(len(rank), pa.binary()),
    }
    columns = [made[name] if name in made else batch.column(name) for name in stored.names]
    return pa.RecordBatch.from_arrays(columns, stored.names).cast(stored)


def _stored(field: pa.Field) -> pa.Field:
    is_vector = pa.types.is_fixed_size_list(field.type)
    return pa.field(field.name, pa.list_(field.type.value_type) if is_vector else field.type)


def _holds_floats(arrow: pa.DataType) -> bool:
    element = arrow.value_type if pa.types.is_list(arrow) or pa.types.is_fixed_size_list(arrow) else arrow
    return bool(pa.types.is_floating(element))


def _bits_type(arrow: pa.DataType) -> pa.DataType:
    if pa.types.is_list(arrow):
        return pa.list_(_bits_type(arrow.value_type))
    return pa.int32() if pa.types.is_float32(arrow) else pa.int64()
