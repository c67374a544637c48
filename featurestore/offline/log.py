"""The row log of a view: every row that any writer delivered, transformed and typed, in one Delta table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from featurestore.clock import from_micros
from featurestore.definitions.feature_view import FeatureView
from featurestore.definitions.project import row_fingerprint
from featurestore.errors import ClockError, OfflineStoreError
from featurestore.offline.duckdb.sorted_rows import Selection, distinct_keys, newest_batch_time, sorted_rows
from featurestore.offline.journal import Journal
from featurestore.semantics.rows import BATCH_WRITER

TIME = pa.timestamp("us", "UTC")


def log_schema(view: FeatureView) -> pa.Schema:
    """Return the Arrow schema of a view's log rows: join keys by name, times, position, input columns by name."""
    keys = sorted(view.join_keys, key=lambda field: field.name)
    return pa.schema(
        [
            *(pa.field(field.name, field.dtype.to_arrow()) for field in keys),
            pa.field("event_timestamp", TIME),
            pa.field("arrival", TIME),
            pa.field("_writer", pa.string()),
            pa.field("_sequence", pa.int64()),
            pa.field("_origin", pa.binary()),
            *(pa.field(field.name, field.dtype.to_arrow()) for field in view.columns),
        ]
    )


class RowLog:
    """The log of one row fingerprint; views that share source, transform and schema share it.

    Parameters
    ----------
    root
        The offline store's folder.
    view
        Any view of the log.

    Attributes
    ----------
    fingerprint
        The row fingerprint, which names the log.
    path
        Folder of the Delta table.
    schema
        Arrow schema of the rows, see `log_schema`.
    key_names
        The join keys, sorted by name.
    """

    def __init__(self, root: Path, view: FeatureView) -> None:
        self.fingerprint = row_fingerprint(view)
        self.schema = log_schema(view)
        self.key_names = sorted(field.name for field in view.join_keys)
        self._what = f"the log of view {view.name!r}"
        self._journal = Journal(
            root / "logs" / self.fingerprint,
            self.schema,
            what=self._what,
            writer_column="_writer",
            sequence_column="_sequence",
            statistics=["event_timestamp", "arrival", "_writer", "_sequence", *self.key_names],
        )
        self.path = self._journal.path
        self._version: int | None = None

    def at(self, version: int) -> RowLog:
        """Return the log as it was at a version, for reading: what is not given a version reads that one."""
        past = copy(self)
        past._version = version  # noqa: SLF001  (its own class)
        return past

    def exists(self) -> bool:
        """Return whether anything was ever written."""
        return self._journal.exists()

    def version(self) -> int:
        """Return the version of the newest commit, or -1 where there is none."""
        return self._journal.version() if self._version is None else self._version

    def sequence(self, writer: str, version: int | None = None) -> int:
        """Return the sequence up to which a writer's rows are in the log, or -1; of ``"batch"``, the last job.

        Parameters
        ----------
        writer
            The writer.
        version
            The version of the table; by default the newest.
        """
        return self._journal.position(writer, self._version if version is None else version)

    def job_version(self, job: int, since: int) -> int | None:
        """Return the version that a job committed, or None where it did not.

        Parameters
        ----------
        job
            The job's number.
        since
            A version before the job started, -1 for the beginning; only later commits are looked at.
        """
        return self._journal.version_of(BATCH_WRITER, job, since)

    def append(self, rows: pa.Table, through: Mapping[str, int]) -> pa.Table:
        """Append rows of streams exactly once, however often and by however many they are handed in.

        Parameters
        ----------
        rows
            Rows of `schema`, in any order.
        through
            Writer to the sequence that is reached once the rows are in: at least their greatest.

        Returns
        -------
        pyarrow.Table
            The rows that this call appended; the others were there already.

        Raises
        ------
        OfflineStoreError
            Where the log cannot be read or written, or a row's sequence is beyond ``through``.
        """
        if BATCH_WRITER in through:
            raise OfflineStoreError(f"{self._what}: batch rows are replaced by jobs, not appended")
        return self._journal.append(rows, through)

    def replace(self, rows: pa.Table | ds.Dataset, start: int, end: int, job: int) -> None:
        """Replace the batch rows in a range of event time by others, in one commit.

        Parameters
        ----------
        rows
            Batch rows of `schema`, all within the range; a data set is streamed.
        start, end
            The range in microseconds, inclusive and exclusive.
        job
            The job's number; greater than that of every job before.

        Raises
        ------
        OfflineStoreError
            Where a later job has written, a row is out of range or of another writer, or the log cannot be written;
            nothing was changed then.
        """
        if start >= end:
            raise OfflineStoreError(f"{self._what}: the range from {start} to {end} is empty")
        bounds = f"event_timestamp >= '{_literal(start)}' AND event_timestamp <= '{_literal(end - 1)}'"
        self._journal.overwrite(rows, f"_writer = '{BATCH_WRITER}' AND {bounds}", BATCH_WRITER, job)

    def files(self, start: int | None = None, end: int | None = None, version: int | None = None) -> list[str]:
        """Return the Parquet files that may hold rows with ``start <= event_timestamp < end``.

        Parameters
        ----------
        start, end
            Bounds in microseconds; None is open. Files hold other rows too: filter.
        version
            The version of the table; by default the newest.
        """
        return self._journal.files("event_timestamp", start, end, self._version if version is None else version)

    def sorted_rows(
        self,
        *,
        keys: pa.Table | None = None,
        writers: Sequence[str] | None = None,
        after: Mapping[str, int] | None = None,
        horizon: int | None = None,
        batch_before: int | None = None,
        version: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Return rows ordered by (join keys, ``_writer``, ``_sequence``), as a stream of batches.

        The snapshot is taken by this call, not when the first batch is asked for. A key may span batches.

        Parameters
        ----------
        keys
            Join keys; only their rows are read. For a view without join keys it is ignored.
        writers
            Only these writers' rows.
        after
            Writer to a sequence: of this writer only later rows.
        horizon
            Microseconds: of each key and writer only rows with
            ``event_timestamp >= greatest arrival - horizon``. The greatest arrival is that of all the rows that
            ``keys``, ``writers`` and ``batch_before`` select.
        batch_before
            Microseconds since the epoch: batch rows at or after it are left out.
        version
            The version of the table; by default the newest.
        """
        selection = Selection(
            keys, None if writers is None else list(writers), dict(after or {}), horizon, batch_before
        )
        end = batch_before if writers is not None and list(writers) == [BATCH_WRITER] else None
        files = self.files(end=end, version=version)
        return sorted_rows(f"{self._what} in {self.path}", files, self.schema, self.key_names, selection)

    def batch_keys(self, start: int, end: int, version: int | None = None) -> pa.Table:
        """Return the distinct join keys of the batch rows with ``start <= event_timestamp < end``.

        Parameters
        ----------
        start, end
            Bounds in microseconds.
        version
            The version of the table; by default the newest. Version -1 has no rows.
        """
        what = f"{self._what} in {self.path}"
        return distinct_keys(what, self.files(start, end, version), self.schema, self.key_names, (start, end))

    def newest_batch_time(self, version: int | None = None) -> int | None:
        """Return the greatest event time of a batch row, in microseconds; None where there is no batch row."""
        return newest_batch_time(f"{self._what} in {self.path}", self.files(version=version))

    def newest_arrival(self) -> int | None:
        """Return when the newest row arrived, in microseconds, to the millisecond; None where there is none. Cheap."""
        return self._journal.greatest_time("arrival")


def _literal(micros: int) -> str:
    try:
        return from_micros(micros).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    except ClockError as error:
        raise OfflineStoreError(f"a job's range must lie within the years 1 to 9999: {error}") from error
