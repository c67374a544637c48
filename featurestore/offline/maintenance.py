"""Maintenance of one Delta table: put small files together, remove what no version needs, erase rows for good."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
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


class KeyFilter:
    """The rows of one key of a table, as SQL and as an Arrow expression."""

    def __init__(self, key: Key) -> None:
        expression = ds.scalar(True)
        for field, value in key:
            expression &= ds.field(field.name) == arrow_scalar(value, field.dtype)
        self.expression: ds.Expression = expression
        self.sql = " AND ".join(f"{_identifier(field.name)} = {_literal(value, field)}" for field, value in key)


def arrow_scalar(value: Any, dtype: ValueType) -> pa.Scalar:
    """Return one of the store's values as an Arrow scalar of its declared type; times are microseconds."""
    arrow = dtype.to_arrow()
    return pa.scalar(value, pa.int64()).cast(arrow) if dtype.kind == "timestamp" else pa.scalar(value, arrow)


def key_rows(path: Path, chosen: ds.Expression, columns: list[str], *, history: bool = False) -> pa.Table | None:
    """Return columns of the chosen rows, of the newest version or of every file that is left; None without a table."""
    with table_errors(f"cannot read {path}"):
        table = _open(path)
        if table is None:
            return None
        files = data_files(path) if history else [_local(path, uri) for uri in table.file_uris()]
        return ds.dataset(files, schema=_schema(table), format="parquet").to_table(columns=columns, filter=chosen)


def erase_rows(path: Path, sql: str, chosen: ds.Expression) -> int:
    """Delete the chosen rows from a table for good, and return how many the newest version held.

    One commit takes them out of the newest version; the positions that writers reached stay. Then every older file
    that holds such a row is replaced, in place and each at once, by one without: earlier versions can still be read,
    without those rows. May be repeated after a crash at any point.

    Parameters
    ----------
    sql, chosen
        The rows, for the newest version and for older files.

    Raises
    ------
    OfflineStoreError
        Where the table cannot be read or written, or rows are left.
    """
    with table_errors(f"cannot erase rows from {path}"):
        if _open(path) is None:
            return 0
        erased = _delete(path, sql)
        newest = _open(path)
        assert newest is not None  # noqa: S101  (it was there)
        schema = _schema(newest)
        current = sorted(_local(path, uri) for uri in newest.file_uris())
        for leftover in path.glob(f"{_SCRUBBING}*"):
            leftover.unlink()
        for file in data_files(path):
            if file not in current:
                scrub_file(Path(file), chosen, schema)
        left = ds.dataset(current, schema=schema, format="parquet").count_rows(filter=chosen)
    if left:
        raise OfflineStoreError(f"{left} rows of the key came into {path} while it was erased: run the command again")
    return erased


def _delete(path: Path, sql: str) -> int:
    for _ in range(_ATTEMPTS):
        table = DeltaTable(str(path))
        try:
            return int(table.delete(sql).get("num_deleted_rows") or 0)
        except CommitFailedError:
            continue
    raise _lost(path, "changed")


def scrub_file(file: Path, chosen: ds.Expression, schema: pa.Schema) -> int:
    """Replace a Parquet file by one without the chosen rows, where it has some; return how many it had."""
    dataset = ds.dataset(file, schema=schema, format="parquet")
    found = dataset.count_rows(filter=chosen)
    if not found:
        return 0
    rest = ~chosen | chosen.is_null()
    new = file.with_name(f"{_SCRUBBING}{uuid.uuid4().hex}.parquet")
    compression = _compression(file)
    with pq.ParquetWriter(new, schema, compression=compression) as writer:
        for batch in dataset.to_batches(filter=rest, batch_size=_BATCH_ROWS):
            writer.write_batch(batch)
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


def data_files(path: Path) -> list[str]:
    """Return the Parquet files of a table's folder, of whatever version or none."""
    return sorted(str(file) for file in path.glob("*.parquet") if not file.name.startswith("_"))


def _open(path: Path) -> DeltaTable | None:
    return DeltaTable(str(path)) if DeltaTable.is_deltatable(str(path)) else None


def _local(path: Path, uri: str) -> str:
    return str(path / Path(uri).name)


def _schema(table: DeltaTable) -> pa.Schema:
    """Return the table's columns; files may hold views of text and bytes instead, which compare with nothing."""
    return pa.schema(table.schema().to_arrow())


def _lost(path: Path, what: str) -> OfflineStoreError:
    return OfflineStoreError(
        f"{path} could not be {what}: {_ATTEMPTS} commits in a row lost to other writers; try again when fewer write"
    )


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: Any, field: Field) -> str:
    """Return a join key's value as SQL."""
    kind = field.dtype.kind
    if kind == "string":
        return "'" + str(value).replace("'", "''") + "'"
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
