"""The embedded store among processes: many read while one writes and the map grows; a killed writer spoils nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from featurestore.online import lmdb as lmdb_module
from featurestore.online.contract import NEVER, Outcome, SectionWrite
from featurestore.online.framing import parse
from featurestore.online.lmdb import LmdbStore

CONTEXT = multiprocessing.get_context("spawn")
GROUPS = 20
CHUNKS = 4
ROUNDS = 60
FIRST_SIZE = 1 << 18
READERS = 3
PATIENCE = 60


def group(number: int, sequence: int, *, after: int) -> SectionWrite:
    """Return a write whose header and chunks all hold the sequence, and grow with it."""
    payload = b"%d" % sequence * (1 + sequence * 64)
    chunks = {b"c%d.%d" % (number, chunk): payload for chunk in range(CHUNKS)}
    return SectionWrite(b"h%d" % number, "w", after, sequence, payload, chunks)


def keys_of(number: int) -> list[bytes]:
    return [b"h%d" % number, *(b"c%d.%d" % (number, chunk) for chunk in range(CHUNKS))]


def sequences(store: LmdbStore, number: int) -> set[int]:
    """Return the sequences that one snapshot shows in a group's header and chunks: one, or the group is torn."""
    with store.snapshot() as snapshot:
        found = set()
        for key in keys_of(number):
            (value,) = snapshot.get([key])
            if value is None:
                found.add(NEVER)
                continue
            (section,) = parse(value)
            assert section.payload == group(0, section.sequence, after=NEVER).payload
            found.add(section.sequence)
        return found


def write_rounds(path: Path, rounds: int, first: int = 0) -> None:
    lmdb_module._FIRST_SIZE = FIRST_SIZE
    with closing(LmdbStore(path)) as store:
        for sequence in range(first, rounds):
            writes = [group(number, sequence, after=sequence - 1) for number in range(GROUPS)]
            outcomes = store.merge(writes, {b"\x00done": b"%d" % sequence})
            assert outcomes == [Outcome.APPLIED] * GROUPS


def read_until_done(path: Path, opened: Event, results: Any) -> None:
    """Read groups over and over; tell what was torn, and whether what is seen ever went back."""
    lmdb_module._FIRST_SIZE = FIRST_SIZE
    torn, back, seen = [], 0, dict.fromkeys(range(GROUPS), NEVER)
    with closing(LmdbStore(path)) as store:
        opened.set()
        while min(seen.values()) < ROUNDS - 1:
            for number in range(GROUPS):
                found = sequences(store, number)
                if len(found) > 1:
                    torn.append((number, found))
                back += max(found) < seen[number]
                seen[number] = max(found)
    results.put((torn, back))


def write_until_killed(path: Path, begun: Event) -> None:
    lmdb_module._FIRST_SIZE = FIRST_SIZE
    store = LmdbStore(path)
    sequence = 0
    while True:
        store.merge([group(number, sequence, after=sequence - 1) for number in range(GROUPS)])
        sequence += 1
        if sequence == 5:
            begun.set()


@pytest.fixture
def started() -> Iterator[list[Any]]:
    """Return a list of processes that are ended after the test."""
    processes: list[Any] = []
    yield processes
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join(PATIENCE)


def start(started: list[Any], target: Any, *arguments: Any) -> Any:
    process = CONTEXT.Process(target=target, args=arguments, daemon=True)
    process.start()
    started.append(process)
    return process


def test_readers_see_whole_groups_while_another_process_writes_and_the_map_grows(
    tmp_path: Path, started: list[Any]
) -> None:
    results = CONTEXT.Queue()
    opened = [CONTEXT.Event() for _ in range(READERS)]
    for event in opened:
        start(started, read_until_done, tmp_path, event, results)
    assert all(event.wait(PATIENCE) for event in opened)
    write_rounds(tmp_path, ROUNDS)
    assert [results.get(timeout=PATIENCE) for _ in range(READERS)] == [([], 0)] * READERS
    assert (tmp_path / "data.mdb").stat().st_size > 2 * FIRST_SIZE, "the map had to grow"


@pytest.mark.parametrize("attempt", range(3))
def test_a_killed_writer_leaves_whole_groups_that_the_next_one_continues(
    tmp_path: Path, started: list[Any], attempt: int
) -> None:
    begun = CONTEXT.Event()
    writer = start(started, write_until_killed, tmp_path, begun)
    with closing(LmdbStore(tmp_path)) as reader:
        assert begun.wait(PATIENCE)
        while max(sequences(reader, 0)) < 10 * (attempt + 1):
            pass
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(PATIENCE)
        (last,) = {sequence for number in range(GROUPS) for sequence in sequences(reader, number)}
        assert last >= 10 * (attempt + 1)
    with closing(LmdbStore(tmp_path)) as store:
        assert {sequence for number in range(GROUPS) for sequence in sequences(store, number)} == {last}
        writes = [group(number, last + 1, after=last) for number in range(GROUPS)]
        assert store.merge(writes) == [Outcome.APPLIED] * GROUPS


def test_threads_read_while_another_thread_makes_the_map_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_module, "_FIRST_SIZE", FIRST_SIZE)
    torn: list[set[int]] = []
    done = threading.Event()
    with closing(LmdbStore(tmp_path)) as store:

        def read() -> None:
            while not done.wait(0.001):  # else the readers would hold the interpreter most of the time
                torn.extend(found for number in range(GROUPS) if len(found := sequences(store, number)) > 1)

        threads = [threading.Thread(target=read) for _ in range(READERS)]
        for thread in threads:
            thread.start()
        try:
            for sequence in range(ROUNDS):
                store.merge([group(number, sequence, after=sequence - 1) for number in range(GROUPS)])
        finally:
            done.set()
            for thread in threads:
                thread.join(PATIENCE)
        assert not torn
        assert {max(sequences(store, number)) for number in range(GROUPS)} == {ROUNDS - 1}
