"""How the package is reached: by links, under one name only, and without loading what it may not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIBLINGS = ("materialize", "registry", "serving", "streaming", "training")
HEAVY = {
    "deltalake",
    "duckdb",
    "fastapi",
    "kafka",
    "pandas",
    "polars",
    "pyarrow",
    "pyspark",
    "redis",
    "sqlalchemy",
    "tensorflow",
    "torch",
}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter at the repository's root, where a bare sibling could be found."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", SIBLINGS)
def test_sibling_is_linked_relatively(name: str) -> None:
    link = ROOT / "featurestore" / name

    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert link.resolve() == ROOT / name


def test_no_other_link_and_no_forgotten_one() -> None:
    links = {entry.name for entry in (ROOT / "featurestore").iterdir() if entry.is_symlink()}

    assert links == set(SIBLINGS)


@pytest.mark.parametrize("name", SIBLINGS)
def test_bare_import_is_refused_with_the_name_to_use(name: str) -> None:
    result = run_python(f"import {name}")

    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last == (
        f"ImportError: '{name}' is a part of the feature store, not a top-level package: "
        f"import 'featurestore.{name}' instead"
    )


@pytest.mark.parametrize("name", SIBLINGS)
def test_import_under_the_package_succeeds(name: str) -> None:
    result = run_python(f"import featurestore.{name} as part; print(part.__name__)")

    assert result.stdout == f"featurestore.{name}\n", result.stderr


def test_import_loads_nothing_heavy() -> None:
    result = run_python("import featurestore, json, sys; print(json.dumps(list(sys.modules)))")

    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)) & HEAVY == set()
