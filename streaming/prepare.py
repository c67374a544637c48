"""From a batch of decoded records to the rows of one log and the records that are rejected. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.clock import delta_micros, format_duration, from_micros
from featurestore.definitions import FeatureView, FileStreamSource, StreamSource
from featurestore.errors import ClockError
from featurestore.streaming.columns import EVENT_TIMESTAMP, BatchConverter, Converted
from featurestore.streaming.counters import FUTURE, INVALID, NO_ARRIVAL, UNDECODABLE
from featurestore.streaming.records import Record

Flags = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]


class Event(NamedTuple):
    """A record and its decoded fields."""

    record: Record
    fields: Mapping[str, Any]


class Rejection(NamedTuple):
    """A record that becomes no row.

    Attributes
    ----------
    fields
        Its decoded fields; None where it could not be decoded.
    kind
        One of the kinds in `featurestore.streaming.counters`.
    detail
        What exactly is wrong.
    """

    record: Record
    fields: Mapping[str, Any] | None
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of any number of writers, each writer's in order.

    Attributes
    ----------
    events
        Those that could be decoded.
    undecodable
        The others, with what is wrong.
    through
        Writer to its last sequence in the batch.
    """

    events: Sequence[Event]
    undecodable: Sequence[tuple[Record, str]]
    through: Mapping[str, int]

    def after(self, known: Mapping[str, int]) -> Batch:
        """Return the records beyond the given sequences."""
        return Batch(
            [event for event in self.events if event.record.sequence > known[event.record.writer]],
            [bad for bad in self.undecodable if bad[0].sequence > known[bad[0].writer]],
            self.through,
        )

    def __len__(self) -> int:
        return len(self.events) + len(self.undecodable)


class Prepared(NamedTuple):
    """What a batch comes to in one log.

    Attributes
    ----------
    rows
        In the log's schema, in the order of their records.
    rejected
        What goes to the dead letters.
    dropped
        Number of records that the transform mapped to no row.
    """

    rows: pa.Table
    rejected: list[Rejection]
    dropped: int


class Preparer:
    """Prepares batches for the views of one log.

    Parameters
    ----------
    view
        Any view of the log.
    source
        Its stream source.
    schema
        The log's schema.
    max_future_skew
        How far a row's event time may be ahead of its arrival, in microseconds.
    """

    def __init__(self, view: FeatureView, source: StreamSource, schema: pa.Schema, max_future_skew: int) -> None:
        self._convert = BatchConverter(view, source.timestamp_field)
        self._schema = schema
        self._skew = max_future_skew
        self._arrival_field = ""
        self._delay = 0
        if isinstance(source, FileStreamSource):
            self._arrival_field = source.arrival_field
            self._delay = delta_micros(source.availability_delay)

    def __call__(self, batch: Batch) -> Prepared:
        """Convert, check and reject. A record without arrival arrives at its event's time plus the source's delay."""
        rejected = [Rejection(record, None, UNDECODABLE, detail) for record, detail in batch.undecodable]
        converted = self._convert([event.fields for event in batch.events])
        rejected += [Rejection(*batch.events[place], INVALID, detail) for place, detail in converted.errors]
        events = [batch.events[place] for place in converted.places]
        times = converted.columns[EVENT_TIMESTAMP].cast(pa.int64()).to_numpy()
        arrivals, missing = self._arrivals(events, times)
        refused = missing | (times > arrivals + self._skew)
        if not refused.any():
            return Prepared(self._rows(events, converted, arrivals), rejected, converted.dropped)
        for place in np.flatnonzero(refused).tolist():
            arrival = None if missing[place] else int(arrivals[place])
            rejected.append(self._untimely(events[place], int(times[place]), arrival))
        kept = [event for event, wrong in zip(events, refused.tolist(), strict=True) if not wrong]
        columns = {name: column.filter(pa.array(~refused)) for name, column in converted.columns.items()}
        rows = self._rows(kept, converted._replace(columns=columns), arrivals[~refused])
        return Prepared(rows, rejected, converted.dropped)

    def _arrivals(self, events: Sequence[Event], times: Times) -> tuple[Times, Flags]:
        """Return when each event arrived, and which lack what their source should have given."""
        given = [event.record.arrival for event in events]
        absent = np.fromiter((arrival is None for arrival in given), np.bool_, len(given))
        arrivals = np.fromiter((arrival or 0 for arrival in given), np.int64, len(given))
        if self._arrival_field:
            return arrivals, absent
        return np.where(absent, times + self._delay, arrivals), np.zeros(len(given), np.bool_)

    def _untimely(self, event: Event, time: int, arrival: int | None) -> Rejection:
        if arrival is None:
            detail = (
                f"the arrival field {self._arrival_field!r} is missing or is no ISO 8601 time such as "
                "2024-05-01T12:00:00Z"
            )
            return Rejection(*event, NO_ARRIVAL, detail)
        detail = (
            f"the event's time {_shown(time)} is more than {format_duration(self._skew)} after its arrival "
            f"{_shown(arrival)}"
        )
        return Rejection(*event, FUTURE, detail)

    def _rows(self, events: Sequence[Event], converted: Converted, arrivals: Times) -> pa.Table:
        records = [event.record for event in events]
        columns = {
            **converted.columns,
            "arrival": pa.array(arrivals).cast(self._schema.field("arrival").type),
            "_writer": pa.array([record.writer for record in records], pa.string()),
            "_sequence": pa.array([record.sequence for record in records], pa.int64()),
            "_origin": pa.array([record.origin for record in records], pa.binary()),
        }
        return pa.Table.from_arrays([columns[name] for name in self._schema.names], schema=self._schema)


def _shown(micros: int) -> str:
    try:
        return from_micros(micros).isoformat()
    except ClockError:
        return f"{micros} us"
