"""From a batch source's records to the rows of a log: transform, conversion, checks and arrival."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.clock import delta_micros, format_duration, to_micros
from featurestore.definitions.feature_view import FeatureView
from featurestore.definitions.sources import BatchSource
from featurestore.errors import DefinitionError, RowError
from featurestore.materialize.chunks import Chunk, Wanted
from featurestore.materialize.readers import SourceReader
from featurestore.materialize.text import Rejected
from featurestore.semantics.records import ConvertedRow, RecordConverter
from featurestore.types import UnixTimestamp, convert

EVENT, ARRIVAL = "event_timestamp", "arrival"
FIRST, LAST = to_micros(datetime.min), to_micros(datetime.max)  # noqa: DTZ901  (naive is UTC)

Flags = npt.NDArray[np.bool_]
Micros = npt.NDArray[np.int64]


class RowReader:
    """Reads the rows that a view's batch source holds for a range of event time.

    Parameters
    ----------
    view
        The view; one of those that share a log.
    reader
        Reads its batch source.
    max_future_skew
        How far an event's time may be ahead of its arrival, in microseconds.

    Attributes
    ----------
    rejected
        The records that became no row, so far. Of those whose time is known only the ones within the range.
    dropped
        The number of records that the transform mapped to no row, so far.
    """

    def __init__(self, view: FeatureView, reader: SourceReader, max_future_skew: int) -> None:
        source = view.batch_source
        if source is None:
            raise DefinitionError(f"FeatureView {view.name!r} has no batch source to read")
        self.rejected: list[Rejected] = []
        self.dropped = 0
        self._view = view
        self._source: BatchSource = source
        self._reader = reader
        self._skew = max_future_skew
        self._delay = delta_micros(source.availability_delay)
        self._fields = [*view.join_keys, *view.columns]

    def tables(self, start: int, end: int, *, timeless: bool = True) -> Iterator[pa.Table]:
        """Yield valid rows with ``start <= event_timestamp < end``: times, join keys and input columns.

        Parameters
        ----------
        start, end
            The range in microseconds.
        timeless
            Whether records without a time are rejected: of the chunks of one job only in the first.

        Raises
        ------
        SourceError
            Where the source is unreadable or does not have the columns and types that are declared.
        """
        if self._view.code is not None:
            for records in self._reader.records(self.rejected.append):
                yield self._checked(self._transformed(records, start, end), start, end)
            return
        wanted = [Wanted(field.name, self._reader.column(field.name), field.dtype) for field in self._fields]
        for chunk in self._reader.typed([*wanted, *self._times()], self.rejected.append, start, end):
            yield self._checked(chunk, start, end, timeless=timeless)

    def times(self) -> Iterator[tuple[Micros, Micros]]:
        """Yield event times and arrivals of all the source's rows that have both; nothing is rejected."""
        chunks: Iterator[Chunk]
        if self._view.code is not None:
            chunks = (self._transformed(records, FIRST, LAST + 1) for records in self._reader.records(_ignore))
        else:
            chunks = self._reader.typed(self._times(), _ignore)
        for chunk in chunks:
            event, arrival = self._event_and_arrival(chunk)
            known = _known(event) & _known(arrival)
            yield _micros(event)[known], _micros(arrival)[known]
        self.rejected.clear()
        self.dropped = 0

    def _times(self) -> list[Wanted]:
        source = self._source
        times = [Wanted(EVENT, self._reader.time_column(source.timestamp_field), UnixTimestamp)]
        if source.created_timestamp_column:
            created = self._reader.time_column(source.created_timestamp_column)
            times.append(Wanted(ARRIVAL, created, UnixTimestamp))
        return times

    def _event_and_arrival(self, chunk: Chunk) -> tuple[pa.Array, pa.Array]:
        if self._source.created_timestamp_column:
            return chunk.columns[-2], chunk.columns[-1]
        event = chunk.columns[-1]
        delayed = pa.array(_micros(event) + self._delay, mask=~_known(event))
        return event, delayed.cast(pa.timestamp("us", "UTC"))

    def _checked(self, chunk: Chunk, start: int, end: int, *, timeless: bool = True) -> pa.Table:
        event, arrival = self._event_and_arrival(chunk)
        known = _known(event)
        inside = (~known & timeless) | (known & (_micros(event) >= start) & (_micros(event) < end))
        columns = dict(zip([field.name for field in self._fields], chunk.columns, strict=False))
        bad = self._bad({EVENT: event, ARRIVAL: arrival} | columns, chunk)
        for row in sorted(row for row in bad if inside[row]):
            payload = msgspec.json.encode(chunk.payload(row), enc_hook=repr)
            self.rejected.append(Rejected(payload, *bad[row]))
        keep = inside
        keep[list(bad)] = False
        table = pa.table({EVENT: event, ARRIVAL: arrival} | columns)
        return table if keep.all() else table.filter(pa.array(keep))

    def _bad(self, columns: dict[str, pa.Array], chunk: Chunk) -> dict[int, tuple[str, str]]:
        """Return what is wrong with which rows; of several things the first."""
        found = {row: ("invalid", what) for row, what in chunk.bad.items()}
        created = self._source.created_timestamp_column
        texts = {EVENT: f"the timestamp {self._source.timestamp_field!r} is null"}
        if created:
            texts[ARRIVAL] = f"the created timestamp {created!r} is null"
        texts |= {key.name: f"the join key {key.name!r} is null" for key in self._view.join_keys}
        for name, text in texts.items():
            _note(found, ~_known(columns[name]), "no_arrival" if name == ARRIVAL else "invalid", text)
        for name, column in columns.items():
            if pa.types.is_timestamp(column.type):
                times = _micros(column)
                outside = _known(column) & ((times < FIRST) | (times > LAST))
                _note(found, outside, "invalid", f"column {name!r}: a time outside the years 1 to 9999")
        late = _micros(columns[EVENT]) - _micros(columns[ARRIVAL]) > self._skew
        both = _known(columns[EVENT]) & _known(columns[ARRIVAL])
        limit = f"its event time is more than {format_duration(self._skew)} after its arrival"
        _note(found, late & both, "future", limit)
        return found

    def _transformed(self, records: Sequence[dict[str, Any]], start: int, end: int) -> Chunk:
        """Return the rows of some records, with the records they came from."""
        time_name = self._mapped(self._source.timestamp_field)
        made = RecordConverter(self._view, time_name)
        rows: list[tuple[ConvertedRow, int | None]] = []
        kept: list[dict[str, Any]] = []
        for record in records:
            try:
                row = made(record)
                created = self._created(record) if row is not None else None
            except RowError as error:
                if _within(record.get(time_name), start, end):
                    payload = msgspec.json.encode(record, enc_hook=repr)
                    self.rejected.append(Rejected(payload, "invalid", str(error)))
                continue
            if row is None:
                self.dropped += _within(record.get(time_name), start, end)
                continue
            rows.append((row, created))
            kept.append(record)
        return Chunk(self._arrays(rows), {}, kept.__getitem__)

    def _arrays(self, rows: Sequence[tuple[ConvertedRow, int | None]]) -> list[pa.Array]:
        arrays = []
        for number, field in enumerate(self._fields):
            is_key = number < len(self._view.join_keys)
            values = [(row[1] if is_key else row[2])[field.name] for row, _ in rows]
            arrays.append(pa.array(values, field.dtype.to_arrow()))
        arrays.append(pa.array([row[0] for row, _ in rows], pa.timestamp("us", "UTC")))
        if self._source.created_timestamp_column:
            arrays.append(pa.array([created for _, created in rows], pa.timestamp("us", "UTC")))
        return arrays

    def _created(self, record: dict[str, Any]) -> int | None:
        name = self._source.created_timestamp_column
        if not name:
            return None
        try:
            created: int | None = convert(record.get(self._mapped(name)), UnixTimestamp)
        except RowError as error:
            raise RowError(f"column {name!r}: {error}") from error
        return created

    def _mapped(self, column: str) -> str:
        return self._source.field_mapping.get(column, column)


def _note(found: dict[int, tuple[str, str]], flags: Flags, reason: str, text: str) -> None:
    for row in np.flatnonzero(flags):
        found.setdefault(int(row), (reason, text))


def _known(column: pa.Array) -> Flags:
    flags: Flags = column.is_valid().to_numpy(zero_copy_only=False)
    return flags


def _micros(column: pa.Array) -> Micros:
    micros: Micros = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return micros


def _within(value: Any, start: int, end: int) -> bool:
    """Return whether a record's time is in the range, or cannot be told."""
    try:
        micros = convert(value, UnixTimestamp)
    except RowError:
        return True
    return micros is None or start <= micros < end


def _ignore(rejected: Rejected) -> None:
    """Leave rejecting to the job that loads the row."""
