"""Jobs: what a batch source holds for a range of event time replaces what the log held there, then goes online.

A job is recorded as ``started``, then ``logged`` once the log holds its rows, then ``done``. One that was cut off is
gone on with where the same is asked for again and the source is as it was; else it is published where the log holds
it, and given up where not, before the next job begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from featurestore.definitions import FeatureView
from featurestore.definitions.project import row_fingerprint
from featurestore.materialize.context import JobContext, JobReport, Progress
from featurestore.materialize.incremental import OVERLAP
from featurestore.materialize.lease import leased
from featurestore.materialize.rows import FIRST, LAST
from featurestore.materialize.runner import JobRunner
from featurestore.materialize.work import Work
from featurestore.offline.log import RowLog


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
        Called as it gets on.

    Raises
    ------
    SourceError
        Where a source cannot be read or is not as declared; the log is as it was.
    OfflineStoreError
        Where the log cannot be written.
    LeaseHeldError
        Where another process runs a job on the log.
    LeaseLostError
        Where another process took the job over, because this one stood still for too long.
    """
    reports = []
    for view in _one_of_each_log(views):
        with _runner(context, view, progress) as runner:
            reports.append(runner.cover(max(start, FIRST), min(end, LAST + 1)))
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
    covered again; where it is a Delta table, each that a file added or removed since touches; else the time since,
    and ``overlap`` microseconds before it. The first run covers everything.

    Raises
    ------
    SourceError, OfflineStoreError, LeaseHeldError, LeaseLostError
        As `materialize`.
    """
    reports = []
    for view in _one_of_each_log(views):
        with _runner(context, view, progress) as runner:
            reports += runner.catch_up(min(end, LAST + 1), overlap)
    return reports


def _one_of_each_log(views: Sequence[FeatureView]) -> Iterator[FeatureView]:
    """Yield one view of each of the distinct logs of some views."""
    firsts = {row_fingerprint(view): view for view in reversed(views)}
    yield from reversed(firsts.values())


@contextmanager
def _runner(context: JobContext, view: FeatureView, progress: Progress | None) -> Iterator[JobRunner]:
    """Give what runs jobs on the log of a view, while it is leased."""
    fingerprint = row_fingerprint(view)
    names = ", ".join(reader.name for reader in context.readers_of(fingerprint) or [view])
    with leased(context.registry, fingerprint, names, context.wall) as lease:
        log = RowLog(context.offline_root, view)
        yield JobRunner(Work(context=context, log=log, view=view, names=names, lease=lease, progress=progress))
