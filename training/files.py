"""The files of a saved training set: Parquet whose bytes follow from the values, and folders that appear whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.training.manifest import DataFile, file_hash

ROWS_PER_FILE = 2_000_000
ENTITIES = "entities.parquet"
_GROUP_ROWS = 131_072


def write_parquet(table: pa.Table, path: Path) -> DataFile:
    """Write a table with fixed settings, so that equal tables give equal bytes, and flush it to the disk."""
    table = _bare(table)
    with pq.ParquetWriter(path, table.schema, compression="zstd", compression_level=3, version="2.6") as writer:
        for start in range(0, max(1, table.num_rows), _GROUP_ROWS):
            # One chunk at a time: pages end where chunks do, and what was handed in may have any.
            writer.write_table(table.slice(start, _GROUP_ROWS).combine_chunks(), row_group_size=_GROUP_ROWS)
    sync(path)
    return DataFile(path.name, table.num_rows, path.stat().st_size, file_hash(path))


def write_data(table: pa.Table, folder: Path) -> tuple[DataFile, ...]:
    """Write a set's rows in order, in one file or, where they are many, several."""
    starts = range(0, max(1, table.num_rows), ROWS_PER_FILE)
    return tuple(
        write_parquet(table.slice(start, ROWS_PER_FILE), folder / _name(place)) for place, start in enumerate(starts)
    )


def read_parquet(paths: Sequence[Path]) -> pa.Table:
    """Return the rows of files of one schema, in order."""
    return pa.concat_tables([pq.ParquetFile(path, memory_map=True).read() for path in paths])


def _name(place: int) -> str:
    return f"data-{place}.parquet" if place else "data.parquet"


def _bare(table: pa.Table) -> pa.Table:
    """Return a table without metadata, such as that of pandas, and without dictionaries, whose order may differ."""
    columns = [
        column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for column in table.columns
    ]
    schema = pa.schema([pa.field(name, column.type) for name, column in zip(table.column_names, columns, strict=True)])
    return pa.table(columns, schema=schema)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(new: Path, name: Path) -> bool:
    """Give a finished folder its name, durably; False where another process took the name first."""
    sync(new)
    try:
        new.rename(name)
    except OSError:
        if not name.exists():
            raise
        return False
    sync(name.parent)
    return True


def numbers(parent: Path) -> Iterator[int]:
    """Yield the numbers of the folders in a folder."""
    return (int(entry.name) for entry in parent.iterdir() if entry.name.isdecimal() and entry.is_dir())
