"""``ls`` and ``describe``: what is applied."""

from __future__ import annotations

from typing import Any

import click

from featurestore.cli.arguments import pass_settings
from featurestore.cli.description import KIND_NAMES, describe_object, kind_of, summary
from featurestore.cli.output import aligned, emit_json, json_option, print_table
from featurestore.cli.settings import Settings
from featurestore.errors import FeatureNotFoundError, NotAppliedError


@click.command()
@click.argument("kind", type=click.Choice(list(KIND_NAMES)), required=False)
@json_option
@pass_settings
def ls(settings: Settings, kind: str | None, as_json: bool) -> None:
    """List what is applied: entities, sources, views and services.

    KIND narrows the list to one of them.
    """
    project = settings.open().registry.load()
    rows = [
        {"kind": kind_of(definition), "name": definition.name, "summary": summary(definition)}
        | {"description": definition.description, "owner": definition.owner, "tags": definition.tags}
        for (family, _), definition in project.objects.items()
        if kind is None or family == KIND_NAMES[kind]
    ]
    rows.sort(key=lambda row: (row["kind"], row["name"]))
    if as_json:
        emit_json(rows)
    elif not rows:
        click.echo("Nothing is applied yet: featurestore apply" if not project.objects else f"There are no {kind}.")
    else:
        print_table(
            ["kind", "name", "summary", "description"],
            [[row["kind"], row["name"], row["summary"], row["description"]] for row in rows],
        )


@click.command()
@click.argument("name")
@json_option
@pass_settings
def describe(settings: Settings, name: str, as_json: bool) -> None:
    """Show one applied object in full.

    Where objects of several kinds share the NAME, all of them are shown.
    """
    project = settings.open().registry.load()
    if not project.objects:
        raise NotAppliedError(f"{name!r} is not there: nothing is applied yet; run featurestore apply")
    found = [definition for (_, known), definition in project.objects.items() if known == name]
    if not found:
        known = [definition.name for definition in project.objects.values()]
        raise FeatureNotFoundError.with_suggestion("object", name, known)
    described = [describe_object(project, definition) for definition in found]
    if as_json:
        emit_json(described)
        return
    for index, item in enumerate(described):
        if index:
            click.echo()
        _print_object(item)


def _print_object(item: dict[str, Any]) -> None:
    click.echo(f"{item['kind']} {item['name']}")
    for key, value in item.items():
        if key in {"kind", "name"} or value in (None, "", [], {}):
            continue
        label = key.replace("_", " ")
        if key == "code":
            click.echo(f"  {label}:")
            click.echo("\n".join(f"    {line}" for line in value.rstrip().splitlines()))
        elif isinstance(value, list) and isinstance(value[0], dict):
            click.echo(f"  {label}:")
            for line in aligned([list(map(str, entry.values())) for entry in value]):
                click.echo(f"    {line}")
        elif isinstance(value, list):
            click.echo(f"  {label}: {', '.join(map(str, value))}")
        elif isinstance(value, dict):
            click.echo(f"  {label}: {', '.join(f'{k}={v}' for k, v in value.items())}")
        else:
            click.echo(f"  {label}: {value}")
