"""Maintenance of one Delta table: put small files together, remove what no version needs, erase rows for good."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from featurestore.clock import from_micros
from featurestore.definitions import Field
from featurestore.errors import OfflineStoreError
from featurestore.offline.journal import OVERWRITTEN, table_errors
from featurestore.types import ValueType

FILE_BYTES = 128 << 20
_ATTEMPTS = 20
_SCRUBBING = "_scrubbing-"
_BATCH_ROWS = 131_072


class Compacted(NamedTuple):
    """How many data files a table had before and after."""

    before: int
    after: int


class Removed(NamedTuple):
    """Files that went, or would go, and their bytes."""

    files: int
    bytes: int


def compact(path: Path, time_column: str, target_bytes: int = FILE_BYTES) -> Compacted:
    """Lay a table out by time in files of a sensible size. Rows, positions and earlier versions stay as they are.

    A table whose files are of that size and do not overlap in time is left alone.

    Raises
    ------
    OfflineStoreError
        Where the table cannot be read or written, or other writers got in the way too often.
    """
    with table_errors(f"cannot compact {path}"):
        for _ in range(_ATTEMPTS):
            table = _open(path)
            if table is None:
                return Compacted(0, 0)
            before = len(table.file_uris())
            if before < 2 or _is_laid_out(table, time_column, target_bytes):
                return Compacted(before, before)
            try:
                table.optimize.z_order([time_column], target_size=target_bytes)
            except CommitFailedError:
                continue
            return Compacted(before, len(table.file_uris()))
    raise _lost(path, "compacted")


def _is_laid_out(table: DeltaTable, column: str, target_bytes: int) -> bool:
    """Return whether no two files overlap in time, and no two neighbours would fit into one file."""
    actions = pa.table(table.get_add_actions(flatten=True))
    names = [f"min.{column}", f"max.{column}", "size_bytes"]
    if not set(names) <= set(actions.column_names) or any(actions[name].null_count for name in names):
        return False
    files = sorted(zip(*(actions[name].to_pylist() for name in names), strict=True))
    pairs = pairwise(files)
    return all(end <= start and size + other > target_bytes for (_, end, size), (start, _, other) in pairs)


def vacuum(path: Path, retention_hours: int, keep: Iterable[int], *, dry_run: bool) -> Removed:
    """Remove the files that no needed version holds.

    Parameters
    ----------
    path
        Folder of the table.
    retention_hours
        Versions that were current within so many hours are needed.
    keep
        Versions that are needed however old they are.
    dry_run
        Only say what would go.

    Notes
    -----
    Files that no version names, which a killed writer left, go once they are older than the retention. With a
    retention of 0 they stay: a writer may be about to commit them.
    """
    with table_errors(f"cannot vacuum {path}"):
        table = _open(path)
        if table is None:
            return Removed(0, 0)
        needed = sorted({version for version in keep if 0 <= version <= table.version()})
        options: dict[str, Any] = {
            "retention_hours": retention_hours,
            "enforce_retention_duration": False,
            "full": retention_hours > 0,
            "keep_versions": needed or None,
        }
        gone = table.vacuum(dry_run=True, **options)
        found = [path / name for name in gone if (path / name).exists()]
        size = sum(file.stat().st_size for file in found)
        if found and not dry_run:
            table.vacuum(dry_run=False, **options)
        return Removed(len(found), size)


def missing_files(files: Iterable[str]) -> list[str]:
    """Return those files of a version that are gone from the disk."""
    return [file for file in files if not Path(file).exists()]


Key = Sequence[tuple[Field, Any]]
"""Join keys with their declared types, and values as the store holds them: times are microseconds."""


class Chosen(NamedTuple):
    """Rows of a table: as SQL for its newest version, and for its files as an Arrow expression over some columns."""

    sql: str
    expression: pc.Expression
    columns: tuple[str, ...]


def rows_of_key(key: Key, through: Mapping[str, int] | None = None) -> Chosen:
    """Choose the rows of a key; with `through`, writer to sequence, those of these writers up to there."""
    expression = pc.scalar(True)
    for field, value in key:
        expression &= pc.field(field.name) == arrow_scalar(value, field.dtype)
    sql = " AND ".join(f"{_identifier(field.name)} = {_literal(value, field)}" for field, value in key)
    names = tuple(field.name for field, _ in key)
    if through is None:
        return Chosen(sql, expression, names)
    bounds = [f"(_writer = {_text(writer)} AND _sequence <= {last})" for writer, last in through.items()]
    bounded = pc.scalar(False)
    for writer, last in through.items():
        bounded |= (pc.field("_writer") == writer) & (pc.field("_sequence") <= last)
    every = (*names, "_writer", "_sequence")
    return Chosen(f"{sql} AND ({' OR '.join(bounds) or 'false'})", expression & bounded, every)


def rows_at(positions: Mapping[str, Sequence[int]]) -> Chosen:
    """Choose the dead letters at some positions: writer to sequences."""
    parts, expression = [], pc.scalar(False)
    for writer, sequences in positions.items():
        parts.append(f"(writer = {_text(writer)} AND sequence IN ({', '.join(map(str, sequences))}))")
        expression |= (pc.field("writer") == writer) & pc.field("sequence").isin(sequences)
    return Chosen(" OR ".join(parts) or "false", expression, ("writer", "sequence"))


def arrow_scalar(value: Any, dtype: ValueType) -> pa.Scalar:
    """Return one of the store's values as an Arrow scalar of its declared type; times are microseconds."""
    arrow = dtype.to_arrow()
    return pa.scalar(value, pa.int64()).cast(arrow) if dtype.kind == "timestamp" else pa.scalar(value, arrow)


def read_rows(path: Path, chosen: Chosen, columns: list[str], settled: int | None = None) -> pa.Table | None:
    """Return columns of the chosen rows of the newest version, or None without a table.

    With `settled`, as in `erase_rows`, those of all older versions too; a row that is in several files is there often.
    """
    with table_errors(f"cannot read {path}"):
        table = _open(path)
        if table is None:
            return None
        files = _current(path, table)
        if settled is not None:
            files += _older(path, table, settled)
        schema = _schema(table)
        parts = [_matching(file, chosen, schema, columns).select(columns) for file in files]
        empty = pa.schema([schema.field(name) for name in columns]).empty_table()
        return pa.concat_tables([empty, *parts])


def _matching(file: str, chosen: Chosen, schema: pa.Schema, columns: Sequence[str] = ()) -> pa.Table:
    """Return the chosen rows of a file: the columns by which they are chosen, and others."""
    names = list(dict.fromkeys([*chosen.columns, *columns]))
    with pq.ParquetFile(file) as parquet:
        return _cast(parquet.read(columns=names), schema).filter(chosen.expression)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a file's columns with the table's types: Delta writes views of text, which Arrow compares with nothing."""
    return table.cast(pa.schema([schema.field(name) for name in table.column_names]))


def erase_rows(path: Path, chosen: Chosen, settled: int) -> int:
    """Delete the chosen rows from a table for good, and return how many the newest version held.

    One commit takes them out of the newest version; the positions that writers reached stay. Then every older file
    that holds such a row is replaced, in place and each at once, by one without: earlier versions can still be read,
    without those rows. May be repeated after a crash at any point.

    Parameters
    ----------
    settled
        Files that no version names are looked into where they were written before this, in microseconds since the
        epoch: newer ones a writer may be about to commit.

    Raises
    ------
    OfflineStoreError
        Where the table cannot be read or written.
    """
    with table_errors(f"cannot erase rows from {path}"):
        if _open(path) is None:
            return 0
        erased, table = _delete(path, chosen.sql)
        schema, current = _schema(table), _current(path, table)
        if any(_matching(file, chosen, schema).num_rows for file in current):
            raise OfflineStoreError(f"{path} still holds rows after the commit that deleted them: please report it")
        for leftover in path.glob(f"{_SCRUBBING}*"):
            leftover.unlink()
        for file in _older(path, table, settled):
            scrub_file(Path(file), chosen, schema)
    return erased


def _delete(path: Path, sql: str) -> tuple[int, DeltaTable]:
    """Return how many rows were deleted, and the table as of that commit: what came later is not in it."""
    for _ in range(_ATTEMPTS):
        table = DeltaTable(str(path))
        try:
            return int(table.delete(sql).get("num_deleted_rows") or 0), table
        except CommitFailedError:
            continue
    raise _lost(path, "changed")


def _current(path: Path, table: DeltaTable) -> list[str]:
    return sorted(str(path / Path(uri).name) for uri in table.file_uris())


def _older(path: Path, table: DeltaTable, settled: int) -> list[str]:
    """Return the files that only earlier versions need, and those of no version that were written before `settled`."""
    removed = table.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False)
    replaced = {path / name for name in removed}
    files = {file for file in path.glob("*.parquet") if not file.name.startswith("_")}
    files -= {Path(file) for file in _current(path, table)}
    return sorted(str(file) for file in files if file in replaced or file.stat().st_mtime_ns < settled * 1000)


def scrub_file(file: Path, chosen: Chosen, schema: pa.Schema) -> int:
    """Replace a Parquet file by one without the chosen rows, where it has some; return how many it had."""
    found = _matching(str(file), chosen, schema).num_rows
    if not found:
        return 0
    rest = ~chosen.expression | chosen.expression.is_null()
    new = file.with_name(f"{_SCRUBBING}{uuid.uuid4().hex}.parquet")
    with pq.ParquetFile(file) as old, pq.ParquetWriter(new, schema, compression=_compression(file)) as writer:
        for batch in old.iter_batches(_BATCH_ROWS):
            writer.write_table(_cast(pa.Table.from_batches([batch]), schema).filter(rest))
    with new.open("rb") as written:
        os.fsync(written.fileno())
    new.replace(file)
    return int(found)


def _compression(file: Path) -> str:
    metadata = pq.read_metadata(file)
    if not metadata.num_row_groups or not metadata.num_columns:
        return "snappy"
    name: str = metadata.row_group(0).column(0).compression
    return "none" if name == "UNCOMPRESSED" else name


def _open(path: Path) -> DeltaTable | None:
    return DeltaTable(str(path)) if DeltaTable.is_deltatable(str(path)) else None


def _schema(table: DeltaTable) -> pa.Schema:
    """Return the table's columns; files may hold views of text and bytes instead, which compare with nothing."""
    return pa.schema(table.schema().to_arrow())


def _lost(path: Path, what: str) -> OfflineStoreError:
    return OfflineStoreError(
        f"{path} could not be {what}: {_ATTEMPTS} commits in a row lost to other writers; try again when fewer write"
    )


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _literal(value: Any, field: Field) -> str:
    """Return a join key's value as SQL."""
    kind = field.dtype.kind
    if kind == "string":
        return _text(value)
    if kind == "bytes":
        return f"X'{bytes(value).hex()}'"
    if kind == "bool":
        return "true" if value else "false"
    if kind == "timestamp":
        return f"'{from_micros(value).replace(tzinfo=None).isoformat(timespec='microseconds')}Z'"
    return str(int(value))


def job_versions(path: Path, since: int) -> set[int]:
    """Return the versions that batch jobs committed after a version, and each one before: publishing reads both."""
    with table_errors(f"cannot read {path}"):
        table = _open(path)
        commits = table.history() if table is not None else []
    committed = {commit["version"] for commit in commits if OVERWRITTEN in commit and commit["version"] > since}
    return committed | {version - 1 for version in committed}
