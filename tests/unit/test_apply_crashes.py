"""Wherever a process dies, the next one gets the stores to where an undisturbed run would have left them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from featurestore.online.memory import MemoryStore
from featurestore.streaming.apply import Loop
from tests.unit.streaming_bench import Bench, Crash, Stream, crash_at, eventful

# Batches of four make three batches; "rejected" and "logged" happen once per log.
SCRIPTS = [
    *((step, times, 4) for times in (1, 2) for step in ("decoded", "online:newest", "online:recent", "committed")),
    *((step, times, 4) for times in (1, 2, 3, 4) for step in ("rejected", "logged")),
    *((step, 1, 100) for step in ("rejected", "logged", "online:newest", "online:long")),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    bench = Bench(tmp_path_factory.mktemp("undisturbed"))
    Loop(Stream(eventful()), bench.applier(), limit=100).run()
    return bench.outcome()


@pytest.mark.parametrize(("step", "times", "limit"), SCRIPTS)
def test_a_crash_after_any_step_loses_and_doubles_nothing(
    tmp_path: Path, undisturbed: dict[str, Any], step: str, times: int, limit: int
) -> None:
    committed: dict[str, int] = {}
    bench = Bench(tmp_path)
    with pytest.raises(Crash):
        Loop(Stream(eventful(), committed), bench.applier(crash_at(step, times)), limit=limit).run()

    # The batches of the second process need not be those of the first.
    Loop(Stream(eventful(), committed), bench.applier(), limit=5).run()

    assert bench.outcome() == undisturbed
    assert committed == {"file/trips/a": 11}


def test_crash_upon_crash_still_arrives(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    bench = Bench(tmp_path)
    for step in ("logged", "online:newest", "rejected", "online:long", "online:recent", "logged"):
        with pytest.raises(Crash):
            Loop(Stream(eventful()), bench.applier(crash_at(step)), limit=2).run()
    Loop(Stream(eventful()), bench.applier()).run()
    assert bench.outcome() == undisturbed


def test_a_failed_step_can_be_tried_again_by_the_same_loop(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    bench = Bench(tmp_path)
    loop = Loop(Stream(eventful()), bench.applier(crash_at("logged", 2)), limit=4)
    with pytest.raises(Crash):
        loop.run()
    loop.run()
    assert bench.outcome() == undisturbed


def test_a_lost_online_store_is_filled_from_the_log(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    bench = Bench(tmp_path)
    Loop(Stream(eventful()[:6]), bench.applier()).run()
    bench.store = MemoryStore()
    Loop(Stream(eventful()), bench.applier()).run()
    assert bench.outcome() == undisturbed


def test_an_online_store_that_goes_missing_in_mid_run_is_filled_from_the_log(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    bench = Bench(tmp_path)
    store = MemoryStore()
    bench.store = store
    loop = Loop(Stream(eventful()), bench.applier(), limit=6)
    loop.step()
    marks = {key: None for key in store.scan(b"") if b"ready" in key}
    store.delete([key for key in store.scan(b"") if key not in marks])
    loop.run()
    assert bench.outcome() == undisturbed


def test_two_loops_at_once_and_one_that_wakes_up_late_change_nothing(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    bench = Bench(tmp_path)
    quick = Loop(Stream(eventful()), bench.applier(), limit=3)
    zombie = Loop(Stream(eventful()), bench.applier(), limit=5)
    zombie.step()  # 0 to 4
    quick.step()  # 0 to 2: all seen
    quick.step()  # 3 to 5: one is new
    quick.step()
    zombie.step()  # 5 to 9: one is new
    while quick.step() + zombie.step():
        pass
    assert bench.outcome() == undisturbed


def test_a_zombie_between_log_and_online_store_changes_nothing(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    bench = Bench(tmp_path)
    other = Loop(Stream(eventful()), bench.applier(), limit=100)

    def overtake(step: str) -> None:
        if step == "logged":
            other.run()

    Loop(Stream(eventful()), bench.applier(overtake), limit=4).run()
    assert bench.outcome() == undisturbed


def test_a_zombie_that_appends_first_and_dies_changes_nothing(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    bench = Bench(tmp_path)

    def overtake(step: str) -> None:
        if step == "rejected":
            with suppress(Crash):
                Loop(Stream(eventful()), bench.applier(crash_at("logged")), limit=3).run()

    Loop(Stream(eventful()), bench.applier(overtake), limit=4).run()
    assert bench.outcome() == undisturbed
