"""The first hour with one's own data: the built wheel in an empty environment, far from the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("featurestore", "materialize", "registry", "serving", "streaming", "training")
FILES = ("LICENSE", "README.md", "pyproject.toml")

START = datetime(2024, 3, 1, tzinfo=UTC)
DAYS = 30
DRIVERS = 5
SERVICE = "rides_features"


class Installed:
    """The installed command, run in a folder of its own."""

    def __init__(self, binaries: Path) -> None:
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if name not in {"PYTHONPATH", "VIRTUAL_ENV"} and not name.startswith(("FEATURESTORE_", "PYTEST_"))
        } | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}

    def shell(self, command: str, cwd: Path) -> str:
        """Run a command line and return what it printed; any failure fails the test."""
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=cwd,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
        return result.stdout

    def json(self, command: str, cwd: Path) -> Any:
        """Run a command line with --json and return what it says."""
        return json.loads(self.shell(f"{command} --json", cwd))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=ignore)
    for file in FILES:
        shutil.copy(ROOT / file, source / file)
    wheels = tmp_path_factory.mktemp("wheels")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(source))
    [wheel] = wheels.glob("*.whl")

    environment = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", str(environment))
    python = str(environment / "bin/python")
    pins = ["--constraint", str(ROOT / "requirements.lock"), str(wheel)]
    call(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, *pins)
    return Installed(environment / "bin")


def call(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd="/")
    assert result.returncode == 0, result.stdout + result.stderr


def rides() -> list[dict[str, Any]]:
    """Return rides of which no two of a driver happen at once; some have no fare."""
    return [
        {
            "driver_id": number % DRIVERS,
            "ts": START + timedelta(hours=3 * number, seconds=number),
            "fare": None if number % 11 == 0 else 0.1 * number,
            "city": ["Bern", "Zürich", None][number % 3],
        }
        for number in range(DAYS * 8)
    ]


def expected(driver: int, at: datetime) -> dict[str, Any]:
    """Return the features by their meaning: the newest row up to the moment, and windows over the rows before it."""
    of_driver = [row for row in rides() if row["driver_id"] == driver]
    newest = max((row for row in of_driver if row["ts"] <= at), key=lambda row: row["ts"], default=None)

    def fares(days: int) -> list[float]:
        start = at - timedelta(days=days)
        start = start.replace(minute=0, second=0, microsecond=0)  # both windows move in hops of an hour
        return [row["fare"] for row in of_driver if start <= row["ts"] < at and row["fare"] is not None]

    week = at.replace(minute=0, second=0, microsecond=0) - timedelta(days=7)
    return {
        "fare": newest and newest["fare"],
        "city": newest and newest["city"],
        "count_7d": sum(week <= row["ts"] < at for row in of_driver),
        "mean_fare_1d": mean(fares(1)),
        "mean_fare_7d": mean(fares(7)),
        "max_fare_7d": max(fares(7), default=None),
    }


def mean(values: list[float]) -> float | None:
    """Return the mean rounded once from the exact sum, as the store promises it."""
    from fractions import Fraction

    return float(sum(map(Fraction, values)) / len(values)) if values else None


@pytest.mark.slow
def test_it_is_the_wheel_that_runs(installed: Installed, tmp_path: Path) -> None:
    printed = installed.shell("python -c 'import featurestore; print(featurestore.__file__)'", tmp_path)

    assert str(ROOT) not in printed
    assert "site-packages" in printed
    told = installed.shell("featurestore demo flights 2>&1 || true", tmp_path)
    assert "it is in the repository" in told


@pytest.mark.slow
def test_a_file_of_ones_own_becomes_proven_features(installed: Installed, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rides()), tmp_path / "rides.parquet")
    installed.shell("featurestore init --from rides.parquet --key driver_id --time ts project", tmp_path)
    project = tmp_path / "project"

    assert installed.json("featurestore apply", project)["revision"] == 1
    assert installed.json("featurestore plan", project)["is_empty"]
    jobs = installed.json("featurestore materialize 2024-03-01 2024-03-31", project)
    assert {job["rows"] for job in jobs} == {len(rides())}
    assert {job["rejected"] for job in jobs} == {0}

    asked = [(driver, START + timedelta(days=day, hours=7)) for driver in range(DRIVERS + 1) for day in (0, 5, 29)]
    times = pa.array([at for _, at in asked], pa.timestamp("us", "UTC"))
    pq.write_table(
        pa.table({"driver_id": [driver for driver, _ in asked], "event_timestamp": times, "label": range(len(asked))}),
        project / "asked.parquet",
    )
    installed.shell(f"featurestore historical --entities asked.parquet --service {SERVICE} --out set.parquet", project)
    table = pq.read_table(project / "set.parquet").to_pylist()
    assert [(row["driver_id"], row["event_timestamp"], row["label"]) for row in table] == [
        (driver, at, label) for label, (driver, at) in enumerate(asked)
    ]
    for (driver, at), row in zip(asked, table, strict=True):
        assert {name: row[name] for name in expected(driver, at)} == expected(driver, at)

    end = START + timedelta(days=DAYS)
    looked_up = installed.json(
        f"featurestore lookup --service {SERVICE} --at {end.date()} "
        """--entities '[{"driver_id": 0}, {"driver_id": 3}, {"driver_id": 99}]'""",
        project,
    )
    for index, driver in enumerate((0, 3, 99)):
        assert {name: values[index] for name, values in looked_up["values"].items()} == {
            "driver_id": driver,
            **expected(driver, end),
        }
    assert [statuses[2] for statuses in looked_up["statuses"].values()].count("NOT_FOUND") == 2

    assert installed.json("featurestore verify", project)["mismatches"] == 0
    assert installed.json("featurestore doctor", project)["ok"]


@pytest.mark.slow
def test_the_commands_that_init_prints_run_as_they_are(installed: Installed, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rides()), tmp_path / "rides.parquet")

    printed = installed.shell("featurestore init --from rides.parquet --key driver_id --time ts p", tmp_path)

    commands = [line.strip() for line in printed.partition("Next:\n")[2].splitlines()]
    assert [command.split()[:2] for command in commands] == [
        ["cd", "p"],
        *[["featurestore", name] for name in ("apply", "materialize", "lookup", "historical", "verify")],
    ]
    installed.shell("\n".join(["set -e", *commands]), tmp_path)
    assert pq.read_metadata(tmp_path / "p/training.parquet").num_rows == 10


@pytest.mark.slow
def test_the_sample_project_does_what_its_readme_says(installed: Installed, tmp_path: Path) -> None:
    installed.shell("featurestore init shop", tmp_path)
    readme = (tmp_path / "shop/README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)

    printed = [installed.shell(line, tmp_path / "shop") for line in block.splitlines()]

    before, after = (text for line, text in zip(block.splitlines(), printed, strict=True) if " lookup " in line)
    assert before != after, "the pushed orders change what is looked up"
    assert "amount_to_mean" in after
    assert pq.read_metadata(tmp_path / "shop/training.parquet").num_rows == 40
