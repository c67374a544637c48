"""Dead letters can be replayed once their cause is gone, each at most once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featurestore.clock import ManualClock
from featurestore.semantics.windows import DAY, HOUR
from featurestore.streaming.apply import Loop
from featurestore.streaming.deadletters import ReplayReport, count_by_reason, replay
from tests.unit.streaming_bench import NOON, Bench, Crash, Stream, crash_at, eventful

CLOCK = ManualClock(NOON + 2 * DAY)  # the trip that was too far in the future is near by now


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    Loop(Stream(eventful()), made.applier()).run()
    return made


def replayed(bench: Bench, **options: Any) -> ReplayReport:
    return replay(bench.applier(**options).logs[0], CLOCK, bench.root / "state")


def test_letters_are_counted_by_reason(bench: Bench) -> None:
    assert count_by_reason(bench.letters()) == {"future": 1, "invalid": 1, "undecodable": 2}


def test_a_letter_that_is_valid_by_now_becomes_a_new_row_with_its_original_position(bench: Bench) -> None:
    report = replayed(bench)
    assert report == ReplayReport(replayed=1, earlier=0, dropped=0, failing={"undecodable": 2, "invalid": 1})
    (row,) = [row for row in bench.logged()["newest"] if row["_writer"].startswith("deadletter/")]
    assert row["_writer"] == f"deadletter/{bench.log().fingerprint}"
    assert (row["driver"], row["km"], row["_origin"]) == (2, 11.0, b"file/trips/a:6")
    assert row["arrival"].day == 3
    assert bench.served([2], NOON + 3 * DAY)["recent__count_1d"] == [0]
    assert bench.served([2], NOON + 3 * DAY + HOUR)["recent__count_1d"] == [1]


def test_replaying_again_changes_nothing(bench: Bench) -> None:
    replayed(bench)
    outcome = bench.outcome(NOON + 4 * DAY)
    assert replayed(bench) == ReplayReport(replayed=0, earlier=1, dropped=0, failing={"undecodable": 2, "invalid": 1})
    assert bench.outcome(NOON + 4 * DAY) == outcome


@pytest.mark.parametrize("step", ["rejected", "logged", "online:newest", "online:recent"])
def test_a_replay_that_dies_is_finished_by_the_next(tmp_path: Path, bench: Bench, step: str) -> None:
    with pytest.raises(Crash):
        replayed(bench, hook=crash_at(step))
    replayed(bench)
    undisturbed = Bench(tmp_path / "undisturbed")
    Loop(Stream(eventful()), undisturbed.applier()).run()
    replayed(undisturbed)
    assert bench.outcome(NOON + 4 * DAY) == undisturbed.outcome(NOON + 4 * DAY)


def test_a_log_without_letters_has_nothing_to_replay(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert replayed(bench) == ReplayReport(replayed=0, earlier=0, dropped=0, failing={})
