"""Features served from Redis: the same values as from the embedded store, also after the server lost what it held."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from featurestore.errors import NotReadyError, StoreUnavailableError
from tests.integration.redis_bench import (
    EVERYTHING,
    Open,
    load,
    open_store,
    pushed,
    refill,
    served,
    served_in_loop,
)
from tests.servers.redis import KINDS, RedisCluster, RedisServer, running_cluster, running_redis

__all__ = ["open_store"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_url_is_all_that_changes(open_store: Open, kind: str) -> None:
    with running_redis(kind) as server:
        store = open_store(server.url)
        load(store)
        assert served(store) == EVERYTHING
        assert served_in_loop(store) == EVERYTHING
        assert served(open_store(server.url)) == EVERYTHING
        report = store.verify(sample=10)
        assert report.values >= 10
        assert report.mismatches == 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with running_cluster() as cluster:
        yield cluster


def test_a_cluster_serves_the_same(open_store: Open, cluster: RedisCluster) -> None:
    online_store = f"{{type: redis, url: '{cluster.url}', cluster: true}}"
    store = open_store(online_store)
    load(store)
    assert served(store) == EVERYTHING
    assert served_in_loop(store) == EVERYTHING
    cluster.servers[0].restart()
    cluster.servers[2].restart()
    cluster.wait()
    with pytest.raises(NotReadyError):
        served(store)
    refill(store)
    assert served(store) == EVERYTHING


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


def test_a_server_that_is_down_is_told_of_at_once_and_used_when_it_is_back(
    open_store: Open, server: RedisServer
) -> None:
    server.stop()
    store = open_store(server.url)
    store.apply([])
    server.start()
    load(store)
    server.stop()
    with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{server.port} cannot be reached"):
        served(store)
    with pytest.raises(StoreUnavailableError):
        store.push("pushed", [pushed(1, 9.0)])  # in the log by now
    server.start()
    with pytest.raises(NotReadyError):
        served(store)
    refill(store)
    assert served(store) == {**EVERYTHING, "newest__x": [9.0, 5.0], "recent__total": [0.1 + 0.2 + 9.0, 5.0]}


def test_a_server_restarted_empty_is_not_served_from_but_filled_again(open_store: Open, server: RedisServer) -> None:
    store = open_store(server.url)
    load(store)
    server.restart()
    with pytest.raises(NotReadyError):
        served(store)
    with pytest.raises(NotReadyError):
        served_in_loop(store)
    refill(store)
    assert served(store) == EVERYTHING
    assert served_in_loop(store) == EVERYTHING


def test_a_server_restored_from_an_old_snapshot_catches_up(open_store: Open, server: RedisServer) -> None:
    store = open_store(server.url)
    load(store)
    with server.client() as client:
        client.save()
    shutil.copy(server.folder / "dump.rdb", server.folder / "old")
    store.push("pushed", [pushed(1, 4.0), pushed(2, 6.0)])
    expected = {**EVERYTHING, "newest__x": [4.0, 6.0], "recent__total": [0.1 + 0.2 + 4.0, 11.0]}
    assert served(store) == expected
    server.stop()
    shutil.copy(server.folder / "old", server.folder / "dump.rdb")
    server.start()
    assert served(store) == EVERYTHING  # as of then: old, and not wrong
    store.push("pushed", [pushed(3, 1.0)])
    assert served(store) == expected
    again = open_store(server.url)
    assert served(again) == expected


def test_a_server_that_evicted_is_filled_again(open_store: Open, server: RedisServer) -> None:
    load(open_store(server.url))
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        for n in range(50):
            client.set(f"other {n}", "x" * 1000)
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 30_000)
        client.set("other", "x")
        client.config_set("maxmemory", 0)
        assert client.info("stats")["evicted_keys"]
    store = open_store(server.url)
    for look_up in (served, served_in_loop):
        with pytest.raises(NotReadyError, match="CONFIG SET maxmemory-policy noeviction"):
            look_up(store)
    with pytest.raises(NotReadyError, match="CONFIG SET maxmemory-policy noeviction"):
        served_in_loop(open_store(server.url))
    with pytest.raises(NotReadyError, match="noeviction"):
        store.push("pushed", [pushed(3, 1.0)])
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
    for look_up in (served, served_in_loop):
        with pytest.raises(NotReadyError):
            look_up(open_store(server.url))
    refill(open_store(server.url))
    assert served(open_store(server.url)) == EVERYTHING
