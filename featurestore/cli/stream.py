"""``stream``: replay stream sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from featurestore.cli.arguments import pass_settings
from featurestore.cli.output import count, emit_json, json_option, print_table, progress
from featurestore.cli.settings import Settings
from featurestore.definitions import FileStreamSource, Project
from featurestore.errors import FeatureNotFoundError


@click.command()
@click.option(
    "--source",
    type=click.Choice(["file"]),
    default="file",
    show_default=True,
    expose_value=False,
    help="The kind of stream: file replays files of JSON lines.",
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
@pass_settings
def stream(settings: Settings, names: Sequence[str], as_json: bool) -> None:
    """Replay stream sources into the offline and online stores.

    NAME is a source's; without one, all of the kind are replayed. A replay starts where the last one ended, and an
    event is applied once however often it is read.
    """
    store = settings.open()
    sources = _sources(store.project, names)
    with progress(quiet=as_json) as report:
        rows = [_counts(source, store.stream(source, progress=report)) for source in sources]
    if as_json:
        emit_json(rows)
        return
    print_table(list(rows[0]), [[round(v, 2) if isinstance(v, float) else v for v in row.values()] for row in rows])
    rejected = sum(row["rejected"] for row in rows)
    if rejected:
        click.echo(f"{count(rejected, 'event')} rejected; they are in the dead-letter store, with reasons.")


def _sources(project: Project, names: Sequence[str]) -> list[str]:
    known = [name for name, source in project.sources.items() if isinstance(source, FileStreamSource)]
    for name in names:
        if name not in known:
            raise FeatureNotFoundError.with_suggestion("file stream source", name, known)
    if not known:
        raise FeatureNotFoundError("no applied view reads a FileStreamSource; define one and run featurestore apply")
    return list(names) or known


def _counts(source: str, report: Any) -> dict[str, Any]:
    return {"source": source} | {
        name: getattr(report, name) for name in ("events", "applied", "skipped", "rejected", "seconds")
    }
