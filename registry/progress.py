"""How far stored data has come: the jobs that wrote each log, who may, and the cuts of lambda views."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, insert, select, update

from featurestore.errors import RegistryError, suggest
from featurestore.registry.database import ConflictError
from featurestore.registry.leases import Leases
from featurestore.registry.schema import CUTS, JOBS, PROJECTS
from featurestore.semantics.rows import Cut

JOB_STATES = ("started", "logged", "done", "failed")
"""What a job may be: `started`; `logged`, where the log holds its rows and the online store may not; `done`;
`failed`, where it was given up. `done` is final; a job whose commit came through although it was given up may still
become `logged`."""
_FINAL = ("done", "failed")
_NEXT = {
    "started": ("started",),
    "logged": ("started", "logged", "failed"),
    "done": ("started", "logged", "done"),
    "failed": ("started", "logged", "failed"),
}
"""By state, those that a job may come from."""


class Job(NamedTuple):
    """One materialization job of a log.

    Attributes
    ----------
    number
        Its number among the jobs of its log, from 1; a later job has a greater one.
    view
        The views it writes, as the caller named them.
    start, end
        The range of event times it covers, in microseconds: ``start <= event_timestamp < end``.
    base_version
        The log's version when it started.
    state
        One of `JOB_STATES`.
    started
        When it started, in microseconds since the epoch.
    source_version
        The version of the source that it read, or that its run began with; None where the source has none.
    """

    number: int
    view: str
    start: int
    end: int
    base_version: int
    state: str
    started: int
    source_version: str | None = None


class Progress(Leases):
    """The part of a registry that records jobs, their leases and cuts."""

    def start_job(  # noqa: PLR0917
        self,
        log: str,
        view: str,
        start: int,
        end: int,
        base_version: int,
        now: int,
        *,
        source_version: str | None = None,
        token: int | None = None,
    ) -> int:
        """Record a new job of a log and return its number.

        Parameters
        ----------
        log
            Row fingerprint of the log.
        view
            What the job writes.
        start, end
            The half-open range of event times it covers, in microseconds.
        base_version
            The log's version at the start.
        now
            The time to record, microseconds since the epoch.
        source_version
            The version of the source, to record.
        token
            The lease under which it is done, see `Leases`.

        Notes
        -----
        Numbers are unique and rising per log, whichever process and project of this registry asks.
        """
        if start >= end:
            raise RegistryError(
                f"the job of view {view!r} covers no time: its start {start} is not before its end {end}"
            )
        while True:
            try:
                with self._database.write() as connection:
                    self._lock(connection)
                    self._fence(connection, log, token)
                    newest = connection.execute(select(func.max(JOBS.c.number)).where(JOBS.c.log == log)).scalar()
                    number = int(newest or 0) + 1
                    connection.execute(
                        insert(JOBS).values(
                            log=log,
                            number=number,
                            project=self.project,
                            view=view,
                            start_time=start,
                            end_time=end,
                            base_version=base_version,
                            state="started",
                            started=now,
                            source_version=source_version,
                        )
                    )
            except ConflictError:  # another process took this number: it got on, so take the next
                continue
            return number

    def update_job(self, log: str, number: int, state: str, *, token: int | None = None) -> None:
        """Move a job of this project to another state; a finished job stays as it is.

        Raises
        ------
        RegistryError
            Where there is no such job or state, or the job has ended differently.
        LeaseLostError
            Where `token` is given and is not that of the log's lease any more.
        """
        if state not in JOB_STATES:
            raise RegistryError(f"a job cannot be {state!r}{suggest(state, JOB_STATES)}")
        job = (JOBS.c.log == log, JOBS.c.number == number, JOBS.c.project == self.project)
        with self._database.write() as connection:
            self._fence(connection, log, token)
            changed = connection.execute(update(JOBS).where(*job, JOBS.c.state.in_(_NEXT[state])).values(state=state))
            if changed.rowcount == 0:
                found = connection.execute(select(JOBS.c.state).where(*job)).scalar()
                problem = "does not exist" if found is None else f"is {found} and cannot become {state}"
                raise RegistryError(f"job {number} of log {log} {problem}")

    def jobs(self, log: str) -> list[Job]:
        """Return every job of a log that this project started, oldest first."""
        rows = self._database.fetch(
            select(JOBS).where(JOBS.c.log == log, JOBS.c.project == self.project).order_by(JOBS.c.number)
        )
        return [
            Job(
                number=row.number,
                view=row.view,
                start=row.start_time,
                end=row.end_time,
                base_version=row.base_version,
                state=row.state,
                started=row.started,
                source_version=row.source_version,
            )
            for row in rows
        ]

    def unfinished_jobs(self, log: str) -> list[Job]:
        """Return the jobs of a log that neither finished nor were given up, oldest first."""
        return [job for job in self.jobs(log) if job.state not in _FINAL]

    def cuts(self, view: str, rows: str) -> list[Cut]:
        """Return the cuts of a lambda view, oldest first; `at` rises and `arrival` never falls.

        Parameters
        ----------
        view
            Name of the view.
        rows
            Its row fingerprint.
        """
        return [Cut(row.at, row.arrival) for row in self._database.fetch(self._select_cuts(view, rows))]

    def record_cut(self, view: str, rows: str, cut: Cut, *, token: int | None = None) -> Cut:
        """Move a lambda view's cut forward and return the one now in force.

        A cut that is not after the recorded one changes nothing. Where a clock ran back, the cut is in force from the
        arrival of the one before it.

        Raises
        ------
        LeaseLostError
            Where `token` is given and is not that of the log's lease any more.
        """
        while True:
            try:
                with self._database.write() as connection:
                    self._lock(connection)
                    self._fence(connection, rows, token)
                    known = [Cut(row.at, row.arrival) for row in connection.execute(self._select_cuts(view, rows))]
                    if known and cut.at <= known[-1].at:
                        return known[-1]
                    moved = Cut(cut.at, max([cut.arrival, *(earlier.arrival for earlier in known)]))
                    connection.execute(
                        insert(CUTS).values(
                            project=self.project, view=view, rows=rows, at=moved.at, arrival=moved.arrival
                        )
                    )
            except ConflictError:  # another process recorded the same cut: look again
                continue
            return moved

    def _select_cuts(self, view: str, rows: str) -> Select[Any, Any]:
        return (
            select(CUTS.c.at, CUTS.c.arrival)
            .where(CUTS.c.project == self.project, CUTS.c.view == view, CUTS.c.rows == rows)
            .order_by(CUTS.c.at)
        )

    def _lock(self, connection: Connection) -> None:
        """Take the write lock by a first statement that writes nothing new, so that what is read next stays true."""
        connection.execute(update(PROJECTS).where(PROJECTS.c.name == self.project).values(revision=PROJECTS.c.revision))
