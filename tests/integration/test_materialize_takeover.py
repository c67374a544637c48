"""A job that stood still for so long that another process took it over writes nothing more, wherever it wakes up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featurestore.clock import ManualClock
from featurestore.errors import SourceError
from featurestore.materialize.context import no_hook
from featurestore.materialize.job import materialize
from featurestore.materialize.lease import LEASE_MICROS, this_process
from featurestore.offline.log import RowLog
from featurestore.registry.leases import LeaseLostError
from tests.integration.materialize_bench import NOW, Bench
from tests.integration.test_materialize_crashes import COMMITTED, STEPS, outcome, prepared

Work = Callable[[], Any]


def run(bench: Bench, wall: ManualClock, hook: Callable[[str], None] = no_hook, end: int = NOW) -> Any:
    return materialize(replace(bench.context(hook), wall=wall.now), bench.views, 0, end)


def taken_over_at(step: str, wall: ManualClock, taker: Work) -> Callable[[str], None]:
    """Return a hook that lets a job sleep at a step until its lease has run out and another has done its work."""
    over: list[str] = []

    def hook(done: str) -> None:
        if done == step and not over:
            over.append(done)
            wall.set(wall.now() + LEASE_MICROS + 1)
            taker()

    return hook


@pytest.fixture(scope="module", params=[False, True], ids=["batch", "lambda"])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bool, Any]:
    bench = prepared(tmp_path_factory.mktemp("undisturbed"), stream=request.param)
    run(bench, ManualClock(NOW))
    return request.param, outcome(bench)


@pytest.mark.parametrize("step", [step for step in STEPS if step not in {"chunk:3", "chunk:4", "chunk:5"}])
def test_whoever_takes_a_job_over_finishes_it_and_the_former_stops(
    tmp_path: Path, undisturbed: tuple[bool, Any], step: str
) -> None:
    stream, after = undisturbed
    bench, wall = prepared(tmp_path, stream=stream), ManualClock(NOW)
    seen: list[str] = []

    def taker() -> None:
        run(bench, wall)
        seen.append(repr(outcome(bench)))

    with pytest.raises(LeaseLostError, match="another process took over the jobs of log"):
        run(bench, wall, taken_over_at(step, wall, taker))
    assert seen == [repr(after)]
    assert outcome(bench) == after
    assert bench.states() == ["done", "done"]
    run(bench, wall)
    assert outcome(bench) == after


@pytest.mark.parametrize("step", ["chunk:2", "ranked", "rejected"])
def test_a_job_that_was_given_up_meanwhile_does_not_commit(tmp_path: Path, step: str) -> None:
    bench, wall = prepared(tmp_path, stream=True), ManualClock(NOW)
    seen: list[Any] = []

    def taker() -> None:
        run(bench, wall, end=NOW - 1)
        seen.append((outcome(bench), bench.log.version()))

    with pytest.raises(LeaseLostError):
        run(bench, wall, taken_over_at(step, wall, taker))
    assert [(outcome(bench), bench.log.version())] == seen
    assert bench.states() == ["done", "failed", "done"]


def asleep_before_the_commit(monkeypatch: pytest.MonkeyPatch, wall: ManualClock, taker: Work) -> None:
    """Let the next commit wait, after its lease was checked, until the lease has run out and another has worked."""
    replaced = RowLog.replace

    def late(self: RowLog, *arguments: Any) -> None:
        monkeypatch.setattr(RowLog, "replace", replaced)
        wall.set(wall.now() + LEASE_MICROS + 1)
        taker()
        replaced(self, *arguments)

    monkeypatch.setattr(RowLog, "replace", late)


def test_a_commit_that_comes_after_that_of_whoever_took_over_counts_for_nothing(
    tmp_path: Path, undisturbed: tuple[bool, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, after = undisturbed
    bench, wall = prepared(tmp_path, stream=stream), ManualClock(NOW)
    asleep_before_the_commit(monkeypatch, wall, lambda: run(bench, wall))
    with pytest.raises(LeaseLostError):
        run(bench, wall)
    assert outcome(bench) == after
    assert bench.states() == ["done", "done"]


def test_a_commit_of_a_job_that_was_given_up_reaches_the_online_store_with_the_next(
    tmp_path: Path, undisturbed: tuple[bool, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one moment that no lease guards: between its last check and the commit. What the log holds gets published."""
    stream, after = undisturbed
    bench, wall = prepared(tmp_path, stream=stream), ManualClock(NOW)
    registry, log = bench.store.registry, bench.log.fingerprint

    def give_up() -> None:
        holder = this_process()._replace(pid=1)
        token = registry.acquire_lease(log, "", holder, wall.now(), wall.now() + 1, lambda _: False)
        registry.update_job(log, 2, "failed", token=token)
        registry.release_lease(log, token)

    asleep_before_the_commit(monkeypatch, wall, give_up)
    with pytest.raises(LeaseLostError):
        run(bench, wall)
    assert bench.states() == ["done", "failed"]
    run(bench, wall, end=1)
    assert outcome(bench) == after
    assert bench.states() == ["done", "done", "done"]


@pytest.mark.parametrize("step", COMMITTED)
def test_a_lease_that_ran_out_unnoticed_does_no_harm(tmp_path: Path, undisturbed: tuple[bool, Any], step: str) -> None:
    stream, after = undisturbed
    bench, wall = prepared(tmp_path, stream=stream), ManualClock(NOW)
    run(bench, wall, taken_over_at(step, wall, lambda: None))
    assert outcome(bench) == after


def test_a_source_that_fails_in_the_middle_frees_the_lease(tmp_path: Path) -> None:
    bench, wall = prepared(tmp_path, stream=False), ManualClock(NOW)
    tmp_path.joinpath("trips.parquet").write_bytes(b"broken")
    with pytest.raises(SourceError):
        run(bench, wall)
    bench.write([(1, 1, 1.0, "mended")])
    assert run(bench, wall)[0].rows == 1
