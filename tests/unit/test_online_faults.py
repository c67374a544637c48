"""Whatever a store fails with while state is written, the state that comes of it in the end has the same bits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore.errors import StoreUnavailableError
from featurestore.materialize.fill import fill
from featurestore.offline.log import RowLog
from featurestore.online.contract import NEVER, OnlineStore
from featurestore.online.memory import MemoryStore
from featurestore.online.view import OnlineView
from featurestore.testing.conformance import apply_in_batches, fill_log
from featurestore.testing.generate import random_cases
from featurestore.testing.online_faults import ANSWER_LOST, DOWN, Fault, FaultyStore, slow, torn
from featurestore.testing.online_suite import C, H, read, write

FAULTS = (None, DOWN, ANSWER_LOST, torn(1), torn(2), torn(5))
SKEW = 1
PATIENCE = 200


def everything(store: OnlineStore) -> dict[bytes, bytes | None]:
    """Return all that a store holds, but for what tells one filling from another."""
    keys = [key for key in store.scan(b"") if not key.endswith(b"filling")]
    with store.snapshot() as snapshot:
        return dict(zip(keys, snapshot.get(keys), strict=True))


def faulty(seed: int) -> FaultyStore:
    """Return a store that often fails, and in the end no more."""
    random_ = random.Random(seed)
    script = {name: [random_.choice(FAULTS) for _ in range(12)] for name in ("merge", "put", "get")}
    return FaultyStore(MemoryStore(), script)


def until_done(work: Callable[[], object]) -> int:
    """Do work over and over until it does not fail; return how often it failed."""
    for failures in range(PATIENCE):
        try:
            work()
        except StoreUnavailableError:
            continue
        return failures
    raise AssertionError


@pytest.mark.parametrize("seed", range(3))
def test_rows_applied_over_faults_give_the_same_bits(seed: int) -> None:
    failures = 0
    for number, case in enumerate(random_cases(9000 + seed, 60)):
        sizes = ([1], [2, 5], [1000])[number % 3]
        clean = MemoryStore()
        apply_in_batches(OnlineView(clean, "p", case.view, SKEW), case, sizes=sizes)
        store = faulty(1000 * seed + number)
        online = OnlineView(store, "p", case.view, SKEW)
        failures += until_done(lambda: apply_in_batches(online, case, sizes=sizes))  # noqa: B023
        assert everything(store.store) == everything(clean), case
    assert failures > 200


def test_state_filled_over_faults_has_the_same_bits(tmp_path: Path) -> None:
    failures = 0
    for number, case in enumerate(random_cases(9100, 12)):
        log = RowLog(tmp_path / str(number), case.view)
        fill_log(log, case.view, case.rows)
        cut = case.cuts[-1].at if case.cuts else None
        clean = MemoryStore()
        fill(log, OnlineView(clean, "p", case.view, SKEW), cut)
        store = faulty(number)
        online = OnlineView(store, "p", case.view, SKEW)
        failures += until_done(lambda: fill(log, online, cut))  # noqa: B023
        assert everything(store.store) == everything(clean), case
        assert OnlineView(store.store, "p", case.view, SKEW).ready()
    assert failures > 40


def test_a_torn_merge_applies_its_first_writes_and_sets_no_mark() -> None:
    store = FaultyStore(MemoryStore(), {"merge": [torn(1), ANSWER_LOST, DOWN]})
    with pytest.raises(StoreUnavailableError, match=r"call 1 of 'merge' fails"):
        store.merge([write(NEVER, 1, chunks={C: b"1"}), write(1, 2)], {b"\x00m": b"2"})
    assert [section.sequence for section in read(store, H)[0] or []] == [1]
    assert store.scan(b"\x00") == []
    with pytest.raises(StoreUnavailableError):
        store.merge([write(1, 2)], {b"\x00m": b"2"})
    assert store.scan(b"\x00") == [b"\x00m"]
    with pytest.raises(StoreUnavailableError):
        store.merge([write(2, 3)])
    store.merge([write(2, 4)])
    assert [section.sequence for section in read(store, H)[0] or []] == [4]


def test_reads_fail_and_wait_as_scripted() -> None:
    waited: list[float] = []
    script: dict[str, list[Fault | None]] = {"get": [slow(0.5), DOWN, None, DOWN], "scan": [DOWN], "check": [DOWN]}
    store = FaultyStore(MemoryStore(), script, sleep=waited.append)
    store.put({b"a": b"1"})
    with store.snapshot() as snapshot:
        assert snapshot.get([b"a"]) == [b"1"]
        with pytest.raises(StoreUnavailableError):
            snapshot.get([b"a"])
    assert asyncio.run(store.reader().get([b"a"])) == [b"1"]
    with pytest.raises(StoreUnavailableError):
        asyncio.run(store.reader().get([b"a"]))
    for call in (lambda: store.scan(b""), store.check):
        with pytest.raises(StoreUnavailableError):
            call()
    assert waited == [0.5]
    assert store.calls == {"put": 1, "get": 4, "scan": 1, "check": 1}
