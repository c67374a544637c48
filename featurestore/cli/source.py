"""``source``: what the sources of this repository are, whether they can be read, and what is in them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

import click

from featurestore.cli.arguments import pass_settings
from featurestore.cli.output import count, emit_json, json_option, print_table
from featurestore.cli.settings import Settings
from featurestore.definitions import BatchSource, Project, Source
from featurestore.errors import FeatureNotFoundError, SourceError

if TYPE_CHECKING:
    from featurestore.config import Config

_SHOWN_PARTITIONS = 5


class _Sources(NamedTuple):
    """The configuration, the definitions in the repository, and their sources."""

    config: Config
    project: Project
    sources: list[Source]

    def find(self, name: str) -> Source:
        """Return the source of a name."""
        for source in self.sources:
            if source.name == name:
                return source
        raise FeatureNotFoundError.with_suggestion("source", name, [source.name for source in self.sources])

    def table(self, name: str) -> BatchSource:
        """Return the batch source of a name."""
        source = self.find(name)
        if not isinstance(source, BatchSource):
            raise SourceError(f"{name!r} is a {type(source).__name__}: it has no table to look into")
        return source


@click.group()
def source() -> None:
    """Check sources, and look into them: as defined here, applied or not."""


@source.command("ls")
@json_option
@pass_settings
def list_sources(settings: Settings, as_json: bool) -> None:
    """List the sources of this repository, and who reads them."""
    from featurestore.cli.description import kind_of, summary

    found = _load(settings)
    rows = [
        {"name": item.name, "kind": kind_of(item), "summary": summary(item), "views": _readers(found.project, item)}
        for item in found.sources
    ]
    if as_json:
        emit_json(rows)
    elif not rows:
        click.echo("There are no sources.")
    else:
        cells = [[row["name"], row["kind"], row["summary"], ", ".join(row["views"])] for row in rows]
        print_table(["name", "kind", "where", "read by"], cells)


@source.command()
@click.argument("name", required=False)
@json_option
@click.pass_context
def check(context: click.Context, name: str | None, as_json: bool) -> None:
    """Open one source, or all, as jobs will, and look at the first rows.

    The exit code is 1 if one cannot be read or lacks what a view needs.
    """
    from featurestore.cli.source_checks import check_source

    found = _load(context.ensure_object(Settings))
    chosen = found.sources if name is None else [found.find(name)]
    findings = [check_source(found.config, found.project, item) for item in chosen]
    if as_json:
        emit_json([{"ok": finding.ok} | asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.detail}")
        if not findings:
            click.echo("There are no sources.")
    context.exit(0 if all(finding.ok for finding in findings) else 1)


@source.command()
@click.argument("name")
@json_option
@pass_settings
def schema(settings: Settings, name: str, as_json: bool) -> None:
    """Show a source's columns: the type to declare for each, and how it is stored."""
    from featurestore.cli.source_checks import open_source

    found = _load(settings)
    with open_source(found.config, found.table(name)) as reader:
        columns = reader.schema()
        partitions = [partition.name for partition in reader.partitions()]
    rows = [
        {"name": column.name, "type": str(column.dtype) if column.dtype else None, "stored": column.stored}
        for column in columns
    ]
    if as_json:
        emit_json({"columns": rows, "partitions": partitions})
        return
    print_table(["column", "type", "stored as"], [[row["name"], row["type"] or "-", row["stored"]] for row in rows])
    if partitions:
        more = ", ..." if len(partitions) > _SHOWN_PARTITIONS else ""
        click.echo(f"\n{count(len(partitions), 'part')}: {', '.join(partitions[:_SHOWN_PARTITIONS])}{more}")


@source.command()
@click.argument("name")
@click.option("-n", "--n", "rows", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many rows.")
@json_option
@pass_settings
def sample(settings: Settings, name: str, rows: int, as_json: bool) -> None:
    """Show some rows of a source, as it has them."""
    from featurestore.cli.source_checks import open_source

    found = _load(settings)
    with open_source(found.config, found.table(name)) as reader:
        table = reader.sample(rows)
    if as_json:
        emit_json(table.to_pylist())
    elif not table.num_rows:
        click.echo(f"{name} has no rows; its columns are: {', '.join(table.column_names)}")
    else:
        print_table(table.column_names, [list(row.values()) for row in table.to_pylist()])


def _load(settings: Settings) -> _Sources:
    from featurestore.cli.source_checks import sources_of
    from featurestore.config import load_config
    from featurestore.registry import load_repository

    config = load_config(settings.repo)
    project = Project(load_repository(config.repo_path))
    return _Sources(config, project, sources_of(project))


def _readers(project: Project, item: Source) -> list[str]:
    views = project.feature_views.values()
    return [view.name for view in views if item in (view.batch_source, view.stream_source)]
