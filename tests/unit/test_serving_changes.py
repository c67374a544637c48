"""What changes under a worker: definitions applied by others, online state that is lost, and who fills it again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from featurestore.clock import SystemClock, from_micros
from featurestore.definitions import Aggregation, FeatureView, OnDemandFeatureView
from featurestore.definitions.project import row_fingerprint
from featurestore.errors import OfflineStoreError
from featurestore.materialize import fill as filling
from featurestore.materialize.lease import leased
from featurestore.online.memory import MemoryStore
from featurestore.serving import refill
from featurestore.store import FeatureStore
from tests.unit.serving_bench import (
    DRIVER,
    NEWEST,
    NOW,
    PUSHED,
    RECENT,
    SCHEMA,
    SERVICE,
    SPEED,
    SUM,
    VIEWS,
    Client,
    columns_of,
    in_loop,
    open_store,
    problem_of,
    serving,
)

COUNT = Aggregation(None, "count", timedelta(hours=12), name="trips_12h")
WIDER = FeatureView("recent", [DRIVER], SCHEMA, PUSHED, aggregations=[SUM, COUNT])
ALWAYS = {"features": ["newest:km", "recent:km_2h"], "entities": {"driver": [1]}}
NEW = {"features": ["recent:trips_12h"], "entities": {"driver": [1, 2]}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    store = open_store(tmp_path)
    yield store
    store.close()


@pytest.fixture
def other(store: FeatureStore) -> FeatureStore:
    """Return what another process would open: the same registry, log and online store."""
    other = FeatureStore(config=store.config, clock=store.clock)
    vars(other).update(online_store=store.online_store)
    return other


class Gate:
    """Holds a filling until it is opened, and counts fillings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.opened, self.count = threading.Event(), threading.Event(), 0

        def fill(*args: Any) -> int:
            self.count += 1
            self.begun.set()
            assert self.opened.wait(20)
            return filling.fill(*args)

        monkeypatch.setattr(refill, "fill", fill)


async def filled(client: Client) -> None:
    """Return once the worker has ended the fillings under way, and has looked again: that may begin others."""
    thread = client.api.service.watch._refill._thread
    assert thread is not None
    await asyncio.to_thread(thread.join)
    await client.look()


def forget(store: FeatureStore) -> None:
    assert isinstance(store.online_store, MemoryStore)
    store.online_store._data.clear()


async def check_always(client: Client) -> None:
    found = columns_of(await client.lookup(ALWAYS))
    assert (found["km"], found["km_2h"]) == (([12.5], ["PRESENT"]), ([12.5], ["PRESENT"]))


@in_loop
async def test_a_window_is_added_under_lookups_without_a_null_or_a_failure(
    store: FeatureStore, other: FeatureStore
) -> None:
    async with serving(store) as client:
        stop = asyncio.Event()
        answered = 0

        async def ask() -> None:
            nonlocal answered
            while not stop.is_set():
                await check_always(client)
                answered += 1
                await asyncio.sleep(0)

        askers = [asyncio.create_task(ask()) for _ in range(4)]
        problem_of(await client.lookup(NEW), 404)
        await asyncio.to_thread(other.apply, [NEWEST, WIDER, SERVICE])
        await client.look()
        found = columns_of(await client.lookup(NEW))
        assert found["trips_12h"] == ([1, 1], ["PRESENT", "PRESENT"])
        before = answered
        for _ in range(20):
            await check_always(client)
            await asyncio.sleep(0)
        stop.set()
        await asyncio.gather(*askers)
        assert answered > before
        assert (await client.get("/health/ready")).json()["revision"] == 2
        assert 'featurestore_reloads_total{outcome="switched"} 1.0' in (await client.get("/metrics")).text


@in_loop
async def test_until_the_new_state_is_filled_the_old_one_is_served(
    store: FeatureStore, other: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    async with serving(store) as client:
        monkeypatch.setattr(other, "_fill", lambda _: None)
        other.apply([NEWEST, WIDER, SERVICE])
        await client.look()
        await asyncio.to_thread(gate.begun.wait)
        await check_always(client)
        assert "no state of view 'recent'" in problem_of(await client.lookup(NEW), 503)
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["views"]["recent"]["state"]) == (200, "changing")
        gate.opened.set()
        await filled(client)
        assert columns_of(await client.lookup(NEW))["trips_12h"] == ([1, 1], ["PRESENT", "PRESENT"])
        await check_always(client)
        assert client.api.service.generation.older is None


@in_loop
async def test_what_is_removed_is_not_found_from_then_on(store: FeatureStore, other: FeatureStore) -> None:
    async with serving(store) as client:
        await check_always(client)
        other.apply([NEWEST])
        await client.look()
        assert "recent" in problem_of(await client.lookup(ALWAYS), 404)
        columns_of(await client.lookup({"features": ["newest:km"], "entities": {"driver": [1]}}))
        assert [view["name"] for view in (await client.get("/features")).json()["views"]] == ["newest"]
        assert 'view_ready{view="recent"}' not in (await client.get("/metrics")).text


@in_loop
async def test_a_shorter_ttl_counts_at_once(store: FeatureStore, other: FeatureStore) -> None:
    asked = {"features": ["newest:km"], "entities": {"driver": [1]}}
    async with serving(store) as client:
        assert columns_of(await client.lookup(asked))["km"] == ([12.5], ["PRESENT"])
        other.apply([replace(NEWEST, ttl=timedelta(minutes=40)), RECENT])
        await client.look()
        assert columns_of(await client.lookup(asked))["km"] == ([None], ["OUTSIDE_MAX_AGE"])
        rows = [{"driver": 1}]
        assert other.get_online_features(["newest:km"], rows).statuses == {"km": ["OUTSIDE_MAX_AGE"]}


@in_loop
async def test_definitions_whose_code_cannot_be_loaded_leave_the_old_ones_in_use(tmp_path: Path) -> None:
    store = open_store(tmp_path, [*VIEWS, SPEED])
    other = FeatureStore(config=store.config, clock=store.clock)
    vars(other).update(online_store=store.online_store)
    asked = {"features": ["speed:km_per"], "entities": {"driver": [1], "hours": [2.0]}}

    def per_minute(row: dict[str, Any]) -> dict[str, Any]:
        return {"km_per": row["km"] / row["hours"] / 60}

    async with serving(store) as client:
        other.apply([*VIEWS, OnDemandFeatureView("speed", SPEED.sources, SPEED.schema, per_minute)])
        await client.look()
        assert columns_of(await client.lookup(asked))["km_per"] == ([6.25], ["PRESENT"])
        ready = await client.get("/health/ready")
        assert ready.status_code == 200
        assert "revision 2 cannot be loaded" in ready.json()["warnings"]["definitions"]
        for _ in range(5):  # it is not tried again at every look
            await client.look()
        assert 'featurestore_reloads_total{outcome="failed"} 1.0' in (await client.get("/metrics")).text
        other.apply(VIEWS)
        await client.look()
        assert (await client.get("/health/ready")).json() | {"views": {}} == {
            "status": "ready",
            "problems": [],
            "warnings": {},
            "revision": 3,
            "views": {},
        }
    store.close()


@in_loop
async def test_what_was_pushed_by_old_definitions_reaches_the_views_of_the_new(
    store: FeatureStore, other: FeatureStore
) -> None:
    row = {"driver": [1], "ts": [from_micros(NOW).isoformat()], "km": [1.0], "city": ["A"]}
    push = {"push_source_name": "trips", "df": row | {"photo": [None], "paid_at": [None]}}
    async with serving(store) as client:
        assert (await client.post("/push", push)).status_code == 200
        other.apply([NEWEST, WIDER, SERVICE])
        assert (await client.post("/push", push)).status_code == 200
        await client.look()
        await asyncio.gather(*(task for task in client.api.service._tasks if "switch" in repr(task)))
        store.clock.set(NOW + 1)  # type: ignore[attr-defined]  # a manual clock
        assert columns_of(await client.lookup(NEW))["trips_12h"] == ([3, 1], ["PRESENT", "PRESENT"])


@in_loop
async def test_lost_state_is_not_served_and_filled_again_without_a_restart(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    async with serving(store) as client:
        await check_always(client)
        forget(store)
        answer = await client.lookup(ALWAYS)
        problem_of(answer, 503)
        assert answer.headers["retry-after"] == "1"
        assert client.api.service.watch._wake.is_set()
        await client.look()
        await asyncio.to_thread(gate.begun.wait)
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["views"]["newest"]["state"] == "filling"
        assert "online state is missing: newest, recent" in ready.json()["problems"]
        problem_of(await client.lookup(ALWAYS), 503)
        gate.opened.set()
        await filled(client)
        await check_always(client)
        assert (await client.get("/health/ready")).status_code == 200
        text = (await client.get("/metrics")).text
        assert 'featurestore_refills_total{outcome="filled",view="recent"} 1.0' in text


@in_loop
async def test_of_several_workers_one_fills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path, [NEWEST])
    other = FeatureStore(config=store.config, clock=store.clock)
    vars(other).update(online_store=store.online_store)
    asked = {"features": ["newest:km"], "entities": {"driver": [1]}}
    gate = Gate(monkeypatch)
    async with serving(store) as first, serving(other) as second:
        forget(store)
        await first.look()
        await asyncio.to_thread(gate.begun.wait)
        await second.look()
        await filled(second)
        ready = await second.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["views"]["newest"]["reason"] == "another process is filling it"
        gate.opened.set()
        await filled(first)
        await second.look()
        for client in (first, second):
            assert columns_of(await client.lookup(asked))["km"] == ([12.5], ["PRESENT"])
            assert (await client.get("/health/ready")).status_code == 200
        assert gate.count == 1
    store.close()


@in_loop
async def test_what_a_job_is_writing_is_left_to_the_job(store: FeatureStore) -> None:
    async with serving(store) as client:
        forget(store)
        with leased(store.registry, row_fingerprint(RECENT), "recent", SystemClock().now):
            await client.look()
            await filled(client)
            views = (await client.get("/health/ready")).json()["views"]
            assert {view["reason"] for view in views.values()} == {"a job is writing it"}
            assert {view["state"] for view in views.values()} == {"filling"}
        await filled(client)  # what was begun before the job ended
        await filled(client)
        await check_always(client)


@in_loop
async def test_a_filling_that_fails_is_told_and_tried_again(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(store) as client:
        forget(store)

        def fail(*_: Any) -> int:
            raise OfflineStoreError("the disk is gone")

        with monkeypatch.context() as patched:
            patched.setattr(refill, "fill", fail)
            await client.look()
            await filled(client)
            ready = await client.get("/health/ready")
            assert ready.status_code == 503
            assert "the disk is gone" in ready.json()["views"]["newest"]["reason"]
        monkeypatch.setattr(client.api.service.watch._refill, "_not_before", 0.0)
        await client.look()
        await filled(client)
        await check_always(client)


@in_loop
async def test_a_project_without_a_row_is_not_ready_and_a_new_view_keeps_none_from_being_served(
    tmp_path: Path, store: FeatureStore, other: FeatureStore
) -> None:
    from featurestore.definitions import FileSource

    batch = FeatureView("batch", [DRIVER], SCHEMA, FileSource("f", path="f.parquet", timestamp_field="ts"))
    async with serving(store) as client:
        other.apply([*VIEWS, batch])
        await client.look()
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["views"]["batch"]["state"]) == (200, "empty")
        asked = {"features": ["batch:km"], "entities": {"driver": [1]}}
        assert "featurestore materialize" in problem_of(await client.lookup(asked), 503)
        await check_always(client)
        other.apply([batch])
        await client.look()
        assert "nothing was written" in (await client.get("/health/ready")).json()["problems"][0]


@in_loop
async def test_a_registry_that_is_away_keeps_nothing_from_being_served(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featurestore.errors import RegistryError
    from featurestore.registry import Registry

    def fail(_: Registry) -> int:
        raise RegistryError("the registry is away")

    async with serving(store) as client:
        with monkeypatch.context() as patched:
            patched.setattr(Registry, "revision", fail)
            await client.look()
            await check_always(client)
            ready = await client.get("/health/ready")
            assert ready.status_code == 200
            assert ready.json()["warnings"] == {"registry": "the registry is away"}
        await client.look()
        assert (await client.get("/health/ready")).json()["warnings"] == {}
