"""``historical``: a point-in-time training set from a file of entities and times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore.cli.arguments import (
    features_option,
    full_names_option,
    parse_time,
    pass_settings,
    selected_features,
    service_option,
)
from featurestore.cli.output import count, emit_json, json_option, print_table
from featurestore.cli.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.offline.plan import KnownAt
    from featurestore.offline.retrieve import Engine

PREVIEW_ROWS = 5
PREVIEW_COLUMNS = 8


@click.command()
@click.option(
    "--entities",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Join keys and event_timestamp (.parquet, .csv or .jsonl); other columns are kept.",
)
@click.option("--start", metavar="TIME", help="Without --entities: every change of a feature from then on...")
@click.option("--end", metavar="TIME", help="...and before then is a row.")
@features_option
@service_option
@click.option(
    "--known-at",
    type=click.Choice(["event", "arrival"]),
    default="event",
    show_default=True,
    help="arrival: only rows that had arrived by then, as production would have had it.",
)
@full_names_option
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write here (.parquet or .csv)."
)
@click.option(
    "--engine",
    type=click.Choice(["duckdb", "spark"]),
    default="duckdb",
    show_default=True,
    help="What reads the logs; values are the same.",
)
@click.option("--explain", is_flag=True, help="Show the plan and its SQL, and read nothing.")
@click.option("--save", metavar="NAME", help="Save as the next version of this training set (see `dataset`).")
@json_option
@pass_settings
def historical(
    settings: Settings,
    *,
    entities: Path | None,
    start: str | None,
    end: str | None,
    features: Sequence[str],
    service: str | None,
    known_at: KnownAt,
    full_feature_names: bool,
    out: Path | None,
    engine: Engine,
    explain: bool,
    save: str | None,
    as_json: bool,
) -> None:
    """Build a point-in-time training set for a file of entities and times.

    Each row gets its features as of its own event_timestamp. The first rows are shown; --out writes them all, in the
    order of the file. --start and --end instead of a file ask for a row at every change of a feature between them.
    """
    from featurestore.cli.frames import check_output, read_entities, write_table
    from featurestore.cli.requests import needed_types
    from featurestore.definitions.resolve import resolve

    if out is not None:
        check_output(out)
    store = settings.open()
    wanted = selected_features(store, features, service)
    request = resolve(store.project, wanted, full_feature_names=full_feature_names)
    frame = None if entities is None else read_entities(entities, needed_types(request))
    started = time.perf_counter()
    job = store.get_historical_features(
        entity_df=frame,
        features=wanted,
        full_feature_names=full_feature_names,
        known_at=known_at,
        start_date=None if start is None else parse_time(start),
        end_date=None if end is None else parse_time(end),
        engine=engine,
    )
    if explain:
        sql = job.to_sql(engine)
        if as_json:
            emit_json({"plan": job.explain(), "sql": sql})
        else:
            click.echo(f"{job.explain()}\n\n{sql}")
        return
    table = job.to_arrow()
    seconds = time.perf_counter() - started
    saved = None if save is None else job.save(save).label
    if out is not None:
        write_table(table, out)
    if as_json:
        columns = {field.name: str(field.type) for field in table.schema}
        written = {"out": out and str(out), "saved": saved}
        emit_json({"rows": table.num_rows, "columns": columns, "seconds": seconds, **written})
        return
    _preview(table)
    places = [str(out)] if out else []
    places += [f"training set {saved}"] if saved else []
    where = f" in {' and '.join(places)}" if places else "; --out FILE or --save NAME keeps them"
    click.echo(f"\n{count(table.num_rows, 'row')} of {count(table.num_columns, 'column')}{where}")


def _preview(table: pa.Table) -> None:
    shown = table.slice(0, PREVIEW_ROWS).select(range(min(table.num_columns, PREVIEW_COLUMNS)))
    print_table(shown.column_names, [list(row.values()) for row in shown.to_pylist()])
    left = table.num_columns - shown.num_columns
    if left:
        click.echo(f"... and {count(left, 'more column')}: {', '.join(table.column_names[PREVIEW_COLUMNS:])}")
