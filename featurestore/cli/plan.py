"""``plan`` and ``apply``: what the repository's definitions would change, and changing it."""

from __future__ import annotations

import click

from featurestore.cli.arguments import pass_settings
from featurestore.cli.output import emit_json, json_option
from featurestore.cli.settings import Settings


@click.command()
@json_option
@pass_settings
def plan(settings: Settings, as_json: bool) -> None:
    """Show what apply would change, and what that means for stored data.

    Nothing is changed.
    """
    changes = settings.open().plan()
    if as_json:
        emit_json(changes.to_dict())
    elif changes.is_empty:
        click.echo("Nothing to change: the registry holds these definitions.")
    else:
        click.echo(changes.to_text())
        click.echo("\nTo make these changes: featurestore apply")


@click.command()
@json_option
@pass_settings
def apply(settings: Settings, as_json: bool) -> None:
    """Put the definitions of this repository into the registry.

    All of them or none: a wrong definition, or somebody else's apply in between, leaves the registry as it was.
    """
    result = settings.open().apply()
    if as_json:
        emit_json({"revision": result.revision, "plan": result.plan.to_dict()})
    elif result.plan.is_empty:
        click.echo(f"Nothing to change: revision {result.revision} holds these definitions.")
    else:
        click.echo(result.plan.to_text())
        click.echo(f"\nApplied as revision {result.revision}.")
