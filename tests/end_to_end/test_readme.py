"""What the README tells a newcomer to type works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.servers.api import running_api

README = Path(__file__).parents[2] / "README.md"


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)
    return next(str(text) for text in blocks if containing in text)


def run(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(  # noqa: S602  (the README's own line)
        command, shell=True, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    rows = 1000
    start = datetime(2024, 1, 1, tzinfo=UTC)
    trips = {
        "driver_id": [place % 20 for place in range(rows)],
        "pickup_at": [start + timedelta(hours=4 * place) for place in range(rows)],
        "fare": [5 + place % 37 / 4 for place in range(rows)],
    }
    pq.write_table(pa.table(trips), folder / "trips.parquet")
    return folder


def test_the_commands_for_own_data_run_in_their_order(project: Path) -> None:
    lines = re.findall(r"^\$ (.*?)(?:  +#.*)?$", block("console", "init --from"), flags=re.MULTILINE)
    assert lines[0] == "pip install ."
    folder, said = project, {}
    for line in lines[1:]:
        if line.startswith("cd "):
            folder /= line.removeprefix("cd ")
        elif line == "featurestore serve":
            with running_api(folder) as api:
                said["serve"] = api.http.get("/docs").text
        else:
            said[line.split()[1]] = run(line, folder)
    assert "no mismatch" in said["verify"]
    assert "PRESENT" in said["lookup"]
    assert "online lookups" in said["serve"]
    assert pq.read_table(folder / "training.parquet").num_rows > 0

    # The Python that follows, in the same project.
    code = block("python", "get_online_features").replace('repo_path="."', f"repo_path={str(folder)!r}")
    names: dict[str, Any] = {
        "labels": pa.table({"driver_id": [7], "event_timestamp": [datetime(2024, 6, 1, tzinfo=UTC)]})
    }
    exec(code, names)  # noqa: S102  (the README's own code)
    assert names["training"]["fare"].notna().all()
    assert names["online"]["driver_id"] == [7]


def test_what_the_demo_prints_is_there() -> None:
    printed = block("text", "Verdict: all")
    assert re.search(r"Verdict: all [\d,]+ values served online are, to the bit,", printed)


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", README.read_text()):
        assert target.startswith("http") or (README.parent / target).exists(), target
