"""Jobs: what a batch source holds for a range of event time replaces what the log held there, then goes online.

A job is recorded as ``started``, then ``logged`` once the log holds its rows, then ``done``. Whatever was cut off is
finished, or given up where the log does not hold it, before the next job begins.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from featurestore.definitions import FeatureView
from featurestore.definitions.project import row_fingerprint
from featurestore.errors import FeatureStoreError, OfflineStoreError, SourceError
from featurestore.materialize.context import JobContext, JobReport, Progress
from featurestore.materialize.incremental import OVERLAP, ranges_since
from featurestore.materialize.lock import job_lock
from featurestore.materialize.publish import Publisher
from featurestore.materialize.readers import SourceReader
from featurestore.materialize.rows import FIRST, LAST, RowReader
from featurestore.materialize.spool import rank_rows
from featurestore.materialize.text import Rejected
from featurestore.offline.deadletters import DEAD_LETTER_SCHEMA, DeadLetters
from featurestore.offline.log import RowLog
from featurestore.semantics.rows import BATCH_WRITER, RANK_BITS

_LETTERS_AT_ONCE = 50_000
_SHOWN_REASONS = 3


def materialize(
    context: JobContext, views: Sequence[FeatureView], start: int, end: int, progress: Progress | None = None
) -> list[JobReport]:
    """Run one job per log of some views.

    Parameters
    ----------
    context
        What jobs work with.
    views
        Views with a batch source. Every view that shares a log with one of them is written too.
    start, end
        Event times in microseconds; rows with ``start <= event time < end`` are replaced by what the source holds.
    progress
        Called as rows are read.

    Raises
    ------
    SourceError
        Where a source cannot be read or is not as declared; the log is as it was.
    OfflineStoreError
        Where another job runs on the log, or it cannot be written.
    """
    reports = []
    for log, view, names in _logs(context, views):
        with job_lock(context.offline_root, log.fingerprint, names):
            finish_jobs(context, log)
            job = _Job(context, log, view, names, progress)
            reports.append(job.run(max(start, FIRST), min(end, LAST + 1), context.clock.now(), names))
    return reports


def materialize_incremental(
    context: JobContext,
    views: Sequence[FeatureView],
    end: int,
    progress: Progress | None = None,
    overlap: int = OVERLAP,
) -> list[JobReport]:
    """Run the jobs that bring the logs of some views level with their sources, up to ``end`` (exclusive).

    Where the source says when rows were created, each UTC day that holds one created since the last such run is
    covered again; else the time since, and ``overlap`` microseconds before it. The first run covers everything.

    Raises
    ------
    SourceError, OfflineStoreError
        As `materialize`.
    """
    reports = []
    for log, view, names in _logs(context, views):
        with job_lock(context.offline_root, log.fingerprint, names):
            finish_jobs(context, log)
            now = context.clock.now()  # of the whole run: what comes in meanwhile counts as new next time
            job = _Job(context, log, view, names, progress)
            done = [job for job in context.registry.jobs(log.fingerprint) if job.state == "done"]
            for covered in ranges_since(done, job.reader(), view, min(end, LAST + 1), overlap):
                label = f"{names} [incremental]" if covered.last else names
                reports.append(job.run(covered.start, covered.end, now, label))
    return reports


def finish_jobs(context: JobContext, log: RowLog) -> None:
    """Finish the jobs of a log that were cut off: publish those the log holds, give up the others."""
    for job in context.registry.unfinished_jobs(log.fingerprint):
        version = log.job_version(job.number, job.base_version)
        if version is None:
            context.registry.update_job(log.fingerprint, job.number, "failed")
        else:
            Publisher(context, log, job.number, (job.start, job.end), version).publish()


def _logs(context: JobContext, views: Sequence[FeatureView]) -> Iterator[tuple[RowLog, FeatureView, str]]:
    """Yield the distinct logs of some views, with one view and the names of all views of each."""
    firsts = {row_fingerprint(view): view for view in reversed(views)}
    for fingerprint, view in reversed(firsts.items()):
        readers = context.readers_of(fingerprint) or [view]
        yield RowLog(context.offline_root, view), view, ", ".join(reader.name for reader in readers)


class _Job:
    """Runs jobs on one log; the caller holds its lock."""

    def __init__(
        self, context: JobContext, log: RowLog, view: FeatureView, names: str, progress: Progress | None
    ) -> None:
        self._context = context
        self._log = log
        self._view = view
        self._names = names
        self._progress = progress

    def reader(self) -> RowReader:
        """Return a reader of the view's batch source."""
        source = self._view.batch_source
        if source is None:
            raise OfflineStoreError(f"view {self._view.name!r} has no batch source to materialize from")
        context = self._context
        reader = SourceReader(source, context.repo_path, context.connection(source.connection))
        return RowReader(self._view, reader, context.max_future_skew)

    def run(self, start: int, end: int, now: int, label: str) -> JobReport:
        """Run one job."""
        began = time.perf_counter()
        base = self._log.version()
        number = self._start(start, end, base, now, label)
        self._context.hook("started")
        try:
            reader = self.reader()
            with self._folder() as name:
                tables = self._counted(reader.tables(start, end))
                rows = rank_rows(self._log, tables, number, Path(name))
                self._context.hook("read")
                self._refuse_hopeless(rows.total, reader.rejected)
                self._reject(reader.rejected, number, now)
                self._context.hook("rejected")
                self._log.replace(rows.rows, start, end, number)
        except FeatureStoreError:
            self._context.registry.update_job(self._log.fingerprint, number, "failed")
            raise
        self._context.hook("logged")
        version = self._log.job_version(number, base)
        assert version is not None  # noqa: S101  (just committed)
        keys = Publisher(self._context, self._log, number, (start, end), version).publish()
        return JobReport(
            view=self._names,
            job=number,
            start=start,
            end=end,
            rows=rows.total,
            rejected=len(reader.rejected),
            reasons=tuple(item.detail for item in reader.rejected[:_SHOWN_REASONS]),
            dropped=reader.dropped,
            keys=keys,
            seconds=time.perf_counter() - began,
            cut=self._cut(),
        )

    def _refuse_hopeless(self, kept: int, rejected: Sequence[Rejected]) -> None:
        """Fail where not one row is usable: that is a wrong declaration or file, not some bad rows."""
        if rejected and not kept:
            source = self._view.batch_source
            raise SourceError(
                f"source {source.name if source else ''!r} ({source.location if source else ''}): none of its "
                f"{len(rejected):,} rows can be used by {self._names}; the first: {rejected[0].detail}. Nothing was "
                "changed: correct the source, or the types in the definitions"
            )

    def _start(self, start: int, end: int, base: int, now: int, label: str) -> int:
        """Record the job; a registry that is younger than the log counts up to it first."""
        fingerprint = self._log.fingerprint
        while True:
            number = self._context.registry.start_job(fingerprint, label, start, end, base, now)
            if number > self._log.sequence(BATCH_WRITER):
                return number
            self._context.registry.update_job(fingerprint, number, "failed")

    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        """Make the job's folder, and remove what a killed one left."""
        parent = self._context.offline_root / "spool" / self._log.fingerprint
        try:
            shutil.rmtree(parent, ignore_errors=True)
            parent.mkdir(parents=True)
            return tempfile.TemporaryDirectory(dir=parent)
        except OSError as error:
            raise OfflineStoreError(f"{parent} cannot be written, which a job needs: {error}") from error

    def _counted(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        count = 0
        for table in tables:
            yield table
            count += table.num_rows
            if self._progress is not None:
                self._progress(f"materializing {self._names}", count, None)

    def _reject(self, rejected: Sequence[Rejected], number: int, now: int) -> None:
        letters = DeadLetters(self._context.offline_root, self._log.fingerprint)
        source = self._view.batch_source
        for first in range(0, len(rejected), _LETTERS_AT_ONCE):
            part = rejected[first : first + _LETTERS_AT_ONCE]
            position = (number << RANK_BITS) + first
            count = len(part)
            columns = [
                [source.name if source else ""] * count,
                [BATCH_WRITER] * count,
                [position + place for place in range(count)],
                [now] * count,
                [item.payload for item in part],
                [item.reason for item in part],
                [item.detail for item in part],
                [self._names] * count,
            ]
            table = pa.table(dict(zip(DEAD_LETTER_SCHEMA.names, columns, strict=True)), schema=DEAD_LETTER_SCHEMA)
            letters.append(table, {BATCH_WRITER: position + count - 1})

    def _cut(self) -> int | None:
        fingerprint, registry = self._log.fingerprint, self._context.registry
        views = [view for view in self._context.readers_of(fingerprint) if view.is_lambda]
        cuts = [cuts[-1].at for view in views if (cuts := registry.cuts(view.name, fingerprint))]
        return min(cuts, default=None)
