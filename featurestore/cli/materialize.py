"""``materialize`` and ``materialize-incremental``: batch sources into the offline and online stores."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from featurestore.cli.arguments import parse_time, pass_settings, selected_views, views_option
from featurestore.cli.output import count, emit_json, iso, json_option, print_table, progress
from featurestore.cli.settings import Settings
from featurestore.clock import from_micros


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
    run may be repeated.
    """
    if start >= end:
        raise click.UsageError(f"START must be before END, which is excluded; got {iso(start)} and {iso(end)}")
    store = settings.open()
    with progress(quiet=as_json) as report:
        jobs = store.materialize(start, end, views=selected_views(views), progress=report)
    _print_jobs(jobs, as_json=as_json)


@click.command("materialize-incremental")
@click.argument("end", type=parse_time, required=False)
@views_option
@json_option
@pass_settings
def materialize_incremental(settings: Settings, end: datetime | None, views: Sequence[str], as_json: bool) -> None:
    """Load what is new in batch sources since the last job.

    END is not included; it is an ISO 8601 date or time (without a zone UTC), by default now.
    """
    store = settings.open()
    until = end or from_micros(settings.clock.now())
    with progress(quiet=as_json) as report:
        jobs = store.materialize_incremental(until, views=selected_views(views), progress=report)
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
