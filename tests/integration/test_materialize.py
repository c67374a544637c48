"""Jobs replace ranges exactly: nothing changes when repeated, corrections and deletions come through."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from featurestore.clock import SystemClock
from featurestore.definitions import Entity, FeatureView, Field, FileSource
from featurestore.errors import SourceError
from featurestore.materialize.job import materialize, materialize_incremental
from featurestore.materialize.lease import leased
from featurestore.offline.deadletters import DeadLetters
from featurestore.registry.leases import LeaseHeldError
from featurestore.semantics.rows import Cut
from featurestore.semantics.windows import DAY, HOUR
from featurestore.types import Float64, Int64, String
from tests.integration.materialize_bench import FIRST, NOW, SECOND, Bench, SourceRow, definitions

TIMES = (10 * DAY + HOUR + 1, 11 * DAY + 1, 13 * DAY + 1, NOW)


def load(bench: Bench, start: int, end: int) -> Any:
    [report] = materialize(bench.context(), bench.views, start, end)
    return report


def letters(bench: Bench) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        DeadLetters(bench.folder / "data" / "offline", bench.log.fingerprint).read().to_pylist()
    )
    return rows


def served(bench: Bench, driver: int, at: int = NOW) -> dict[str, Any]:
    names = [f"{view.name}:{field.name}" for view in bench.views for field in view.features]
    answer = bench.store.get_online_features(names, [{"driver": driver}], now=at).to_dict()
    return {name: values[0] for name, values in answer.items()}


def test_a_job_loads_its_range_offline_and_online(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(FIRST)
    report = load(bench, 10 * DAY, 12 * DAY)

    assert (report.view, report.job, report.start, report.end) == ("newest, recent", 1, 10 * DAY, 12 * DAY)
    assert (report.rows, report.rejected, report.dropped, report.keys, report.cut) == (5, 0, 0, 3, None)
    assert [row[0] for row in bench.rows()] == [1, 1, 2, 2, 3]
    assert (served(bench, 1)["amount"], served(bench, 1)["note"]) == (2.0, None)
    assert served(bench, 2, 11 * DAY + 1)["count_40d"] == 2
    assert served(bench, 1, 10 * DAY + HOUR + 1)["sum_amount_2h"] == 3.0
    assert served(bench, 4)["amount"] is None
    assert bench.states() == ["done"]


def test_the_ranks_are_a_function_of_the_rows(tmp_path: Path) -> None:
    """Ties in every leading component, and all the floats that compare equal without being so."""
    at = 10 * DAY
    floats = [0.0, -0.0, float("nan"), None, 1.5, -1.5, 0.0]
    ties: list[SourceRow] = [(1, at, value, note) for value in floats for note in ("x", None, "")]
    ties += [(2, at, 1.0, "é"), (1, at + 1, None, None), (1, at - 1, None, None)]
    bench = Bench(tmp_path)
    outcomes = set()
    for seed in range(4):
        random.Random(seed).shuffle(ties)
        bench.write(ties)
        load(bench, 0, NOW)
        outcomes.add(repr(bench.rows()))
    assert len(outcomes) == 1
    rows = bench.rows()
    assert [row[3] for row in rows] == list(range(len(ties)))
    assert [repr(row[4]) for row in rows if row[0] == 1][1:-1] == [
        text for text in ("None", "-1.5", "-0.0", "0.0", "1.5", "nan") for _ in range(6 if text == "0.0" else 3)
    ]
    assert [row[5] for row in rows if repr(row[4]) == "-1.5"] == [None, "", "x"]


def test_repeating_and_overlapping_ranges_change_no_bit(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(FIRST)
    load(bench, 0, NOW)
    rows, values = _without_rank(bench), repr(bench.values(TIMES))
    for start, end in ((0, NOW), (10 * DAY, 11 * DAY), (10 * DAY + 1, 12 * DAY), (12 * DAY - 1, 12 * DAY), (0, 5)):
        bench.restart()
        bench.write(FIRST[::-1])
        load(bench, start, end)
        assert _without_rank(bench) == rows
        assert repr(bench.values(TIMES)) == values
    assert bench.states() == ["done"] * 6


def _without_rank(bench: Bench) -> str:
    """Return the rows without the rank, which counts within a job."""
    return repr(sorted(repr(row[:3] + row[4:]) for row in bench.rows()))


def test_the_winner_of_a_tie_stays_when_its_range_is_covered_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    tie: list[SourceRow] = [(1, DAY, 1.0, "b"), (1, DAY, 1.0, "a"), (1, DAY, -1.0, "c"), (1, 2 * DAY - 1, None, "x")]
    frame = [{"driver": 1, "event_timestamp": datetime(1970, 1, 2, tzinfo=UTC)}]
    for rows, end in ((tie, 2 * DAY), (tie[::-1], 2 * DAY), (tie[1:] + tie[:1], DAY + 1)):
        bench.write(rows)
        load(bench, DAY, end)
        trained = bench.store.get_historical_features(frame, ["newest:note"]).to_arrow().to_pylist()
        assert trained[0]["note"] == "b"
        assert served(bench, 1)["note"] == "x"
    bench.write(tie[:3])
    load(bench, DAY, 2 * DAY)
    assert served(bench, 1)["note"] == "b"


def test_corrections_and_deletions_come_through(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(FIRST)
    load(bench, 0, NOW)
    bench.write(SECOND)
    report = load(bench, 10 * DAY, 12 * DAY)

    fresh = Bench(tmp_path / "fresh")
    fresh.folder.mkdir(exist_ok=True)
    fresh.write([row for row in SECOND if row[1] != 13 * DAY])
    load(fresh, 0, NOW)
    assert report.keys == 4
    assert _without_rank(bench) == _without_rank(fresh)
    assert repr(bench.values(TIMES)) == repr(fresh.values(TIMES))
    assert served(bench, 2, 11 * DAY + 1)["count_40d"] == 1


def test_a_key_that_lost_all_its_rows_is_empty_online(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(FIRST)
    load(bench, 0, NOW)
    assert served(bench, 4)["amount"] == 4.0
    bench.write(FIRST[:-1])
    load(bench, 0, NOW)
    assert (served(bench, 4)["amount"], served(bench, 4, 12 * DAY + 1)["count_40d"]) == (None, 0)
    bench.write([])
    assert load(bench, 0, NOW).rows == 0
    assert bench.rows() == []
    assert {answer[2]["amount"][0] for answer in bench.values()} == {None}


def test_rows_at_the_edges_of_the_range(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    edges = [-DAY - 1, -DAY, -1, 0, 1, DAY - 1, DAY]
    bench.write([(1, time, float(time), None) for time in edges])
    load(bench, -DAY, DAY)
    assert [row[4] for row in bench.rows()] == [-DAY, -1, 0, 1, DAY - 1]
    load(bench, -(2**60), 2**60)
    assert [row[4] for row in bench.rows()] == edges


def test_bad_rows_go_to_the_dead_letters_with_their_record_and_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(
        [
            (None, DAY, 1.0, "no key"),
            (1, None, 1.0, "no time"),
            (1, DAY, 1.0, "good"),
            (None, 50 * DAY, 1.0, "outside the range"),
        ]
    )
    report = load(bench, 0, 2 * DAY)
    assert (report.rows, report.rejected) == (1, 2)
    found = {msgspec.json.decode(letter["payload"])["note"]: letter for letter in letters(bench)}
    assert found["no key"]["detail"] == "the join key 'driver' is null"
    assert found["no time"]["detail"] == "the timestamp 'ts' is null"
    assert [letter["sequence"] for letter in letters(bench)] == [1 << 38, 1 << 38 | 1]
    assert {(letter["source"], letter["writer"], letter["views"], letter["reason"]) for letter in letters(bench)} == {
        ("trips", "batch", "newest, recent", "invalid")
    }


def test_rows_too_far_ahead_of_their_arrival_are_rejected(tmp_path: Path) -> None:
    bench = Bench(tmp_path, definitions(source={"created_timestamp_column": "seen"}))
    skew = bench.store.config.max_future_skew
    times = [10 * DAY, 20 * DAY, 30 * DAY, 40 * DAY]
    seen: list[int | None] = [10 * DAY - skew, 20 * DAY - skew - 1, None, 45 * DAY]
    bench.write([(1, time, 1.0, str(n)) for n, time in enumerate(times)], seen=pa.array(seen, pa.timestamp("us")))
    report = load(bench, 0, NOW)

    assert report.rejected == 2
    assert [(row[5], row[2] - row[1]) for row in bench.rows()] == [("0", -timedelta(days=1)), ("3", timedelta(days=5))]
    assert {(letter["reason"], letter["detail"]) for letter in letters(bench)} == {
        ("future", "its event time is more than 1d after its arrival"),
        ("no_arrival", "the created timestamp 'seen' is null"),
    }


def test_arrival_is_the_event_time_and_the_delay(tmp_path: Path) -> None:
    bench = Bench(tmp_path, definitions(source={"availability_delay": timedelta(hours=2)}))
    bench.write(FIRST)
    load(bench, 0, NOW)
    assert {row[2] - row[1] for row in bench.rows()} == {timedelta(hours=2)}


def halve(record: dict[str, Any]) -> dict[str, Any] | None:
    if record["note"] == "drop":
        return None
    if record["note"] == "later":
        record["ts"] += timedelta(days=1)
    return {**record, "amount": record["amount"] / record["divisor"]}


def test_a_transform_sees_all_columns_and_maps_each_record_to_a_row_or_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path, definitions(transform=halve))
    rows: list[SourceRow] = [
        (1, DAY, 1.0, "good"),
        (1, DAY, 1.0, "drop"),
        (1, DAY + 1, 3.0, "later"),
        (1, DAY, 1.0, "divides by zero"),
        (None, DAY, 1.0, "no key"),
        (1, 9 * DAY, 1.0, "drop"),
    ]
    bench.write(rows, divisor=[2, 2, 2, 0, 1, 2])
    report = load(bench, 0, 2 * DAY)
    assert (report.rows, report.rejected, report.dropped) == (1, 2, 1)
    assert [row[4] for row in bench.rows()] == [0.5]
    details = {msgspec.json.decode(letter["payload"])["note"]: letter["detail"] for letter in letters(bench)}
    assert details == {
        "divides by zero": "the transform raised ZeroDivisionError: float division by zero",
        "no key": "the join key 'driver' is null",
    }
    load(bench, 0, 3 * DAY)
    assert [row[4] for row in bench.rows()] == [0.5, 1.5]


def test_a_source_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(FIRST)
    load(bench, 0, NOW)
    rows, values, version = bench.rows(), repr(bench.values()), bench.log.version()

    bench.write(FIRST)
    path = tmp_path / "trips.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"trips\.parquet cannot be read as parquet"):
        load(bench, 0, NOW)
    bench.write(FIRST, amount=pa.array([1] * len(FIRST)))
    with pytest.raises(SourceError, match=r"'amount' is int64 in .* declared float64"):
        load(bench, 0, NOW)
    path.unlink()
    with pytest.raises(SourceError, match="there is no file"):
        load(bench, 0, NOW)

    assert (bench.rows(), repr(bench.values()), bench.log.version()) == (rows, values, version)
    assert bench.states() == ["done", "failed", "failed"]  # what cannot even be opened begins no job
    assert letters(bench) == []


def test_two_jobs_on_one_log_do_not_run_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(FIRST)
    held = leased(bench.store.registry, bench.log.fingerprint, "newest", SystemClock().now)
    problem = f"another job is writing the log of newest, recent: process {os.getpid()} on .*; wait for it to end"
    with held, pytest.raises(LeaseHeldError, match=problem):
        load(bench, 0, NOW)
    assert load(bench, 0, NOW).rows == 6


def test_a_registry_that_is_younger_than_the_log_counts_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(FIRST)
    for _ in range(3):
        load(bench, 0, NOW)
    bench.store.registry.close()
    for file in (tmp_path / "data").glob("registry.db*"):
        file.unlink()
    bench.restart()
    bench.store.apply(bench.views)
    assert load(bench, 0, NOW).job == 4


def test_rows_of_a_world_without_keys(tmp_path: Path) -> None:
    source = FileSource("trips", path="trips.parquet", timestamp_field="ts")
    world = FeatureView("world", schema=[Field("amount", Float64)], source=source)
    bench = Bench(tmp_path, [world])
    bench.write(FIRST)
    assert load(bench, 0, NOW).keys == 1
    assert bench.store.get_online_features(["world:amount"], [{}], now=NOW).to_dict() == {"amount": [4.0]}
    bench.write([])
    load(bench, 0, NOW)
    assert bench.store.get_online_features(["world:amount"], [{}], now=NOW).to_dict() == {"amount": [None]}


def test_views_of_two_logs_are_two_jobs(tmp_path: Path) -> None:
    other = FeatureView(
        "other",
        entities=[Entity("driver", value_type=Int64)],
        schema=[Field("note", String)],
        source=FileSource("trips", path="trips.parquet", timestamp_field="ts"),
    )
    bench = Bench(tmp_path, [*definitions(), other])
    bench.write(FIRST)
    reports = materialize(bench.context(), [other, bench.views[1]], 0, NOW)
    assert [(report.view, report.job) for report in reports] == [("other", 1), ("newest, recent", 1)]


# Lambda views


def test_the_cut_follows_the_batch_rows_but_not_beyond_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, definitions(stream=True))
    bench.write(FIRST)
    views = {view.name: view for view in bench.views}

    def cuts() -> dict[str, list[Cut]]:
        return {name: bench.store.cuts(view) for name, view in views.items()}

    assert load(bench, 0, 11 * DAY).cut == 11 * DAY
    bench.clock.set(NOW + 5)
    assert load(bench, 11 * DAY, NOW).cut == 13 * DAY  # the source reaches into this day and no further
    assert cuts() == {name: [Cut(11 * DAY, NOW), Cut(13 * DAY, NOW + 5)] for name in views}
    assert load(bench, 0, 11 * DAY).cut == 13 * DAY
    assert cuts()["newest"][-1] == Cut(13 * DAY, NOW + 5)
    assert {name: bench.store.online_view(view).cut() for name, view in views.items()} == dict.fromkeys(views, 13 * DAY)


def test_a_range_beyond_the_cut_does_not_move_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, definitions(stream=True))
    bench.write(FIRST)
    load(bench, 0, 11 * DAY)
    assert load(bench, 12 * DAY, NOW).cut == 11 * DAY
    assert served(bench, 4)["amount"] is None
    assert load(bench, 11 * DAY, 12 * DAY).cut == 12 * DAY
    assert load(bench, 12 * DAY, NOW).cut == 13 * DAY
    assert served(bench, 4)["amount"] == 4.0


def test_batch_rows_count_before_the_cut_and_stream_rows_from_it_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, definitions(stream=True))
    bench.clock.set(12 * DAY)
    bench.write(FIRST)
    load(bench, 0, 11 * DAY)
    pushed = [
        {"driver": 1, "ts": datetime(1970, 1, 11, 3, tzinfo=UTC), "amount": 9.0, "note": "superseded"},
        {"driver": 1, "ts": datetime(1970, 1, 12, tzinfo=UTC), "amount": 7.0, "note": "stream"},
    ]
    bench.store.push("pushed", pushed)
    assert (served(bench, 1, 12 * DAY)["note"], served(bench, 1, 12 * DAY)["count_40d"]) == ("stream", 3)

    bench.write([*FIRST, (1, 11 * DAY, 7.5, "batch")])
    load(bench, 11 * DAY, 12 * DAY)
    assert (served(bench, 1, 12 * DAY)["note"], served(bench, 1, 12 * DAY)["count_40d"]) == ("batch", 3)


# Incremental runs


def increments(bench: Bench, end: int, **options: Any) -> list[tuple[int, int]]:
    reports = materialize_incremental(bench.context(), bench.views, end, **options)
    return [(report.start, report.end) for report in reports]


def test_without_created_timestamps_the_time_since_and_the_overlap(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write([])
    assert increments(bench, 12 * DAY) == []
    bench.write(FIRST)
    assert increments(bench, 12 * DAY) == [(10 * DAY, 12 * DAY)]
    bench.write(SECOND)
    assert increments(bench, 14 * DAY, overlap=HOUR) == [(12 * DAY - HOUR, 14 * DAY)]
    assert served(bench, 4)["note"] == "new"
    assert served(bench, 5)["note"] is None  # later than the overlap
    assert increments(bench, 14 * DAY, overlap=3 * DAY) == [(11 * DAY, 14 * DAY)]
    assert served(bench, 5)["note"] == "late"
    assert increments(bench, 13 * DAY, overlap=0) == []


def test_with_created_timestamps_each_day_that_holds_a_row_created_since(tmp_path: Path) -> None:
    bench = Bench(tmp_path, definitions(source={"created_timestamp_column": "seen"}))

    def write(rows: list[SourceRow], seen: list[int]) -> None:
        bench.write(rows, seen=pa.array(seen, pa.timestamp("us")))

    rows: list[SourceRow] = [(1, day * DAY + 7, float(day), "old") for day in range(10, 20)]
    write(rows, [90 * DAY] * 10)
    assert increments(bench, 20 * DAY) == [(10 * DAY, 20 * DAY)]
    bench.clock.set(NOW + DAY)
    rows[1] = (1, 11 * DAY + 9, 0.5, "corrected")
    rows[2] = (1, 12 * DAY + 7, 0.5, "corrected")
    rows += [(2, 15 * DAY, 5.0, "late"), (2, 30 * DAY, 5.0, "not yet")]
    write(rows, [90 * DAY, NOW + 1, NOW, *[90 * DAY] * 7, NOW + 5, NOW + 5])

    assert increments(bench, 22 * DAY) == [(11 * DAY, 13 * DAY), (15 * DAY, 16 * DAY), (20 * DAY, 22 * DAY)]
    notes = [row[5] for row in sorted(bench.rows(), key=lambda row: (row[0], row[1]))]
    assert notes == ["old", "corrected", "corrected", *["old"] * 7, "late"]
    bench.clock.set(NOW + 2 * DAY)
    assert increments(bench, 31 * DAY) == [(22 * DAY, 31 * DAY)]


def test_an_explicit_job_in_between_does_not_hide_what_is_new(tmp_path: Path) -> None:
    bench = Bench(tmp_path, definitions(source={"created_timestamp_column": "seen"}))
    rows: list[SourceRow] = [(1, day * DAY, 1.0, "old") for day in (10, 11, 12)]
    bench.write(rows, seen=pa.array([90 * DAY] * 3, pa.timestamp("us")))
    increments(bench, 13 * DAY)
    rows[0] = (1, 10 * DAY, 2.0, "corrected")
    bench.write(rows, seen=pa.array([NOW + 1, 90 * DAY, 90 * DAY], pa.timestamp("us")))
    bench.clock.set(NOW + 2)
    load(bench, 12 * DAY, 14 * DAY)
    bench.clock.set(NOW + 3)
    assert increments(bench, 14 * DAY) == [(10 * DAY, 11 * DAY), (13 * DAY, 14 * DAY)]
    assert sorted(row[5] for row in bench.rows()) == ["corrected", "old", "old"]


def test_jobs_that_began_before_the_earliest_row_count_as_complete(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(FIRST)
    load(bench, 0, 12 * DAY)
    assert increments(bench, 13 * DAY, overlap=HOUR) == [(12 * DAY - HOUR, 13 * DAY)]
