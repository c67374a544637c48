"""``lookup``: features online."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from featurestore.cli.arguments import (
    features_option,
    full_names_option,
    parse_time,
    pass_settings,
    selected_features,
    service_option,
)
from featurestore.cli.output import emit_json, iso, json_option, print_table, show
from featurestore.cli.settings import Settings
from featurestore.clock import to_micros
from featurestore.errors import EntityFrameError
from featurestore.types import ValueType

if TYPE_CHECKING:
    from featurestore.definitions.resolve import Request
    from featurestore.online.lookup import OnlineResponse

_WORTH_SAYING = 60_000_000  # microseconds


@click.command()
@features_option
@service_option
@click.option(
    "--entity",
    multiple=True,
    metavar="KEY=VALUE",
    help="A join key or request field of the entity; repeat it for each of them.",
)
@click.option(
    "--entities",
    metavar="FILE|JSON",
    help="Many entities: a .jsonl, .csv or .parquet file, or a JSON list of objects.",
)
@click.option("--at", type=parse_time, metavar="TIME", help="The reader's clock (default: now).")
@full_names_option
@json_option
@pass_settings
def lookup(
    settings: Settings,
    *,
    features: Sequence[str],
    service: str | None,
    entity: Sequence[str],
    entities: str | None,
    at: datetime | None,
    full_feature_names: bool,
    as_json: bool,
) -> None:
    """Look features up online, for one entity or many.

    Values are read as the declared types of the join keys and request fields.
    """
    from featurestore.cli.requests import needed_types
    from featurestore.definitions.resolve import resolve

    if bool(entity) == bool(entities):
        raise click.UsageError("give either --entity KEY=VALUE (repeated, for one entity) or --entities FILE|JSON")
    store = settings.open()
    wanted = selected_features(store, features, service)
    request = resolve(store.project, wanted, full_feature_names=full_feature_names)
    rows = _entity_rows(entity, entities, needed_types(request))
    response = store.get_online_features(
        features=wanted, entity_rows=rows, full_feature_names=full_feature_names, now=at
    )
    asked = None if at is None else to_micros(at)
    if asked is not None and max(response.evaluated_at, default=asked) - asked > _WORTH_SAYING:
        click.echo(
            "note: the online store answers for the present; rows are newer than --at, so values are as of the time "
            "stated. For the past: featurestore historical",
            err=True,
        )
    if as_json:
        emit_json(_to_json(response))
    elif len(rows) == 1:
        _print_one(request, response, rows[0])
    else:
        columns = response.to_dict()
        print_table(list(columns), [list(values) for values in zip(*columns.values(), strict=True)])


def _to_json(response: OnlineResponse) -> dict[str, Any]:
    return {
        "values": response.to_dict(),
        "statuses": response.statuses,
        "event_timestamps": [{view: iso(time) for view, time in row.items()} for row in response.event_timestamps],
        "evaluated_at": [iso(time) for time in response.evaluated_at],
    }


def _entity_rows(pairs: Sequence[str], many: str | None, types: Mapping[str, ValueType]) -> list[dict[str, Any]]:
    from featurestore.cli.requests import convert_row, parse_pairs

    if many is None:
        row = parse_pairs(pairs, types)
        return [convert_row(row, types, "--entity")]
    if many.lstrip().startswith(("[", "{")):
        try:
            decoded = msgspec.json.decode(many, type=list[dict[str, Any]] | dict[str, Any])
        except msgspec.DecodeError as error:
            raise EntityFrameError(f"--entities: not a JSON list of objects: {error}") from error
        found = decoded if isinstance(decoded, list) else [decoded]
    else:
        from featurestore.cli.frames import read_entities

        found = read_entities(Path(many), types).to_pylist()
    return [convert_row(row, types, f"--entities, row {index}") for index, row in enumerate(found, start=1)]


def _print_one(request: Request, response: OnlineResponse, row: Mapping[str, Any]) -> None:
    """Print one entity's features, one a line."""
    columns, statuses, times = response.to_dict(), response.statuses, response.event_timestamps[0]
    lines = [
        [column.name, columns[column.name][0], statuses[column.name][0], iso(times.get(column.view)) or ""]
        for column in request.columns
    ]
    entity = ", ".join(f"{name}={show(value)}" for name, value in row.items())
    click.echo(f"{entity} as of {iso(response.evaluated_at[0])}\n")
    print_table(["feature", "value", "status", "event time"], lines)
