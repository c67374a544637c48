"""A job's rows on disk: written as they are read, ranked by what they hold, and handed to the log as one data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from featurestore.materialize.columns import order_bits
from featurestore.offline.duckdb.ranking import ranked
from featurestore.offline.log import RowLog
from featurestore.semantics.rows import BATCH_WRITER, RANK_BITS

_BITS = "_bits_of_"
_GROUP_ROWS = 262_144


class RowSpool:
    """How the rows of a log's jobs are written down.

    Parameters
    ----------
    log
        The log that the rows are for.

    Attributes
    ----------
    schema
        Of a file of unranked rows: times, join keys and input columns, and integers that order the floats.
    """

    def __init__(self, log: RowLog) -> None:
        positions = {"_writer", "_sequence", "_origin"}
        self._names = [name for name in log.schema.names if name not in positions]
        inputs = [name for name in self._names if name not in {*log.key_names, "event_timestamp", "arrival"}]
        self._floats = [name for name in inputs if _holds_floats(log.schema.field(name).type)]
        self._order = [*log.key_names, "event_timestamp", "arrival"]
        self._order += [f"{_BITS}{name}" if name in self._floats else name for name in inputs]
        self._stored = pa.schema([_stored(field) for field in log.schema])
        fields = [self._stored.field(name) for name in self._names]
        bits = [pa.field(f"{_BITS}{f.name}", _bits_type(f.type)) for f in fields if f.name in self._floats]
        self.schema = pa.schema([*fields, *bits])

    def unranked(self, table: pa.Table) -> pa.Table:
        """Return valid rows as they are written to a file of unranked ones."""
        table = table.select(self._names).combine_chunks()
        for name in self._floats if table.num_rows else ():
            table = table.append_column(f"{_BITS}{name}", order_bits(table[name].chunk(0)))
        return table.cast(self.schema) if table.num_rows else self.schema.empty_table()

    def rank(self, files: Sequence[Path], job: int, path: Path) -> None:
        """Write the rows of some files to one, by event time, with ``_sequence = job << 38 | rank``.

        The rank orders by join keys, event time, arrival and then every input column by name, to the bit: it does not
        depend on the order or the portions in which the source delivered the rows.

        Parameters
        ----------
        files
            Files of unranked rows.
        job
            The job's number.
        path
            The file to write; beside it as much again is needed to sort the rows.
        """
        with new_file(path, self._stored) as writer:
            for batch in ranked(files, self._names, self._order, path.parent):
                writer.write_batch(_positioned(batch, self._stored, job), row_group_size=_GROUP_ROWS)

    def rows(self, path: Path) -> ds.Dataset:
        """Return ranked rows, in the log's columns."""
        return ds.dataset(path, schema=self._stored)


def new_file(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Return what writes a file that is read once: numbers without dictionaries, and no statistics."""
    text = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_binary(field.type)]
    return pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=text, write_statistics=False)


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
