"""Jobs killed for good, at every step, in processes of their own: run again, they end as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.clock import ManualClock
from featurestore.config import Config
from featurestore.materialize.job import materialize
from featurestore.materialize.rows import RowReader
from featurestore.offline.deadletters import DeadLetters
from featurestore.registry.leases import LeaseHeldError
from featurestore.semantics.windows import DAY
from featurestore.store import FeatureStore
from tests.integration.materialize_bench import FIRST, NOW, SECOND, SourceRow, definitions

VIEWS = definitions(stream=True)
BAD: SourceRow = (None, 11 * DAY, 1.0, "no key")
STEPS = [
    "started",
    "chunk:1",
    "chunk:4",
    "read",
    "ranked",
    "rejected",
    "logged",
    "recorded",
    *(f"{step}:{view}" for view in ("newest", "recent") for step in ("online", "cut", "view")),
]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])  # or each process would take a second to import everything


def write(folder: Path, rows: list[SourceRow]) -> None:
    drivers, times, amounts, notes = zip(*rows, strict=True)
    types = {"driver": pa.int64(), "ts": pa.timestamp("us"), "amount": pa.float64(), "note": pa.string()}
    columns = (drivers, times, amounts, notes)
    table = pa.table([pa.array(c, t) for c, t in zip(columns, types.values(), strict=True)], names=list(types))
    pq.write_table(table, folder / "trips.parquet", row_group_size=3)
    os.utime(folder / "trips.parquet", ns=(1, len(rows)))


def opened(folder: Path) -> closing[FeatureStore]:
    return closing(FeatureStore(config=Config(project="bench", repo_path=folder), clock=ManualClock(NOW)))


def run(folder: Path, hook: Callable[[str], None] | None = None) -> list[Any]:
    """Run a job in this process, noting each chunk that is read, and when its first rows came."""
    tables = RowReader.tables

    def watched(self: RowReader, start: int, end: int, *, timeless: bool = True) -> Iterator[pa.Table]:
        with folder.joinpath("reads").open("a") as file:
            file.write(f"{start}\n")
        for table in tables(self, start, end, timeless=timeless):
            yield table
            if hook is not None:
                hook(f"inside:{start}")

    with opened(folder) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowReader, "tables", watched)
        context = store._jobs() if hook is None else replace(store._jobs(), hook=hook)
        return materialize(context, VIEWS, 0, NOW)


def run_and_die(folder: Path, step: str) -> None:
    def hook(done: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    run(folder, hook)


def killed_at(folder: Path, step: str) -> None:
    process = PROCESSES.Process(target=run_and_die, args=(folder, step))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def stored(folder: Path) -> dict[str, Any]:
    """Return everything that is stored, online to the byte."""
    with opened(folder) as store:
        log = store.log(VIEWS[0])
        rows = pa.Table.from_batches(log.sorted_rows(), log.schema)
        letters = DeadLetters(folder / "data" / "offline", log.fingerprint).read()
        keys = sorted(store.online_store.scan(b""))
        with store.online_store.snapshot() as snapshot:
            values = snapshot.get(keys)
        return {
            "rows": repr(rows.to_pylist()),
            "letters": letters.drop_columns(["arrival"]).to_pylist(),
            "online": dict(zip(keys, values, strict=True)),
            "jobs": [(job.number, job.state, job.started) for job in store.registry.jobs(log.fingerprint)],
            "cuts": {view.name: store.cuts(view) for view in VIEWS},
        }


def reads(folder: Path) -> list[int]:
    return [int(line) for line in folder.joinpath("reads").read_text().splitlines()]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with one job done and a source that has changed since."""
    folder = tmp_path_factory.mktemp("project")
    write(folder, FIRST)
    with opened(folder) as store:
        store.apply(VIEWS)
    run(folder)
    write(folder, [*SECOND, BAD])
    folder.joinpath("reads").unlink()
    return folder


@pytest.fixture(scope="module")
def undisturbed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[int]]:
    folder = shutil.copytree(project, tmp_path_factory.mktemp("undisturbed") / "project")
    run(folder)
    return stored(folder), reads(folder)


@pytest.fixture
def folder(project: Path, tmp_path: Path) -> Path:
    return shutil.copytree(project, tmp_path / "project")


@pytest.mark.parametrize("step", STEPS)
def test_a_job_killed_after_a_step_is_gone_on_with(folder: Path, undisturbed: Any, step: str) -> None:
    killed_at(folder, step)
    (report,) = run(folder)
    assert (report.job, report.rows, report.rejected) == (2, 7, 1)
    assert stored(folder) == undisturbed[0]
    assert reads(folder) == undisturbed[1]
    assert len(undisturbed[1]) == 6
    assert list((folder / "data" / "offline" / "spool").rglob("*.*")) == []


def test_a_job_killed_within_a_chunk_reads_that_one_again(folder: Path, undisturbed: Any) -> None:
    start = undisturbed[1][2]
    killed_at(folder, f"inside:{start}")
    run(folder)
    assert stored(folder) == undisturbed[0]
    assert reads(folder) == [*undisturbed[1][:3], *undisturbed[1][2:]]


def test_a_job_killed_again_and_again_ends(folder: Path, undisturbed: Any) -> None:
    for step in STEPS[1::2]:
        killed_at(folder, step)
    run(folder)
    assert stored(folder) == undisturbed[0]
    assert reads(folder) == undisturbed[1]


def run_until_told(folder: Path, step: str, pipe: Connection) -> None:
    def hook(done: str) -> None:
        if done == step:
            pipe.send(os.getpid())
            pipe.recv()

    run(folder, hook)


@pytest.mark.parametrize("step", ["chunk:2", "logged"])
def test_a_job_in_another_process_is_named_and_its_lease_free_once_it_is_killed(
    folder: Path, undisturbed: Any, step: str
) -> None:
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=run_until_told, args=(folder, step, there))
    process.start()
    pid = here.recv()
    with pytest.raises(LeaseHeldError, match=f"the log of newest, recent: process {pid} on "):
        run(folder)
    process.kill()
    process.join(60)
    run(folder)
    assert stored(folder) == undisturbed[0]
    assert reads(folder) == undisturbed[1]
    here.close()
    there.close()
