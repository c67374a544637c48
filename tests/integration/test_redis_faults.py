"""Features over a Redis that fails: an error with a reason in time, no wrong value, and no new process to go on."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.clock import ManualClock
from featurestore.config import Config
from featurestore.definitions import Entity, FeatureView, Field, FileSource
from featurestore.errors import NotReadyError, OnlineStoreError, StoreUnavailableError
from featurestore.online import redis as redis_module
from featurestore.online import redis_health
from featurestore.online.redis_errors import WireError
from featurestore.online.redis_health import Request
from featurestore.online.redis_keys import EVICTIONS, GENERATION
from featurestore.online.redis_settings import RedisSettings
from featurestore.online.redis_wire import Server, pack
from featurestore.semantics.windows import DAY, HOUR, MINUTE
from featurestore.store import FeatureStore
from featurestore.types import Float64, Int64
from tests.integration.redis_bench import (
    EVERYTHING,
    NOW,
    VIEWS,
    Open,
    load,
    open_store,
    pushed,
    refill,
    served,
    served_in_loop,
)
from tests.servers.proxy import running_proxy
from tests.servers.redis import DEFAULT, KINDS, RedisServer, running_cluster, running_redis

__all__ = ["open_store"]
SECONDS = 3.0
"""The time limit, 1 s, of the request and of what it may try again, and leave for a busy machine."""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


def fails_in_time(call: Callable[[], object], match: str) -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=match):
        call()
    assert time.monotonic() - started < SECONDS


# Servers that stop, hang or fill up


def test_a_server_that_hangs_holds_nobody_up_and_nothing_is_lost(open_store: Open, server: RedisServer) -> None:
    store = open_store(f"{{type: redis, url: '{server.url}', timeout: 300ms}}")
    load(store)
    with server.paused():
        for call in (
            lambda: served(store),
            lambda: served_in_loop(store),
            lambda: store.push("pushed", [pushed(1, 9.0)]),
            lambda: store.materialize(0, NOW),
        ):
            fails_in_time(call, r"does not answer within 0\.3 s")
    assert served(store)["newest__x"] in ([0.1, 5.0], [9.0, 5.0])  # logged; it may have come through
    refill(store)
    expected = {**EVERYTHING, "newest__x": [9.0, 5.0], "recent__total": [0.1 + 0.2 + 9.0, 5.0]}
    assert served(store) == served_in_loop(store) == expected


def test_a_job_begun_while_the_server_is_down_goes_on_when_it_is_up(open_store: Open, server: RedisServer) -> None:
    server.stop()
    store = open_store(server.url)
    fails_in_time(lambda: load(store), f"127.0.0.1:{server.port} cannot be reached")
    server.start()
    store.apply(VIEWS)
    server.stop()
    fails_in_time(lambda: store.materialize(0, NOW), f"127.0.0.1:{server.port} cannot be reached")
    server.start()
    load(store)
    assert served(store) == served_in_loop(store) == EVERYTHING


def test_a_server_that_is_lost_in_the_middle_of_requests_gives_no_wrong_value(
    open_store: Open, server: RedisServer
) -> None:
    """Killed and started again, empty, while threads look features up."""
    store = open_store(server.url)
    load(store)
    wrong: list[Any] = []
    answers = threading.Semaphore(0)
    stop = threading.Event()

    def look_up(answer: Callable[[FeatureStore], dict[str, list[Any]]]) -> None:
        while not stop.is_set():
            try:
                found = answer(store)
            except (StoreUnavailableError, NotReadyError):
                continue
            answers.release()
            if found != EVERYTHING:
                wrong.append(found)

    threads = [threading.Thread(target=look_up, args=(answer,)) for answer in (served, served, served_in_loop)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        for _ in range(10):
            assert answers.acquire(timeout=60)
        server.restart()
        while answers.acquire(blocking=False):
            pass
        refill(store)
    assert answers.acquire(timeout=60)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_full_takes_the_rest_once_it_has_room(tmp_path: Path, kind: str) -> None:
    with running_redis(kind) as server:
        store = wide_store(tmp_path, server)
        copy = copied(tmp_path)
        with server.client() as client:
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 400_000)
            fails_in_time(lambda: store.materialize(0, NOW), r"out of memory.*raise its maxmemory")
            assert client.dbsize() > 400, "nothing was written: the test is not about running full"
            with pytest.raises(NotReadyError):
                store.get_online_features(["wide:f0"], {"id": [0]})
            client.config_set("maxmemory", 0)
        store.materialize(0, NOW)
        whole = contents(server)
        store.close()
    assert is_as_undisturbed(copy, whole, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_is_refused_until_it_takes_over_and_catches_up_then(
    open_store: Open, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover that loses writes: the replica was cut off before the last ones."""
    with running_redis(kind) as primary, running_redis(kind) as replica, running_proxy(primary.port) as address:
        store = open_store(f"redis://127.0.0.1:{address.port}")
        load(store)
        with replica.client() as client, primary.client() as other:
            other.config_set("repl-diskless-sync-delay", 0)
            client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
            wait_for(lambda: client.info("replication")["master_link_status"] == "up")
            wait_for(lambda: other.wait(1, 1000) == 1)
            client.execute_command("REPLICAOF", "127.0.0.1", 1)  # nobody there
            store.push("pushed", [pushed(1, 4.0), pushed(2, 6.0)])
            store.push("mixed", [pushed(2, 7.0)])
            expected = {
                **EVERYTHING,
                "newest__x": [4.0, 6.0],
                "recent__total": [0.1 + 0.2 + 4.0, 11.0],
                "both__sum_x_all": [10.5, 27.0],
            }
            assert served(store) == expected
            primary.stop()
            address.target = replica.port
            address.drop()
            monkeypatch.setattr(redis_health, "_EVERY", 0.0)  # a replica too is asked whether it evicted keys
            assert served(store) == served_in_loop(store) == EVERYTHING  # as of then: old, and not wrong
            fails_in_time(lambda: store.push("pushed", [pushed(3, 1.0)]), "is a replica and takes no writes")
            client.execute_command("REPLICAOF", "NO", "ONE")
        store.push("pushed", [pushed(3, 1.0)])
        store.push("mixed", [pushed(3, 1.0)])
        assert served(store) == served_in_loop(store) == expected


def test_a_cluster_whose_replica_lacks_the_last_writes_catches_up(open_store: Open) -> None:
    with running_cluster(replicas=True) as cluster:
        store = open_store(f"{{type: redis, url: '{cluster.url}', cluster: true}}")
        load(store)
        for primary in cluster.servers:
            with primary.client() as client:
                assert client.wait(1, 10_000) == 1
        expected = {**EVERYTHING, "newest__x": [4.0, 6.0], "recent__total": [0.1 + 0.2 + 4.0, 11.0]}
        drivers = list(range(3, 60))
        with cluster.replicas[0].paused():
            store.push("pushed", [pushed(1, 4.0), pushed(2, 6.0), *[pushed(driver, 1.5) for driver in drivers]])
            cluster.servers[0].stop()
        cluster.wait(without=cluster.servers[0])
        refill(store)
        assert served(store) == served_in_loop(store) == expected
        others = store.get_online_features(["newest:x", "recent:total"], {"driver": drivers}).to_dict()
        assert others["total"][1:] == [1.5] * (len(drivers) - 1)  # driver 3 has more
        assert others["x"][1:] == [1.5] * (len(drivers) - 1)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Data that is old, foreign, or gone by its lifetime


def test_a_server_restored_to_before_a_job_is_brought_level_by_the_next(
    open_store: Open, server: RedisServer, tmp_path: Path
) -> None:
    store = open_store(server.url)
    load(store)
    with server.client() as client:
        client.save()
    shutil.copy(server.folder / "dump.rdb", server.folder / "old")
    write_batch(tmp_path, [11.0, 21.0])
    store.materialize(0, NOW)
    expected = {**EVERYTHING, "loaded__x": [11.0, 21.0], "both__sum_x_all": [11.5, 21.0]}
    assert served(store) == expected
    server.stop()
    shutil.copy(server.folder / "old", server.folder / "dump.rdb")
    server.start()
    assert served(store) == EVERYTHING
    store.materialize(NOW - HOUR, NOW)  # whose range holds none of the rows that were lost
    assert served(store) == expected


def test_what_a_lost_job_deleted_is_deleted_by_the_next(open_store: Open, server: RedisServer, tmp_path: Path) -> None:
    store = open_store(server.url)
    load(store)
    with server.client() as client:
        client.save()
    shutil.copy(server.folder / "dump.rdb", server.folder / "old")
    write_batch(tmp_path, [11.0])
    store.materialize(0, NOW)
    expected = {**EVERYTHING, "loaded__x": [11.0, None], "both__sum_x_all": [11.5, None]}
    assert served(store) == expected
    server.stop()
    shutil.copy(server.folder / "old", server.folder / "dump.rdb")
    server.start()
    store.materialize(NOW - HOUR, NOW)
    assert served(store) == expected


def write_batch(folder: Path, values: list[float]) -> None:
    times = pa.array([NOW - DAY, NOW - 2 * DAY][: len(values)], pa.timestamp("us"))
    pq.write_table(pa.table({"driver": [1, 2][: len(values)], "ts": times, "x": values}), folder / "b.parquet")


def test_values_of_a_newer_version_are_neither_served_nor_touched(open_store: Open, server: RedisServer) -> None:
    store = open_store(server.url)
    load(store)
    with server.client() as client:
        names = [name for name in client.scan_iter() if b"\x00" not in name[3:4]]
        old = dict(zip(names, client.mget(names), strict=True))
        newer = {name: b"\x02" + value[1:] for name, value in old.items()}
        client.mset(newer)
        for call in (
            lambda: served(store),
            lambda: served_in_loop(store),
            lambda: store.push("pushed", [pushed(1, 9.0)]),
            lambda: store.materialize(0, NOW),
        ):
            with pytest.raises(OnlineStoreError, match=r"format version 2, this release .* upgrade this process"):
                call()
        assert dict(zip(names, client.mget(names), strict=True)) == newer
        client.mset(old)
    refill(store)
    expected = {**EVERYTHING, "newest__x": [9.0, 5.0], "recent__total": [0.1 + 0.2 + 9.0, 5.0]}
    assert served(store) == served_in_loop(store) == expected


def test_a_value_too_old_is_not_served_though_its_key_is_still_there(tmp_path: Path, server: RedisServer) -> None:
    store = wide_store(tmp_path, server, rows=10, ttl=DAY)
    store.materialize(0, NOW)
    skew = store.config.max_clock_skew
    with server.client() as client:
        (name,) = client.keys(b"fs:*h\x04" + (0).to_bytes(4, "big"))
        left = client.pttl(name) * 1000
        assert 2 * DAY + skew - MINUTE < left <= 2 * DAY + skew
        for now, status, value in (
            (NOW, "PRESENT", 0.0),
            (NOW - HOUR + DAY, "PRESENT", 0.0),
            (NOW - HOUR + DAY + 1, "OUTSIDE_MAX_AGE", None),
            (NOW - HOUR + 2 * DAY + 1, "NOT_FOUND", None),
        ):
            answer = store.get_online_features(["wide:f0"], {"id": [0]}, now=now)
            assert (answer.to_dict()["f0"], answer.statuses["f0"]) == ([value], [status])
            assert client.exists(name)


# Jobs that are cut off

ROWS = 5000
WIDTH = 4


def wide_store(folder: Path, server: RedisServer, rows: int = ROWS, **options: Any) -> FeatureStore:
    """Return a store over a server, with a source of as many keys as rows, and its view applied."""
    columns = {"id": np.arange(rows), "ts": pa.array(NOW - HOUR + np.arange(rows), pa.timestamp("us"))}
    columns |= {f"f{n}": np.arange(rows) * (n + 1.0) for n in range(WIDTH)}
    pq.write_table(pa.table(columns), folder / "wide.parquet")
    os.utime(folder / "wide.parquet", ns=(1, 1))
    store = reopened(folder, server.port)
    store.apply([wide_view(**options)])
    return store


def wide_view(ttl: int | None = None) -> FeatureView:
    fields = [Field(f"f{n}", Float64) for n in range(WIDTH)]
    source = FileSource("wide", path="wide.parquet", timestamp_field="ts")
    key = Entity("id", value_type=Int64)
    return FeatureView("wide", [key], fields, source, ttl=None if ttl is None else np.timedelta64(ttl, "us").item())


def reopened(folder: Path, port: int) -> FeatureStore:
    config = Config(
        project="p", repo_path=folder, online_type="redis", online={"url": f"redis://127.0.0.1:{port}", "timeout": "5s"}
    )
    return FeatureStore(config=config, clock=ManualClock(NOW))


def contents(server: RedisServer) -> dict[bytes, bytes]:
    """Return all that a server holds, but for what differs from one filling to another."""
    with server.client() as client:
        found: list[Any] = client.keys()
        names = [name for name in sorted(found) if not name.endswith((GENERATION, EVICTIONS, b"filling"))]
        values: list[Any] = client.mget(names)
    return dict(zip(names, values, strict=True))


def is_as_undisturbed(folder: Path, whole: dict[bytes, bytes], kind: str = DEFAULT) -> bool:
    """Return whether a copy of a project, its job run without a fault, leaves the same in an empty server."""
    with running_redis(kind) as server:
        store = reopened(folder, server.port)
        store.materialize(0, NOW)
        store.close()
        return contents(server) == whole


def copied(folder: Path) -> Path:
    """Return a copy of a project, made before its job."""
    return shutil.copytree(folder, folder.with_name(f"{folder.name}-undisturbed"))


def materialize_and_die(folder: Path, port: int, last: int) -> None:
    """Run a job in a process that is killed with its `last` request on the way."""
    sent = 0

    def run(self: redis_module.OneServer, requests: Iterable[Request]) -> Iterator[Any]:
        def counted() -> Iterator[bytes]:
            nonlocal sent
            for request in requests:
                yield pack(*request.command)
                sent += request.command[0] in {b"EVAL", b"EVALSHA"}
                if sent == last:
                    os.kill(os.getpid(), signal.SIGKILL)

        return self.server.stream(counted())

    redis_module.OneServer.run = run  # type: ignore[method-assign]
    reopened(folder, port).materialize(0, NOW)


def test_a_job_killed_between_batches_is_gone_on_with_and_ends_with_the_same_bytes(
    tmp_path: Path, server: RedisServer
) -> None:
    context = multiprocessing.get_context("spawn")
    store = wide_store(tmp_path, server)
    copy = copied(tmp_path)
    held = []
    for last in (3, 9):
        process = context.Process(target=materialize_and_die, args=(tmp_path, server.port, last))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        held.append(len(contents(server)))
        with pytest.raises(NotReadyError):
            store.get_online_features(["wide:f0"], {"id": [0]})
    assert 0 < held[0] < held[1] < ROWS
    (report,) = store.materialize(0, NOW)
    assert report.job == 1
    answer = store.get_online_features(["wide:f3"], {"id": [0, ROWS - 1]}).to_dict()
    assert answer["f3"] == [0.0, 4.0 * (ROWS - 1)]
    whole = contents(server)
    store.close()
    assert is_as_undisturbed(copy, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_whose_pipeline_is_torn_is_gone_on_with_and_ends_with_the_same_bytes(tmp_path: Path, kind: str) -> None:
    with running_redis(kind) as server, running_proxy(server.port) as proxy:
        wide_store(tmp_path, server).close()
        copy = copied(tmp_path)
        store = reopened(tmp_path, proxy.port)
        held = []
        for size in (50, 60_000, 90_000):
            proxy.cut_after = size
            proxy.drop()
            fails_in_time(lambda: store.materialize(0, NOW), "cannot be reached")
            held.append(len(contents(server)))
            with pytest.raises((StoreUnavailableError, NotReadyError)):
                store.get_online_features(["wide:f0"], {"id": [0]})
        assert held == sorted(held)
        assert held[0] < held[-1] < ROWS
        proxy.cut_after = None
        store.materialize(0, NOW)
        whole = contents(server)
        assert len(whole) > ROWS
        store.close()
    assert is_as_undisturbed(copy, whole, kind)


def test_what_is_sent_waits_for_what_is_answered(server: RedisServer) -> None:
    """However much there is to write, a server that is slow is sent no more than a few requests ahead."""
    taken = 0

    def commands() -> Iterator[bytes]:
        nonlocal taken
        for n in range(200):
            taken += 1
            yield pack(b"SET", b"key %d" % (n % 3), b"x" * 100_000)

    connection = Server(RedisSettings.read({"url": server.url}))
    for answered, reply in enumerate(connection.stream(commands())):
        assert reply == b"OK"
        assert taken - answered <= 4
    assert taken == 200
    with server.paused():
        taken = 0
        with pytest.raises(WireError, match="Timeout"):
            list(connection.stream(commands()))
        assert taken < 100
    connection.close()
