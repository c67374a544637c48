"""The package follows the tables of import_direction, and the check itself catches what it must."""

from __future__ import annotations

import graphlib
import re
import tomllib
from pathlib import Path

import pytest

from tests.layout.import_direction import LAYERS, OWNERS, PEERS, TESTING, check_source, check_tree

ROOT = Path(__file__).resolve().parents[2]


def messages(path: str, source: str) -> list[str]:
    return [violation.message for violation in check_source(source, Path(path))]


def test_the_package_follows_the_tables() -> None:
    assert [str(violation) for violation in check_tree(ROOT)] == []


def test_every_part_is_in_one_layer() -> None:
    children = (ROOT / "featurestore").iterdir()
    parts = {child.stem for child in children if child.suffix in {"", ".py"} and child.stem != "__pycache__"}
    listed = [part for layer in LAYERS for part in layer]

    assert len(listed) == len(set(listed))
    assert parts - {"__init__", TESTING} <= set(listed)


def test_peers_are_acyclic_and_within_one_layer() -> None:
    graphlib.TopologicalSorter(PEERS).prepare()
    for part, peers in PEERS.items():
        assert any({part, *peers} <= layer for layer in LAYERS), part


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("featurestore/definitions/views.py", "from featurestore.types import Int64"),
        ("featurestore/offline/log.py", "from featurestore.semantics import windows"),
        ("featurestore/offline/log.py", "from featurestore.offline import schema"),
        ("featurestore/offline/log.py", "import deltalake.table, pyarrow as pa, numpy"),
        ("featurestore/offline/log.py", "def f() -> None:\n    import pandas as pd"),
        ("featurestore/offline/log.py", "if TYPE_CHECKING:\n    import pandas as pd"),
        ("featurestore/materialize/jobs.py", "from featurestore import offline, errors"),
        ("featurestore/training/sets.py", "from featurestore.parity import verify"),
        ("featurestore/cli/main.py", "import click\nfrom featurestore.store import FeatureStore"),
        ("featurestore/testing/suites.py", "import pytest\nfrom featurestore.serving import app"),
        ("featurestore/__init__.py", "from featurestore.store import FeatureStore"),
        ("featurestore/config.py", "import yaml"),
    ],
)
def test_allowed(path: str, source: str) -> None:
    assert messages(path, source) == []


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("featurestore/semantics/windows.py", "from featurestore.offline import log", "one way"),
        ("featurestore/semantics/windows.py", "from featurestore import offline", "one way"),
        ("featurestore/semantics/windows.py", "import featurestore.online.codec", "one way"),
        ("featurestore/semantics/windows.py", "from ..offline import log", "one way"),
        ("featurestore/semantics/__init__.py", "from ..offline import log", "one way"),
        ("featurestore/offline/log.py", "from featurestore.online import codec", "one way"),
        ("featurestore/offline/log.py", "from featurestore import FeatureStore", "one way"),
        ("featurestore/offline/log.py", "import featurestore", "one way"),
        ("featurestore/offline/log.py", "def f():\n    from featurestore.store import S", "one way"),
        ("featurestore/offline/log.py", "if TYPE_CHECKING:\n    from featurestore.store import S", "one way"),
        ("featurestore/offline/log.py", "importlib.import_module('featurestore.store')", "one way"),
        ("featurestore/materialize/jobs.py", "from featurestore.streaming import loop", "one way"),
        ("featurestore/store.py", "from featurestore.cli import main", "one way"),
        ("featurestore/testing/suites.py", "from featurestore.store import FeatureStore", "one way"),
        ("featurestore/online/lmdb.py", "from featurestore.testing import suites", "only tests"),
        ("featurestore/novel/x.py", "from featurestore import errors", "in no layer"),
        ("featurestore/online/lmdb.py", "import duckdb", "only featurestore.offline may"),
        ("featurestore/offline2/x.py", "import duckdb", "only featurestore.offline may"),
        ("featurestore/online/lmdb.py", "def f():\n    import duckdb", "only featurestore.offline may"),
        ("featurestore/online/lmdb.py", "from hypothesis import given", "only featurestore.testing may"),
        ("featurestore/semantics/windows.py", "def f():\n    import polars", "only featurestore.cli"),
        ("featurestore/offline/log.py", "import pandas as pd", "inside the function"),
        ("featurestore/offline/log.py", "class C:\n    import pandas as pd", "inside the function"),
        ("featurestore/offline/log.py", "if not TYPE_CHECKING:\n    import pandas", "inside the function"),
        ("featurestore/offline/log.py", "if TYPE_CHECKING:\n    x = 1\nelse:\n    import pandas", "inside"),
        ("featurestore/offline/log.py", "def f(x=__import__('pandas')): ...", "inside the function"),
        ("featurestore/offline/log.py", "import requests", "no part owns"),
        ("featurestore/__init__.py", "import pyarrow", "only featurestore.cli"),
    ],
)
def test_refused(path: str, source: str, expected: str) -> None:
    [message] = messages(path, source)
    assert expected in message


def test_every_dependency_of_the_product_has_an_owner() -> None:
    """A core dependency that no part may import is one to remove."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = sum((extras[name] for name in extras if name != "dev"), project["dependencies"])
    names = {re.split(r"[\[>]", requirement)[0] for requirement in declared}
    imported = {
        "google-cloud-bigquery": "google",
        "impyla": "impala",
        "prometheus-client": "prometheus_client",
        "pyyaml": "yaml",
    }
    drivers = {"httptools", "psycopg", "uvloop"}  # SQLAlchemy and uvicorn import them
    shipped_for_tests = {"hypothesis", "pytest"}
    # by google-cloud-bigquery, redis[hiredis], pyspark, fastapi and impyla, which speak through them
    brought_along = {"grpc", "hiredis", "py4j", "starlette", "thrift"}

    assert {imported.get(name, name) for name in names - drivers} | shipped_for_tests | brought_along == set(OWNERS)
