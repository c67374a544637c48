"""Erasing a key: nothing of it is left anywhere, nothing else changes, and a run that was cut off can be finished."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lmdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from featurestore.cli.main import run
from featurestore.cli.settings import Settings
from featurestore.clock import ManualClock, SystemClock, from_micros
from featurestore.config import Config
from featurestore.definitions import Aggregation, Entity, FeatureView, Field, FileSource, FileStreamSource, PushSource
from featurestore.errors import FeatureNotFoundError, FeatureStoreError, RowError
from featurestore.maintenance.erasure import Eraser, chosen_views
from featurestore.materialize.job import materialize
from featurestore.online.framing import entity_key, parse
from featurestore.online.state import StateSection
from featurestore.semantics.windows import DAY, HOUR, MINUTE
from featurestore.store import FeatureStore
from featurestore.types import Float64, Int64, String

NOW = 300 * DAY + 12 * HOUR
GONE = 77_123_456
"""The key that is erased: a number that nothing else holds."""
DRIVER = Entity("driver", value_type=Int64)
TRIP = Entity("trip", value_type=String)
X = [Field("x", Float64)]
BATCH = FileSource("b", path="b.parquet", timestamp_field="ts")
PUSHED = PushSource("pushed", timestamp_field="ts")
NEWEST = FeatureView("newest", [DRIVER], X, PUSHED)
RECENT = FeatureView("recent", [DRIVER], X, PUSHED, aggregations=[Aggregation("x", "sum", timedelta(hours=2))])
COUNTED = FeatureView(
    "counted",
    [DRIVER],
    X,
    FileStreamSource("events", path="events.jsonl", timestamp_field="ts"),
    aggregations=[Aggregation(None, "count", None, name="n")],
)
LOADED = FeatureView("loaded", [DRIVER], X, BATCH)
BOTH = FeatureView(
    "both",
    [DRIVER],
    X,
    PushSource("mixed", batch_source=BATCH),
    aggregations=[Aggregation("x", "sum", None, name="total")],
)
TRIPS = FeatureView("trips", [DRIVER, TRIP], X, PushSource("rides", timestamp_field="ts"))
SINGLE = [NEWEST, RECENT, COUNTED, LOADED, BOTH]
VIEWS = [*SINGLE, TRIPS]
FEATURES = [f"{view.name}:{field.name}" for view in SINGLE for field in view.features]
Open = Callable[[], FeatureStore]


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Open]:
    """Return a function that closes the store, if one is open, and opens it as a new process would."""
    stores: list[FeatureStore] = []

    def make() -> FeatureStore:
        if stores:
            stores[-1].close()
        stores.append(FeatureStore(config=Config(project="p", repo_path=tmp_path), clock=ManualClock(NOW)))
        return stores[-1]

    yield make
    stores[-1].close()


@pytest.fixture
def store(reopen: Open, tmp_path: Path) -> FeatureStore:
    source(tmp_path, 1, 2, GONE)
    drivers = (1, GONE, 2, GONE, 1)
    (tmp_path / "events.jsonl").write_text("".join(event(driver, minute) for minute, driver in enumerate(drivers)))
    store = reopen()
    store.apply(VIEWS)
    store.materialize(0, NOW)
    store.materialize(0, NOW - DAY)  # a second job: batch rows in history
    for driver in (1, GONE, 2):
        store.push("pushed", [pushed(driver, 0.1 * driver), pushed(driver, 0.2, MINUTE)])
        store.push("mixed", [pushed(driver, 0.5)])
        store.push("rides", [pushed(driver, 1.0, trip=trip) for trip in ("a", "b")])
    store.push("pushed", [pushed(1, 3.0), pushed(GONE, "wrong"), pushed(2, "wrong")])
    store.stream()
    return store


def source(folder: Path, *drivers: int) -> None:
    times = pa.array([NOW - (2 + place) * DAY for place in range(len(drivers))], pa.timestamp("us"))
    pq.write_table(pa.table({"driver": drivers, "ts": times, "x": [10.0] * len(drivers)}), folder / "b.parquet")


def event(driver: int, minute: int) -> str:
    row = {"driver": driver, "ts": from_micros(NOW - HOUR + minute * MINUTE).isoformat(), "x": 1.0}
    return json.dumps(row) + "\n"


def pushed(driver: int, x: Any, ago: int = 0, **more: Any) -> dict[str, Any]:
    return {"driver": driver, "ts": from_micros(NOW - MINUTE - ago), "x": x, **more}


def frame(*drivers: int) -> pa.Table:
    return pa.table({"driver": drivers, "event_timestamp": pa.array([NOW] * len(drivers), pa.timestamp("us", "UTC"))})


def online(store: FeatureStore, *drivers: int) -> dict[str, Any]:
    answer = store.get_online_features(FEATURES, {"driver": list(drivers)}, full_feature_names=True)
    return {**answer.to_dict(), **{f"{name} status": column for name, column in answer.statuses.items()}}


def offline(store: FeatureStore, *drivers: int) -> dict[str, list[Any]]:
    job = store.get_historical_features(frame(*drivers), FEATURES, full_feature_names=True)
    columns: dict[str, list[Any]] = job.to_arrow().to_pydict()
    return columns


NOTHING: dict[str, list[Any]] = {
    "newest__x": [None],
    "recent__sum_x_2h": [None],
    "counted__n": [0],
    "loaded__x": [None],
    "both__total": [None],
}


def is_gone(found: dict[str, list[Any]]) -> bool:
    return {name: found[name] for name in NOTHING} == NOTHING


def traces(folder: Path) -> list[str]:
    """Return the Parquet files and online values below a folder in which the key still has rows."""
    found = []
    for file in folder.rglob("*.parquet"):
        if "_delta_log" in file.parts:
            continue
        dataset = ds.dataset(file, format="parquet")
        if "driver" in dataset.schema.names and dataset.count_rows(filter=ds.field("driver") == GONE):
            found.append(str(file))
        if "payload" in dataset.schema.names:
            payloads = dataset.to_table(columns=["payload"])["payload"].to_pylist()
            found += [str(file) for payload in payloads if str(GONE).encode() in payload]
    return found


def test_nothing_of_the_key_is_left_and_all_else_is_as_it_was(store: FeatureStore, tmp_path: Path) -> None:
    before = (online(store, 1, 2), offline(store, 1, 2))
    assert not is_gone(online(store, GONE))
    assert traces(tmp_path / "data")

    report = store.delete_entity({"driver": GONE}, entity="driver")

    assert is_gone(online(store, GONE))
    assert is_gone(offline(store, GONE))
    assert traces(tmp_path / "data") == []
    assert (online(store, 1, 2), offline(store, 1, 2)) == before
    assert store.verify().mismatches == 0
    trips = store.get_online_features(["trips:x"], {"driver": [GONE, 1], "trip": ["a", "b"]})
    assert trips.statuses["x"] == ["NOT_FOUND", "PRESENT"]
    rows = {views: erasure.rows for erasure in report.erasures for views in erasure.views}
    assert rows == {"newest": 2, "recent": 2, "counted": 2, "loaded": 1, "both": 2, "trips": 2}
    letters = {erasure.views: erasure.dead_letters for erasure in report.erasures}
    assert letters["newest", "recent"] == 1
    assert sum(letters.values()) == 1
    assert store.dead_letters("newest").num_rows == 1
    assert report.batch_sources == ("b",)


def test_the_registry_knows_what_was_erased_but_not_the_key(store: FeatureStore, tmp_path: Path) -> None:
    report = store.delete_entity({"driver": GONE}, view="counted")

    [recorded] = store.registry.erasures()
    assert recorded == report.erasures[0]
    assert (recorded.views, recorded.join_keys, recorded.rows, recorded.at) == (("counted",), ("driver",), 2, NOW)
    [(writer, sequence)] = recorded.sequences.items()
    assert writer.startswith("file/events/")
    assert sequence == 3
    assert str(GONE).encode() not in (tmp_path / "data/registry.db").read_bytes()
    assert not list((tmp_path / "data/offline/erasing").iterdir())
    assert not is_gone(offline(store, GONE))  # the other views' logs are as they were
    assert online(store, GONE)["newest__x"] == [0.1 * GONE]


def test_later_rows_count_from_scratch_and_old_ones_never_again(store: FeatureStore, reopen: Open) -> None:
    store.delete_entity({"driver": GONE}, entity="driver")
    for file in (store.config.repo_path / "data/offline/state").rglob("*.json"):
        file.unlink()  # the position is lost: every line is delivered again
    store = reopen()
    assert store.stream().applied == 0
    assert is_gone(online(store, GONE))

    with (store.config.repo_path / "events.jsonl").open("a") as lines:
        lines.write(event(GONE, 30))
    assert store.stream().applied == 1
    store.push("pushed", [pushed(GONE, 7.0)])
    store.push("mixed", [pushed(GONE, 8.0)])
    expected = {"newest__x": [7.0], "recent__sum_x_2h": [7.0], "counted__n": [1], "both__total": [8.0]}
    for found in (online(store, GONE), offline(store, GONE)):
        assert {name: found[name] for name in expected} == expected
    assert store.verify().mismatches == 0


def test_the_next_job_loads_what_the_source_holds(store: FeatureStore, tmp_path: Path) -> None:
    store.delete_entity({"driver": GONE}, entity="driver")
    source(tmp_path, 1, 2)
    store.materialize(0, NOW)
    assert is_gone(online(store, GONE))
    source(tmp_path, 1, 2, GONE)
    store.materialize(0, NOW)
    assert online(store, GONE)["loaded__x"] == offline(store, GONE)["loaded__x"] == [10.0]
    assert store.verify().mismatches == 0


@pytest.mark.parametrize("step", ["chunk:1", "ranked", "logged", "recorded"])
def test_a_job_that_was_cut_off_does_not_bring_the_key_back(store: FeatureStore, tmp_path: Path, step: str) -> None:
    def die(done: str) -> None:
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialize(replace(store._jobs(), hook=die), [LOADED], 0, NOW)
    store.delete_entity({"driver": GONE}, entity="driver")
    assert traces(tmp_path / "data") == []
    source(tmp_path, 1, 2)
    store.materialize(0, NOW)

    assert traces(tmp_path / "data") == []
    assert is_gone(online(store, GONE))
    assert online(store, 1, 2)["loaded__x"] == [10.0, 10.0]
    assert store.verify().mismatches == 0


def test_a_store_that_lost_its_online_state_is_filled_without_the_key(store: FeatureStore, reopen: Open) -> None:
    before = online(store, 1, 2)
    store.delete_entity({"driver": GONE}, entity="driver")
    store.close()
    for file in (store.config.repo_path / "data/online").iterdir():
        file.unlink()
    store = reopen()
    store.push("pushed", [pushed(5, 1.0)])  # the first write fills what is missing
    assert online(store, 1, 2) == before
    assert is_gone(online(store, GONE))


@pytest.mark.parametrize(
    ("step", "nth"),
    [("noted", 1), ("log", 1), ("log", 3), ("letters", 2), ("online", 1), ("online", 4), ("sets", 2), ("recorded", 1)],
)
def test_a_run_that_was_cut_off_is_finished_by_the_next(
    store: FeatureStore, reopen: Open, tmp_path: Path, step: str, nth: int
) -> None:
    store.get_historical_features(frame(1, GONE), FEATURES, full_feature_names=True).save("training")
    before = (online(store, 1, 2), offline(store, 1, 2))
    seen = []

    def die(done: str) -> None:
        seen.append(done)
        if seen.count(step) == nth:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        erase(store, die)
    store = reopen()
    store.stream()
    report = store.delete_entity({"driver": GONE}, entity="driver")

    assert traces(tmp_path / "data") == []
    assert is_gone(online(store, GONE))
    assert is_gone(offline(store, GONE))
    assert (online(store, 1, 2), offline(store, 1, 2)) == before
    assert store.verify().mismatches == 0
    assert store.datasets.show("training").erased_rows == 1
    assert sum(erasure.rows for erasure in store.registry.erasures()) == 9
    assert {e.id for e in report.erasures} <= {e.id for e in store.registry.erasures()}


def erase(store: FeatureStore, hook: Callable[[str], None]) -> None:
    eraser = Eraser(
        root=store.config.resolve(store.config.offline_path),
        registry=store.registry,
        datasets=store.datasets,
        online_of=store.online_view,
        clock=store.clock,
        wall=SystemClock().now,
        hook=hook,
    )
    key = {"driver": GONE}
    eraser.erase(key, chosen_views(store.registry, store.project, key, view=None, entity="driver"))


def test_saved_sets_lose_the_rows_and_can_still_be_reproduced(store: FeatureStore, tmp_path: Path) -> None:
    store.get_historical_features(frame(1, GONE, 2, GONE), FEATURES, full_feature_names=True).save("training")
    store.get_historical_features(frame(1, 2), FEATURES, full_feature_names=True).save("others")
    kept = store.datasets.load("training").take([0, 2])
    untouched = (tmp_path / "data/offline/datasets/others/1/manifest.json").read_bytes()

    store.delete_entity({"driver": GONE}, entity="driver")

    assert store.datasets.load("training").equals(kept)
    manifest = store.datasets.show("training")
    assert (manifest.rows, [(erased.at, erased.rows) for erased in manifest.erased]) == (2, [(NOW, 2)])
    for name in ("training", "others"):
        outcome = store.datasets.reproduce(name)
        assert outcome.equal, outcome.to_text()
    assert "2 rows were erased since" in store.datasets.reproduce("training").to_text()
    assert (tmp_path / "data/offline/datasets/others/1/manifest.json").read_bytes() == untouched


def test_a_view_used_twice_is_erased_by_either_column(store: FeatureStore) -> None:
    other = NEWEST[["x"]].with_name("other").with_join_key_map({"driver": "rival"})
    rivals = frame(1, GONE, 2, 1).append_column("rival", pa.array([2, 1, GONE, 2]))
    job = store.get_historical_features(rivals, ["newest:x", other], full_feature_names=True)
    job.save("pairs")
    kept = job.to_arrow().take([0, 3])
    assert store.datasets.reproduce("pairs").equal

    store.delete_entity({"driver": GONE}, entity="driver")

    assert store.datasets.load("pairs").equals(kept)
    assert store.datasets.reproduce("pairs").equal


def test_definitions_of_the_past_are_erased_too(store: FeatureStore, tmp_path: Path) -> None:
    wider = FeatureView("newest", [DRIVER], [*X, Field("y", Float64)], PUSHED)  # another log, another online state
    store.apply([wider, COUNTED])
    store.push("pushed", [pushed(GONE, 1.0, y=2.0), pushed(1, 1.0, y=2.0)])
    old = store.online_view(NEWEST)

    store.delete_entity({"driver": GONE}, entity="driver")

    assert traces(tmp_path / "data") == []
    with old.store.snapshot() as snapshot:
        values = snapshot.get([old.header(old.entity((key,))) for key in (GONE, 1)])
    states = [old.decode(section) for value in values if value is not None for section in parse(value)]
    assert [state.newest is not None for state in states if isinstance(state, StateSection)] == [False, True]


def test_a_late_write_of_old_rows_is_ignored(store: FeatureStore) -> None:
    """A process that read the rows before the erasure writes them after it."""
    view = store.online_view("newest")
    log = store.log("newest")
    batches = list(log.sorted_rows(keys=pa.table({"driver": [GONE]})))
    rows = pa.Table.from_batches(batches)
    [writer] = set(rows["_writer"].to_pylist())
    last = log.sequence(writer)
    store.delete_entity({"driver": GONE}, entity="driver")

    view.rewrite(batches, {writer: last})
    view.store.put({})
    assert is_gone(online(store, GONE))


def test_rows_that_come_in_meanwhile_are_neither_lost_nor_mixed_up(store: FeatureStore) -> None:
    pushes = [0]
    failed: list[FeatureStoreError] = []
    started = threading.Event()

    def go_on() -> None:
        try:
            for _ in range(20):
                store.push("mixed", [pushed(1, 1.0), pushed(GONE, 1.0)])
                pushes[0] += 1
                started.set()
        except FeatureStoreError as error:
            failed.append(error)
            started.set()

    thread = threading.Thread(target=go_on)
    thread.start()
    started.wait()
    for _ in range(2):
        store.delete_entity({"driver": GONE}, view="both")
    thread.join()

    assert failed == []
    for found in (online, offline):
        assert found(store, 1)["both__total"] == [10.5 + pushes[0]]
    assert online(store, GONE)["both__total"] == offline(store, GONE)["both__total"]
    assert (offline(store, GONE)["both__total"][0] or 0) < pushes[0]
    assert store.verify().mismatches == 0
    store.delete_entity({"driver": GONE}, view="both")
    assert is_gone({**NOTHING, "both__total": online(store, GONE)["both__total"]})


@pytest.mark.parametrize(
    ("key", "names", "error"),
    [
        ({"driver": 1}, {"view": "nowhere"}, FeatureNotFoundError),
        ({"driver": 1}, {"entity": "nobody"}, FeatureNotFoundError),
        ({"drive": 1}, {"entity": "driver"}, RowError),
        ({"driver": 1}, {"view": "trips"}, RowError),
        ({"driver": None}, {"view": "newest"}, RowError),
        ({"driver": "1"}, {"view": "newest"}, RowError),
        ({"driver": 1}, {}, RowError),
        ({"driver": 1}, {"view": "newest", "entity": "driver"}, RowError),
        ({}, {"entity": "driver"}, RowError),
    ],
)
def test_a_wrong_request_erases_nothing(store: FeatureStore, key: Any, names: Any, error: type[Exception]) -> None:
    version = store.log("newest").version()
    with pytest.raises(error):
        store.delete_entity(key, **names)
    assert store.log("newest").version() == version
    assert store.registry.erasures() == []


def test_the_command_asks_and_reports(store: FeatureStore, reopen: Open) -> None:
    def cli(*arguments: str) -> tuple[int, str]:
        runner = CliRunner()
        with runner.isolation() as (out, *_):
            code = run(list(arguments), Settings(open_with=lambda _: reopen(), clock=ManualClock(NOW)))
            return code, out.getvalue().decode()

    assert cli("delete-entity", "newest", f"driver={GONE}")[0] == 2  # not a terminal, and no --yes
    assert cli("delete-entity", f"driver={GONE}", "--yes")[0] == 2
    assert not is_gone(online(reopen(), GONE))
    code, out = cli("delete-entity", "trips", f"driver={GONE}", "trip=a", "--yes", "--json")
    assert (code, [erasure["rows"] for erasure in json.loads(out)["erasures"]]) == (0, [1])
    code, out = cli("delete-entity", "--entity", "driver", f"driver={GONE}", "--yes")
    assert code == 0
    assert "Remove the key from the batch sources too ('b')" in out
    assert is_gone(online(reopen(), GONE))


def test_the_online_file_holds_no_value_of_the_key(store: FeatureStore) -> None:
    """What is left is the key itself and the writers' sequences: a tombstone for each view."""
    store.delete_entity({"driver": GONE}, entity="driver")
    store.close()
    needle = entity_key([GONE], [Int64])
    folder = str(store.config.repo_path / "data/online")
    with lmdb.open(folder, readonly=True, max_dbs=8) as environment, environment.begin() as transaction:
        found = [key for key, _ in transaction.cursor() if needle in key]
    assert found
    assert not [key for key in found if key[16:17] == b"c"]
