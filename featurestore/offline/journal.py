"""A Delta table to which every writer's rows are appended exactly once.

Each commit carries, per writer, the position it reached as a Delta application transaction. A commit is made against
a snapshot and holds only rows beyond that snapshot's positions; Delta refuses it where another commit of the same
writer came in between, and then it is made anew from the newer snapshot.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError

from featurestore.errors import OfflineStoreError
from featurestore.offline.positions import Positions

_UNUSABLE_PATH = re.compile(r"[\[\]^%|\\\x00-\x1f]")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+")
_MILLISECOND = 1000
_MAX_CONFLICTS = 1000
OVERWRITTEN = "featurestore.overwritten"
_COMPACT_EVERY = 32
_FILE_BYTES = 32 << 20
_GROUP_ROWS = 1 << 17


class Journal:
    """One Delta table with exactly-once appends.

    An instance may be used by several threads; so may any number of instances and processes.

    Parameters
    ----------
    path
        Folder of the table; it need not exist.
    schema
        Arrow schema of the rows as handed in and out. Fixed-size lists are stored as lists.
    what
        What the table is, for error messages: ``"the log of view 'trips'"``.
    writer_column, sequence_column
        The columns that hold a row's position.
    statistics
        Columns by whose minimum and maximum files are pruned.

    Raises
    ------
    OfflineStoreError
        Where the path holds characters that Delta tables cannot live under.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        *,
        what: str,
        writer_column: str,
        sequence_column: str,
        statistics: Sequence[str] = (),
    ) -> None:
        self.path = path.absolute()
        self.schema = schema
        self._stored = pa.schema([field.with_type(_stored_type(field.type)) for field in schema])
        self._what = what
        self._positions = Positions(writer_column, sequence_column)
        self._statistics = [name for name in statistics if _PLAIN_NAME.fullmatch(name)]
        self._table: DeltaTable | None = None
        self._lock = threading.RLock()
        bad = _UNUSABLE_PATH.search(str(self.path))
        if bad:
            raise OfflineStoreError(
                f"{what} cannot live in {self.path}: a path with {bad.group()!r} does not work for Delta tables; "
                "choose another offline_path"
            )

    def exists(self) -> bool:
        """Return whether the table has been created."""
        with self._errors("look for"):
            return DeltaTable.is_deltatable(str(self.path))

    def version(self) -> int:
        """Return the version of the newest commit, or -1 where there is no table."""
        table = self._newest()
        return -1 if table is None else table.version()

    def position(self, writer: str, version: int | None = None) -> int:
        """Return the position that a writer has reached, or had reached at a version; or -1."""
        with self._lock, self._errors("read"):
            table = self._newest() if version is None else self._at(version)
            return -1 if table is None else _position(table, writer)

    def version_of(self, writer: str, position: int, since: int) -> int | None:
        """Return the version in which `overwrite` recorded a position, after version ``since``; or None."""
        with self._lock, self._errors("read"):
            table = self._newest()
            if table is None or table.version() <= since:
                return None
            commits = table.history(table.version() - since)
        named = f"{writer}={position}"
        return next((commit["version"] for commit in commits if commit.get(OVERWRITTEN) == named), None)

    def append(self, rows: pa.Table, through: Mapping[str, int]) -> pa.Table:
        """Append the rows that are beyond what their writers have already appended.

        Parameters
        ----------
        rows
            Rows of the schema, in any order; each writer must stand in ``through``.
        through
            Writer to the position that is reached once the rows are in: at least their greatest sequence.

        Returns
        -------
        pyarrow.Table
            The rows that this call appended: without those at or below the positions found, and without repeats.

        Raises
        ------
        OfflineStoreError
            Where a row is beyond ``through`` or the table cannot be read or written; nothing was appended then.
        """
        rows = self._conform(rows)
        problem = self._positions.problem(rows, through)
        if problem:
            raise OfflineStoreError(f"{self._what}: {problem}")
        with self._lock:
            for _ in range(_MAX_CONFLICTS):
                table = self._newest() or self._create()
                known = {writer: _position(table, writer) for writer in through}
                fresh = self._positions.beyond(rows, known)
                if not fresh.num_rows:
                    return fresh
                reached = {writer: position for writer, position in through.items() if position > known[writer]}
                if self._commit(table, fresh.cast(self._stored), reached):
                    if table.version() % _COMPACT_EVERY == 0:
                        self._compact(table)
                    return fresh
        raise OfflineStoreError(f"{self._what} in {self.path}: {_MAX_CONFLICTS} commits in a row lost to other writers")

    def overwrite(self, rows: pa.Table | ds.Dataset, predicate: str, writer: str, position: int) -> None:
        """Replace the rows that satisfy a predicate by others that do, in one commit.

        Parameters
        ----------
        rows
            Rows of the schema; a data set is streamed.
        predicate
            SQL over the columns; a new row that does not satisfy it is refused.
        writer, position
            What the commit records; the position must be beyond the writer's.

        Raises
        ------
        OfflineStoreError
            Where the position has been reached before, a row does not satisfy the predicate, or the table cannot be
            read or written; nothing was changed then.
        """
        with self._lock:
            for attempt in range(_MAX_CONFLICTS):
                table = self._newest() or self._create()
                known = _position(table, writer)
                if attempt and position == known:  # it went through although it was reported lost
                    return
                if position <= known:
                    raise OfflineStoreError(
                        f"{self._what} in {self.path}: {writer!r} is at {known}, so {position} came too late; "
                        "another job has replaced its range since"
                    )
                if self._commit(table, self._stored_rows(rows), {writer: position}, predicate):
                    return
        raise OfflineStoreError(f"{self._what} in {self.path}: {_MAX_CONFLICTS} commits in a row lost to other writers")

    def files(
        self, column: str = "", start: int | None = None, end: int | None = None, version: int | None = None
    ) -> list[str]:
        """Return the Parquet files of a version, without those that hold nothing in a time range.

        Parameters
        ----------
        column
            The timestamp column that the range is about.
        start, end
            Bounds in microseconds, inclusive and exclusive; None is open. Delta keeps statistics in milliseconds,
            so a file is kept if it may hold such a row.
        version
            The version to read; by default the newest.

        Returns
        -------
        list of str
            Absolute paths, by the earliest time in each; none where there is no table.

        Raises
        ------
        OfflineStoreError
            Where the table cannot be read or has no such version.
        """
        with self._lock, self._errors("read"):
            table = self._newest() if version is None else self._at(version)
            if table is None:
                return []
            actions = pa.table(table.get_add_actions(flatten=True))
        if start is not None:
            latest = _micros(actions, f"max.{column}")
            actions = actions.filter(pc.fill_null(pc.greater_equal(latest, start - _MILLISECOND), True))
        if end is not None:
            earliest = _micros(actions, f"min.{column}")
            actions = actions.filter(pc.fill_null(pc.less(earliest, end + _MILLISECOND), True))
        earliest = _micros(actions, f"min.{column}").to_pylist()
        paths = sorted(zip([time or 0 for time in earliest], actions["path"].to_pylist(), strict=True))
        return [str(self.path / path) for _, path in paths]

    def count(self) -> int:
        """Return the number of rows in the newest version."""
        with self._lock, self._errors("read"):
            table = self._newest()
            actions = None if table is None else pa.table(table.get_add_actions(flatten=True))
        return 0 if actions is None else pc.sum(actions["num_records"]).as_py() or 0

    def greatest_time(self, column: str) -> int | None:
        """Return the greatest value of a timestamp column as the table's own statistics tell it; None without rows.

        In microseconds, up to a millisecond less than the true one. No file of rows is read.
        """
        with self._lock, self._errors("read"):
            table = self._newest()
            actions = None if table is None else pa.table(table.get_add_actions(flatten=True))
        if actions is None:
            return None
        greatest: int | None = pc.max(_micros(actions, f"max.{column}")).as_py()
        return greatest

    def _newest(self) -> DeltaTable | None:
        with self._lock, self._errors("read"):
            if self._table is not None:
                self._table.update_incremental()
            elif DeltaTable.is_deltatable(str(self.path)):
                self._table = DeltaTable(str(self.path))
            return self._table

    def _at(self, version: int) -> DeltaTable | None:
        if version < 0:
            return None
        newest = self._newest()
        is_newest = newest is not None and newest.version() == version
        return newest if is_newest else DeltaTable(str(self.path), version=version)

    def _create(self) -> DeltaTable:
        configuration: dict[str, str | None] = {"delta.logRetentionDuration": "interval 36500 days"}
        if self._statistics:
            configuration["delta.dataSkippingStatsColumns"] = ",".join(self._statistics)
        with self._errors("create"):
            self.path.mkdir(parents=True, exist_ok=True)
            # Whoever comes second finds the table of the first.
            DeltaTable.create(str(self.path), self._stored, mode="ignore", configuration=configuration)
            self._table = DeltaTable(str(self.path))
        return self._table

    def _commit(
        self,
        table: DeltaTable,
        rows: pa.Table | pa.RecordBatchReader,
        reached: Mapping[str, int],
        predicate: str | None = None,
    ) -> bool:
        """Commit against the table's snapshot; False where another commit got in the way."""
        before = table.version()
        transactions = [Transaction(writer, position) for writer, position in sorted(reached.items())]
        named = ",".join(f"{writer}={position}" for writer, position in sorted(reached.items()))
        metadata = None if predicate is None else {OVERWRITTEN: named}
        properties = CommitProperties(custom_metadata=metadata, app_transactions=transactions)
        layout = file_layout(self._stored)
        with self._errors("write"):
            try:
                if predicate is None:
                    write_deltalake(table, rows, mode="append", commit_properties=properties, writer_properties=layout)
                else:
                    write_deltalake(
                        table,
                        rows,
                        mode="overwrite",
                        predicate=predicate,
                        commit_properties=properties,
                        writer_properties=layout,
                    )
            except CommitFailedError:
                self._table = DeltaTable(str(self.path))
                if self._table.version() == before:
                    raise
                return False
        return True

    def _compact(self, table: DeltaTable) -> None:
        """Put small files together, so that neither reading nor committing grows with the number of commits.

        Rows, positions and earlier versions stay as they are. Where another commit gets in the way, the next
        compaction does the work.
        """
        with self._errors("compact"):
            try:
                table.optimize.compact(target_size=_FILE_BYTES, writer_properties=file_layout(self._stored))
            except CommitFailedError:
                self._table = DeltaTable(str(self.path))

    def _conform(self, rows: pa.Table) -> pa.Table:
        try:
            return rows.select(self.schema.names).cast(self.schema)
        except (KeyError, pa.ArrowException) as error:
            raise OfflineStoreError(f"{self._what}: the rows do not have its columns: {error}") from error

    def _stored_rows(self, rows: pa.Table | ds.Dataset) -> pa.Table | pa.RecordBatchReader:
        if isinstance(rows, pa.Table):
            return self._conform(rows).cast(self._stored)
        batches = rows.scanner(columns=self.schema.names).to_batches()
        return pa.RecordBatchReader.from_batches(self._stored, (batch.cast(self._stored) for batch in batches))

    def _errors(self, doing: str) -> AbstractContextManager[None]:
        return table_errors(f"cannot {doing} {self._what} in {self.path}")


@contextmanager
def table_errors(what: str) -> Iterator[None]:
    """Turn errors of Delta, Arrow and the file system into an `OfflineStoreError` that starts with ``what``."""
    try:
        yield
    except (DeltaError, OSError, pa.ArrowException) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise OfflineStoreError(f"{what}: {lines[0]}") from error


def file_layout(schema: pa.Schema) -> WriterProperties:
    """Return how files are laid out: row groups of a size that threads share well, numbers without dictionaries.

    Dictionaries make numbers with many values larger and slower to read, text with few values smaller.
    """
    text = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_binary(field.type)]
    return WriterProperties(
        compression="SNAPPY",
        max_row_group_size=_GROUP_ROWS,
        default_column_properties=ColumnProperties(dictionary_enabled=False),
        column_properties={name: ColumnProperties(dictionary_enabled=True) for name in text},
    )


def _position(table: DeltaTable, writer: str) -> int:
    position = table.transaction_version(writer)
    return -1 if position is None else position


def _stored_type(arrow: pa.DataType) -> pa.DataType:
    return pa.list_(arrow.value_type) if pa.types.is_fixed_size_list(arrow) else arrow


def _micros(actions: pa.Table, column: str) -> pa.ChunkedArray:
    if column not in actions.column_names:
        return pa.chunked_array([pa.nulls(actions.num_rows, pa.int64())])
    return actions[column].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
