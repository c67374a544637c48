"""One job from wherever it is to its end: read, ranked, logged, online."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from featurestore.errors import FeatureStoreError, OfflineStoreError, SourceError
from featurestore.materialize.context import JobReport
from featurestore.materialize.folder import DoneChunk, JobFolder, JobPlan
from featurestore.materialize.letters import add_letters, read_rejected
from featurestore.materialize.publish import Publisher
from featurestore.materialize.readers import SourceReader
from featurestore.materialize.reading import Parts, Reading, count_rows, refuse_changed
from featurestore.materialize.spool import RowSpool
from featurestore.materialize.work import Work
from featurestore.offline.deadletters import DeadLetters
from featurestore.registry.leases import LeaseLostError

_SHOWN_REASONS = 3


def finish(work: Work, number: int, plan: JobPlan, folder: JobFolder, base: int, source: SourceReader) -> JobReport:  # noqa: PLR0917
    """Run a job to its end.

    Parameters
    ----------
    work
        What it works with.
    number, plan, folder
        The job.
    base
        The log's version when it began.
    source
        The batch source.

    Raises
    ------
    FeatureStoreError
        Where it fails. Before the log holds its rows nothing has changed then, and the job has failed; after that it
        is gone on with by the next run.
    LeaseLostError
        Where another process goes on with it.
    """
    began = time.perf_counter()
    try:
        if count_rows(folder.ranked) is None:
            _read(work, number, plan, folder, source)
        version = _commit(work, number, plan, folder, base)
    except LeaseLostError:
        raise
    except FeatureStoreError:
        work.move(number, "failed")
        folder.remove()
        raise
    work.tell("logged")
    work.context.hook("logged")
    return publish(work, number, (plan.start, plan.end), version, folder, began)


def publish(  # noqa: PLR0917
    work: Work, number: int, bounds: tuple[int, int], version: int, folder: JobFolder | None, began: float
) -> JobReport:
    """Bring the online store level with a job that the log holds.

    Parameters
    ----------
    work
        What it works with.
    number, bounds
        The job and its range.
    version
        The log's version that it committed.
    folder
        Its folder, if it still has one: it tells the numbers of records.
    began
        When, by `time.perf_counter`, this process began to work on it.
    """
    publisher = Publisher(work.context, work.log, number, bounds, version, work.lease)
    keys = publisher.publish(work.tell)
    chunks = [] if folder is None else folder.chunks()
    report = JobReport(
        view=work.names,
        job=number,
        start=bounds[0],
        end=bounds[1],
        rows=sum(chunk.rows for chunk in chunks),
        rejected=sum(chunk.rejected for chunk in chunks),
        reasons=() if folder is None else _reasons(folder, len(chunks)),
        dropped=sum(chunk.dropped for chunk in chunks),
        keys=keys,
        seconds=time.perf_counter() - began,
        cut=_cut(work),
    )
    work.context.hook("done")
    if folder is not None:
        folder.remove()
    work.tell("done")
    return report


def _read(work: Work, number: int, plan: JobPlan, folder: JobFolder, source: SourceReader) -> None:
    """Bring what the source holds into the folder: chunk by chunk, then ranked."""
    # A transform sees whole records, and may move their times.
    parts = Parts(plan.start, plan.end, prunes=source.prunes and work.view.code is None)
    spool = RowSpool(work.log)

    def tell(chunks: Sequence[DoneChunk], more: int) -> None:
        rows = sum(chunk.rows for chunk in chunks) + more
        if more:
            work.tell(f"reading {rows:,} rows", rows, None)
        else:
            work.tell(f"read {rows:,} rows", parts.until(chunks[-1].end), parts.count)

    reading = Reading(
        folder=folder,
        spool=spool,
        parts=parts,
        open_rows=lambda: work.rows(source),
        tell=tell,
        hook=work.context.hook,
    )
    chunks = reading.finish()
    refuse_changed(work.source.name, plan.source_version, source.version())
    work.context.hook("read")
    _refuse_hopeless(work, folder, chunks)
    files = [folder.chunk_path(place, "rows.parquet") for place in range(len(chunks))]
    with folder.new("ranked.parquet") as path:
        spool.rank(files, number, path)
    with folder.errors():
        for file in files:
            file.unlink()
    work.context.hook("ranked")


def _refuse_hopeless(work: Work, folder: JobFolder, chunks: Sequence[DoneChunk]) -> None:
    """Fail where not one row is usable: that is a wrong declaration or file, not some bad rows."""
    rejected = sum(chunk.rejected for chunk in chunks)
    if rejected and not sum(chunk.rows for chunk in chunks):
        raise SourceError(
            f"source {work.source.name!r} ({work.source.location}): none of its {rejected:,} rows can be used by "
            f"{work.names}; the first: {_reasons(folder, len(chunks))[0]}. Nothing was changed: correct the source, or "
            "the types in the definitions"
        )


def _commit(work: Work, number: int, plan: JobPlan, folder: JobFolder, base: int) -> int:
    """Put the rejected records and the rows where they belong; return the log's version with the rows."""
    work.lease.check()
    letters = DeadLetters(work.context.offline_root, work.log.fingerprint)
    with folder.errors():
        files = _rejected(folder, len(folder.chunks()))
        add_letters(letters, files, number, plan.now, source=work.source.name, views=work.names)
    work.context.hook("rejected")
    work.lease.check()
    try:
        work.log.replace(RowSpool(work.log).rows(folder.ranked), plan.start, plan.end, number)
    except OfflineStoreError:
        if work.log.job_version(number, base) is None:  # else it went through, by us or by who took over
            raise
    version = work.log.job_version(number, base)
    assert version is not None  # noqa: S101  (just committed)
    return version


def _rejected(folder: JobFolder, chunks: int) -> list[Path]:
    return [folder.chunk_path(place, "rejected.parquet") for place in range(chunks)]


def _reasons(folder: JobFolder, chunks: int) -> tuple[str, ...]:
    records = next(read_rejected(_rejected(folder, chunks)), [])
    return tuple(record.detail for record in records[:_SHOWN_REASONS])


def _cut(work: Work) -> int | None:
    fingerprint, registry = work.log.fingerprint, work.context.registry
    views = [view for view in work.context.readers_of(fingerprint) if view.is_lambda]
    cuts = [cuts[-1].at for view in views if (cuts := registry.cuts(view.name, fingerprint))]
    return min(cuts, default=None)
