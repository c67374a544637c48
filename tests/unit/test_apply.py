"""The apply loop: what becomes of good, bad, late, future, repeated and dropped records."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from featurestore.definitions import FileSource, FileStreamSource
from featurestore.errors import DefinitionError, SourceError
from featurestore.semantics.windows import HOUR, MINUTE
from featurestore.streaming.apply import Loop
from featurestore.streaming.counters import Counters
from tests.unit.streaming_bench import NOON, Bench, Stream, event, eventful, trip


def test_good_rows_reach_the_log_and_the_online_store(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    Loop(Stream([event(0, trip(1, 0, 12.5)), event(1, trip(1, 1, 3.0, None))]), bench.applier()).run()
    first, second = bench.logged()["recent"]
    assert (first["driver"], first["km"], first["city"]) == (1, 12.5, "Oslo")
    assert (first["_writer"], first["_sequence"], first["_origin"]) == ("file/trips/a", 0, None)
    assert (second["km"], second["city"]) == (3.0, None)
    assert first["event_timestamp"] == first["arrival"]
    served = bench.served([1, 2], NOON + HOUR)
    assert served["newest__km"] == [3.0, None]
    assert served["recent__sum_km_1h"] == [15.5, None]
    assert served["recent__last_5_km_1d"] == [[12.5, 3.0], []]
    assert served["long__count_km_6h"] == [1, 0]
    assert served["receipts"][0]["recent"].sequences == {"file/trips/a": 1}


def test_views_with_equal_rows_share_a_log_and_unserved_views_are_logged(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    applier = bench.applier()
    assert [[view.name for view in log.views] for log in applier.logs] == [
        ["newest", "recent"],
        ["long"],
        ["unserved"],
    ]
    Loop(Stream([event(0, trip(1, 0, 1.0))]), applier).run()
    assert [row["city"] for row in bench.logged()["unserved"]] == ["Oslo"]


def test_bad_records_among_good_ones_go_to_the_dead_letters_with_payload_and_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    Loop(Stream(eventful()), bench.applier(), limit=100).run()
    writer = "file/trips/a"
    assert bench.rejected("newest") == [
        (writer, 2, "undecodable"),
        (writer, 6, "future"),
        (writer, 7, "invalid"),
        (writer, 11, "undecodable"),
    ]
    assert (writer, 3, "invalid") in bench.rejected("long")
    letters = {letter["sequence"]: letter for letter in bench.letters().read().to_pylist()}
    assert letters[2]["payload"] == b"{ not json"
    assert letters[2]["source"] == "trips"
    assert letters[2]["views"] == "newest, recent"
    assert "driver" in letters[7]["detail"]
    assert "1d after its arrival 2024-05-01T12:06:00+00:00" in letters[6]["detail"]
    assert [row["_sequence"] for row in bench.logged()["newest"]] == [0, 3, 4, 9, 10, 1, 5, 8]


def test_counters_account_for_every_record(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    applier = bench.applier()
    Loop(Stream(eventful()), applier, limit=100).run()
    applier.apply(eventful()[:10])
    assert applier.counters["recent"] == Counters(
        events=22, rows=8, duplicates=10, rejected=applier.counters["recent"].rejected
    )
    assert applier.counters["recent"].rejected == {"undecodable": 2, "invalid": 1, "future": 1}
    long = applier.counters["long"]
    assert (long.rows, long.dropped, long.rejected["invalid"]) == (4, 4, 1)
    assert long.events == long.rows + long.dropped + long.duplicates + long.rejected.total()


def test_late_rows_count_from_when_they_arrive(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    loop = Loop(Stream(eventful()), bench.applier(), limit=1)
    loop.run(until=NOON + 3 * MINUTE)
    assert bench.served([1], NOON + HOUR)["recent__count_1d"] == [2]
    loop.step(until=NOON + 4 * MINUTE)
    assert bench.served([1], NOON + HOUR)["recent__count_1d"] == [3]
    assert bench.served([1], NOON + HOUR)["newest__km"] == [-1.0]


def test_future_rows_count_once_the_reader_is_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    Loop(Stream(eventful()), bench.applier()).run()
    before, after = NOON + 999 * MINUTE, NOON + 1000 * MINUTE
    assert bench.served([2], before)["newest__km"] == [3.0]
    assert bench.served([2], after)["newest__km"] == [11.0]
    assert bench.served([2], before)["recent__count_1d"] == [1]
    assert bench.served([2], after + 1)["recent__count_1d"] == [2]


def test_a_row_exactly_at_the_bound_of_the_future_is_taken(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    records = [event(0, trip(1, 1440, 1.0), at=0), event(1, trip(1, 1441, 1.0), at=0)]
    Loop(Stream(records), bench.applier()).run()
    assert [row["_sequence"] for row in bench.logged()["newest"]] == [0]
    assert bench.rejected() == [("file/trips/a", 1, "future")]


def test_a_batch_delivered_again_changes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    applier = bench.applier()
    applier.start(["file/trips/a"])
    applier.apply(eventful())
    outcome = bench.outcome()
    applier.apply(eventful())
    bench.applier().apply(eventful()[3:])
    assert bench.outcome() == outcome


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_the_size_of_batches_changes_nothing(tmp_path: Path, limit: int) -> None:
    whole, split = Bench(tmp_path / "whole"), Bench(tmp_path / "split")
    Loop(Stream(eventful()), whole.applier(), limit=100).run()
    Loop(Stream(eventful()), split.applier(), limit=limit).run()
    assert split.outcome() == whole.outcome()


def test_several_writers_in_one_batch(tmp_path: Path) -> None:
    records = [
        event(0, trip(1, 0, 1.0), writer="a"),
        event(5, trip(1, 1, 2.0), writer="b"),
        event(1, trip(2, 2, 4.0), writer="a"),
        event(6, b"?", writer="c"),
    ]
    together, apart = Bench(tmp_path / "together"), Bench(tmp_path / "apart")
    Loop(Stream(records), together.applier(), limit=10).run()
    Loop(Stream(records), apart.applier(), limit=1).run()
    assert together.served([1, 2], NOON + HOUR)["recent__sum_km_1h"] == [3.0, 4.0]
    assert together.outcome() == apart.outcome()
    receipt = together.served([1], NOON + HOUR)["receipts"][0]["newest"]
    assert receipt.sequences == {"a": 0, "b": 5}


@pytest.mark.parametrize("second", [4, 5])
def test_a_sequence_that_goes_back_stops_the_loop_before_anything_is_written(tmp_path: Path, second: int) -> None:
    bench = Bench(tmp_path)
    loop = Loop(Stream([event(5, trip(1, 0, 1.0)), event(second, trip(1, 1, 2.0))]), bench.applier())
    with pytest.raises(SourceError, match=f"'file/trips/a' went back to {second} after 5"):
        loop.step()
    assert bench.logged()["newest"] == []


def test_a_sequence_that_goes_back_between_batches_stops_the_loop(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    loop = Loop(Stream([event(5, trip(1, 0, 1.0)), event(3, trip(1, 1, 2.0))]), bench.applier(), limit=1)
    loop.step()
    with pytest.raises(SourceError, match="went back to 3 after 5"):
        loop.step()


def test_a_view_added_later_gets_the_stream_from_its_beginning(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    all_views = bench.views
    bench.views = all_views[:2]
    Loop(Stream(eventful()), bench.applier()).run()
    bench.views = all_views
    Loop(Stream(eventful()), bench.applier()).run()
    complete = Bench(tmp_path / "complete")
    Loop(Stream(eventful()), complete.applier()).run()
    assert bench.outcome() == complete.outcome()


def test_a_view_that_joins_a_log_is_filled_from_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    all_views = bench.views
    bench.views = [all_views[0], *all_views[2:]]
    Loop(Stream(eventful()), bench.applier()).run()
    bench.views = all_views
    Loop(Stream(eventful()), bench.applier()).start()
    complete = Bench(tmp_path / "complete")
    Loop(Stream(eventful()), complete.applier()).run()
    assert bench.outcome() == complete.outcome()


def test_without_an_arrival_field_a_record_arrives_after_the_delay(tmp_path: Path) -> None:
    source = FileStreamSource(
        "trips", path="trips.jsonl", timestamp_field="ts", availability_delay=timedelta(minutes=7)
    )
    bench = Bench(tmp_path, source)
    record = event(0, trip(1, 0, 1.0))._replace(arrival=None)
    Loop(Stream([record]), bench.applier()).run()
    (row,) = bench.logged()["newest"]
    assert row["arrival"] - row["event_timestamp"] == timedelta(minutes=7)


def test_with_an_arrival_field_a_record_without_arrival_is_rejected(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    record = event(0, trip(1, 0, 1.0))._replace(arrival=None)
    Loop(Stream([record]), bench.applier()).run()
    assert bench.rejected() == [("file/trips/a", 0, "no_arrival")]


def test_stream_rows_before_the_cut_are_logged_and_counted_as_superseded(tmp_path: Path) -> None:
    batch = FileSource("history", path="h.parquet", timestamp_field="ts")
    source = FileStreamSource("trips", path="trips.jsonl", batch_source=batch, arrival_field="at")
    bench = Bench(tmp_path, source)
    bench.online["newest"].set_cut(NOON)
    applier = bench.applier()
    Loop(Stream(eventful()), applier).run()
    assert applier.counters["newest"].superseded == 1
    assert applier.counters["recent"].superseded == 0
    assert applier.counters["newest"].rows == 8
    assert not bench.online["newest"].ready()  # that is for the job which fills the batch side


def test_a_source_that_no_view_reads_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.views = []
    with pytest.raises(DefinitionError, match="no feature view reads the source 'trips'"):
        bench.applier()
