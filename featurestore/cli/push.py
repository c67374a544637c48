"""``push``: rows from JSON lines into a push source."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec.structs import asdict

from featurestore.cli.arguments import pass_settings
from featurestore.cli.output import count, emit_json, json_option
from featurestore.cli.settings import Settings
from featurestore.errors import RowError


@click.command()
@click.argument("source")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--idempotency-key", metavar="KEY", help="Makes a retry with the same KEY push nothing twice.")
@json_option
@pass_settings
def push(settings: Settings, source: str, file: Path, idempotency_key: str | None, as_json: bool) -> None:
    """Push rows of a file of JSON lines into a push source.

    FILE holds one JSON object a line; - is standard input. A line that is not a JSON object refuses the whole push;
    rows that do not fit the source go to the dead-letter store.
    """
    from featurestore.cli.frames import read_json_lines

    store = settings.open()
    rows = [row for _, row in read_json_lines(None if str(file) == "-" else file)]
    if not rows:
        raise RowError(f"{file}: there is nothing to push; write one JSON object a line")
    report = store.push(source, rows, idempotency_key=idempotency_key)
    if as_json:
        emit_json({"source": source, "accepted": report.rows - report.rejected} | asdict(report))
        return
    if report.repeated:
        click.echo(f"An earlier push with the key {idempotency_key!r} had written these rows; none is written twice.")
    else:
        click.echo(f"{count(report.rows - report.rejected, 'row')} accepted into {source}")
    if report.rejected:
        click.echo(f"{count(report.rejected, 'row')} rejected; the dead-letter store keeps them:")
    for reason in report.reasons:
        click.echo(f"  {reason}")
