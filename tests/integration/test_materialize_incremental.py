"""Incremental runs: by table version where there is one, else by an overlap; gone on with where they were cut off."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from featurestore.definitions import FileSource
from featurestore.materialize.context import JobReport
from featurestore.materialize.job import materialize, materialize_incremental
from featurestore.semantics.windows import DAY, HOUR
from tests.integration.materialize_bench import FIRST, NOW, Bench, CutOffError, SourceRow, cut_off_at, definitions
from tests.integration.test_materialize_crashes import watched_reads

TABLE = "trips_table"


def ranges(reports: Sequence[JobReport]) -> list[tuple[int, int]]:
    return [(report.start, report.end) for report in reports]


def catch_up(bench: Bench, end: int, **options: Any) -> list[tuple[int, int]]:
    return ranges(materialize_incremental(bench.context(), bench.views, end, **options))


def delta_bench(folder: Path, **options: Any) -> Bench:
    views = definitions(**options)
    source = FileSource("trips", path=TABLE, timestamp_field="ts", file_format="delta")
    return Bench(folder, [type(view)(**{**fields(view), "source": source}) for view in views])


def fields(view: Any) -> dict[str, Any]:
    names = ("name", "entities", "schema", "aggregations", "transform")
    return {name: getattr(view, name) for name in names if getattr(view, name, None)}


def table(rows: Sequence[SourceRow]) -> pa.Table:
    drivers, times, amounts, notes = zip(*rows, strict=True)
    return pa.table(
        {
            "driver": pa.array(drivers, pa.int64()),
            "ts": pa.array(times, pa.timestamp("us", "UTC")),
            "amount": pa.array(amounts, pa.float64()),
            "note": pa.array(notes, pa.string()),
        }
    )


def add(bench: Bench, *rows: SourceRow) -> None:
    write_deltalake(str(bench.folder / TABLE), table(rows), mode="append")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a project whose Delta table has a file per day, all loaded."""
    tmp_path.joinpath(TABLE).mkdir()
    write_deltalake(str(tmp_path / TABLE), table([(0, 10 * DAY, 0.0, "first")]))
    bench = delta_bench(tmp_path)
    for day in range(11, 20):
        add(bench, (1, day * DAY + 5, float(day), "old"))
    assert catch_up(bench, 20 * DAY) == [(10 * DAY, 20 * DAY)]
    return bench


def test_of_a_delta_table_the_days_of_changed_files_are_covered(bench: Bench) -> None:
    assert catch_up(bench, 20 * DAY) == []
    add(bench, (2, 12 * DAY + 7, 1.0, "late"), (2, 13 * DAY + 7, 1.0, "late"))
    add(bench, (2, 20 * DAY + 7, 1.0, "new"), (2, 40 * DAY, 1.0, "not yet"))
    delta = DeltaTable(str(bench.folder / TABLE))
    delta.delete("note = 'first'")
    delta.update({"amount": "0.5"}, predicate="amount = 15.0")
    assert catch_up(bench, 22 * DAY) == [
        (10 * DAY, 11 * DAY),
        (12 * DAY, 14 * DAY),
        (15 * DAY, 16 * DAY),
        (20 * DAY, 22 * DAY),
    ]

    notes = sorted((row[5], row[4]) for row in bench.rows())
    assert notes == [
        ("late", 1.0),
        ("late", 1.0),
        ("new", 1.0),
        *sorted(("old", d) for d in (0.5, 11, 12, 13, 14, 16, 17, 18, 19)),
    ]
    assert catch_up(bench, 41 * DAY) == [(22 * DAY, 41 * DAY)]
    assert len(bench.rows()) == len(notes) + 1


def test_what_an_explicit_job_read_in_between_is_not_taken_for_known(bench: Bench) -> None:
    add(bench, (2, 12 * DAY + 7, 1.0, "late"))
    materialize(bench.context(), bench.views, 18 * DAY, 21 * DAY)
    assert catch_up(bench, 21 * DAY) == [(12 * DAY, 13 * DAY), (20 * DAY, 21 * DAY)]


def test_a_table_made_anew_is_read_back_by_the_overlap(bench: Bench) -> None:
    shutil.rmtree(bench.folder / TABLE)
    write_deltalake(str(bench.folder / TABLE), table([(3, 19 * DAY, 3.0, "other table")]))
    assert catch_up(bench, 20 * DAY, overlap=2 * DAY) == [(18 * DAY, 20 * DAY)]
    assert "other table" in {row[5] for row in bench.rows()}


def test_the_overlap_is_the_callers(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(FIRST)
    catch_up(bench, 12 * DAY)
    store = bench.store
    assert ranges(store.materialize_incremental(13 * DAY, overlap=timedelta(hours=1))) == [(12 * DAY - HOUR, 13 * DAY)]
    assert ranges(store.materialize_incremental(14 * DAY)) == [(12 * DAY, 14 * DAY)]


@pytest.mark.parametrize("end", [22 * DAY, 23 * DAY])
@pytest.mark.parametrize("step", ["chunk:1", "ranked", "logged", "online:newest"])
def test_a_run_of_several_ranges_is_gone_on_with(
    bench: Bench, step: str, end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(bench, (2, 12 * DAY + 7, 1.0, "late"))
    add(bench, (2, 15 * DAY + 7, 1.0, "late"))
    calls: list[str] = []

    def in_the_second(done: str) -> None:
        calls.append(done)
        if calls.count("done") == 1:
            cut_off_at(step)(done)

    read = watched_reads(monkeypatch)
    with pytest.raises(CutOffError):
        materialize_incremental(bench.context(in_the_second), bench.views, 22 * DAY)
    bench.clock.set(NOW + DAY)
    bench.restart()
    more = [(22 * DAY, 23 * DAY)] if end > 22 * DAY else []
    assert catch_up(bench, end) == [(15 * DAY, 16 * DAY), (20 * DAY, 22 * DAY), *more]
    assert len(read) == len(set(read))
    jobs = bench.store.registry.jobs(bench.log.fingerprint)
    assert [job.started for job in jobs[:4]] == [NOW] * 4
    assert set(bench.states()) == {"done"}
    assert catch_up(bench, end) == []


def test_progress_tells_each_step(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(FIRST)
    told: list[tuple[str, int, int | None]] = []
    with pytest.raises(CutOffError):
        materialize(bench.context(cut_off_at("chunk:2")), bench.views, 0, NOW)
    materialize(bench.context(), bench.views, 0, NOW, lambda *step: told.append(step))
    assert [(step.removeprefix("newest, recent: "), done, total) for step, done, total in told] == [
        ("going on with job 1", 0, None),
        ("reading 3 rows", 3, None),
        ("reading 6 rows", 6, None),
        ("read 6 rows", 7, 50),
        ("read 6 rows", 15, 50),
        ("read 6 rows", 31, 50),
        ("read 6 rows", 50, 50),
        ("logged", 0, None),
        ("online newest", 0, None),
        ("online recent", 0, None),
        ("done", 0, None),
    ]
