"""The facade: definitions applied and changed while serving, pushes, streams, a lost online store, and verify."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.clock import ManualClock, from_micros
from featurestore.config import Config
from featurestore.definitions import (
    Aggregation,
    Entity,
    FeatureView,
    Field,
    FileSource,
    FileStreamSource,
    PushSource,
)
from featurestore.errors import FeatureNotFoundError, NotAppliedError, NotReadyError, StaleApplyError
from featurestore.online.framing import build, entity_key, header_key, parse, shorten
from featurestore.semantics.windows import DAY, HOUR, MINUTE
from featurestore.store import FeatureStore
from featurestore.types import Float64, Int64

NOW = 300 * DAY + 12 * HOUR
DRIVER = Entity("driver", value_type=Int64)
SCHEMA = [Field("x", Float64)]
BATCH = FileSource("b", path="b.parquet", timestamp_field="ts")
PUSHED = PushSource("pushed", timestamp_field="ts")
STREAM = FileStreamSource("events", path="events.jsonl", timestamp_field="ts")
SUM = Aggregation("x", "sum", timedelta(hours=2), name="total")
NEWEST = FeatureView("newest", [DRIVER], SCHEMA, PUSHED)
RECENT = FeatureView("recent", [DRIVER], SCHEMA, PUSHED, aggregations=[SUM])
COUNTED = FeatureView("counted", [DRIVER], SCHEMA, STREAM, aggregations=[Aggregation(None, "count", None, name="n")])
LOADED = FeatureView("loaded", [DRIVER], SCHEMA, BATCH)
BOTH = FeatureView(
    "both", [DRIVER], SCHEMA, PushSource("mixed", batch_source=BATCH), aggregations=[Aggregation("x", "sum", None)]
)
VIEWS = [NEWEST, RECENT, COUNTED, LOADED, BOTH]
Open = Callable[[], FeatureStore]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def reopen(tmp_path: Path, clock: ManualClock) -> Iterator[Open]:
    """Return a function that closes the store, if one is open, and opens it as a new process would."""
    stores: list[FeatureStore] = []

    def make() -> FeatureStore:
        if stores:
            stores[-1].close()
        stores.append(FeatureStore(config=Config(project="p", repo_path=tmp_path), clock=clock))
        return stores[-1]

    yield make
    stores[-1].close()


@pytest.fixture
def store(reopen: Open, tmp_path: Path) -> FeatureStore:
    """Return a store of all views, with some rows in each."""
    rows = {"driver": [1, 2], "ts": pa.array([NOW - DAY, NOW - 2 * DAY], pa.timestamp("us")), "x": [10.0, 20.0]}
    pq.write_table(pa.table(rows), tmp_path / "b.parquet")
    (tmp_path / "events.jsonl").write_text("".join(map(event, range(5))))
    store = reopen()
    store.apply(VIEWS)
    store.push("pushed", [pushed(1, 0.1), pushed(1, 0.2, MINUTE), pushed(2, 5.0)])
    store.materialize(0, NOW)
    store.push("mixed", [pushed(1, 0.5)])
    store.stream()
    return store


def event(minute: int) -> str:
    row = {"driver": 1 + minute % 2, "ts": from_micros(NOW - HOUR + minute * MINUTE).isoformat(), "x": 1.0}
    return json.dumps(row) + "\n"


def pushed(driver: int, x: float, ago: int = 0) -> dict[str, Any]:
    return {"driver": driver, "ts": from_micros(NOW - MINUTE - ago), "x": x}


def served(store: FeatureStore, *features: str) -> dict[str, list[Any]]:
    names = features or tuple(f"{view.name}:{field.name}" for view in VIEWS for field in view.features)
    answer = store.get_online_features(list(names), {"driver": [1, 2]}, full_feature_names=True).to_dict()
    return {name: column for name, column in answer.items() if name != "driver"}


EVERYTHING = {
    "newest__x": [0.1, 5.0],
    "recent__total": [0.1 + 0.2, 5.0],
    "counted__n": [3, 2],
    "loaded__x": [10.0, 20.0],
    "both__sum_x_all": [10.5, 20.0],
}


def test_everything_written_is_served(store: FeatureStore, reopen: Open) -> None:
    assert served(store) == EVERYTHING
    again = reopen()
    assert served(again) == EVERYTHING


def test_online_and_offline_give_the_same_bits(store: FeatureStore) -> None:
    names = [f"{view.name}:{field.name}" for view in VIEWS for field in view.features]
    frame = pa.table({"driver": [1, 2], "event_timestamp": pa.array([NOW, NOW], pa.timestamp("us", "UTC"))})
    trained = store.get_historical_features(frame, names, full_feature_names=True).to_arrow()
    assert {name: trained.column(name).to_pylist() for name in EVERYTHING} == EVERYTHING


def test_nothing_works_before_the_first_apply(reopen: Open) -> None:
    store = reopen()
    with pytest.raises(NotAppliedError, match="project 'p' has no applied definitions; run featurestore apply"):
        store.get_online_features(["newest:x"], [{"driver": 1}])
    with pytest.raises(NotAppliedError):
        store.push("pushed", [pushed(1, 1.0)])


REPOSITORY = """
from featurestore import Entity, FeatureView, Field, PushSource
from featurestore.types import Float64, Int64

newest = FeatureView(
    "newest",
    [Entity("driver", value_type=Int64)],
    [Field("x", Float64)],
    PushSource("pushed", timestamp_field="ts"),
)
"""


def test_a_plan_changes_nothing_and_a_stale_one_is_refused(reopen: Open, tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text(REPOSITORY)
    store = reopen()
    plan = store.plan()
    assert store.registry.revision() == 0
    assert store.apply(plan).revision == 1
    assert list(store.project.feature_views) == ["newest"]
    stale = store.plan()
    assert store.apply([RECENT]).revision == 2
    with pytest.raises(StaleApplyError):
        store.apply(stale)
    assert list(store.project.feature_views) == ["recent"]


def test_a_view_without_rows_is_ready_and_one_with_a_batch_source_waits_for_its_first_job(reopen: Open) -> None:
    store = reopen()
    store.apply([NEWEST, LOADED])
    assert served(store, "newest:x") == {"newest__x": [None, None]}
    with pytest.raises(NotReadyError, match="'loaded'"):
        served(store, "loaded:x")


def test_a_new_aggregation_is_filled_from_the_log_and_the_others_never_blank(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.log("recent").version()
    changed = FeatureView(
        "recent",
        [DRIVER],
        SCHEMA,
        PUSHED,
        aggregations=[SUM, Aggregation("x", "count", timedelta(days=1), name="many")],
    )
    seen = []
    fill = store._fill

    def watch(view: FeatureView) -> None:
        fill(view)
        seen.append(served(store))

    monkeypatch.setattr(store, "_fill", watch)
    store.apply([NEWEST, changed, COUNTED, LOADED, BOTH])
    assert seen == [EVERYTHING] * 5, "what did not change was served during the change"
    assert served(store, "recent:total", "recent:many") == {
        "recent__total": [0.1 + 0.2, 5.0],
        "recent__many": [2, 1],
    }
    assert served(store) == EVERYTHING
    assert store.log("recent").version() == before
    store.push("pushed", [pushed(1, 1.0)])
    assert served(store, "recent:many") == {"recent__many": [3, 1]}


@pytest.mark.parametrize("act", ["push", "stream", "materialize", "apply"])
def test_a_lost_online_store_is_filled_again_by_whatever_comes_next(
    store: FeatureStore, reopen: Open, tmp_path: Path, act: str
) -> None:
    store.close()
    shutil.rmtree(tmp_path / "data" / "online")
    again = reopen()
    with pytest.raises(NotReadyError):
        served(again)
    expected = dict(EVERYTHING)
    if act == "push":
        again.push("pushed", [pushed(1, 7.0)])
        expected |= {"newest__x": [7.0, 5.0], "recent__total": [0.1 + 0.2 + 7.0, 5.0]}
    elif act == "stream":
        with (tmp_path / "events.jsonl").open("a") as file:
            file.write(event(6))
        again.stream()
        expected["counted__n"] = [4, 2]
    elif act == "materialize":
        again.materialize(NOW - HOUR, NOW)
    else:
        again.apply(VIEWS)
    assert served(again) == expected
    assert again.verify().mismatches == 0


def test_projects_of_one_name_do_not_meet_in_one_online_store(store: FeatureStore, tmp_path: Path) -> None:
    """As where a project is begun anew, or two teams share a Redis."""
    online = str(tmp_path / store.config.online_path)
    other = Config(project=store.config.project, repo_path=tmp_path / "other", online_path=online)
    store.close()
    with closing(FeatureStore(config=other, clock=store.clock)) as begun:
        begun.apply([NEWEST])
        assert served(begun, "newest:x") == {"newest__x": [None, None]}
        begun.push("pushed", [pushed(1, 9.0)])
        assert served(begun, "newest:x") == {"newest__x": [9.0, None]}


def test_a_push_with_a_key_is_written_once(store: FeatureStore, reopen: Open) -> None:
    rows = [pushed(1, 3.0)]
    first = store.push("pushed", rows, idempotency_key="k")
    second = store.push("pushed", rows, idempotency_key="k")
    third = reopen().push("pushed", rows, idempotency_key="k")
    assert [result.repeated for result in (first, second, third)] == [False, True, True]
    store = reopen()
    assert served(store, "recent:total") == {"recent__total": [0.1 + 0.2 + 3.0, 5.0]}
    store.push("pushed", rows, idempotency_key="other")
    assert served(store, "recent:total") == {"recent__total": [0.1 + 0.2 + 3.0 + 3.0, 5.0]}


def test_a_stream_stops_at_a_time_and_goes_on_from_there(reopen: Open, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("".join(map(event, range(5))))
    store = reopen()
    store.apply([COUNTED])
    first = store.stream("events", until=NOW - HOUR + 2 * MINUTE)
    assert (first.events, first.applied) == (3, 3)
    assert served(store, "counted:n") == {"counted__n": [2, 1]}
    assert store.stream(until=from_micros(NOW - HOUR + 2 * MINUTE)).events == 0
    store = reopen()
    assert (store.stream("events").events, store.stream("events").events) == (2, 0)
    assert served(store, "counted:n") == {"counted__n": [3, 2]}


def test_unknown_sources_and_views_are_named(store: FeatureStore) -> None:
    with pytest.raises(FeatureNotFoundError, match="'pusht' does not exist; did you mean 'pushed'"):
        store.push("pusht", [])
    with pytest.raises(FeatureNotFoundError, match="did you mean 'events'"):
        store.stream("event")
    with pytest.raises(FeatureNotFoundError, match="'newest' has no batch source"):
        store.materialize(0, NOW, ["newest"])


def test_verify_finds_the_one_value_whose_byte_was_flipped(store: FeatureStore) -> None:
    clean = store.verify()
    assert clean.mismatches == 0
    assert [(view.view, view.keys, view.skipped) for view in clean.views] == [
        (name, 2, "") for name in sorted(view.name for view in VIEWS)
    ]
    online = store.online_view("newest")
    key = header_key(online.fingerprint, shorten(entity_key([2], [Int64])))
    with store.online_store.snapshot() as snapshot:
        (value,) = snapshot.get([key])
    assert value is not None
    (section,) = parse(value)
    five = struct.pack("<d", 5.0)
    assert section.payload.count(five) == 1
    spoilt = section.payload.replace(five, b"\x01" + five[1:])
    store.online_store.put({key: build([section._replace(payload=spoilt)])})
    report = store.verify()
    found = {
        (item.view, item.key["driver"], item.feature, item.online.value, item.offline.value)
        for view in report.views
        for item in view.mismatches
    }
    assert found == {("newest", 2, "x", 5.000000000000001, 5.0)}
    assert "x of driver=2: online 5.000000000000001, offline 5.0" in report.to_text()
    assert store.verify(["recent"]).mismatches == 0
