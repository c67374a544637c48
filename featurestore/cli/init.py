"""``init``: a new project, from a sample or from a file of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore.cli.arguments import pass_settings
from featurestore.cli.settings import Settings
from featurestore.clock import from_micros
from featurestore.errors import FeatureStoreError

if TYPE_CHECKING:
    from featurestore.cli.infer import DataFile


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(file_okay=False, path_type=Path), default=Path())
@click.option(
    "--from",
    "data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Define features of this file (.parquet, .csv or .jsonl; a folder or glob of them too).",
)
@click.option(
    "--key", "keys", multiple=True, metavar="COLUMN", help="A join key of FILE; repeat it for a composite key."
)
@click.option("--time", metavar="COLUMN", help="The column of FILE that says when a row happened.")
@click.option("--created", default="", metavar="COLUMN", help="The column that says when a row could first be known.")
@pass_settings
def init(
    settings: Settings, *, folder: Path, data: Path | None, keys: Sequence[str], time: str | None, created: str
) -> None:
    """Make a new project: a working sample, or one for a file of your own.

    It goes into DIR, by default this folder. Files that are there are never overwritten.
    """
    from featurestore.cli.codegen import identifier
    from featurestore.cli.infer import inspect_file

    target = settings.repo / folder
    name = identifier(target.absolute().resolve().name, "project")
    if data is None:
        if keys or time or created:
            raise click.UsageError("--key, --time and --created describe a file: name it with --from FILE")
        _init_sample(settings, target, name)
    elif not keys or not time:
        raise click.UsageError("--from needs --key COLUMN (the join key) and --time COLUMN (when a row happened)")
    else:
        _init_from_file(target, name, inspect_file(data, keys, time, created))


def _init_sample(settings: Settings, target: Path, name: str) -> None:
    from featurestore.cli.sample import sample_files

    today = from_micros(settings.clock.now()).replace(hour=0, minute=0, second=0, microsecond=0)
    _write(target, sample_files(name, today))
    commands = [
        "featurestore apply",
        f"featurestore materialize-incremental {today.date().isoformat()}",
        "featurestore lookup --service order_risk --entity customer_id=3 --entity amount=250",
        "featurestore historical --entities data/labels.csv --service order_risk --out training.parquet",
        "featurestore verify",
    ]
    _print_next(target, commands)


def _init_from_file(target: Path, name: str, data: DataFile) -> None:
    from featurestore.cli.from_file import FileProject, project_files

    project = FileProject(data, target)
    _write(target, project_files(project, name, f"project: {name}\n"))
    left_out = [column for column in data.columns if column.dtype is None]
    if left_out:
        listed = ", ".join(f"{column.name} ({column.stored})" for column in left_out)
        click.echo(f"Left out, because no feature type holds them: {listed}")
    _print_next(target, project.commands())


def _write(target: Path, files: Mapping[str, str]) -> None:
    """Write all files, or none where one is there already."""
    there = [name for name in files if (target / name).exists()]
    if there:
        raise FeatureStoreError(
            f"{', '.join(there)} in {target.absolute()} would be overwritten; move them away, or name another folder: "
            "featurestore init my_project"
        )
    others = sorted(path.name for path in target.glob("*.py")) if target.is_dir() else []
    try:
        for name, text in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FeatureStoreError(f"{target} cannot be written: {error.strerror or error}") from error
    for name in files:
        click.echo(f"wrote {target / name}")
    if others:
        click.echo(f"note: apply imports every Python file of the folder, these too: {', '.join(others)}")


def _print_next(target: Path, commands: Sequence[str]) -> None:
    click.echo("\nNext:")
    if target.absolute().resolve() != Path.cwd().resolve():
        click.echo(f"  cd {target}")
    for command in commands:
        click.echo(f"  {command}")
