"""`featurestore serve` as processes: several workers, the death of one, and an end that finishes what was begun."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.servers.api import (
    ApiServer,
    expected,
    lookup,
    make_repository,
    run_command,
    running_api,
    values,
    wait_for,
)
from tests.servers.redis import RedisServer, running_redis

ANEW = {"connection": "close"}
PATIENT = "{type: redis, url: '%s', timeout: 20s}"
LOOKUPS = 'featurestore_requests_total{code="200",route="lookup"}'
WORKERS = "featurestore_revision{worker="


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Path:
    return make_repository(tmp_path_factory.mktemp("processes") / "repository", PATIENT % redis.url)


def ask_anew(api: ApiServer, driver: int) -> httpx.Response:
    """Look a driver up over a connection of its own, which any worker may take."""
    return api.http.post("/get-online-features", json=lookup(driver), headers=ANEW)


def is_answered(api: ApiServer, driver: int) -> bool:
    """Look a driver up as `ask_anew` does; False where the connection was one of a worker that died."""
    try:
        return values(ask_anew(api, driver)) == expected(driver)
    except httpx.TransportError:
        return False


def workers(api: ApiServer) -> set[int]:
    """Return the process ids of the workers that were heard of lately."""
    text = api.http.get("/metrics", headers=ANEW).text
    return {int(line.split('"')[1]) for line in text.splitlines() if line.startswith(WORKERS)}


def in_flight(api: ApiServer) -> float:
    """Return how many requests are being answered beside the one that asks."""
    return sum(count for name, count in api.metrics().items() if "in_flight" in name) - 1


def is_closed(api: ApiServer) -> bool:
    """Whether connections are refused."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", api.port)) != 0


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    return not Path(f"/proc/{pid}/exe").exists()


@pytest.mark.parametrize("count", [1, 2])
def test_the_end_finishes_lookups_that_wait_for_the_store(repository: Path, redis: RedisServer, count: int) -> None:
    options = ("--workers", str(count), "--limit-seconds", "20", "--grace-seconds", "30")
    with running_api(repository, *options) as api, ThreadPoolExecutor(8) as clients:
        wait_for(lambda: len(workers(api)) == count)
        assert [values(ask_anew(api, driver)) for driver in range(8)] == [expected(driver) for driver in range(8)]
        with redis.paused():
            answers: list[Future[httpx.Response]] = [clients.submit(ask_anew, api, driver) for driver in range(8)]
            wait_for(lambda: in_flight(api) == 8)
            api.process.send_signal(signal.SIGTERM)
            wait_for(lambda: is_closed(api))
            assert not any(answer.done() for answer in answers)
        assert [values(answer.result()) for answer in answers] == [expected(driver) for driver in range(8)]
        assert api.process.wait(timeout=30) == 0
        assert api.err.read_text() == ""


def test_a_second_signal_ends_at_once(repository: Path, redis: RedisServer) -> None:
    with running_api(repository, "--limit-seconds", "20") as api, ThreadPoolExecutor(1) as clients:
        assert values(api.lookup(1)) == expected(1)
        with redis.paused():
            answer = clients.submit(ask_anew, api, 1)
            wait_for(lambda: in_flight(api) == 1)
            api.process.send_signal(signal.SIGINT)
            wait_for(lambda: is_closed(api))
            api.process.send_signal(signal.SIGINT)
            api.process.wait(timeout=10)
            assert answer.result().status_code == 503
        assert "Traceback" not in api.err.read_text(), api.err.read_text()


def test_workers_share_the_load_one_that_dies_is_replaced_and_none_is_left_over(repository: Path) -> None:
    with running_api(repository, "--workers", "2") as api:
        wait_for(lambda: len(workers(api)) == 2)
        assert [values(ask_anew(api, driver)) for driver in range(40)] == [expected(driver) for driver in range(40)]
        wait_for(lambda: api.metrics()[LOOKUPS] == 40)  # all of them, whichever worker is asked

        old = workers(api)
        os.kill(min(old), signal.SIGKILL)
        for driver in range(20):
            wait_for(partial(is_answered, api, driver))
        (new,) = wait_for(lambda: workers(api) - old)
        assert not is_gone(new)
        wait_for(lambda: api.metrics()[LOOKUPS] >= 60)  # what the dead one had counted is not lost
        assert "Traceback" not in api.err.read_text()

        api.process.kill()  # with it go the workers that it started
        api.process.wait()
        wait_for(lambda: all(is_gone(pid) for pid in {*old, new}))


def test_a_port_that_is_taken_is_named(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_command(repository, "serve", "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in done.stderr
    assert "Traceback" not in done.stderr
