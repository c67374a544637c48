"""What to run on one log: the range asked for, or what is new, after what was cut off before."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from featurestore.materialize.context import JobReport
from featurestore.materialize.folder import JobPlan, Spool
from featurestore.materialize.incremental import ranges_since
from featurestore.materialize.readers import SourceReader
from featurestore.materialize.single import finish, publish
from featurestore.materialize.work import Work
from featurestore.registry.progress import Job
from featurestore.semantics.rows import BATCH_WRITER

_INCREMENTAL = " [incremental]"


class JobRunner:
    """Runs jobs on one log, whose lease the caller holds."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._log = work.log
        self._folders = Spool(work.context.offline_root, work.log.fingerprint, work.lease)

    def cover(self, start: int, end: int) -> JobReport:
        """Replace a range of event time by what the source holds; go on with a job that was cut off doing so."""
        resumed = self._settle(lambda plan: plan.rest is None and (plan.start, plan.end) == (start, end))
        if resumed is not None:
            return resumed[1]
        now = self._work.context.clock.now()
        with self._work.open() as source:
            version = source.version()
            return self._begin(source, self._plan(start, end, now, version, version))

    def catch_up(self, end: int, overlap: int) -> list[JobReport]:
        """Cover what is new in the source since the last such run; go on with a run that was cut off."""
        reports: list[JobReport] = []
        resumed = self._settle(lambda plan: plan.rest is not None)
        if resumed is not None:
            plan, report = resumed
            reports = [report, *self._run(plan.rest or (), plan.now, plan.run_version)]
            if reports[-1].end >= end:
                return reports
        now = self._work.context.clock.now()  # of the whole run: what comes in meanwhile counts as new next time
        with self._work.open() as source:
            version = source.version()
            done = [job for job in self._work.jobs() if job.state == "done"]
            # A transform may move times, so what changed in the source does not tell what changed in its rows.
            changed = source.changed_since if self._work.view.code is None else lambda _: None
            ranges = ranges_since(done, self._work.rows(source), self._work.view, end, overlap, changed)
        return reports + self._run(ranges, now, version)

    def _run(self, ranges: Sequence[tuple[int, int]], now: int, version: str | None) -> list[JobReport]:
        reports = []
        for place, (start, end) in enumerate(ranges):
            with self._work.open() as source:
                rest = tuple((first, after) for first, after in ranges[place + 1 :])
                plan = self._plan(start, end, now, source.version(), version, rest)
                reports.append(self._begin(source, plan))
        return reports

    # What was cut off

    def _settle(self, wanted: Callable[[JobPlan], bool]) -> tuple[JobPlan, JobReport] | None:
        """Go on with the wanted job if it was cut off; publish or give up whatever else was."""
        resumed = None
        for job in self._cut_off():
            folder = self._folders.adopt(job.number)
            plan = None if folder is None else folder.plan()
            version = self._log.job_version(job.number, job.base_version)
            fits = plan is not None and wanted(plan) and self._still_fits(plan)
            if version is not None:
                report = publish(self._work, job.number, (job.start, job.end), version, folder, time.perf_counter())
            elif folder and plan and fits and job.number > self._log.sequence(BATCH_WRITER):
                self._work.tell(f"going on with job {job.number}")
                with self._work.open() as source:
                    report = finish(self._work, job.number, plan, folder, job.base_version, source)
            else:
                self._work.move(job.number, "failed")
                continue
            if plan is not None and fits:
                resumed = plan, report
        jobs = self._work.jobs()
        self._folders.clean(
            {job.number for job in jobs if job.state in {"started", "logged"}},
            {job.number for job in jobs},
            self._log.sequence(BATCH_WRITER),
        )
        return resumed

    def _cut_off(self) -> list[Job]:
        """Return the jobs to settle: unfinished, or the log's newest, if it came through after it was given up."""
        newest = self._log.sequence(BATCH_WRITER)
        return [
            job
            for job in self._work.jobs()
            if job.state in {"started", "logged"} or (job.state == "failed" and job.number == newest)
        ]

    def _still_fits(self, plan: JobPlan) -> bool:
        with self._work.open() as source:
            return plan.fits(source.version(), self._work.context.max_future_skew, self._work.context.wall())

    # New jobs

    def _plan(  # noqa: PLR0917
        self,
        start: int,
        end: int,
        now: int,
        version: str | None,
        run_version: str | None,
        rest: tuple[tuple[int, int], ...] | None = None,
    ) -> JobPlan:
        return JobPlan(
            start=start,
            end=end,
            now=now,
            made=self._work.context.wall(),
            max_future_skew=self._work.context.max_future_skew,
            source_version=version,
            run_version=run_version,
            rest=rest,
        )

    def _begin(self, source: SourceReader, plan: JobPlan) -> JobReport:
        base = self._log.version()
        number = self._number(plan, base)
        folder = self._folders.create(number, plan)
        self._work.tell("started")
        self._work.context.hook("started")
        return finish(self._work, number, plan, folder, base, source)

    def _number(self, plan: JobPlan, base: int) -> int:
        """Record the job; a registry that is younger than the log counts up to it first."""
        label = self._work.names if plan.rest is None or plan.rest else self._work.names + _INCREMENTAL
        while True:
            number = self._work.context.registry.start_job(
                self._log.fingerprint,
                label,
                plan.start,
                plan.end,
                base,
                plan.now,
                source_version=plan.run_version,
                token=self._work.lease.token,
            )
            if number > self._log.sequence(BATCH_WRITER):
                return number
            self._work.move(number, "failed")
