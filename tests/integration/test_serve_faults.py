"""A Redis that is away, dies, comes back empty, hangs, is full or fails over: the right status, no wrong value."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.clock import SystemClock
from featurestore.materialize.lease import leased
from featurestore.store import FeatureStore
from tests.servers.api import (
    DEFINITIONS,
    DRIVERS,
    ApiServer,
    expected,
    km,
    lookup,
    make_repository,
    reason,
    run_command,
    running_api,
    values,
    wait_for,
)
from tests.servers.redis import RedisServer, running_cluster, running_redis

SECONDS = 1.0
OPTIONS = ("--limit-seconds", str(SECONDS))


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Path:
    return make_repository(tmp_path_factory.mktemp("faults") / "repository", redis.url)


class Load:
    """Clients that look drivers up all the time: what they were answered with, and what was wrong or late."""

    def __init__(self, api: ApiServer) -> None:
        self._url = f"http://127.0.0.1:{api.port}"
        self._stop = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.wrong: list[Any] = []
        self.slowest = 0.0

    def run(self, first: int) -> None:
        """Look up until told to stop."""
        driver = first
        with httpx.Client(base_url=self._url, timeout=30) as http:
            while not self._stop.is_set():
                driver = (driver + 1) % DRIVERS
                begun = time.monotonic()
                answer = http.post("/get-online-features", json=lookup(driver))
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    if values(answer) != expected(driver):
                        self.wrong.append((driver, answer.text))
                elif not answer.json()["error"]["message"] or answer.status_code not in {503, 504}:
                    self.wrong.append((driver, answer.status_code, answer.text))

    def wait_for_more(self, status: int, count: int = 10) -> None:
        """Return after some further answers with a status."""
        before = self.statuses[status]
        wait_for(lambda: self.statuses[status] >= before + count)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look up meanwhile; afterwards nothing must have been wrong, and nothing late."""
        with ThreadPoolExecutor(3) as clients:
            runs: list[Future[None]] = [clients.submit(self.run, first) for first in (0, 17, 34)]
            try:
                yield
            finally:
                self._stop.set()
            for run in runs:
                run.result()
        assert self.wrong == []
        assert self.slowest < SECONDS + 2


def test_a_redis_that_dies_and_comes_back_empty_is_filled_again_under_load(
    repository: Path, redis: RedisServer
) -> None:
    with running_api(repository, *OPTIONS) as api:
        load = Load(api)
        with load.running():
            load.wait_for_more(200)
            redis.stop()
            load.wait_for_more(503)
            assert str(redis.port) in reason(api.lookup(1), 503)
            assert api.lookup(1).headers["retry-after"] == "1"
            wait_for(lambda: not api.is_ready())
            assert str(redis.port) in api.ready()["problems"][0]
            assert api.http.get("/health/live").status_code == 200
            assert reason(api.http.post("/push", json=_push(1, 9.0)), 503)
            redis.start()  # empty
            load.wait_for_more(200, 50)
        wait_for(api.is_ready)
        assert api.metrics()['featurestore_refills_total{outcome="filled",view="recent"}'] >= 1
        assert load.statuses[503] >= 10
        # The log took the push before Redis refused it; what was filled from the log since then holds it.
        assert "a bug" not in api.err.read_text()


def _push(driver: int, km: float) -> dict[str, Any]:
    row = {"driver": [driver + 900], "ts": [datetime.now(UTC).isoformat()], "km": [km], "city": ["X"]}
    return {"push_source_name": "trips", "df": row}


def test_a_redis_that_is_away_at_the_start_is_waited_for(repository: Path, redis: RedisServer) -> None:
    redis.stop()
    with running_api(repository, *OPTIONS) as api:
        assert str(redis.port) in reason(api.lookup(1), 503)
        assert not api.is_ready()
        assert api.http.get("/health/live").status_code == 200
        assert api.http.get("/features").status_code == 200
        redis.start()
        wait_for(api.is_ready)
        assert values(api.lookup(1)) == expected(1)


def test_a_redis_that_hangs_is_answered_for_in_time_and_used_again(repository: Path, redis: RedisServer) -> None:
    with running_api(repository, *OPTIONS) as api:
        wait_for(api.is_ready)
        load = Load(api)
        with load.running():
            load.wait_for_more(200)
            with redis.paused():
                wait_for(lambda: load.statuses[503] + load.statuses[504] >= 3)
                begun = time.monotonic()
                late = api.lookup(1)
                assert late.status_code in {503, 504}
                assert reason(late, late.status_code)
                assert time.monotonic() - begun < SECONDS + 1
                assert api.http.get("/health/live").status_code == 200
            load.wait_for_more(200)
        wait_for(api.is_ready)


def test_a_redis_that_is_full_refuses_pushes_and_goes_on_answering(repository: Path, redis: RedisServer) -> None:
    with running_api(repository, *OPTIONS) as api, redis.client() as client:
        wait_for(api.is_ready)
        client.config_set("maxmemory", 1)
        try:
            refused = api.http.post("/push", json=_push(2, 5.0))
            assert "memory" in reason(refused, 503)
            assert values(api.lookup(1)) == expected(1)
        finally:
            client.config_set("maxmemory", 0)
        assert api.http.post("/push", json=_push(3, 5.0)).status_code == 200
        assert values(api.lookup(903, features=["newest:km"])) == {"driver": [903], "km": [5.0]}
        wait_for(lambda: api.lookup(902, features=["newest:km"]).json()["results"][1]["values"] == [5.0])


BATCHED = (
    DEFINITIONS
    + """
from featurestore import FileSource
BATCH = FileSource("b", path="b.parquet", timestamp_field="ts")
LOADED = FeatureView("loaded", [DRIVER], [Field("paid", Float64)], BATCH)
"""
)
ALL = ["newest:km", "recent:km_30d", "loaded:paid"]


class Watcher:
    """Looks a driver up all the time, and keeps the answers in the order in which they came."""

    def __init__(self, api: ApiServer) -> None:
        self._url = f"http://127.0.0.1:{api.port}"
        self._stop = threading.Event()
        self.answers: list[tuple[int, list[Any] | str]] = []

    def run(self) -> None:
        """Look up until told to stop."""
        with httpx.Client(base_url=self._url, timeout=30) as http:
            while not self._stop.is_set():
                answer = http.post("/get-online-features", json=lookup(1, features=ALL))
                found = answer.json()
                if answer.status_code == 200:
                    self.answers.append((200, [result["values"][0] for result in found["results"][1:]]))
                else:
                    self.answers.append((answer.status_code, found["error"]["message"]))

    def saw(self, answer: tuple[int, list[Any] | str]) -> bool:
        """Whether an answer came."""
        return answer in self.answers

    def wait_for_more(self, count: int = 50) -> None:
        """Return after some further answers."""
        before = len(self.answers)
        wait_for(lambda: len(self.answers) >= before + count)

    def told(self, text: str) -> int | None:
        """Return the place of the first refusal that holds a text."""
        return next((n for n, (_, found) in enumerate(self.answers) if isinstance(found, str) and text in found), None)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look up meanwhile."""
        with ThreadPoolExecutor(1) as clients:
            run = clients.submit(self.run)
            try:
                yield
            finally:
                self._stop.set()
            run.result()


def make_batched(folder: Path, redis: RedisServer) -> Path:
    """Return a repository with rows that were pushed and rows of a job, all of them in a snapshot of the server."""
    repository = make_repository(folder / "repository", redis.url, definitions=BATCHED)
    write_batch(repository, 3.0)
    assert run_command(repository, "materialize", "2026-01-01", "2027-01-01").returncode == 0
    with redis.client() as client:
        client.save()
    shutil.copy(redis.folder / "dump.rdb", redis.folder / "old")
    return repository


def restore(redis: RedisServer) -> None:
    """Kill the server and let it come back from the snapshot."""
    redis.stop()
    shutil.copy(redis.folder / "old", redis.folder / "dump.rdb")
    redis.start()


def write_batch(repository: Path, paid: float) -> None:
    row = {"driver": [1], "ts": [datetime(2026, 3, 1, tzinfo=UTC)], "paid": [paid]}
    pq.write_table(pa.table(row), repository / "b.parquet")


def write_more(repository: Path) -> None:
    """Push a row and run a job, both for driver 1."""
    write_batch(repository, 4.0)
    assert run_command(repository, "materialize", "2026-01-01", "2027-01-01").returncode == 0
    with closing(FeatureStore(repository)) as store:
        store.push("trips", [{"driver": 1, "ts": datetime.now(UTC), "km": 100.0, "city": "X"}])


BEFORE = (200, [km(1), 2 * km(1), 3.0])
AFTER = (200, [100.0, 2 * km(1) + 100.0, 4.0])


def test_a_redis_that_comes_back_from_an_old_snapshot_is_noticed_and_brought_level(tmp_path: Path) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis())
        repository = make_batched(tmp_path, redis)
        api = stack.enter_context(running_api(repository, *OPTIONS))
        wait_for(api.is_ready)
        watcher = Watcher(api)
        stack.enter_context(watcher.running())
        wait_for(lambda: watcher.saw(BEFORE))
        write_more(repository)
        wait_for(lambda: watcher.saw(AFTER))
        look(api, repository)
        before = len(watcher.answers)
        with leases(repository, "newest", "recent", "loaded"):  # so that it can be seen what is answered meanwhile
            restore(redis)
            noticed = wait_for(lambda: watcher.told("the online store lost its last writes"))
            watcher.wait_for_more()
            wait_for(lambda: "another process is filling it" in api.ready()["views"]["newest"]["reason"])
            assert not api.is_ready()
            assert {view["state"] for view in api.ready()["views"].values()} == {"filling"}
            assert {status for status, _ in watcher.answers[noticed:]} == {503}
        wait_for(api.is_ready)
        watcher.wait_for_more()
        assert {tuple(found) for status, found in watcher.answers[before:] if status == 200} == {tuple(AFTER[1])}
        assert "a bug" not in api.err.read_text()


def look(api: ApiServer, repository: Path) -> None:
    """Return once the worker has looked at the store again: when it does, it finds new definitions too."""
    before = api.ready()["revision"]
    definitions = f'{BATCHED}\nONE = FeatureService("one", [NEWEST])'
    (repository / "definitions.py").write_text(definitions, encoding="utf-8")
    assert run_command(repository, "apply").returncode == 0
    wait_for(lambda: api.ready()["revision"] > before)


@contextmanager
def leases(repository: Path, *views: str) -> Iterator[None]:
    """Keep others from filling views."""
    with closing(FeatureStore(repository)) as store, ExitStack() as stack:
        for view in views:
            name = f"fill {store.online_view(view).fingerprint.hex()}"
            stack.enter_context(leased(store.registry, name, view, SystemClock().now))
        yield


@pytest.mark.slow
def test_a_worker_that_starts_after_the_loss_catches_up(tmp_path: Path) -> None:
    with running_redis() as redis:
        repository = make_batched(tmp_path, redis)
        write_more(repository)
        restore(redis)
        with running_api(repository, *OPTIONS) as api:
            wait_for(api.is_ready)
            watcher = Watcher(api)
            with watcher.running():
                wait_for(lambda: watcher.saw(AFTER))
        assert {status for status, _ in watcher.answers} == {200}
        assert watcher.answers[0] == BEFORE


@pytest.mark.slow
def test_a_cluster_that_fails_over_is_followed(tmp_path: Path) -> None:
    with running_cluster(replicas=True) as cluster:
        repository = make_repository(
            tmp_path / "repository", f"{{type: redis, url: '{cluster.url}', cluster: true, timeout: 500ms}}"
        )
        with running_api(repository, *OPTIONS) as api:
            wait_for(api.is_ready)
            load = Load(api)
            with load.running():
                load.wait_for_more(200)
                refused = load.statuses[503]
                cluster.servers[0].stop()  # which may take as long as the failover does
                wait_for(lambda: load.statuses[503] > refused)
                cluster.wait(without=cluster.servers[0])
                wait_for(api.is_ready)
                before = load.statuses[503] + load.statuses[504]
                load.wait_for_more(200, 100)
                assert load.statuses[503] + load.statuses[504] <= before + 3
