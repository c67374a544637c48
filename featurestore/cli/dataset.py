"""``dataset``: saved training sets, listed, shown, and built again to see that the bytes are equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from featurestore.cli.arguments import pass_settings
from featurestore.cli.output import count, emit_json, iso, json_option, print_table
from featurestore.cli.settings import Settings

if TYPE_CHECKING:
    from featurestore.training.manifest import Manifest

_name = click.argument("name", metavar="NAME[@VERSION]")


@click.group()
def dataset() -> None:
    """List, show and reproduce saved training sets.

    `historical --save NAME` and `job.save(name)` make one.
    """


@dataset.command("ls")
@json_option
@pass_settings
def list_sets(settings: Settings, *, as_json: bool) -> None:
    """List every version of every saved set."""
    found = settings.open().datasets.ls()
    if as_json:
        emit_json(found)
    elif not found:
        click.echo("No training set is saved yet; `featurestore historical --save NAME` saves one.")
    else:
        print_table(
            ["name", "version", "rows", "columns", "known at", "saved", "erased rows"],
            [
                [m.name, m.version, m.rows, len(m.columns), m.known_at, iso(m.created), m.erased_rows or ""]
                for m in found
            ],
        )


@dataset.command("show")
@_name
@json_option
@pass_settings
def show_set(settings: Settings, name: str, *, as_json: bool) -> None:
    """Show a set's manifest: what it was made of, and what its columns hold."""
    manifest = settings.open().datasets.show(name)
    if as_json:
        emit_json(manifest)
    else:
        _print(manifest)


def _print(manifest: Manifest) -> None:
    facts = {
        "saved": iso(manifest.created),
        "rows": f"{manifest.rows:,}",
        "known at": manifest.known_at,
        "project": f"{manifest.project}, revision {manifest.revision}",
        "entity frame": f"SHA-256 {manifest.entities_hash}",
        "files": f"{len(manifest.data)}, {sum(file.size for file in manifest.data):,} bytes",
        "made with": ", ".join(f"{name} {version}" for name, version in manifest.environment.items()),
    }
    click.echo(f"{manifest.label}\n")
    for name, value in facts.items():
        click.echo(f"{name:<13} {value}")
    for erased in manifest.erased:
        click.echo(f"{'erased':<13} {count(erased.rows, 'row')} at {iso(erased.at)}, with the key they were about")
    click.echo()
    print_table(
        ["view", "definition", "log", "log version"],
        [[view.name, view.fingerprint, view.rows or "-", view.version] for view in manifest.views],
    )
    click.echo()
    print_table(
        ["column", "type", "nulls", "distinct", "min", "max", "mean"],
        [[c.name, c.type, c.nulls, c.distinct, c.min, c.max, c.mean] for c in manifest.columns],
    )


@dataset.command("reproduce")
@_name
@json_option
@click.pass_context
def reproduce_set(context: click.Context, name: str, *, as_json: bool) -> None:
    """Build a set again from its manifest, and say whether the bytes are equal.

    The exit code is 1 unless they are. Definitions come from the registry as they were applied then, rows from the
    versions of the logs that were read. Nothing is written.
    """
    outcome = context.ensure_object(Settings).open().datasets.reproduce(name)
    if as_json:
        emit_json({**msgspec.to_builtins(outcome), "equal": outcome.equal})
    else:
        click.echo(outcome.to_text())
    context.exit(0 if outcome.equal else 1)
