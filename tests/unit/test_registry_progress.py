"""Jobs and cuts: what is recorded of the way stored data has come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from featurestore.errors import RegistryError
from featurestore.registry import Job, Registry
from featurestore.semantics.rows import Cut
from tests.unit.registry_samples import NOW


@pytest.fixture
def location(tmp_path: Path) -> str | Path:
    return tmp_path / "registry.db"


@pytest.fixture
def registry(location: str | Path) -> Iterator[Registry]:
    with closing(Registry(location, "test")) as registry:
        yield registry


def test_jobs_are_numbered_per_log_from_one(registry: Registry) -> None:
    numbers = [registry.start_job(log, "view", 0, 10, -1, NOW) for log in ("a", "a", "b", "a")]
    assert numbers == [1, 2, 1, 3]
    assert registry.jobs("b") == [Job(1, "view", 0, 10, -1, "started", NOW)]


def test_numbers_are_unique_across_projects_that_share_a_log(registry: Registry, location: str | Path) -> None:
    with closing(Registry(location, "other")) as other:
        assert registry.start_job("a", "view", 0, 10, 0, NOW) == 1
        assert other.start_job("a", "view", 0, 10, 0, NOW) == 2
        assert [job.number for job in other.unfinished_jobs("a")] == [2]


def test_numbers_are_unique_under_concurrency(registry: Registry) -> None:
    numbers: list[int] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        numbers.extend(registry.start_job("a", "view", 0, 10, 0, NOW) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 41))


def test_a_job_is_unfinished_until_it_is_done_or_failed(registry: Registry) -> None:
    for _ in range(4):
        registry.start_job("a", "view", 0, 10, 5, NOW)
    for number, state in ((2, "logged"), (3, "done"), (4, "failed")):
        registry.update_job("a", number, state)
    assert [(job.number, job.state) for job in registry.unfinished_jobs("a")] == [(1, "started"), (2, "logged")]
    registry.update_job("a", 3, "done")


@pytest.mark.parametrize(
    ("number", "state", "message"),
    [
        (1, "finished", "a job cannot be 'finished'; there are: done, failed, logged, started"),
        (9, "done", "job 9 of log a does not exist"),
        (1, "started", "job 1 of log a is done and cannot become started"),
        (1, "failed", "job 1 of log a is done and cannot become failed"),
    ],
)
def test_a_wrong_move_of_a_job_is_refused(registry: Registry, number: int, state: str, message: str) -> None:
    registry.start_job("a", "view", 0, 10, 0, NOW)
    registry.update_job("a", 1, "done")
    with pytest.raises(RegistryError, match=message):
        registry.update_job("a", number, state)
    assert registry.jobs("a")[0].state == "done"


def test_a_job_that_covers_no_time_is_refused(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="covers no time: its start 10 is not before its end 10"):
        registry.start_job("a", "view", 10, 10, 0, NOW)


def test_cuts_only_move_forward(registry: Registry) -> None:
    assert registry.cuts("view", "rows") == []
    assert registry.record_cut("view", "rows", Cut(100, 1)) == Cut(100, 1)
    assert registry.record_cut("view", "rows", Cut(300, 2)) == Cut(300, 2)
    assert registry.record_cut("view", "rows", Cut(200, 3)) == Cut(300, 2)
    assert registry.record_cut("view", "rows", Cut(300, 9)) == Cut(300, 2)
    assert registry.cuts("view", "rows") == [Cut(100, 1), Cut(300, 2)]
    assert registry.cuts("view", "other rows") == []


def test_a_cut_is_in_force_no_earlier_than_the_one_before_it(registry: Registry) -> None:
    registry.record_cut("view", "rows", Cut(100, 50))
    assert registry.record_cut("view", "rows", Cut(200, 40)) == Cut(200, 50)
    assert registry.cuts("view", "rows") == [Cut(100, 50), Cut(200, 50)]


def test_times_before_1970_are_kept(registry: Registry) -> None:
    registry.start_job("a", "view", -5, -1, 0, NOW)
    registry.record_cut("view", "rows", Cut(-100, -50))
    assert (registry.jobs("a")[0].start, registry.cuts("view", "rows")) == (-5, [Cut(-100, -50)])
