"""The second half of a job: from the log to the online store, and the cut. It may be repeated at any point."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from featurestore.definitions import FeatureView
from featurestore.materialize.context import JobContext
from featurestore.materialize.fill import catch_up_jobs, fill
from featurestore.materialize.lease import Lease
from featurestore.offline.log import RowLog
from featurestore.online.contract import MarkMovedError
from featurestore.online.view import OnlineView
from featurestore.semantics.rows import BATCH_WRITER, Cut
from featurestore.semantics.windows import floor_to


class Publisher:
    """Brings the views of a log level with what a job committed.

    Parameters
    ----------
    context
        What jobs work with.
    log
        The log.
    job, start, end
        The job's number and its range in microseconds, half-open.
    version
        The log's version that the job committed.
    lease
        The lease of the log: once it is lost, nothing more is written.
    """

    def __init__(  # noqa: PLR0917
        self, context: JobContext, log: RowLog, job: int, bounds: tuple[int, int], version: int, lease: Lease
    ) -> None:
        self._context = context
        self._lease = lease
        self._log = log
        self._job = job
        self._start, self._end = bounds
        self._version = version
        before = log.batch_keys(*bounds, version - 1)
        after = log.batch_keys(*bounds, version)
        self._keys = _union(before, after)
        self._sequence_before = log.sequence(BATCH_WRITER, version - 1)

    def publish(self, tell: Callable[[str], None]) -> int:
        """Write online state and move cuts, then close the job; return how many keys it touched.

        Parameters
        ----------
        tell
            Called with each step.

        Raises
        ------
        LeaseLostError
            Where another process goes on with the job.
        """
        registry, fingerprint, token = self._context.registry, self._log.fingerprint, self._lease.token
        registry.update_job(fingerprint, self._job, "logged", token=token)
        self._context.hook("recorded")
        for view in self._context.readers_of(fingerprint):
            tell(f"online {view.name}")
            self._publish_view(view)
            self._context.hook(f"view:{view.name}")
        registry.update_job(fingerprint, self._job, "done", token=token)
        return int(self._keys.num_rows)

    def _publish_view(self, view: FeatureView) -> None:
        while True:
            try:
                self._publish_once(view)
            except MarkMovedError:  # the store lost data, or a job that was taken over still wrote
                self._lease.check()
            else:
                return

    def _publish_once(self, view: FeatureView) -> None:
        """Write every key first, then move the cut: readers go from one state to the other at once."""
        known = self._cut_in_force(view)
        cut = self._next_cut(view, known) if view.is_lambda else None
        online = self._context.online(view)
        if online is not None:
            if not self._is_published(online, cut):
                self._lease.check()
                if not online.ready():
                    fill(self._log, online, cut)
                elif cut is not None or not view.is_lambda:
                    self._rewrite(view, known, cut)
            self._context.hook(f"online:{view.name}")
            if cut is not None and online.cut() != cut:
                self._lease.check()
                online.set_cut(cut)
            self._context.hook(f"cut:{view.name}")
        if cut is not None and cut != known:
            moved = Cut(cut, self._context.clock.now())
            self._context.registry.record_cut(view.name, self._log.fingerprint, moved, token=self._lease.token)

    def _is_published(self, online: OnlineView, cut: int | None) -> bool:
        """Return whether a run that was cut off got this far: the mark moves once every key has been written."""
        if not online.ready() or online.watermark(BATCH_WRITER) < self._job:
            return False
        return not online.view.is_lambda or (cut is not None and online.cut() == cut)

    def _rewrite(self, view: FeatureView, known: int | None, cut: int | None) -> None:
        """Write the batch sections of the keys that changed; where the store lacks earlier jobs, of all keys."""
        online = self._context.online(view)
        assert online is not None  # noqa: S101  (the caller looked)
        version = self._log.version()
        mark = online.watermark(BATCH_WRITER)
        if mark < self._job and mark != self._sequence_before:
            catch_up_jobs(self._log, online, cut, online.begin_filling())
            return
        keys = self._keys
        if cut is not None and known is not None and cut > known:
            keys = _union(keys, self._log.batch_keys(known, cut, version))
        rows = self._log.sorted_rows(
            keys=None if cut is not None and known is None else keys,
            writers=[BATCH_WRITER],
            horizon=online.horizon,
            batch_before=cut,
            version=version,
        )
        through = {BATCH_WRITER: self._log.sequence(BATCH_WRITER, version)}
        online.rewrite(rows, through, cut, keys, online.at(BATCH_WRITER, mark))

    def _cut_in_force(self, view: FeatureView) -> int | None:
        cuts = self._context.registry.cuts(view.name, self._log.fingerprint) if view.is_lambda else []
        return cuts[-1].at if cuts else None

    def _next_cut(self, view: FeatureView, known: int | None) -> int | None:
        """Return where the cut is to be: as far as the job and the batch rows reach, and never further back.

        A range that begins beyond the cut leaves a gap that only stream rows fill, so it does not move the cut.
        Neither does time for which the source holds nothing yet: there, too, the stream goes on counting.
        """
        if known is not None and self._start > known:
            return known
        newest = self._log.newest_batch_time(self._version)
        if newest is None:
            return known
        step = view.cut_step
        reached = min(floor_to(self._end, step), -floor_to(-(newest + 1), step))
        return reached if known is None else max(known, reached)


def _union(first: pa.Table, second: pa.Table) -> pa.Table:
    """Return the distinct keys of two tables."""
    if not first.column_names:  # a view without join keys has one key or none
        return first if first.num_rows else second
    return pa.concat_tables([first, second]).group_by(first.column_names).aggregate([])
