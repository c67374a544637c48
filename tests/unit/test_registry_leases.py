"""Leases: one holder at a time, rising tokens, and a fence that a former holder cannot pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from featurestore.registry import Registry
from featurestore.registry.leases import Holder, LeaseHeldError, LeaseLostError
from featurestore.semantics.rows import Cut

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND
HERE, THERE = Holder("here", "m1", 7, "100"), Holder("there", "m2", 8, "200")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with closing(Registry(tmp_path / "registry.db", "test")) as registry:
        yield registry


def take(registry: Registry, holder: Holder, now: int = NOW, dead: tuple[Holder, ...] = ()) -> int:
    return registry.acquire_lease("log", "view trips", holder, now, now + 60 * SECOND, lambda other: other in dead)


def test_a_lease_that_is_held_is_refused_naming_its_holder(registry: Registry) -> None:
    assert take(registry, HERE) == 1
    with pytest.raises(LeaseHeldError, match=r"the log of view trips: process 7 on here; .* its lease ends in 50s\)"):
        take(registry, THERE, NOW + 10 * SECOND)
    assert registry.acquire_lease("other log", "v", THERE, NOW, NOW + 1, lambda _: False) == 1


def test_a_lease_is_free_once_given_back_run_out_or_its_holder_dead(registry: Registry) -> None:
    registry.release_lease("log", take(registry, HERE))
    assert take(registry, THERE) == 2
    assert take(registry, HERE, NOW + 60 * SECOND) == 3
    assert take(registry, THERE, NOW + 60 * SECOND, dead=(HERE,)) == 4


def test_whether_a_lease_is_held_is_told_without_taking_it(registry: Registry) -> None:
    def is_held(now: int = NOW, log: str = "log", *dead: Holder) -> bool:
        return registry.lease_is_held(log, now, lambda other: other in dead)

    assert not is_held()
    token = take(registry, HERE)
    assert is_held()
    assert not is_held(NOW + 60 * SECOND)
    assert not is_held(NOW, "other log")
    assert not is_held(NOW, "log", HERE)
    assert registry.renew_lease("log", token, NOW + SECOND)  # asking has taken nothing over
    registry.release_lease("log", token)
    assert not is_held()


def test_a_renewed_lease_holds_for_longer(registry: Registry) -> None:
    token = take(registry, HERE)
    assert registry.renew_lease("log", token, NOW + 100 * SECOND)
    with pytest.raises(LeaseHeldError):
        take(registry, THERE, NOW + 99 * SECOND)


def test_a_former_holder_can_neither_renew_nor_give_back_nor_write(registry: Registry) -> None:
    old = take(registry, HERE)
    number = registry.start_job("log", "view", 0, 10, -1, NOW, token=old)
    new = take(registry, THERE, dead=(HERE,))

    assert not registry.renew_lease("log", old, NOW + 999 * SECOND)
    registry.release_lease("log", old)
    for write in (
        lambda: registry.start_job("log", "view", 0, 10, -1, NOW, token=old),
        lambda: registry.update_job("log", number, "done", token=old),
        lambda: registry.record_cut("view", "log", Cut(1, 1), token=old),
    ):
        with pytest.raises(LeaseLostError, match="another process took over the jobs of log log"):
            write()
    assert [(job.number, job.state) for job in registry.jobs("log")] == [(1, "started")]
    assert registry.cuts("view", "log") == []
    registry.update_job("log", number, "done", token=new)
    with pytest.raises(LeaseHeldError, match="process 8 on there"):
        take(registry, HERE)


def test_of_many_at_once_one_gets_it(registry: Registry) -> None:
    registry.release_lease("log", take(registry, HERE))
    outcomes: list[int | str] = []
    start = threading.Barrier(6)

    def work(pid: int) -> None:
        start.wait()
        try:
            outcomes.append(take(registry, HERE._replace(pid=pid)))
        except LeaseHeldError:
            outcomes.append("held")

    threads = [threading.Thread(target=work, args=(pid,)) for pid in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == ["2", *["held"] * 5]
