"""``demo``: runs an example of the repository."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import click

from featurestore.cli.output import json_option, progress
from featurestore.errors import FeatureStoreError, suggest


@click.command()
@click.argument("name", default="flights")
@click.option("--inject-bug", is_flag=True, help="Flip one stored value, to see that verification catches it.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the project that the demo makes in DIR.",
)
@click.option("--hive", is_flag=True, help="Read the batch data from Hive tables, through Spark.")
@json_option
@click.pass_context
def demo(context: click.Context, name: str, *, inject_bug: bool, keep: Path | None, hive: bool, as_json: bool) -> None:
    """Run an example on real data from definitions to proven online features.

    NAME is the example's, by default flights. The exit code is 1 if any served value differs from its offline
    recomputation.
    """
    example = load_example(name)
    with progress(quiet=as_json) as report:
        code = example.main(as_json, inject_bug, keep, report, **({"hive": True} if hive else {}))
    context.exit(int(code))


def load_example(name: str) -> ModuleType:
    """Import ``examples/<name>/demo.py`` of the checkout that this package runs from."""
    root = Path(__file__).resolve().parents[2]
    folder = root / "examples"
    if not (root / "pyproject.toml").is_file() or not folder.is_dir():
        raise FeatureStoreError(
            f"the example {name!r} is not part of the installed package; it is in the repository: clone that and "
            "run make demo there"
        )
    known = sorted(path.parent.name for path in folder.glob("*/demo.py"))
    if name not in known:
        raise FeatureStoreError(f"there is no example {name!r}{suggest(name, known)}")
    module_name = f"featurestore_example_{name}"
    spec = importlib.util.spec_from_file_location(module_name, folder / name / "demo.py")
    assert spec is not None  # noqa: S101  (the file was just found, and it ends in .py)
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module
