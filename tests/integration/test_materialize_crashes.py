"""Wherever a job dies, the next run gets log and online store to where an undisturbed one would have left them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore.clock import ManualClock
from featurestore.materialize.context import JobReport, no_hook
from featurestore.materialize.job import materialize
from featurestore.materialize.readers import SourceReader
from featurestore.materialize.rows import RowReader
from featurestore.semantics.windows import DAY, HOUR
from tests.integration.materialize_bench import FIRST, NOW, SECOND, Bench, CutOffError, cut_off_at, definitions

TIMES = (10 * DAY + 1, 11 * DAY + 1, 12 * DAY + 1, NOW)
VIEWS = ("newest", "recent")
STEPS = [
    "started",
    *(f"chunk:{number}" for number in range(1, 7)),
    "read",
    "ranked",
    "rejected",
    "logged",
    "recorded",
    *(f"{step}:{view}" for view in VIEWS for step in ("online", "cut", "view")),
]
COMMITTED = STEPS[STEPS.index("logged") :]


def outcome(bench: Bench) -> dict[str, Any]:
    """Return everything that users see, down to the bytes of the online store, but for the numbers of jobs."""
    rows = [repr(row) for row in bench.rows()]
    cuts = {view.name: [cut.at for cut in bench.store.cuts(view)] for view in bench.views}
    online = {view.name: bench.store.online_view(view).cut() for view in bench.views}
    return {"rows": rows, "values": repr(bench.values(TIMES)), "cuts": cuts, "online": online}


def prepared(folder: Path, *, stream: bool) -> Bench:
    """Return a project with one job done and a source that has changed since."""
    folder.mkdir(exist_ok=True)
    bench = Bench(folder, definitions(stream=stream))
    bench.write(FIRST)
    materialize(bench.context(), bench.views, 0, 11 * DAY)
    bench.write(SECOND)
    return bench


def run(bench: Bench, step: str | None = None) -> list[JobReport]:
    return materialize(bench.context(cut_off_at(step) if step else None), bench.views, 0, NOW)


@pytest.fixture(scope="module", params=[False, True], ids=["batch", "lambda"])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bool, Any, Any]:
    bench = prepared(tmp_path_factory.mktemp("undisturbed"), stream=request.param)
    before = outcome(bench)
    run(bench)
    return request.param, before, outcome(bench)


@pytest.mark.parametrize("step", STEPS)
def test_a_job_that_dies_after_any_step_is_gone_on_with(
    tmp_path: Path, undisturbed: tuple[bool, Any, Any], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, before, after = undisturbed
    bench = prepared(tmp_path, stream=stream)
    read = watched_reads(monkeypatch)
    with pytest.raises(CutOffError):
        run(bench, step)

    bench.restart()
    if step not in COMMITTED:
        assert outcome(bench) == before
    (report,) = run(bench)
    assert outcome(bench) == after
    assert (report.job, report.rows, report.keys) == (2, 7, 5)
    assert bench.states() == ["done", "done"]
    assert len(read) == len(set(read)) == 6
    assert not list((tmp_path / "data" / "offline" / "spool").rglob("*.parquet"))


def watched_reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list that gets the bounds of each chunk that is read from now on."""
    read: list[tuple[int, int]] = []
    tables = RowReader.tables

    def watched(self: RowReader, start: int, end: int, *, timeless: bool = True) -> Iterator[pa.Table]:
        read.append((start, end))
        yield from tables(self, start, end, timeless=timeless)

    monkeypatch.setattr(RowReader, "tables", watched)
    return read


@pytest.mark.parametrize("step", ["chunk:3", "rejected"])
@pytest.mark.parametrize("change", ["range", "source", "setting"])
def test_a_job_that_would_not_be_the_same_is_given_up(tmp_path: Path, step: str, change: str) -> None:
    bench = prepared(tmp_path, stream=False)
    with pytest.raises(CutOffError):
        run(bench, step)
    bench.restart()
    context = bench.context()
    if change == "range":
        materialize(context, bench.views, 0, NOW - 1)
    elif change == "source":
        bench.write([*SECOND, (1, 20 * DAY, 9.0, "newer")])
        materialize(context, bench.views, 0, NOW)
        assert bench.rows()[2][4:] == (9.0, "newer")
    else:
        materialize(replace(context, max_future_skew=5), bench.views, 0, NOW)
    assert bench.states() == ["done", "failed", "done"]
    assert not list((tmp_path / "data" / "offline" / "spool").rglob("*.parquet"))


@pytest.mark.parametrize("hours", [23, 25])
def test_chunks_of_a_source_without_a_version_are_used_for_a_day(
    tmp_path: Path, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SourceReader, "version", lambda _: None)
    bench = prepared(tmp_path, stream=False)
    wall = ManualClock(NOW)
    context = replace(bench.context(cut_off_at("chunk:2")), wall=wall.now)
    with pytest.raises(CutOffError):
        materialize(context, bench.views, 0, NOW)
    read = watched_reads(monkeypatch)
    wall.set(NOW + hours * HOUR)
    materialize(replace(context, hook=no_hook), bench.views, 0, NOW)
    assert bench.states() == (["done", "done"] if hours < 24 else ["done", "failed", "done"])
    assert len(read) == (4 if hours < 24 else 6)


@pytest.mark.parametrize("step", COMMITTED)
def test_any_later_job_finishes_one_that_the_log_holds(
    tmp_path: Path, undisturbed: tuple[bool, Any, Any], step: str
) -> None:
    stream, _, after = undisturbed
    bench = prepared(tmp_path, stream=stream)
    with pytest.raises(CutOffError):
        run(bench, step)
    bench.restart()
    materialize(bench.context(), bench.views, 0, 1)  # it loads nothing itself
    assert outcome(bench) == after


def test_a_job_that_dies_again_and_again_is_finished_in_the_end(
    tmp_path: Path, undisturbed: tuple[bool, Any, Any]
) -> None:
    stream, _, after = undisturbed
    bench = prepared(tmp_path, stream=stream)
    for step in ("logged", "recorded", "online:newest", "cut:newest", "view:newest", "online:recent"):
        with pytest.raises(CutOffError):
            run(bench, step)
        bench.restart()
    run(bench)
    assert outcome(bench) == after


def test_a_store_that_lost_its_data_gets_it_back_with_the_next_job(
    tmp_path: Path, undisturbed: tuple[bool, Any, Any]
) -> None:
    stream, _, after = undisturbed
    bench = prepared(tmp_path, stream=stream)
    run(bench)
    bench.online.delete(bench.online.scan(b""))
    bench.restart()
    materialize(bench.context(), bench.views, 0, 1)
    assert outcome(bench) == after


def test_online_state_that_missed_a_job_is_written_whole(tmp_path: Path, undisturbed: tuple[bool, Any, Any]) -> None:
    """A store restored from before a job: its mark tells."""
    stream, _, after = undisturbed
    bench = prepared(tmp_path, stream=stream)
    kept = {key: bench.online.get([key])[0] for key in bench.online.scan(b"")}
    run(bench)
    bench.online.delete(bench.online.scan(b""))
    bench.online.put(kept)
    bench.restart()
    materialize(bench.context(), bench.views, 0, 1)
    assert outcome(bench) == after
