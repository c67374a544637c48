"""Who may reach the online store in Redis: users with no more rights than docs/redis.md lists, and TLS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from featurestore.errors import ConfigError, NotReadyError, OnlineStoreError, StoreUnavailableError
from featurestore.online.contract import NEVER, Outcome
from featurestore.online.redis import RedisStore
from featurestore.online.redis_settings import RedisSettings
from featurestore.testing.online_suite import C, H, read, write
from tests.integration.redis_bench import (
    EVERYTHING,
    Open,
    load,
    open_store,
    read_in_loop,
    refill,
    served,
    served_in_loop,
)
from tests.servers.certificates import Authority
from tests.servers.proxy import Proxy, running_proxy
from tests.servers.redis import KINDS, RedisCluster, RedisServer, running_cluster, running_redis

__all__ = ["open_store"]
DOCS = Path(__file__).parents[2] / "docs" / "redis.md"
USERS = re.findall(r"^ACL SETUSER (\S+) (.+)$", DOCS.read_text("utf-8"), re.MULTILINE)
RULES = {user: rules.split() for user, rules in USERS}
IN_A_CLUSTER = {"+asking", "+cluster|slots", "+select"}
PASSWORD = "a:b/c@d?#%"  # noqa: S105  (a test's)
IN_URL = "a%3Ab%2Fc%40d%3F%23%25"


def set_user(server: RedisServer, user: str, *, without: str = "") -> None:
    """Give a server one of the users that docs/redis.md tells to make, with one rule less."""
    rules = [f">{PASSWORD}" if rule.startswith(">") else rule for rule in RULES[user] if rule != without]
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", user, "reset", *rules)


def as_user(server: RedisServer, user: str, **settings: Any) -> closing[RedisStore]:
    url = f"redis://{user}:{IN_URL}@127.0.0.1:{server.port}"
    return closing(RedisStore(RedisSettings.read({"url": url, **settings})))


@pytest.fixture(scope="module", params=KINDS)
def any_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with running_redis(request.param) as server:
        yield server


def evict(server: RedisServer) -> None:
    """Have a server evict a key of somebody else's."""
    with server.client() as client:
        client.set("foreign", "x" * 1_000_000, px=600_000)
        client.config_set("maxmemory-policy", "volatile-ttl")
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 500_000)
        client.set("foreign too", "x")
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        assert client.info("stats")["evicted_keys"] > 0


def use_everything(server: RedisServer) -> None:
    """Do all that jobs and daemons do to a store, as the user that writes."""
    with server.client() as client:
        client.flushall()
        client.set(b"fs:left over", "x")
    with as_user(server, "featurestore") as store:
        store.put({b"\x00m": b"1"})
        assert store.scan(b"") == [b"\x00m"]
        assert store.merge([write(NEVER, 1, lifetime=10**9, chunks={C: b"x"})], {b"\x00m": b"2"}) == [Outcome.APPLIED]
        assert store.merge([write(1, 2, lifetime=10**9, chunks={C: None})]) == [Outcome.APPLIED]
        assert read(store, H, C)[1] is None
        assert read_in_loop(store, b"\x00m") == [b"2"]
        store.delete([H])
    evict(server)
    with as_user(server, "featurestore") as store, pytest.raises(NotReadyError, match="has evicted keys"):
        store.check()


def test_the_user_that_writes_needs_each_of_its_rights_and_no_more(any_server: RedisServer) -> None:
    set_user(any_server, "featurestore")
    use_everything(any_server)
    needed = [rule for rule in RULES["featurestore"] if rule[0] in "+~" and rule not in IN_A_CLUSTER]
    told: dict[str, OnlineStoreError] = {}
    for rule in needed:
        set_user(any_server, "featurestore", without=rule)
        try:
            use_everything(any_server)
        except OnlineStoreError as error:
            told[rule] = error
    assert list(told) == [rule for rule in needed if rule != "+hsetnx"]  # a reader lacks it, and only remembers less
    for refusal in told.values():
        assert type(refusal) is OnlineStoreError, "no use trying again"
        assert re.search(r"does not permit this user.*docs/redis\.md", str(refusal))


def test_the_user_that_reads_reads_and_cannot_write(any_server: RedisServer) -> None:
    set_user(any_server, "featurestore")
    set_user(any_server, "features-reader")
    with any_server.client() as client:
        client.flushall()
    with as_user(any_server, "featurestore") as writer, as_user(any_server, "features-reader") as store:
        writer.merge([write(NEVER, 1)], {b"\x00m": b"1"})
        store.check()
        assert read(store, H) == read(writer, H)
        assert read_in_loop(store, b"\x00m") == [b"1"]
        calls = (lambda: store.merge([write(1, 2)]), lambda: store.put({b"\x00m": b"2"}), lambda: store.delete([H]))
        for call in calls:
            with pytest.raises(OnlineStoreError, match="does not permit"):
                call()
    evict(any_server)
    with as_user(any_server, "features-reader") as store, pytest.raises(NotReadyError, match="has evicted keys"):
        store.check()


@pytest.mark.parametrize("user", ["featurestore", "nobody", ""])
def test_a_wrong_password_is_told_without_showing_it(any_server: RedisServer, user: str) -> None:
    set_user(any_server, "featurestore")
    url = f"redis://{user}:wrong-secret@127.0.0.1:{any_server.port}"
    with closing(RedisStore(RedisSettings.read({"url": url}))) as store:
        for call in (lambda: read(store, H), lambda: read_in_loop(store, H), store.check):
            with pytest.raises(OnlineStoreError, match="does not accept the user or the password") as raised:
                call()
            assert "wrong-secret" not in str(raised.value)
            assert not isinstance(raised.value, StoreUnavailableError)


def test_a_server_with_a_password_wants_it(any_server: RedisServer) -> None:
    with any_server.client() as client:
        client.config_set("requirepass", PASSWORD)
    with any_server.client(password=PASSWORD) as client:
        try:
            with closing(RedisStore(RedisSettings.read({"url": any_server.url}))) as store:
                for call in (lambda: read(store, H), lambda: read_in_loop(store, H), lambda: store.scan(b"")):
                    with pytest.raises(OnlineStoreError, match="does not accept the user or the password"):
                        call()
            url = f"redis://:{IN_URL}@127.0.0.1:{any_server.port}/3"
            with closing(RedisStore(RedisSettings.read({"url": url}))) as store:
                store.put({b"a": b"in database 3"})
                assert read_in_loop(store, b"a") == [b"in database 3"]
            assert client.exists(b"fs:a") == 0
        finally:
            client.config_set("requirepass", "")


@pytest.fixture(params=["redis-6.2", "valkey-9"])
def cluster(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    with running_cluster(request.param) as cluster:
        yield cluster


def test_the_users_rights_are_enough_in_a_cluster_whose_slots_move(cluster: RedisCluster) -> None:
    for server in cluster.servers:
        for user in RULES:
            set_user(server, user)
    first, second, _ = cluster.servers
    with (
        as_user(first, "featurestore", cluster=True) as store,
        as_user(second, "features-reader", cluster=True) as reader,
    ):
        assert store.merge([write(NEVER, 1)], {b"\x00m": b"1"}) == [Outcome.APPLIED]
        assert read(reader, H) == read(store, H)
        number = store.keys.part(H)
        slot = store.keys.slots[number]
        source = cluster.owner(slot)
        target = next(server for server in cluster.servers if server is not source)
        with cluster.moving(slot, source, target):
            assert read_in_loop(reader, H) == read_in_loop(store, H)
            cluster.move_keys(slot, source, target)
            assert read(reader, H) == read(store, H)
            assert read_in_loop(reader, H) == read_in_loop(store, H)
            assert store.merge([write(1, 2)]) == [Outcome.APPLIED]
        with pytest.raises(OnlineStoreError, match="does not permit"):
            reader.put({b"\x00m": b"2"})
        store.check()
        reader.check()
        assert store.scan(b"") == [b"\x00m", H]


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.new(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def behind_tls(authority: Authority) -> Iterator[tuple[RedisServer, Proxy]]:
    """Return a server, and what ends TLS in front of it and asks for a client's certificate."""
    with running_redis() as server, running_proxy(server.port, authority.server_context()) as proxy:
        set_user(server, "featurestore")
        yield server, proxy


def test_features_are_written_and_served_over_tls_by_a_user(
    open_store: Open, authority: Authority, behind_tls: tuple[RedisServer, Proxy]
) -> None:
    server, proxy = behind_tls
    certificate, key = authority.sign("client")
    files = f"ca: '{authority.file}', cert: '{certificate}', key: '{key}'"
    url = f"rediss://featurestore:{IN_URL}@{{}}:{proxy.port}"
    store = open_store(f"{{type: redis, url: '{url.format('127.0.0.1')}', {files}}}")
    load(store)
    assert served(store) == served_in_loop(store) == EVERYTHING
    other = open_store(f"{{type: redis, url: '{url.format('localhost')}', {files}}}")
    assert served(other) == served_in_loop(other) == EVERYTHING
    server.restart()
    set_user(server, "featurestore")
    with pytest.raises(NotReadyError):
        served(store)
    refill(store)
    assert served(store) == served_in_loop(store) == EVERYTHING


def test_what_tls_fails_with_is_told(
    authority: Authority, behind_tls: tuple[RedisServer, Proxy], tmp_path: Path
) -> None:
    server, proxy = behind_tls
    stranger = Authority.new(tmp_path, "stranger")
    files = dict(zip(("cert", "key"), map(str, authority.sign("other")), strict=True))
    url = f"rediss://127.0.0.1:{proxy.port}"
    cases: list[dict[str, Any]] = [
        {"url": url, **files},
        {"url": url, "ca": str(stranger.file), **files},
        {"url": url, "ca": str(authority.file)},
        {"url": f"rediss://127.0.0.1:{server.port}", "ca": str(authority.file)},
    ]
    for case in cases:
        with closing(RedisStore(RedisSettings.read(case))) as store:
            for call in (lambda: read(store, H), lambda: read_in_loop(store, H)):
                with pytest.raises(OnlineStoreError, match=r"127\.0\.0\.1:.*(TLS|cannot be reached)"):
                    call()
    with (
        closing(RedisStore(RedisSettings.read({"url": f"redis://127.0.0.1:{proxy.port}"}))) as store,
        pytest.raises(StoreUnavailableError, match=r"cannot be reached.*is online_store's url right"),
    ):
        read(store, H)
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("no certificate", encoding="utf-8")
    with closing(RedisStore(RedisSettings.read({"url": url, "ca": str(damaged)}))) as store:
        for call in (lambda: read(store, H), lambda: read_in_loop(store, H)):
            with pytest.raises((ConfigError, OnlineStoreError), match="TLS"):
                call()
