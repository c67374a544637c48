"""Every online store: one body of tests, and a machine that compares it with a dictionary."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from featurestore.errors import OnlineStoreError
from featurestore.online import lmdb as lmdb_module
from featurestore.online.contract import NEVER, OnlineStore
from featurestore.online.framing import Section
from featurestore.online.lmdb import LmdbStore
from featurestore.online.memory import MemoryStore
from featurestore.online.redis import RedisStore
from featurestore.online.redis_settings import RedisSettings
from featurestore.testing.online_faults import FaultyStore
from featurestore.testing.online_machine import OnlineStoreMachine
from featurestore.testing.online_suite import CHUNKS, C, H, OnlineStoreSuite, read, write
from tests.servers.redis import KINDS, REDIS_7, RedisCluster, RedisServer, running_cluster, running_redis

LIGHT = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


class TestMemoryStore(OnlineStoreSuite):
    @pytest.fixture
    def store(self) -> Iterator[OnlineStore]:
        with closing(MemoryStore()) as store:
            yield store


class TestLmdbStore(OnlineStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[OnlineStore]:
        with closing(LmdbStore(tmp_path / "deep" / "online")) as store:
            yield store

    def test_what_was_merged_is_there_after_opening_again(self, tmp_path: Path) -> None:
        with closing(LmdbStore(tmp_path)) as store:
            store.merge([write(NEVER, 3, chunks={C: b"x"})])
            store.put({b"\x00m": b"1"})
        with closing(LmdbStore(tmp_path)) as store:
            assert read(store, H, C) == [[Section("w", 3, b"p")], [Section("w", 3, b"x")]]
            assert store.scan(b"") == [b"\x00m", C, H]

    def test_the_map_grows_when_it_is_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lmdb_module, "_FIRST_SIZE", 1 << 16)
        payload = b"x" * 10_000
        with closing(LmdbStore(tmp_path)) as store:
            for sequence in range(60):
                store.merge([write(sequence - 1, sequence, payload, chunks={b"%bc%d" % (CHUNKS, sequence): payload})])
            assert len(store.scan(CHUNKS)) == 60
            assert read(store, H) == [[Section("w", 59, payload)]]

    def test_a_snapshot_does_not_see_what_is_merged_after_it(self, store: OnlineStore) -> None:
        store.merge([write(NEVER, 1, b"before", chunks={C: b"before"})])

        def merge() -> None:
            store.merge([write(1, 2, b"after", chunks={C: b"after"})])

        with store.snapshot() as snapshot:
            first = snapshot.get([H])
            thread = threading.Thread(target=merge)
            thread.start()
            thread.join()
            assert snapshot.get([H]) == first
            assert b"before" in (snapshot.get([C])[0] or b"")
        assert read(store, C) == [[Section("w", 2, b"after")]]

    def test_a_damaged_file_says_that_the_folder_can_go(self, tmp_path: Path) -> None:
        (tmp_path / "data.mdb").write_bytes(b"this is no database" * 1000)
        with pytest.raises(OnlineStoreError, match=r"cannot be opened .*remove the folder"):
            LmdbStore(tmp_path)


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with running_redis(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with running_cluster() as cluster:
        yield cluster


class TestRedisStore(OnlineStoreSuite):
    @pytest.fixture
    def store(self, server: RedisServer) -> Iterator[OnlineStore]:
        with server.client() as client:
            client.flushall()
        with closing(RedisStore(RedisSettings.read({"url": server.url}))) as store:
            yield store


class TestRedisClusterStore(OnlineStoreSuite):
    @pytest.fixture
    def store(self, cluster: RedisCluster) -> Iterator[OnlineStore]:
        cluster.flush()
        with closing(RedisStore(RedisSettings.read({"url": cluster.url, "cluster": True}))) as store:
            yield store


class TestFaultyStoreWithoutFaults(OnlineStoreSuite):
    @pytest.fixture
    def store(self) -> Iterator[OnlineStore]:
        with closing(FaultyStore(MemoryStore())) as store:
            yield store


class MemoryMachine(OnlineStoreMachine):
    def make(self) -> OnlineStore:
        return MemoryStore()


class LmdbMachine(OnlineStoreMachine):
    def make(self) -> OnlineStore:
        self.folder = tempfile.TemporaryDirectory()
        return LmdbStore(Path(self.folder.name))

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = LIGHT
TestLmdbMachine = LmdbMachine.TestCase
TestLmdbMachine.settings = LIGHT


def test_redis_does_what_a_dictionary_does(server: RedisServer) -> None:
    class Machine(OnlineStoreMachine):
        def make(self) -> OnlineStore:
            with server.client() as client:
                client.flushall()
            return RedisStore(RedisSettings.read({"url": server.url}))

    run_state_machine_as_test(Machine, settings=LIGHT)


def test_a_redis_cluster_does_what_a_dictionary_does(cluster: RedisCluster) -> None:
    class Machine(OnlineStoreMachine):
        def make(self) -> OnlineStore:
            cluster.flush()
            return RedisStore(RedisSettings.read({"url": cluster.url, "cluster": True}))

    run_state_machine_as_test(Machine, settings=settings(LIGHT, max_examples=10, stateful_step_count=15))


def test_redis_7_is_among_the_servers() -> None:
    if REDIS_7 not in KINDS:
        pytest.skip("no redis-server of version 7 is on the PATH, and no package of the extra dev has one; apt has")
