"""Reads rows of a log in the order of their keys, writers and sequences, which is how online state is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from featurestore.offline.duckdb.session import engine_errors, identifier, literal_path, session
from featurestore.semantics.rows import BATCH_WRITER

_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a log to read; every part left out selects all.

    Attributes
    ----------
    keys
        Distinct join keys; rows of other keys are left out.
    writers
        The writers whose rows count.
    after
        Writer to a sequence: of this writer only later rows. It does not change what `horizon` sees.
    horizon
        Microseconds: of each key and writer only rows with ``event_timestamp >= greatest arrival - horizon``.
    batch_before
        Microseconds since the epoch: batch rows at or after it do not count at all.
    """

    keys: pa.Table | None = None
    writers: Sequence[str] | None = None
    after: Mapping[str, int] = field(default_factory=dict)
    horizon: int | None = None
    batch_before: int | None = None


def sorted_rows(
    what: str, files: Sequence[str], schema: pa.Schema, key_names: Sequence[str], selection: Selection
) -> Iterator[pa.RecordBatch]:
    """Yield the selected rows ordered by (join keys, ``_writer``, ``_sequence``).

    Parameters
    ----------
    what
        What is read, for error messages.
    files
        Parquet files with the columns of ``schema``.
    schema
        Schema of the batches; fixed-size lists stand as lists in the files.
    key_names
        The join keys, in the order to sort by.
    selection
        Which rows; see `Selection`.

    Raises
    ------
    OfflineStoreError
        Where a file is gone or unreadable.
    """
    keys = selection.keys if key_names else None
    if not files or (keys is not None and not keys.num_rows) or selection.writers == []:
        return
    sql, parameters = _query(schema, key_names, selection, with_keys=keys is not None)
    parameters["files"] = [literal_path(file) for file in files]
    with engine_errors(f"cannot read {what}"), session() as connection:
        if keys is not None:
            distinct = keys.select(list(key_names)).cast(pa.schema([schema.field(name) for name in key_names]))
            connection.register("chosen_keys", distinct)
        reader = connection.sql(sql, params=parameters).to_arrow_reader(_BATCH_ROWS)
        for batch in reader:
            if batch.num_rows:
                yield batch.cast(schema)


def distinct_keys(
    what: str, files: Sequence[str], schema: pa.Schema, key_names: Sequence[str], bounds: tuple[int, int]
) -> pa.Table:
    """Return the distinct join keys of batch rows with ``bounds[0] <= event_timestamp < bounds[1]`` (microseconds).

    Without join keys the result has no columns, and one row if there is such a batch row.
    """
    keys = pa.schema([schema.field(name) for name in key_names])
    if not files:
        return keys.empty_table()
    names = ", ".join(identifier(name) for name in key_names)
    sql = (
        f"SELECT DISTINCT {names or 'true'} FROM read_parquet($files, hive_partitioning = false) "
        "WHERE _writer = $writer AND epoch_us(event_timestamp) >= $start AND epoch_us(event_timestamp) < $end"
    )
    paths = [literal_path(file) for file in files]
    with engine_errors(f"cannot read {what}"), session() as connection:
        parameters = {"files": paths, "writer": BATCH_WRITER, "start": bounds[0], "end": bounds[1]}
        found = connection.sql(sql, params=parameters).to_arrow_table()
    if not key_names and found.num_rows:  # the one key that such a view has; only a batch can hold it
        return pa.Table.from_batches([pa.RecordBatch.from_struct_array(pa.array([{}], pa.struct([])))])
    return found.select(key_names).cast(keys)


def newest_batch_time(what: str, files: Sequence[str]) -> int | None:
    """Return the greatest event time of a batch row in microseconds, or None where there is none."""
    if not files:
        return None
    sql = (
        "SELECT epoch_us(max(event_timestamp)) FROM read_parquet($files, hive_partitioning = false) "
        "WHERE _writer = $writer"
    )
    parameters = {"files": [literal_path(file) for file in files], "writer": BATCH_WRITER}
    with engine_errors(f"cannot read {what}"), session() as connection:
        row = connection.execute(sql, parameters).fetchone()
    return None if row is None else row[0]


def _query(
    schema: pa.Schema, key_names: Sequence[str], selection: Selection, *, with_keys: bool
) -> tuple[str, dict[str, Any]]:
    names = [identifier(name) for name in key_names]
    parameters: dict[str, Any] = {}
    conditions = _conditions(selection, parameters)
    late = _after(selection.after, parameters)
    if selection.horizon is None:
        conditions += late
    semi = ""
    if with_keys:
        equal = " AND ".join(f"c.{name} = r.{name}" for name in names)
        semi = f"SEMI JOIN chosen_keys AS c ON {equal}"
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    columns = ", ".join(_column(column) for column in schema)
    sql = f"SELECT {columns} FROM read_parquet($files, hive_partitioning = false) AS r {semi} {where}"
    if selection.horizon is not None:
        sql = _within_horizon(sql, names, late)
        parameters["horizon"] = min(selection.horizon, 2**62)
    return f"{sql} ORDER BY {', '.join([*names, '_writer', '_sequence'])}", parameters


def _within_horizon(sql: str, names: list[str], conditions: list[str]) -> str:
    """Narrow a query to the rows within the horizon; sections are far smaller than rows, so they are joined back."""
    section = [*names, "_writer"]
    equal = " AND ".join(f"s.{name} = r.{name}" for name in section)
    more = "".join(f" AND {condition}" for condition in conditions)
    return (
        f"WITH r AS ({sql}), "
        f"s AS (SELECT {', '.join(section)}, max(epoch_us(arrival)) AS newest FROM r GROUP BY ALL) "
        f"SELECT r.* FROM r JOIN s ON {equal} WHERE epoch_us(r.event_timestamp) >= s.newest - $horizon{more}"
    )


def _column(column: pa.Field) -> str:
    name = identifier(column.name)
    if not pa.types.is_fixed_size_list(column.type):
        return f"r.{name}"
    element = "FLOAT" if pa.types.is_float32(column.type.value_type) else "DOUBLE"
    return f"r.{name}::{element}[{column.type.list_size}] AS {name}"


def _conditions(selection: Selection, parameters: dict[str, Any]) -> list[str]:
    conditions = []
    if selection.writers is not None:
        places = []
        for number, writer in enumerate(selection.writers):
            parameters[f"writer{number}"] = writer
            places.append(f"$writer{number}")
        conditions.append(f"r._writer IN ({', '.join(places)})")
    if selection.batch_before is not None:
        parameters["batch"] = BATCH_WRITER
        parameters["batch_before"] = selection.batch_before
        conditions.append("NOT (r._writer = $batch AND epoch_us(r.event_timestamp) >= $batch_before)")
    return conditions


def _after(after: Mapping[str, int], parameters: dict[str, Any]) -> list[str]:
    conditions = []
    for number, (writer, sequence) in enumerate(after.items()):
        parameters[f"after{number}"] = writer
        parameters[f"sequence{number}"] = sequence
        conditions.append(f"NOT (r._writer = $after{number} AND r._sequence <= $sequence{number})")
    return conditions
