"""``verify``: recompute served values offline and compare."""

from __future__ import annotations

from collections.abc import Sequence

import click

from featurestore.cli.arguments import selected_views, views_option
from featurestore.cli.output import emit_json, json_option
from featurestore.cli.settings import Settings


@click.command()
@views_option
@click.option(
    "--sample", type=click.IntRange(min=1), metavar="N", help="Keys to check in each view (default: the store's)."
)
@json_option
@click.pass_context
def verify(context: click.Context, views: Sequence[str], sample: int | None, as_json: bool) -> None:
    """Recompute served values offline and compare them, bit by bit.

    The exit code is 1 if any value differs.
    """
    store = context.ensure_object(Settings).open()
    options = {} if sample is None else {"sample": sample}
    report = store.verify(views=selected_views(views), **options)
    if as_json:
        emit_json(report.to_dict())
    else:
        click.echo(report.to_text())
    context.exit(1 if report.mismatches else 0)
