"""The online store on a real Redis or Valkey server: what users, operators and other processes do to it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from featurestore.errors import NotReadyError, OnlineStoreError, StoreUnavailableError
from featurestore.online.contract import NEVER, AsyncReader, MarkMovedError, OnlineStore, Outcome, SectionWrite
from featurestore.online.framing import Section, header_key, parse
from featurestore.online.redis import RedisStore
from featurestore.online.redis_keys import EVICTIONS, GENERATION
from featurestore.online.redis_settings import RedisSettings
from featurestore.testing.online_suite import C1, C, H, read, write
from tests.servers.ports import free_port
from tests.servers.redis import KINDS, RedisServer, running_redis

SECOND = 1_000_000
DAY = 86_400 * SECOND


@pytest.fixture(scope="module", params=KINDS)
def any_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Return a server of each kind in turn, which the tests of this file share."""
    with running_redis(request.param) as server:
        yield server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Return a server of the test's own."""
    with running_redis() as server:
        yield server


def connect(server: RedisServer, **settings: Any) -> closing[RedisStore]:
    return closing(RedisStore(RedisSettings.read({"url": server.url, **settings})))


def get(store: OnlineStore, *keys: bytes) -> list[bytes | None]:
    with store.snapshot() as snapshot:
        return snapshot.get(keys)


@pytest.fixture
def store(any_server: RedisServer) -> Iterator[RedisStore]:
    with any_server.client() as client:
        client.flushall()
    with connect(any_server) as store:
        yield store


# Lifetimes


def days_left(server: RedisServer, *keys: bytes) -> list[float | None]:
    """Return for how many days more each key is held, None for ever."""
    with server.client() as client:
        left = [client.pttl(b"fs:" + key) for key in keys]
    assert -2 not in left
    return [None if millis == -1 else round(millis * 1000 / DAY, 3) for millis in left]


def test_a_key_is_held_as_long_as_the_write_that_needs_it_longest(any_server: RedisServer, store: RedisStore) -> None:
    store.merge([write(NEVER, 1, lifetime=2 * DAY, chunks={C: b"x", C1: b"x"})])
    assert days_left(any_server, H, C, C1) == [2, 2, 2]
    store.merge([write(1, 2, lifetime=1 * DAY, chunks={C: b"y"})])
    assert days_left(any_server, H, C) == [2, 2]
    store.merge([write(2, 3, lifetime=3 * DAY, chunks={C: b"z"})])
    assert days_left(any_server, H, C, C1) == [3, 3, 2]
    store.merge([write(None, 1, writer="v", lifetime=1 * DAY)])
    assert days_left(any_server, H) == [3]


def test_a_write_without_a_lifetime_holds_a_key_for_ever(any_server: RedisServer, store: RedisStore) -> None:
    store.merge([write(NEVER, 1, lifetime=2 * DAY, chunks={C: b"x", C1: b"x"})])
    store.merge([write(1, 2, chunks={C: b"y"})])
    assert days_left(any_server, H, C, C1) == [None, None, 2]
    store.merge([write(None, 1, writer="v", lifetime=1 * DAY, chunks={C: b"v"})])
    assert days_left(any_server, H, C) == [None, None]
    store.merge([write(None, 3, writer="v", lifetime=1 * DAY, drop=("w",), chunks={C: b"v"})])
    assert days_left(any_server, H, C) == [1, 1]  # nobody else's is left
    store.merge([write(None, 4, writer="v", lifetime=10**30, chunks={C: b"v"})])
    assert days_left(any_server, H, C) == [None, None]


def test_an_expired_key_is_gone(any_server: RedisServer, store: RedisStore) -> None:
    store.merge([write(NEVER, 1, lifetime=1)])  # rounded up to a millisecond
    with any_server.client() as client:
        deadline = time.monotonic() + 10
        while client.exists(b"fs:" + H):
            assert time.monotonic() < deadline
    assert read(store, H) == [None]
    assert store.merge([write(1, 2)]) == [Outcome.REFUSED]


# Merges


def test_many_writes_to_few_keys_are_merged_in_their_order(store: RedisStore) -> None:
    many = [write(n - 1, n, b"%d" % n * 100, chunks={C: b"c%d" % n, C1: None}) for n in range(3000)]
    assert store.merge(many, {b"\x00m": b"3"}) == [Outcome.APPLIED] * 3000
    assert store.merge(many) == [Outcome.IGNORED] * 3000
    assert read(store, H, C, C1) == [[Section("w", 2999, b"2999" * 100)], [Section("w", 2999, b"c2999")], None]
    assert get(store, b"\x00m") == [b"3"]


def test_no_mark_is_set_where_one_of_many_writes_is_refused(store: RedisStore) -> None:
    keys = [header_key(b"\x01" * 16, b"%d" % n) for n in range(2000)]
    writes = [SectionWrite(key, "w", NEVER, 1, b"p") for key in keys]
    writes[7] = writes[7]._replace(expected=5)
    outcomes = store.merge(writes, {b"\x00m": b"1"})
    assert [place for place, outcome in enumerate(outcomes) if outcome is Outcome.REFUSED] == [7]
    assert get(store, b"\x00m") == [None]
    assert store.merge(writes[:7] + writes[8:], {b"\x00m": b"1"}) == [Outcome.IGNORED] * 1999
    assert get(store, b"\x00m") == [b"1"]
    with pytest.raises(MarkMovedError, match="no longer b'2'"):
        store.merge([write._replace(sequence=9, expected=1) for write in writes], {b"\x00m": b"3"}, {b"\x00m": b"2"})
    assert all(sections == [Section("w", 1, b"p")] for sections in read(store, *keys[:7], *keys[8:]))


def test_writers_are_kept_in_the_order_of_their_bytes(store: RedisStore) -> None:
    names = ["", "a", "a\x00", "ab", "b", "é", "\U0001f600", "\uffff", "w" * 300]
    for name in [*names[4:], *reversed(names[:4])]:
        store.merge([write(None, 1, name.encode(), writer=name, chunks={C: name.encode()})])
    expected = [Section(name, 1, name.encode()) for name in sorted(names, key=str.encode)]
    assert read(store, H, C) == [expected, expected]


def test_sequences_are_compared_as_integers_of_64_bits(store: RedisStore) -> None:
    ascending = [0, 1, 255, 256, 2**31, 2**32 + 5, 2**53, 2**53 + 1, 2**56, 2**62, 2**63 - 1]
    for number, sequence in enumerate(ascending):
        assert store.merge([write(None, sequence)]) == [Outcome.APPLIED]
        assert store.merge([write(None, other) for other in ascending[: number + 1]]) == [Outcome.IGNORED] * (
            number + 1
        )
    assert store.merge([write(None, NEVER), write(NEVER, NEVER)]) == [Outcome.IGNORED] * 2


def test_a_server_that_lost_the_script_is_given_it_again(any_server: RedisServer, store: RedisStore) -> None:
    store.merge([write(NEVER, 1)])
    with any_server.client() as client:
        client.script_flush()
    many = [write(n, n + 1) for n in range(1, 2000)]
    assert store.merge(many, {b"\x00m": b"1"}) == [Outcome.APPLIED] * 1999
    assert get(store, b"\x00m") == [b"1"]


def test_a_value_of_a_newer_version_is_left_alone(any_server: RedisServer, store: RedisStore) -> None:
    store.merge([write(NEVER, 1)])
    with any_server.client() as client:
        client.set(b"fs:" + H, b"\x07 who knows")
    with pytest.raises(OnlineStoreError, match=r"format version 7, this release .* upgrade this process"):
        store.merge([write(1, 2)])
    with pytest.raises(OnlineStoreError, match="format version 7"):
        read(store, H)
    with any_server.client() as client:
        assert client.get(b"fs:" + H) == b"\x07 who knows"


def test_stores_with_other_prefixes_and_other_keys_are_left_alone(any_server: RedisServer, store: RedisStore) -> None:
    with any_server.client() as client, connect(any_server, key_prefix="f.s-1:") as other:
        client.set("fsx", "foreign")
        client.lpush("list", "foreign")
        store.put({b"\x00m": b"1", b"key[a]*?\\": b"2", b"key-a": b"3"})
        other.put({b"\x00m": b"5"})
        assert store.scan(b"") == sorted([b"\x00m", b"key[a]*?\\", b"key-a"])
        assert store.scan(b"key[a]") == [b"key[a]*?\\"]
        assert other.scan(b"") == [b"\x00m"]
        client.delete(b"fs:\x00\x00generation")
        store.put({b"\x00n": b"1"})
        assert (store.scan(b""), other.scan(b"")) == ([b"\x00n"], [b"\x00m"])
        assert (client.get("fsx"), client.lrange("list", 0, -1)) == (b"foreign", [b"foreign"])


def test_threads_and_event_loops_read_what_they_asked_for(store: RedisStore) -> None:
    keys = [b"%d" % n for n in range(500)]
    store.put({key: key for key in keys})
    wrong: list[Any] = []

    def work(start: int) -> None:
        for n in range(start, start + 150):
            asked = [keys[n % 500], keys[n * 7 % 500], b"none"]
            if get(store, *asked) != [asked[0], asked[1], None]:
                wrong.append(asked)

    async def work_in_loop() -> None:
        reader = store.reader()

        async def one(n: int) -> None:
            asked = keys[n : n + 1 + n % 5]
            if await reader.get(asked) != asked:
                wrong.append(asked)

        await asyncio.gather(*[one(n) for n in range(400)])
        assert await reader.get([]) == []
        await reader.close()

    threads = [threading.Thread(target=work, args=(n * 50,)) for n in range(8)]
    for thread in threads:
        thread.start()
    asyncio.run(work_in_loop())
    for thread in threads:
        thread.join()
    assert wrong == []


# Processes


def count_up(settings: RedisSettings, rounds: int, results: Any) -> None:
    """Move one section on by one, over and over, each time from what is stored; tell how often that was applied."""
    applied = 0
    with closing(RedisStore(settings)) as store:
        for _ in range(rounds):
            (value,) = get(store, H)
            stored = parse(value)[0].sequence if value else NEVER
            applied += store.merge([write(stored, stored + 1, chunks={C: b"%d" % stored})]) == [Outcome.APPLIED]
    results.put(applied)


def test_two_processes_that_write_one_key_never_both_win(server: RedisServer) -> None:
    settings = RedisSettings.read({"url": server.url})
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    writers = [context.Process(target=count_up, args=(settings, 400, results)) for _ in range(2)]
    for process in writers:
        process.start()
    applied = [results.get() for _ in writers]
    for process in writers:
        process.join()
    with connect(server) as store:
        assert read(store, H) == [[Section("w", sum(applied) - 1, b"p")]]
    assert min(applied) > 0


def test_a_process_that_forks_goes_on_with_connections_of_its_own(any_server: RedisServer, store: RedisStore) -> None:
    store.put({b"a": b"parent"})
    child = os.fork()
    if not child:
        right = get(store, b"a") == [b"parent"]
        store.put({b"b": b"child"})
        os._exit(0 if right else 1)
    for _ in range(50):
        assert get(store, b"a") == [b"parent"]
    assert os.waitpid(child, 0)[1] == 0
    assert get(store, b"b") == [b"child"]


# Servers that fail


def test_a_server_that_is_not_there_is_named(tmp_path: Any) -> None:
    port = free_port()
    with closing(RedisStore(RedisSettings.read({"url": f"redis://:secret@127.0.0.1:{port}"}))) as store:
        for call in (
            lambda: get(store, b"a"),
            lambda: store.merge([write(NEVER, 1)]),
            store.check,
            lambda: store.scan(b""),
        ):
            with pytest.raises(
                StoreUnavailableError, match=rf"127\.0\.0\.1:{port} cannot be reached.*running"
            ) as raised:
                call()
            assert "secret" not in str(raised.value)
        with pytest.raises(StoreUnavailableError, match=rf"127\.0\.0\.1:{port} cannot be reached"):
            asyncio.run(store.reader().get([b"a"]))
    assert "secret" not in repr(store.settings)


def test_a_server_that_comes_back_is_used_again(server: RedisServer) -> None:
    async def ask(store: RedisStore) -> None:
        reader = store.reader()
        store.put({b"a": b"1"})
        assert await reader.get([b"a"]) == [b"1"]
        server.restart()
        assert await reader.get([b"a"]) == [None]
        store.put({b"a": b"2"})
        assert await reader.get([b"a"]) == [b"2"]
        server.stop()
        with pytest.raises(StoreUnavailableError):
            await reader.get([b"a"])
        server.start()
        assert await reader.get([b"a"]) == [None]
        await reader.close()

    with connect(server) as store:
        store.put({b"a": b"1"})
        server.restart()
        assert get(store, b"a") == [None]
        assert store.merge([write(NEVER, 1)], {b"\x00m": b"1"}) == [Outcome.APPLIED]
        server.stop()
        with pytest.raises(StoreUnavailableError):
            get(store, b"a")
        server.start()
        with pytest.raises(MarkMovedError):
            store.merge([write(1, 2)], {b"\x00m": b"2"}, {b"\x00m": b"1"})
        asyncio.run(ask(store))


def test_a_slow_server_is_not_waited_for_and_its_late_answers_are_nobodys(server: RedisServer) -> None:
    async def ask(store: RedisStore) -> None:
        reader = store.reader()
        assert await reader.get([b"a"]) == [b"1"]
        with server.paused():
            results = await asyncio.gather(*[reader.get([b"a"]) for _ in range(3)], return_exceptions=True)
        assert all(isinstance(result, StoreUnavailableError) for result in results)
        assert await reader.get([b"b", b"a"]) == [b"2", b"1"]
        await reader.close()

    with connect(server, timeout="200ms") as store:
        store.put({b"a": b"1", b"b": b"2"})
        with server.paused():
            started = time.monotonic()
            for call in (lambda: get(store, b"a"), lambda: store.merge([write(NEVER, 1)])):
                with pytest.raises(StoreUnavailableError, match=r"does not answer within 0\.2 s"):
                    call()
            assert time.monotonic() - started < 3
        assert get(store, b"b", b"a") == [b"2", b"1"]
        asyncio.run(ask(store))


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_server_refuses_writes_and_goes_on_answering(kind: str) -> None:
    with running_redis(kind) as server, connect(server) as store, server.client() as client:
        store.merge([write(NEVER, 1)], {b"\x00m": b"1"})
        client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
        with pytest.raises(StoreUnavailableError, match=r"out of memory.*maxmemory"):
            store.merge([write(1, 2, b"x" * 100_000)], {b"\x00m": b"2"})
        with pytest.raises(StoreUnavailableError, match="out of memory"):
            store.put({b"\x00m": b"2"})
        assert read(store, H) == [[Section("w", 1, b"p")]]
        assert get(store, b"\x00m") == [b"1"]
        client.config_set("maxmemory", 0)
        assert store.merge([write(1, 2)], {b"\x00m": b"2"}) == [Outcome.APPLIED]


def test_a_policy_that_evicts_is_refused(server: RedisServer) -> None:
    with connect(server) as store, server.client() as client:
        store.put({b"\x00m": b"1"})
        store.check()
        client.config_set("maxmemory-policy", "allkeys-lru")
        with connect(server) as other:
            for call in (other.check, other.check, lambda: other.put({b"\x00m": b"2"})):
                with pytest.raises(NotReadyError, match=r"allkeys-lru.*CONFIG SET maxmemory-policy noeviction"):
                    call()
        client.config_set("maxmemory-policy", "noeviction")
        with connect(server) as other:
            other.check()
        assert get(store, b"\x00m") == [b"1"]


def evict(server: RedisServer) -> None:
    """Have a server evict some keys, no mark among them, as it does where somebody changes its policy for a while."""
    with server.client() as client:
        for name in client.scan_iter():
            if not name.startswith(b"fs:\x00"):
                client.pexpire(name, 10_000_000)
        client.config_set("maxmemory-policy", "volatile-random")
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 100_000)
        client.set("foreign", "x")
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        assert client.info("stats")["evicted_keys"] > 0


def test_marks_that_were_evicted_leave_the_store_empty(server: RedisServer) -> None:
    """Also where nothing is left that could tell."""
    with connect(server) as store, server.client() as client:
        store.put({b"\x00ready": b"1", b"key": b"x"})
        evicted = [b"fs:" + GENERATION, b"fs:" + EVICTIONS]
        for gone in (evicted, evicted[:1], evicted[1:]):
            store.put({b"\x00ready": b"1", b"key": b"x"})
            client.delete(*gone)
            found = get(store, b"\x00ready", b"key")
            assert found == ([b"1", b"x"] if evicted[0] not in gone else [None, None])
        client.delete(*evicted)
        store.put({b"\x00filling": b"#1"})
        assert store.scan(b"") == [b"\x00filling"]


def test_a_server_that_evicted_keys_counts_as_empty(server: RedisServer) -> None:
    keys = [b"key %d" % n for n in range(300)]
    with connect(server) as store, connect(server) as other:
        store.put({b"\x00ready": b"1", **dict.fromkeys(keys, b"x" * 1000)})
        evict(server)
        with connect(server) as reader, pytest.raises(NotReadyError, match=r"has evicted keys.*counts as empty"):
            reader.check()
        assert get(store, b"\x00ready", *keys) == [None] * 301
        with pytest.raises(MarkMovedError):
            other.merge([write(1, 2)], {}, {b"\x00ready": b"1"})
        other.put({b"\x00filling": b"#1"})
        assert get(store, b"\x00filling", b"\x00ready", *keys) == [b"#1", *[None] * 301]
        store.put({b"\x00ready": b"1"})
        assert store.scan(b"") == [b"\x00filling", b"\x00ready"]
        with connect(server) as reader:
            reader.check()


def test_what_was_evicted_while_nobody_looked_is_found_by_whoever_writes_next(server: RedisServer) -> None:
    with connect(server) as store:
        store.put({b"\x00ready": b"1", **{b"key %d" % n: b"x" * 1000 for n in range(300)}})
        evict(server)
    with connect(server) as store:
        with pytest.raises(MarkMovedError):
            store.put({b"\x00m": b"1"}, {b"\x00ready": b"1"})
        assert store.scan(b"") == []


def test_a_server_that_was_restarted_counts_its_evictions_anew(server: RedisServer) -> None:
    with connect(server) as store, server.client() as client:
        evict_nothing = client.info("stats")["evicted_keys"]
        assert evict_nothing == 0
        client.set("k" * 100, "x" * 500_000)
        evict(server)
        store.put({b"\x00m": b"1"})
        client.save()
        server.restart()
    with connect(server) as store:
        store.check()
        assert get(store, b"\x00m") == [b"1"]


def test_an_event_loop_goes_on_asking_whether_keys_were_evicted(server: RedisServer) -> None:
    async def ask(store: RedisStore) -> None:
        reader = store.reader()
        assert await reader.get([b"a"]) == [b"1"]
        evict(server)
        with pytest.raises(NotReadyError, match="has evicted keys"):
            await read_on(reader)
        await reader.close()

    async def read_on(reader: AsyncReader) -> None:
        deadline = time.monotonic() + 10  # it takes about a second
        while time.monotonic() < deadline:
            assert await reader.get([b"a"]) in ([b"1"], [None])

    with connect(server) as store:
        store.put({b"a": b"1", **{b"key %d" % n: b"x" * 1000 for n in range(300)}})
        asyncio.run(ask(store))
