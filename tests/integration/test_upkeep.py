"""Compaction and vacuum: values stay as they are, and so does what saved sets and unfinished jobs need."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from featurestore.cli.main import run
from featurestore.cli.settings import Settings
from featurestore.clock import ManualClock, from_micros
from featurestore.config import Config
from featurestore.definitions import Aggregation, Entity, FeatureView, Field, FileSource, PushSource
from featurestore.errors import OfflineStoreError
from featurestore.offline.maintenance import missing_files
from featurestore.semantics.windows import DAY, MINUTE
from featurestore.store import FeatureStore
from featurestore.streaming.origins import origins_of
from featurestore.types import Float64, Int64

NOW = 300 * DAY
DRIVER = Entity("driver", value_type=Int64)
X = [Field("x", Float64)]
BATCH = FileSource("b", path="b.parquet", timestamp_field="ts")
LOADED = FeatureView("loaded", [DRIVER], X, BATCH)
NEWEST = FeatureView("newest", [DRIVER], X, PushSource("pushed", timestamp_field="ts"))
SUMMED = FeatureView(
    "summed", [DRIVER], X, NEWEST.source, aggregations=[Aggregation("x", "sum", timedelta(days=2), name="total")]
)
FEATURES = ["newest:x", "summed:total"]
NOW_ONLY = timedelta(0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    made = FeatureStore(config=Config(project="p", repo_path=tmp_path), clock=ManualClock(NOW))
    made.apply([LOADED, NEWEST, SUMMED])
    push(made, range(6))
    yield made
    made.close()


def push(store: FeatureStore, minutes: range) -> None:
    for minute in minutes:
        when = from_micros(NOW - DAY + (minute * 7 % 11) * MINUTE)
        store.push("pushed", [{"driver": minute % 2, "ts": when, "x": 0.1 * minute}])


def frame() -> pa.Table:
    return pa.table({"driver": [0, 1, 2], "event_timestamp": pa.array([NOW] * 3, pa.timestamp("us", "UTC"))})


def values(store: FeatureStore) -> tuple[dict[str, Any], dict[str, Any]]:
    trained = store.get_historical_features(frame(), FEATURES).to_arrow()
    return trained.to_pydict(), store.get_online_features(FEATURES, {"driver": [0, 1, 2]}).to_dict()


def test_compaction_changes_files_and_nothing_else(store: FeatureStore) -> None:
    before, log = values(store), store.log("newest")
    base, files = log.version(), log.files()

    reports = {report.views: report for report in store.compact()}

    newest = reports["newest", "summed"]
    assert (newest.files_before, newest.files_after) == (6, 1)
    assert pq.read_table(log.files()[0])["event_timestamp"].to_pylist() == sorted(
        time for file in files for time in pq.read_table(file)["event_timestamp"].to_pylist()
    )
    assert log.files(version=base) == files
    assert missing_files(files) == []
    push(store, range(6, 8))
    assert values(store) != before
    assert store.verify().mismatches == 0
    assert store.stream().applied == 0


def test_rows_are_found_by_origin_in_rewritten_files(store: FeatureStore, tmp_path: Path) -> None:
    """Delta rewrites files of several writers into such whose text columns are of another Arrow type."""
    source = PushSource("mixed", batch_source=BATCH)
    both = FeatureView("both", [DRIVER], X, source, aggregations=[Aggregation(None, "count", None, name="n")])
    times = pa.array([NOW - DAY], pa.timestamp("us"))
    pq.write_table(pa.table({"driver": [1], "ts": times, "x": [1.0]}), tmp_path / "b.parquet")
    store.apply([both])
    store.materialize(0, NOW)
    rows = [{"driver": 1, "ts": from_micros(NOW + MINUTE), "x": 1.0}]
    for key in ("a", "b", None):
        store.push("mixed", rows, idempotency_key=key)
    store.push("mixed", [{**rows[0], "driver": 5}])
    store.compact()
    store.delete_entity({"driver": 5}, view="both")

    assert origins_of(store.log("both"), "push/mixed/0") == {b"a", b"b"}
    assert store.push("mixed", rows, idempotency_key="a").repeated
    assert not store.push("mixed", rows, idempotency_key="c").repeated
    assert store.log("both").sequence("push/mixed/0") == 4


def test_a_log_that_is_laid_out_is_left_alone(store: FeatureStore) -> None:
    store.compact()
    version = store.log("newest").version()
    assert [(report.files_before, report.files_after) for report in store.compact(["newest"])] == [(1, 1)]
    assert store.log("newest").version() == version
    assert [report.files_after for report in store.compact(["loaded"])] == [0]


def test_vacuum_keeps_what_a_saved_set_needs_and_no_other_old_version(store: FeatureStore) -> None:
    store.get_historical_features(frame(), FEATURES).save("kept")
    pinned = store.log("newest").version()
    store.compact()
    push(store, range(6, 9))
    store.get_historical_features(frame(), FEATURES).save("lost")
    store.compact()
    before = values(store)
    folder = store.datasets.folder("lost")
    hidden = folder.parent / ".hidden"
    folder.rename(hidden)  # as if it had not been saved

    dry = {report.table: report for report in store.vacuum(NOW_ONLY, dry_run=True)}
    wet = {report.table: report for report in store.vacuum(NOW_ONLY)}
    again = store.vacuum(NOW_ONLY)

    log = f"logs/{store.log('newest').fingerprint}"
    assert dry[log] == wet[log]
    assert (wet[log].files, wet[log].kept_versions) == (4, (pinned,))  # a compacted file, three pushes
    assert sum(report.files for report in again) == 0
    assert values(store) == before
    assert store.verify().mismatches == 0
    assert store.datasets.reproduce("kept").equal
    hidden.rename(folder)
    outcome = store.datasets.reproduce("lost")
    assert outcome.verdict == "impossible"
    assert "of the log of view 'newest' was vacuumed: 4 of its 4 files are gone" in outcome.reason


def test_vacuum_keeps_what_is_within_the_retention(store: FeatureStore) -> None:
    files = store.log("newest").files()
    store.compact()
    assert sum(report.files for report in store.vacuum()) == 0
    assert sum(report.files for report in store.vacuum(timedelta(minutes=1))) == 0  # an hour at least
    assert missing_files(files) == []
    with pytest.raises(OfflineStoreError, match="lies in the future"):
        store.vacuum(timedelta(days=-1))


def test_vacuum_keeps_what_an_unfinished_job_needs(store: FeatureStore, tmp_path: Path) -> None:
    def write(x: float) -> None:
        times = pa.array([NOW - DAY], pa.timestamp("us"))
        pq.write_table(pa.table({"driver": [1], "ts": times, "x": [x]}), tmp_path / "b.parquet")

    write(1.0)
    store.materialize(0, NOW)
    log = store.log("loaded")
    base = log.version()
    number = store.registry.start_job(log.fingerprint, "loaded", 0, NOW, base, NOW)
    rows = pq.read_table(log.files()[0]).set_column(6, "x", pa.array([2.0]))
    sequences = pa.array([number << 38], pa.int64())
    place = rows.column_names.index("_sequence")
    log.replace(rows.set_column(place, "_sequence", sequences), 0, NOW, number)  # and the process dies
    files = log.files(version=base)

    [report] = [report for report in store.vacuum(NOW_ONLY) if report.table == f"logs/{log.fingerprint}"]

    assert report.kept_versions == (base, base + 1)
    assert missing_files(files) == []
    store.materialize(NOW, NOW + DAY)  # finishes it
    assert store.get_online_features(["loaded:x"], {"driver": [1]}).to_dict()["x"] == [2.0]
    store.vacuum(NOW_ONLY)
    assert missing_files(files) == files
    assert store.verify().mismatches == 0


def test_vacuum_removes_what_a_save_that_was_cut_off_left(store: FeatureStore) -> None:
    store.get_historical_features(frame(), FEATURES).save("kept")
    old, new = (store.datasets.root / "kept" / f".new-{name}" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
        (folder / "data.parquet").write_bytes(b"half of it")
    for path in (old, old / "data.parquet"):
        os.utime(path, (0, 0))

    [report] = [report for report in store.vacuum(dry_run=True) if report.table == "datasets"]
    assert (report.files, report.bytes) == (1, 10)
    assert old.exists()
    store.vacuum(NOW_ONLY)
    assert (old.exists(), new.exists()) == (False, True)
    assert store.datasets.reproduce("kept").equal


def test_the_command_line(store: FeatureStore) -> None:
    def cli(*arguments: str) -> tuple[int, str]:
        runner = CliRunner()
        with runner.isolation() as (out, *_):
            code = run(list(arguments), Settings(open_with=lambda _: store, clock=ManualClock(NOW)))
            return code, out.getvalue().decode()

    code, out = cli("compact", "newest", "--json")
    assert (code, [report["files_after"] for report in json.loads(out)]) == (0, [1])
    code, out = cli("vacuum", "--retention", "0h", "--dry-run")
    assert code == 0
    assert out.splitlines()[-1].startswith("6 files, ")
    assert out.splitlines()[-1].endswith("bytes would go")
    assert cli("vacuum", "--retention", "soon")[0] == 2
    code, out = cli("vacuum", "--retention", "0h", "--json")
    assert sum(report["files"] for report in json.loads(out)) == 6
