"""Fills views from their logs where the online store lost their state, or its end; one process at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from featurestore.clock import Clock, SystemClock
from featurestore.definitions import FeatureView
from featurestore.definitions.project import row_fingerprint
from featurestore.errors import FeatureStoreError
from featurestore.materialize.fill import catch_up_jobs, fill, lacks_jobs
from featurestore.materialize.lease import Lease, has_ended, leased
from featurestore.offline.duckdb.query import writers
from featurestore.offline.log import RowLog
from featurestore.online.contract import MarkMovedError
from featurestore.online.view import OnlineView
from featurestore.registry.leases import LeaseHeldError
from featurestore.semantics.rows import BATCH_WRITER
from featurestore.serving.parts import Store
from featurestore.streaming.follow import OnlineFollower

LOG = logging.getLogger("featurestore.serving")
_RETRY_SECONDS = 5.0
_JOB = "a job is writing it"


class Refill:
    """Fills views in a thread of its own, so that nothing else waits for it.

    A lease in the registry sees that of all processes only one fills a view; the others find it filled. Views that a
    job is about to fill are left to the job.

    Parameters
    ----------
    done
        Called from the thread with a view's name and ``filled``, ``waiting`` or ``failed``.
    wall
        The wall clock, by which leases end.
    """

    def __init__(self, done: Callable[[str, str], None], wall: Clock | None = None) -> None:
        self._done = done
        self._wall = wall or SystemClock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._not_before = 0.0
        self.reasons: dict[str, str] = {}

    @property
    def is_running(self) -> bool:
        """Whether views are being filled."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, store: Store, views: Sequence[FeatureView]) -> None:
        """Fill some views, one after the other, unless that is under way or has just failed.

        Those that have been filled are brought level with their logs.
        """
        if not self.is_running and not self._stop.is_set() and time.monotonic() >= self._not_before:
            self._thread = threading.Thread(target=self._run, args=(store, views), name="refill", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Begin no further view."""
        self._stop.set()

    def _run(self, store: Store, views: Sequence[FeatureView]) -> None:
        for view in views:
            if self._stop.is_set():
                return
            try:
                outcome = self._fill(store, view)
            except LeaseHeldError:
                self.reasons[view.name] = "another process is filling it"
                outcome = "waiting"
            except MarkMovedError:  # the store lost more meanwhile, or another process wrote the same
                outcome = "waiting"
            except FeatureStoreError as error:
                LOG.error(  # noqa: TRY400  (an error of ours tells all)
                    "view %s could not be filled from its log: %s", view.name, error
                )
                self.reasons[view.name] = f"filling it from its log failed: {error}"
                self._not_before = time.monotonic() + _RETRY_SECONDS
                outcome = "failed"
            else:
                if outcome == "filled":
                    self.reasons.pop(view.name, None)
            self._done(view.name, outcome)

    def _fill(self, store: Store, view: FeatureView) -> str:
        online, log = store.online_view(view), store.log(view)
        if online.ready():
            return self._catch_up(store, view, online, log)
        if not log.exists():
            if view.batch_source is None:  # no row was ever pushed or streamed: there is nothing to wait for
                online.mark_ready()
                return "filled"
            self.reasons.pop(view.name, None)
            return "waiting"
        if self._has_job(store, view):
            self.reasons[view.name] = _JOB
            return "waiting"
        with self._leased(store, view, online):
            if online.ready():
                return "filled"
            self.reasons[view.name] = "it is being filled from its log"
            LOG.warning("the online store holds no state of view %s: filling it from its log", view.name)
            cuts = store.cuts(view)
            sections = fill(log, online, cuts[-1].at if cuts else None)
            LOG.warning("view %s is filled: %d sections", view.name, sections)
        return "filled"

    def _catch_up(self, store: Store, view: FeatureView, online: OnlineView, log: RowLog) -> str:
        """Write what the online state of a filled view lacks of its log: what came by streams first, then by jobs."""
        if not log.exists():
            self.reasons[view.name] = f"its log is not there: {log.path}"
            return "waiting"
        with self._leased(store, view, online):
            self.reasons[view.name] = "it is being brought level with its log"
            follower, given = OnlineFollower(log, online), online.begin_filling()  # which notices a loss meanwhile
            sections = sum(follower.catch_up(writer, given) for writer in writers(log) if writer != BATCH_WRITER)
            cuts = store.cuts(view)
            cut = cuts[-1].at if cuts else None
            if lacks_jobs(log, online, cut):
                if self._has_job(store, view):  # whose rows it would show too early
                    self.reasons[view.name] = _JOB
                    return "waiting"
                sections += catch_up_jobs(log, online, cut, given)
            LOG.warning(
                "the online store lacked rows of view %s: %d sections written from its log", view.name, sections
            )
        return "filled"

    def _has_job(self, store: Store, view: FeatureView) -> bool:
        return store.registry.lease_is_held(row_fingerprint(view), self._wall.now(), has_ended)

    def _leased(self, store: Store, view: FeatureView, online: OnlineView) -> AbstractContextManager[Lease]:
        name = f"fill {online.fingerprint.hex()}"
        return leased(store.registry, name, f"view {view.name!r}", self._wall.now)
