"""``materialize`` and ``materialize-incremental``: batch sources into the offline and online stores."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from featurestore.cli.arguments import parse_time, pass_settings, selected_views, views_option
from featurestore.cli.job_progress import job_progress
from featurestore.cli.output import count, emit_json, iso, json_option, print_table
from featurestore.cli.settings import Settings
from featurestore.clock import from_micros


def _overlap(text: str) -> timedelta:
    from featurestore.config import parse_duration
    from featurestore.errors import ConfigError

    try:
        return timedelta(microseconds=parse_duration("overlap", text))
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("start", type=parse_time)
@click.argument("end", type=parse_time)
@views_option
@json_option
@pass_settings
def materialize(settings: Settings, *, start: datetime, end: datetime, views: Sequence[str], as_json: bool) -> None:
    """Load a range of event time from batch sources, offline and online.

    START is included, END is not. Both are ISO 8601 dates or times, such as 2024-05-01 or 2024-05-01T12:00:00Z;
    without a zone they are UTC. What the source now holds replaces what an earlier job loaded for the range, so a
    run may be repeated. One that was killed goes on where it was when the same is asked for again.
    """
    if start >= end:
        raise click.UsageError(f"START must be before END, which is excluded; got {iso(start)} and {iso(end)}")
    store = settings.open()
    with job_progress(quiet=as_json) as report:
        jobs = store.materialize(start, end, views=selected_views(views), progress=report)
    _print_jobs(jobs, as_json=as_json)


@click.command("materialize-incremental")
@click.argument("end", type=parse_time, required=False)
@views_option
@click.option(
    "--overlap",
    type=_overlap,
    metavar="DURATION",
    help="How far before the last job's end to read again, such as 12h or 2d, where a source has neither a created "
    "timestamp nor table versions.  [default: 1d]",
)
@json_option
@pass_settings
def materialize_incremental(
    settings: Settings, *, end: datetime | None, views: Sequence[str], overlap: timedelta | None, as_json: bool
) -> None:
    """Load what is new in batch sources since the last job.

    END is not included; it is an ISO 8601 date or time (without a zone UTC), by default now. With a created timestamp,
    the days that hold rows created since are loaded again; of a Delta table, the days that its changed files touch.
    """
    store = settings.open()
    until = end or from_micros(settings.clock.now())
    with job_progress(quiet=as_json) as report:
        jobs = store.materialize_incremental(until, views=selected_views(views), progress=report, overlap=overlap)
    _print_jobs(jobs, as_json=as_json)


def _print_jobs(jobs: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        emit_json([_job(job) for job in jobs])
        return
    if not jobs:
        click.echo("Nothing to load: no applied view has a batch source with new rows.")
        return
    print_table(
        ["view", "job", "from", "until", "rows", "keys", "rejected", "seconds"],
        [
            [job.view, job.job, iso(job.start), iso(job.end), job.rows, job.keys, job.rejected, round(job.seconds, 2)]
            for job in jobs
        ],
    )
    rejected = sum(job.rejected for job in jobs)
    if rejected:
        click.echo(f"{count(rejected, 'row')} rejected; they are in the dead-letter store, with reasons. The first:")
        for job in jobs:
            for reason in job.reasons:
                click.echo(f"  {job.view}: {reason}")


def _job(job: Any) -> dict[str, Any]:
    return {
        "view": job.view,
        "job": job.job,
        "start": iso(job.start),
        "end": iso(job.end),
        "cut": iso(job.cut),
        "rows": job.rows,
        "rejected": job.rejected,
        "reasons": list(job.reasons),
        "dropped": job.dropped,
        "keys": job.keys,
        "seconds": job.seconds,
    }
