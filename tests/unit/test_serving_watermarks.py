"""An online store that goes back to an earlier state: workers notice, answer 503, and bring it level with the log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.clock import ManualClock, SystemClock, from_micros
from featurestore.config import Config
from featurestore.definitions import FeatureView, Field, FileSource, PushSource
from featurestore.definitions.project import row_fingerprint
from featurestore.materialize.lease import leased
from featurestore.offline.log import RowLog
from featurestore.online.contract import Given
from featurestore.online.marks import ViewMarks
from featurestore.online.memory import MemoryStore
from featurestore.semantics.windows import DAY, HOUR
from featurestore.serving.watermarks import Watermarks
from featurestore.store import FeatureStore
from featurestore.streaming.follow import OnlineFollower
from featurestore.types import Float64
from tests.unit.serving_bench import DRIVER, NOW, Client, columns_of, in_loop, open_store, problem_of, serving

ASKED = {"features": ["newest:km", "recent:km_2h"], "entities": {"driver": [1]}}
OLD = {"km": ([12.5], ["PRESENT"]), "km_2h": ([12.5], ["PRESENT"])}
NEW = {"km": ([7.0], ["PRESENT"]), "km_2h": ([19.5], ["PRESENT"])}
LOST = "the online store lost its last writes"
MEASURE = 10
"""How many looks there are from one measurement to the next."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    store = open_store(tmp_path)
    yield store
    store.close()


class Dump:
    """The contents of an online store in memory at a moment, to be restored later."""

    def __init__(self, store: FeatureStore) -> None:
        assert isinstance(store.online_store, MemoryStore)
        self._online = store.online_store
        self._data = dict(store.online_store._data)

    def restore(self, *, only: bytes = b"") -> None:
        """Let the store hold what it held: all, or what belongs to one state fingerprint."""
        for key in [key for key in self._online._data if only in key]:
            del self._online._data[key]
        self._online._data.update({key: value for key, value in self._data.items() if only in key})


class Gate:
    """Holds whoever catches up until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.opened = threading.Event(), threading.Event()
        catch_up = OnlineFollower.catch_up

        def wait(follower: OnlineFollower, writer: str, given: Given | None = None) -> int:
            self.begun.set()
            assert self.opened.wait(20)
            return catch_up(follower, writer, given)

        monkeypatch.setattr(OnlineFollower, "catch_up", wait)


async def ended(client: Client) -> None:
    """Return once the worker has done what it began, and has looked again."""
    thread = client.api.service.watch._refill._thread
    assert thread is not None
    await asyncio.to_thread(thread.join)
    await client.look()


def push(store: FeatureStore) -> None:
    row = {"driver": 1, "ts": from_micros(NOW - HOUR // 2), "km": 7.0, "city": "A", "photo": None, "paid_at": None}
    store.push("trips", [row])


async def values(client: Client) -> dict[str, Any]:
    found = columns_of(await client.lookup(ASKED))
    return {name: found[name] for name in ("km", "km_2h")}


@in_loop
async def test_state_that_went_back_is_refused_until_it_is_level(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(store) as client:
        dump = Dump(store)
        push(store)
        await client.look()
        assert await values(client) == NEW
        gate = Gate(monkeypatch)
        dump.restore()
        await client.look()
        await asyncio.to_thread(gate.begun.wait, 20)
        for _ in range(2):
            answer = await client.lookup(ASKED)
            assert LOST in problem_of(answer, 503)
            assert answer.headers["retry-after"] == "1"
            await client.look()
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        assert {view["state"] for view in ready.json()["views"].values()} == {"filling"}
        assert "it is being brought level with its log" in ready.json()["views"]["newest"]["reason"]
        assert 'featurestore_view_ready{view="newest"} 0.0' in (await client.get("/metrics")).text
        gate.opened.set()
        await ended(client)
        assert await values(client) == NEW
        assert (await client.get("/health/ready")).status_code == 200
        text = (await client.get("/metrics")).text
        assert 'featurestore_refills_total{outcome="filled",view="recent"} 1.0' in text


@in_loop
async def test_only_the_views_that_went_back_are_refused(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(store) as client:
        dump = Dump(store)
        push(store)
        await client.look()
        gate = Gate(monkeypatch)
        dump.restore(only=store.online_view("recent").fingerprint)
        await client.look()
        assert columns_of(await client.lookup({**ASKED, "features": ["newest:km"]}))["km"] == NEW["km"]
        assert "'recent'" in problem_of(await client.lookup({**ASKED, "features": ["recent:km_2h"]}), 503)
        assert LOST in problem_of(await client.lookup(ASKED), 503)
        gate.opened.set()
        await ended(client)
        assert await values(client) == NEW


@in_loop
async def test_while_the_store_is_away_what_is_lost_stays_refused(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featurestore.errors import StoreUnavailableError

    def fail(_: MemoryStore) -> None:
        raise StoreUnavailableError("it is away")

    async with serving(store) as client:
        dump = Dump(store)
        push(store)
        await client.look()
        gate = Gate(monkeypatch)
        dump.restore()
        await client.look()
        with monkeypatch.context() as patched:
            patched.setattr(MemoryStore, "check", fail)
            await client.look()
            assert LOST in problem_of(await client.lookup(ASKED), 503)
        gate.opened.set()
        await ended(client)
        assert await values(client) == NEW


@in_loop
async def test_a_worker_that_starts_after_the_loss_catches_up(store: FeatureStore) -> None:
    dump = Dump(store)
    push(store)
    dump.restore()
    async with serving(store) as client:
        for _ in range(MEASURE - 1):
            await client.look()
        assert await values(client) == OLD  # it cannot know better yet, and it may be a writer that is slow
        assert (await client.get("/health/ready")).status_code == 200
        assert client.api.service.watch._refill._thread is None
        await client.look()
        await ended(client)
        assert await values(client) == NEW


def test_a_writer_that_is_slow_and_moves_is_left_alone(store: FeatureStore) -> None:
    online, log = store.online_view("newest"), store.log("newest")
    dump, watermarks = Dump(store), Watermarks()
    mark = online.key("writer:push/trips/0")
    for _ in range(3):
        push(store)
    dump.restore()
    found = []
    for moved in (0, 1, 1, 0, 100):
        store.online_store.put({mark: b"%d" % (online.watermark("push/trips/0") + moved)})
        watermarks.learn(log)
        watermarks.look([(online, log)])
        found.append(watermarks.stands_still(online, log, None))
    assert found == [False, False, False, True, False]


def test_a_look_reads_the_online_store_once(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Sequence[bytes]] = []
    snapshot = MemoryStore.snapshot

    @contextmanager
    def counted(self: MemoryStore) -> Iterator[Any]:
        with snapshot(self) as found:
            reads.append([])
            yield found

    parts = [(store.online_view(name), store.log(name)) for name in ("newest", "recent")]
    watermarks = Watermarks()
    watermarks.learn(parts[0][1])
    monkeypatch.setattr(MemoryStore, "snapshot", counted)
    assert watermarks.look(parts).filled == {"newest", "recent"}
    assert len(reads) == 1


def test_of_a_log_only_new_files_are_read_for_their_writers(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featurestore.serving import watermarks as module

    read: list[Sequence[str]] = []

    def writers(_: RowLog, files: Sequence[str]) -> list[str]:
        read.append(files)
        return ["push/trips/0"]

    monkeypatch.setattr(module, "writers", writers)
    watermarks, log = module.Watermarks(), store.log("newest")
    watermarks.learn(log)
    watermarks.learn(log)
    push(store)
    watermarks.learn(log)
    assert [len(files) for files in read] == [1, 1]
    assert len({*read[0], *read[1]}) == 2


@in_loop
async def test_a_log_that_has_no_more_itself_does_not_close_a_view_for_ever(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log and online store were both restored from a backup."""
    async with serving(store) as client:
        dump = Dump(store)
        push(store)
        await client.look()
        monkeypatch.setattr(RowLog, "sequence", lambda *_: 1)
        dump.restore()
        await client.look()
        await ended(client)
        assert await values(client) == OLD
        assert (await client.get("/health/ready")).status_code == 200


@in_loop
async def test_a_log_that_is_not_there_keeps_the_view_refused(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(store) as client:
        dump = Dump(store)
        push(store)
        await client.look()
        dump.restore()
        with monkeypatch.context() as patched:
            patched.setattr(RowLog, "exists", lambda _: False)
            await client.look()
            await ended(client)
            assert "its log is not there" in problem_of(await client.lookup(ASKED), 503)
        await ended(client)
        await ended(client)
        assert await values(client) == NEW


# Jobs

BATCH = FileSource("b", path="b.parquet", timestamp_field="ts")
LOADED = FeatureView("loaded", [DRIVER], [Field("x", Float64)], BATCH)
BOTH = FeatureView("both", [DRIVER], [Field("x", Float64)], PushSource("mixed", batch_source=BATCH))
JOBS = {"features": ["loaded:x", "both:x"], "entities": {"driver": [1, 2, 3]}, "full_feature_names": True}
FIRST = {
    "loaded__x": ([10.0, 20.0, None], ["PRESENT", "PRESENT", "NOT_FOUND"]),
    "both__x": ([10.0, 20.0, 4.0], ["PRESENT", "PRESENT", "PRESENT"]),
}
SECOND = {
    "loaded__x": ([11.0, None, None], ["PRESENT", "NOT_FOUND", "NOT_FOUND"]),
    "both__x": ([11.0, None, 4.0], ["PRESENT", "NOT_FOUND", "PRESENT"]),
}


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[FeatureStore]:
    """Return a store of which a job has run, and whose source has another row than it had, and lacks one."""
    config = Config(project="p", repo_path=tmp_path, online_type="memory")
    store = FeatureStore(config=config, clock=ManualClock(NOW))
    store.apply([LOADED, BOTH])
    write(tmp_path, {1: 10.0, 2: 20.0})
    store.materialize(0, NOW - 2 * DAY)
    store.push("mixed", [{"driver": 3, "ts": from_micros(NOW - HOUR), "x": 4.0}])
    write(tmp_path, {1: 11.0})
    yield store
    store.close()


def write(folder: Path, rows: dict[int, float], days: int = 5) -> None:
    times = pa.array([NOW - days * DAY] * len(rows), pa.timestamp("us"))
    pq.write_table(pa.table({"driver": list(rows), "ts": times, "x": list(rows.values())}), folder / "b.parquet")


async def jobs(client: Client) -> dict[str, Any]:
    found = columns_of(await client.lookup(JOBS))
    return {name: found[name] for name in FIRST}


@in_loop
async def test_a_lost_job_is_written_again_and_so_is_what_it_deleted(loaded: FeatureStore) -> None:
    async with serving(loaded) as client:
        assert await jobs(client) == FIRST
        dump = Dump(loaded)
        loaded.materialize(0, NOW - DAY)
        await client.look()
        assert await jobs(client) == SECOND
        cut = loaded.online_view("both").cut()
        dump.restore()
        await client.look()
        await ended(client)
        assert await jobs(client) == SECOND
        assert loaded.online_view("both").cut() == cut
        assert (await client.get("/health/ready")).status_code == 200


@in_loop
async def test_what_a_lost_job_deleted_goes_even_where_the_log_no_longer_tells(loaded: FeatureStore) -> None:
    async with serving(loaded) as client:
        dump = Dump(loaded)
        loaded.materialize(0, NOW - DAY)
        await client.look()
        vacuum(loaded.log("loaded"))
        vacuum(loaded.log("both"))
        dump.restore()
        await client.look()
        await ended(client)
        assert await jobs(client) == SECOND


def vacuum(log: RowLog) -> None:
    """Remove the files that only the version of the first job needs."""
    gone = set(log.files(version=log.job_version(1, -1))) - set(log.files())
    assert gone
    for file in gone:
        Path(file).unlink()


@pytest.mark.parametrize("writer", ["batch", "push/mixed/0"])
def test_a_loss_while_it_is_caught_up_is_not_taken_for_caught_up(
    loaded: FeatureStore, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    """The store loses what was written after it was written, and before the watermark says so."""
    dumps = [Dump(loaded)]
    advance = ViewMarks.advance

    def lose(marks: ViewMarks, name: str, value: int, given: Given | None = None) -> None:
        if dumps and name == f"writer:{writer}" and marks.fingerprint == loaded.online_view("both").fingerprint:
            dumps.pop().restore()
        advance(marks, name, value, given)

    @in_loop
    async def run() -> None:
        async with serving(loaded) as client:
            loaded.materialize(0, NOW - DAY)
            loaded.push("mixed", [{"driver": 1, "ts": from_micros(NOW - HOUR), "x": 6.0}])
            await client.look()
            dumps[0].restore()
            monkeypatch.setattr(ViewMarks, "advance", lose)
            await client.look()
            await ended(client)
            assert not dumps
            await ended(client)
            found = await jobs(client)
            assert (found["loaded__x"], found["both__x"][0]) == (SECOND["loaded__x"], [6.0, None, 4.0])

    run()


@in_loop
async def test_a_cut_that_went_back_alone_is_noticed(loaded: FeatureStore, tmp_path: Path) -> None:
    online = loaded.online_view("both")
    write(tmp_path, {1: 11.0}, days=3)
    async with serving(loaded) as client:
        before = online.cut()
        loaded.materialize(0, NOW - DAY)
        await client.look()
        found = await jobs(client)
        cut = online.cut()
        assert before is not None
        assert before != cut
        loaded.online_store.put({online.key("cut"): b"%d" % before})
        await client.look()
        await ended(client)
        assert online.cut() == cut
        assert await jobs(client) == found == SECOND


@in_loop
async def test_what_a_job_is_writing_is_left_to_it(loaded: FeatureStore) -> None:
    async with serving(loaded) as client:
        dump = Dump(loaded)
        loaded.materialize(0, NOW - DAY)
        await client.look()
        dump.restore()
        with leased(loaded.registry, row_fingerprint(LOADED), "loaded", SystemClock().now):
            await client.look()
            await ended(client)
            views = (await client.get("/health/ready")).json()["views"]
            assert views["loaded"] == {"state": "filling", "reason": views["loaded"]["reason"]}
            assert "a job is writing it" in views["loaded"]["reason"]
            problem_of(await client.lookup(JOBS), 503)
        await ended(client)
        await ended(client)
        assert await jobs(client) == SECOND
