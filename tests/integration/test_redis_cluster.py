"""The online store on a real Redis Cluster: slots that move, primaries that fail, marks with a copy in every part."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from featurestore.errors import OnlineStoreError, StoreUnavailableError
from featurestore.online.contract import NEVER, MarkMovedError, OnlineStore, Outcome, SectionWrite
from featurestore.online.framing import Section, chunk_key, header_key
from featurestore.online.redis import RedisStore
from featurestore.online.redis_keys import Keys, crc16
from featurestore.online.redis_settings import RedisSettings
from featurestore.testing.online_suite import read
from tests.integration.redis_bench import read_in_loop
from tests.servers.redis import RedisCluster, RedisServer, running_cluster

VIEW = bytes(range(1, 17))
KEYS = Keys(b"fs:", 256)
MARK = b"\x00m"
ENTITIES = [b"entity %d" % n for n in range(600)]


@pytest.fixture(scope="module", params=["redis-6.2", "redis-8", "valkey-9"])
def any_cluster(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """Return a cluster that the tests of this file share, whose slots stay where they are."""
    with running_cluster(request.param) as cluster:
        yield cluster


@pytest.fixture
def store(any_cluster: RedisCluster) -> Iterator[RedisStore]:
    any_cluster.flush()
    with connect(any_cluster) as store:
        yield store


def connect(cluster: RedisCluster, **settings: Any) -> closing[RedisStore]:
    return closing(RedisStore(RedisSettings.read({"url": cluster.url, "cluster": True, **settings})))


def get(store: OnlineStore, *keys: bytes) -> list[bytes | None]:
    with store.snapshot() as snapshot:
        return snapshot.get(keys)


def header(entity: bytes) -> bytes:
    return header_key(VIEW, entity)


def chunk(entity: bytes) -> bytes:
    return chunk_key(VIEW, entity, 0, 7)


def write(entity: bytes, expected: int | None, sequence: int) -> SectionWrite:
    payload = b"%d" % sequence
    return SectionWrite(header(entity), "w", expected, sequence, payload, {chunk(entity): payload})


def part(entity: bytes) -> int:
    return KEYS.part(header(entity))


def owner(cluster: RedisCluster, number: int) -> RedisServer:
    """Return the primary that has a part."""
    return cluster.owner(KEYS.slots[number])


def set_copy(cluster: RedisCluster, number: int, mark: bytes, value: bytes | None) -> None:
    """Set or remove one part's copy of a mark, as a process does that ends half-way."""
    with owner(cluster, number).client() as client:
        name = KEYS.prefixes[number] + mark
        if value is None:
            client.delete(name)
        else:
            client.set(name, value)


def test_all_views_of_an_entity_are_in_one_part_and_parts_are_spread() -> None:
    assert crc16(b"123456789") == 0x31C3
    for entity in ENTITIES:
        other = b"\xff" * 16
        keys = [header(entity), chunk(entity), header_key(other, entity), chunk_key(other, entity, 3, -5)]
        assert len({KEYS.part(key) for key in keys}) == 1
        assert KEYS.locate(KEYS.physical(keys[1])) == (part(entity), keys[1])
    assert len({part(entity) for entity in ENTITIES}) > 200
    assert len(set(KEYS.slots)) == 256


def test_many_writes_are_merged_in_all_parts_and_marks_follow_them(store: RedisStore) -> None:
    many = [write(entity, n - 1, n) for n in range(5) for entity in ENTITIES]
    assert store.merge(many, {MARK: b"4"}) == [Outcome.APPLIED] * len(many)
    keys = [key for entity in ENTITIES for key in (header(entity), chunk(entity))]
    assert read(store, *keys) == [[Section("w", 4, b"4")]] * len(keys)
    assert get(store, header(b"none"), MARK, *keys[:3], MARK)[1::4] == [b"4", b"4"]
    assert read_in_loop(store, *keys, MARK, header(b"none")) == get(store, *keys, MARK, header(b"none"))
    assert store.scan(b"") == sorted([MARK, *keys])
    assert store.scan(VIEW + b"h") == sorted(map(header, ENTITIES))
    refused = [write(ENTITIES[0], 3, 9), *[write(entity, 4, 5) for entity in ENTITIES[1:]]]
    assert store.merge(refused, {MARK: b"5"}).count(Outcome.REFUSED) == 1
    assert get(store, MARK) == [b"4"]


def test_the_least_copy_of_a_mark_counts(any_cluster: RedisCluster, store: RedisStore) -> None:
    store.put({MARK: b"7", b"\x00t": b"#a"})
    set_copy(any_cluster, 200, MARK, b"10")
    set_copy(any_cluster, part(b"x"), MARK, b"6")
    assert get(store, MARK) == [b"6"]
    assert get(store, header(b"x"), MARK) == [None, b"6"]
    set_copy(any_cluster, 3, b"\x00t", b"#b")
    assert get(store, b"\x00t", MARK) == [None, b"6"]
    set_copy(any_cluster, 3, MARK, None)
    assert get(store, MARK) == [None]


def test_marks_that_a_process_left_half_moved_can_be_moved_on(any_cluster: RedisCluster, store: RedisStore) -> None:
    store.put({MARK: b"5", b"\x00f": b"#1"})
    for number in range(0, 256, 3):
        set_copy(any_cluster, number, MARK, b"7")
    given = {MARK: b"5", b"\x00f": b"#1"}
    writes = [write(entity, NEVER, 9) for entity in ENTITIES]
    with pytest.raises(MarkMovedError, match="no longer b'7'"):
        store.merge(writes, {MARK: b"9"}, {MARK: b"7"})
    assert store.merge(writes, {MARK: b"9"}, given) == [
        Outcome.IGNORED if part(e) % 3 == 0 else Outcome.APPLIED for e in ENTITIES
    ]
    assert get(store, MARK) == [b"9"]
    with pytest.raises(MarkMovedError):
        store.put({MARK: b"10"}, given)
    for number in range(0, 256, 3):
        set_copy(any_cluster, number, b"\x00f", b"#0")
    with pytest.raises(MarkMovedError):  # two fillings at once: neither goes on
        store.put({MARK: b"10"}, {b"\x00f": b"#0"})
    with pytest.raises(MarkMovedError):
        store.put({MARK: b"10"}, {b"\x00f": b"#1"})
    assert get(store, MARK) == [b"9"]


# Slots that move


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    """Return a cluster of the test's own."""
    with running_cluster() as cluster:
        yield cluster


def test_a_slot_that_has_moved_is_found(cluster: RedisCluster) -> None:
    entity = ENTITIES[0]
    with connect(cluster) as store, connect(cluster) as other:
        store.merge([write(entity, NEVER, 1)], {MARK: b"1"})
        assert get(other, header(entity), MARK) == get(store, header(entity), MARK)
        number = part(entity)
        source = owner(cluster, number)
        target = next(server for server in cluster.servers if server is not source)
        cluster.move_slot(KEYS.slots[number], source, target)
        assert store.merge([write(entity, 1, 2)], {MARK: b"2"}, {MARK: b"1"}) == [Outcome.APPLIED]
        assert read(other, header(entity), chunk(entity)) == [[Section("w", 2, b"2")]] * 2
        assert read_in_loop(other, MARK, header(b"none")) == [b"2", None]
        cluster.move_slot(KEYS.slots[number], target, source)
        assert read_in_loop(other, header(entity), MARK) == get(store, header(entity), MARK)


def test_while_a_slot_is_on_its_way_reads_are_right_and_writes_wait(cluster: RedisCluster) -> None:
    entity = ENTITIES[0]
    number = part(entity)
    slot, source = KEYS.slots[number], owner(cluster, number)
    target = next(server for server in cluster.servers if server is not source)
    with connect(cluster, timeout="300ms") as store:
        store.merge([write(entity, NEVER, 1)], {MARK: b"1"})
        asked = [header(entity), chunk(entity), header(b"none"), MARK]
        before = get(store, *asked)
        with cluster.moving(slot, source, target):
            assert get(store, *asked) == before
            keys = 0
            while cluster.move_keys(slot, source, target, 1):
                keys += 1
                assert get(store, *asked) == before
                assert read_in_loop(store, *asked) == before
            assert keys == 4  # header, chunk, mark, generation
            source_again = [write(entity, 1, 2)]
            assert store.merge(source_again) == [Outcome.APPLIED]  # all its keys are at the target
        assert read(store, header(entity), chunk(entity)) == [[Section("w", 2, b"2")]] * 2
        with cluster.moving(slot, target, source):
            cluster.move_keys(slot, target, source, 1)
            with pytest.raises(StoreUnavailableError, match=r"moving these keys.*try again|not whole"):
                store.merge([write(entity, 2, 3)])
            assert read(store, header(entity), chunk(entity)) == [[Section("w", 2, b"2")]] * 2
            cluster.move_keys(slot, target, source)
        assert store.merge([write(entity, 2, 3)]) == [Outcome.APPLIED]


def test_nothing_is_lost_or_torn_while_slots_move_under_load(cluster: RedisCluster) -> None:
    entities = ENTITIES[:20]
    reached = dict.fromkeys(entities, NEVER)
    torn: list[Any] = []
    stop = threading.Event()

    def count_up(entity: bytes) -> None:
        with connect(cluster, timeout="5s") as store:
            while not stop.is_set():
                (outcome,) = store.merge([write(entity, reached[entity], reached[entity] + 1)])
                assert outcome in {Outcome.APPLIED, Outcome.IGNORED}  # ignored: sent again, the answer having been lost
                reached[entity] += 1

    def watch() -> None:
        with connect(cluster, timeout="5s") as store:
            while not stop.is_set():
                keys = [key for entity in entities for key in (header(entity), chunk(entity))]
                found = read(store, *keys)
                torn.extend(pair for pair in zip(found[::2], found[1::2], strict=True) if pair[0] != pair[1])

    threads = [threading.Thread(target=count_up, args=(entity,)) for entity in entities[:4]]
    threads.append(threading.Thread(target=watch))
    for thread in threads:
        thread.start()
    for entity in entities[:4] * 3:
        number = part(entity)
        source = owner(cluster, number)
        target = next(server for server in cluster.servers if server is not source)
        cluster.move_slot(KEYS.slots[number], source, target)
    stop.set()
    for thread in threads:
        thread.join()
    assert torn == []
    assert min(reached[entity] for entity in entities[:4]) > 0
    with connect(cluster) as store:
        for entity in entities[:4]:
            expected = [Section("w", reached[entity], b"%d" % reached[entity])]
            assert read(store, header(entity), chunk(entity)) == [expected, expected]


# Servers that fail


def test_a_primary_that_comes_back_empty_takes_its_parts_marks_with_it(cluster: RedisCluster) -> None:
    with connect(cluster) as store:
        store.merge([write(entity, NEVER, 1) for entity in ENTITIES], {MARK: b"1", b"\x00ready": b"1"})
        lost = cluster.servers[1]
        lost.restart()
        cluster.wait()
        gone = [entity for entity in ENTITIES if owner(cluster, part(entity)) is lost]
        kept = next(entity for entity in ENTITIES if entity not in gone)
        assert get(store, b"\x00ready") == [None]
        assert get(store, header(gone[0]), b"\x00ready") == [None, None]
        assert get(store, header(kept), b"\x00ready")[1] == b"1"
        with pytest.raises(MarkMovedError):
            store.merge([write(gone[0], NEVER, 2)], {MARK: b"2"}, {MARK: b"1"})
        assert get(store, header(gone[0])) == [None]
        store.put({b"\x00f": b"#1"})
        store.merge([write(entity, None, 1) for entity in ENTITIES], {b"\x00ready": b"1"}, {b"\x00f": b"#1"})
        assert get(store, header(gone[0]), b"\x00ready")[1] == b"1"
        assert read(store, *map(header, ENTITIES)) == [[Section("w", 1, b"1")]] * len(ENTITIES)


def test_a_replica_takes_over_from_a_primary_that_is_gone() -> None:
    with running_cluster(replicas=True) as cluster, connect(cluster, timeout="300ms") as store:
        store.merge([write(entity, NEVER, 1) for entity in ENTITIES], {MARK: b"1"})
        for server in cluster.servers:
            with server.client() as client:
                assert client.wait(1, 10_000) == 1
        lost = cluster.servers[0]
        mine = [entity for entity in ENTITIES if owner(cluster, part(entity)) is lost]
        lost.stop()
        with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:"):
            get(store, header(mine[0]))
        cluster.wait(without=lost)
        assert get(store, MARK) == [b"1"]
        assert read(store, *map(header, ENTITIES)) == [[Section("w", 1, b"1")]] * len(ENTITIES)
        assert read_in_loop(store, header(mine[0]), MARK) == get(store, header(mine[0]), MARK)
        assert store.merge([write(entity, 1, 2) for entity in mine], {MARK: b"2"}, {MARK: b"1"}) == [
            Outcome.APPLIED
        ] * len(mine)


def test_a_cluster_that_is_configured_as_a_server_says_so(cluster: RedisCluster) -> None:
    keys = [b"key %d" % n for n in range(50)]
    with closing(RedisStore(RedisSettings.read({"url": cluster.url}))) as store:
        for call in (
            lambda: [get(store, key) for key in keys],
            lambda: get(store, *keys),
            lambda: store.put({MARK: b"1"}),
        ):
            with pytest.raises(OnlineStoreError, match="part of a cluster: say cluster: true"):
                call()
