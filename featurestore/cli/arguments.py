"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from featurestore.cli.settings import Settings

if TYPE_CHECKING:
    from featurestore.definitions import FeatureService
    from featurestore.store import FeatureStore

pass_settings = click.make_pass_decorator(Settings)

views_option = click.option(
    "-v", "--views", multiple=True, metavar="VIEW", help="Only this view; repeat it, or separate views by commas."
)
features_option = click.option(
    "--features", multiple=True, metavar="VIEW:FEATURE,...", help="The features, separated by commas."
)
service_option = click.option("--service", metavar="NAME", help="A feature service instead of --features.")
full_names_option = click.option(
    "--full-feature-names", is_flag=True, help="Name the columns view__feature instead of feature."
)


def parse_time(text: str) -> datetime:
    """Return an ISO 8601 date or time as an aware datetime in UTC; without a zone it is UTC."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a time; write 2024-05-01 or 2024-05-01T12:00:00Z") from error
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def split_commas(values: Sequence[str]) -> list[str]:
    """Return the parts of repeated and comma-separated options, in order."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def selected_views(views: Sequence[str]) -> list[str] | None:
    """Return the views asked for, or None for all."""
    return split_commas(views) or None


def selected_features(store: FeatureStore, features: Sequence[str], service: str | None) -> list[str] | FeatureService:
    """Return what ``--features`` or ``--service`` names; exactly one of them must be given."""
    names = split_commas(features)
    if bool(names) == bool(service):
        raise click.UsageError("give either --features VIEW:FEATURE,... or --service NAME")
    return store.project.service(service) if service else names
