"""Wherever a job dies, the next run gets log and online store to where an undisturbed one would have left them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featurestore.materialize.job import materialize
from featurestore.semantics.windows import DAY
from tests.integration.materialize_bench import FIRST, NOW, SECOND, Bench, CutOffError, cut_off_at, definitions

TIMES = (10 * DAY + 1, 11 * DAY + 1, 12 * DAY + 1, NOW)
VIEWS = ("newest", "recent")
STEPS = [
    "started",
    "read",
    "rejected",
    "logged",
    "recorded",
    *(f"{step}:{view}" for view in VIEWS for step in ("online", "cut", "view")),
]
COMMITTED = STEPS[STEPS.index("logged") :]


def outcome(bench: Bench) -> dict[str, Any]:
    """Return everything that users see, without job numbers."""
    rows = sorted(repr(row[:3] + row[4:]) for row in bench.rows())
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


def run(bench: Bench, step: str | None = None) -> None:
    materialize(bench.context(cut_off_at(step) if step else None), bench.views, 0, NOW)


@pytest.fixture(scope="module", params=[False, True], ids=["batch", "lambda"])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bool, Any, Any]:
    bench = prepared(tmp_path_factory.mktemp("undisturbed"), stream=request.param)
    before = outcome(bench)
    run(bench)
    return request.param, before, outcome(bench)


@pytest.mark.parametrize("step", STEPS)
def test_a_job_that_dies_after_any_step_is_finished_or_done_again(
    tmp_path: Path, undisturbed: tuple[bool, Any, Any], step: str
) -> None:
    stream, before, after = undisturbed
    bench = prepared(tmp_path, stream=stream)
    with pytest.raises(CutOffError):
        run(bench, step)

    bench.restart()
    if step not in COMMITTED:
        assert outcome(bench) == before
    run(bench)
    assert outcome(bench) == after
    assert bench.states() == ["done", "failed" if step not in COMMITTED else "done", "done"]
    assert not list((tmp_path / "data" / "offline" / "spool").rglob("*.parquet"))


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
