"""What the benchmarks report can be relied on: answers are compared to the bit, time and memory are each one's own."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import benchmarks.race
from benchmarks import windows
from benchmarks.agree import differences, kept, reordered
from benchmarks.data import Shape, make
from benchmarks.options import Options
from benchmarks.race import Contestant, ContestantError, Outcome, finish, race
from benchmarks.report import Row, report

ROOT = Path(__file__).resolve().parents[2]
THERE = "tests.unit.benchmark_contestants"
BALLAST = 300_000_000


def answer(rows: list[int], values: list[float | None], dtype: pa.DataType | None = None) -> pa.Table:
    return pa.table({"row": pa.array(rows, pa.int64()), "x": pa.array(values, dtype or pa.float64())})


def test_equal_answers_in_any_order_have_no_differences() -> None:
    right, other = answer([0, 1, 2], [0.1, None, -0.0]), answer([2, 0, 1], [-0.0, 0.1, None])
    assert differences(right, other, ["x"]) == []
    assert reordered(right) == []
    assert reordered(other) == ["rows came back in another order"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (answer([0, 1, 2], [0.1, None, 0.0]), "x: 1 of 3 values differ, such as row 2: -0.0 came back as 0.0"),
        (answer([0, 1, 2], [0.1, 1.0, -0.0]), "x: 1 of 3 values differ, such as row 1: None came back as 1.0"),
        (answer([0, 1, 2], [None, None, -0.0]), "x: 1 of 3 values differ, such as row 0: 0.1 came back as None"),
        (answer([0, 2], [0.1, -0.0]), "1 of 3 rows are missing, such as row 1"),
        (answer([0, 1, 1, 2], [0.1, None, None, -0.0]), "4 rows for 3 labels"),
    ],
)
def test_one_wrong_bit_null_or_row_is_said(other: pa.Table, said: str) -> None:
    assert differences(answer([0, 1, 2], [0.1, None, -0.0]), other, ["x"]) == [said]


def test_an_integer_that_became_a_double_is_compared_as_an_integer() -> None:
    right = answer([0, 1], [2**53 + 1, 5], pa.int64())
    assert differences(right, answer([0, 1], [2.0**53, 5.0]), ["x"]) == [
        "x: int64 came back as double",
        "x: 1 of 2 values differ, such as row 0: 9007199254740993 came back as 9007199254740992.0",
    ]


def test_sums_in_another_order_may_differ_in_their_last_digits_only() -> None:
    right, near, far = (answer([0], [value]) for value in (0.6, 0.1 + 0.2 + 0.3, 0.6001))
    assert differences(right, near, ["x"])
    assert differences(right, near, ["x"], rounded=["x"]) == []
    assert differences(right, far, ["x"], rounded=["x"])


def test_an_answer_has_to_keep_the_labels() -> None:
    labels = answer([0, 1], [1.0, 2.0])
    assert kept(labels, labels.append_column("feature", pa.array([1, 2]))) == []
    assert kept(labels, labels.take([1, 0])) == ["the labels' columns or their order changed"]
    assert kept(labels, labels.slice(1)) == ["1 rows for 2 labels"]


def test_the_report_fails_on_a_wrong_answer_or_a_missed_bar(capsys: pytest.CaptureFixture[str]) -> None:
    met = Row("a", 1.0, 4.0, 2.0, 1.0, agree=True)
    unbarred = Row("b", 3e9, None, None, None, agree=True, unit="B", notes=("peer: stopped after 5 s",))
    assert report([met, unbarred], as_json=False) == 0
    assert report([met, unbarred._replace(agree=False)], as_json=False) == 1
    assert report([met._replace(bar=0.9)], as_json=False) == 1
    assert "3.0 GB" in capsys.readouterr().out
    assert report([met], as_json=True) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row.keys() >= {"case", "ours", "peer", "limit", "ratio", "agree", "met"}
    assert (row["ratio"], row["peer_ratio"], row["met"]) == (0.5, 0.25, True)


def test_inputs_are_the_same_every_time_and_have_one_answer(tmp_path: Path) -> None:
    shape = Shape("pit", rows=3000, labels=50, keys=100)
    first, again = (make(Options(tmp_path / name), shape) for name in ("first", "again"))
    features = pq.read_table(first.features)
    assert features == pq.read_table(again.features)
    assert pq.read_table(first.labels) == pq.read_table(again.labels)
    assert (np.diff(np.asarray(features["ts"]).astype(np.int64)) > 0).all()
    written = first.features.stat().st_mtime_ns
    assert make(Options(tmp_path / "first"), shape).features.stat().st_mtime_ns == written


def test_memory_is_that_of_the_contestant_and_not_of_its_parent() -> None:
    ballast = np.ones(BALLAST, dtype=np.int8)
    little, much = (finish("it", Contestant(f"{THERE}:allocate", {"size": size}))[1] for size in (1, BALLAST))
    assert ballast.all()
    assert little < BALLAST < much


def test_a_contestant_that_hangs_is_stopped_and_one_that_fails_is_quoted() -> None:
    outcomes = race(
        {"slow": Contestant(f"{THERE}:hang", {}, timeout=0.5), "wrong": Contestant(f"{THERE}:refuse", {}, repeat=2)}
    )
    assert outcomes["slow"].failure == "stopped after 0.5 s"
    assert outcomes["slow"].at_least >= 0.5
    assert outcomes["wrong"] == Outcome(failure="failed: ValueError: no such thing")
    with pytest.raises(ContestantError, match="wrong: failed: ValueError: no such thing"):
        finish("wrong", Contestant(f"{THERE}:refuse", {}))


def test_a_contestant_is_stopped_before_it_takes_the_memory_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.race, "MEMORY_SHARE", 1e-6)
    outcome = race({"large": Contestant(f"{THERE}:hang", {}, timeout=60)})["large"]
    assert outcome.failure.startswith("stopped at ")
    assert outcome.failure.endswith("MB of memory")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run contestants here, which is what makes whole benchmarks fast enough for a test."""

    def run(contestant: Contestant, outcome: Outcome) -> None:
        module, _, function = contestant.target.partition(":")
        arguments = json.loads(json.dumps(dict(contestant.arguments), default=str))
        watch = getattr(importlib.import_module(module), function)(**arguments)
        outcome.add(watch.seconds, watch.peak)

    monkeypatch.setattr(benchmarks.race, "_run", run)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["pit", "windows", "views", "materialize"])
def test_every_answer_agrees_with_what_is_written_by_hand(tmp_path: Path, name: str) -> None:
    options = Options(tmp_path, scale=0.0005, feast=(), repeat=1)
    rows = importlib.import_module(f"benchmarks.{name}").run(options)
    assert [(row.case, row.notes) for row in rows if not row.agree] == []
    assert all(row.ours > 0 and row.limit > 0 for row in rows)


@pytest.mark.usefixtures("in_process")
def test_where_the_join_by_hand_takes_too_long_a_sample_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = benchmarks.race._run

    def stop_the_whole_join(contestant: Contestant, outcome: Outcome) -> None:
        if contestant.target.endswith("range_join") and "first" not in contestant.arguments:
            outcome.failure, outcome.at_least = "stopped after 600 s", 600.0
        else:
            run(contestant, outcome)

    monkeypatch.setattr(benchmarks.race, "_run", stop_the_whole_join)
    rows = windows.run(Options(tmp_path, scale=0.0002, feast=(), repeat=1))
    times = [row for row in rows if row.unit == "s"]
    assert [(row.agree, row.limit, row.bar, row.met) for row in times] == [
        (True, None, bar, True) for bar in (600.0, 1200.0, 600.0, 1200.0)
    ]
    assert "only the answers to 1,000 labels are compared" in times[0].notes[0]


def test_an_unknown_name_or_store_is_refused_with_those_there_are() -> None:
    for arguments, said in ((["pitt"], "unknown benchmark 'pitt'"), (["--feast=spark"], "duckdb, dask")):
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert run.returncode == 2
        assert said in run.stderr
