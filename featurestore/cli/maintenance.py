"""``compact``, ``vacuum`` and ``delete-entity``: upkeep of what is stored."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.arguments import pass_settings, selected_views
from featurestore.cli.output import count, emit_json, json_option, print_table
from featurestore.cli.settings import Settings

if TYPE_CHECKING:
    from featurestore.maintenance.erasure import ErasureReport
    from featurestore.store import FeatureStore


def _retention(text: str) -> timedelta:
    from featurestore.config import parse_duration
    from featurestore.errors import ConfigError

    try:
        return timedelta(microseconds=parse_duration("retention", text))
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("views", nargs=-1, metavar="[VIEW]...")
@json_option
@pass_settings
def compact(settings: Settings, *, views: Sequence[str], as_json: bool) -> None:
    """Put small files of row logs together, by event time.

    Of the views named, or of all. Rows, positions and earlier versions stay; vacuum removes the files that were
    replaced, once they are old enough.
    """
    reports = settings.open().compact(selected_views(views))
    if as_json:
        emit_json(reports)
        return
    print_table(
        ["views", "files before", "files after"],
        [[", ".join(report.views), report.files_before, report.files_after] for report in reports],
    )


@click.command()
@click.option(
    "--retention", type=_retention, default="7d", show_default=True, metavar="DURATION", help="12h or 30d, for example."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@pass_settings
def vacuum(settings: Settings, *, retention: timedelta, dry_run: bool, as_json: bool) -> None:
    """Remove files that only old versions of row logs need.

    Versions that were current within the retention stay whole and, however old, those that a saved training set or
    an unfinished job needs. With a retention of 0, jobs that are running may lose what they read.
    """
    reports = settings.open().vacuum(retention, dry_run=dry_run)
    if as_json:
        emit_json(reports)
        return
    print_table(
        ["table", "files", "bytes", "versions kept"],
        [[r.table, r.files, r.bytes, ", ".join(map(str, r.kept_versions))] for r in reports],
    )
    files, size = sum(report.files for report in reports), sum(report.bytes for report in reports)
    click.echo(f"\n{count(files, 'file')}, {size:,} bytes {'would go' if dry_run else 'removed'}")


@click.command("delete-entity")
@click.argument("arguments", nargs=-1, required=True, metavar="[VIEW] KEY=VALUE...")
@click.option("--entity", metavar="NAME", help="Erase from every view of this entity, instead of from one view's log.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_settings
def delete_entity(
    settings: Settings, *, arguments: Sequence[str], entity: str | None, yes: bool, as_json: bool
) -> None:
    """Erase a key from logs, their history, dead letters, online state and saved training sets.

    It cannot be undone. Other keys keep their values, to the bit. The registry records what was erased, with a hash of
    the key. Run again, it finishes what was cut off.
    """
    view, pairs = (None, arguments) if entity else (arguments[0], arguments[1:])
    if view is not None and "=" in view:
        raise click.UsageError("name the view before KEY=VALUE, or give --entity NAME for all views of an entity")
    store = settings.open()
    key = _key(store, view, entity, pairs)
    where = f"every view of entity {entity!r}" if entity else f"the log of view {view!r}"
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise click.UsageError(f"this erases {' '.join(pairs)} from {where} for good: say so with --yes")
        click.confirm(f"Erase {' '.join(pairs)} from {where} for good?", abort=True)
    report = store.delete_entity(key, view=view, entity=entity)
    if as_json:
        emit_json(report)
    else:
        _print(report)


def _key(store: FeatureStore, view: str | None, entity: str | None, pairs: Sequence[str]) -> dict[str, Any]:
    from featurestore.cli.requests import parse_pairs
    from featurestore.errors import FeatureNotFoundError

    entities = store.project.of_kind("entity")
    if entity is not None and entity not in entities:
        raise FeatureNotFoundError.with_suggestion("entity", entity, entities)
    fields = entities[entity].keys if entity is not None else store.project.feature_view(view or "").join_keys
    return parse_pairs(pairs, {field.name: field.dtype for field in fields})


def _print(report: ErasureReport) -> None:
    print_table(
        ["views", "rows", "dead letters", "training set rows", "online keys"],
        [[", ".join(e.views), e.rows, e.dead_letters, e.dataset_rows, e.online_keys] for e in report.erasures],
    )
    if report.unreadable_letters:
        letters = count(report.unreadable_letters, "dead letter")
        click.echo(f"{letters} could not be read: whether they are about the key cannot be told.")
    if report.batch_sources:
        names = ", ".join(map(repr, report.batch_sources))
        click.echo(f"Remove the key from the batch sources too ({names}): the next job loads what they hold.")
