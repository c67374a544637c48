"""Rows that get their sequences here, when they are written, because no source numbers them: pushes and replays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featurestore.streaming.log_applier import LogApplier
from featurestore.streaming.prepare import Batch, Event, Prepared
from featurestore.streaming.records import Record

Row = tuple[Mapping[str, Any], bytes | None]
"""Decoded fields, and the origin to store with them."""


def number(log: LogApplier, writer: str, arrival: int, rows: Sequence[Row]) -> Batch:
    """Return rows as a batch that continues a writer; the caller holds its lease until the batch is written."""
    start = log.next_sequence(writer)
    events = [
        Event(Record(writer, sequence, arrival, b"", origin), fields)
        for sequence, (fields, origin) in enumerate(rows, start)
    ]
    return Batch(events, [], {writer: start + len(events) - 1})


def write_all(log: LogApplier, batch: Batch, prepared: Prepared) -> None:
    """Write a numbered batch, every row of it.

    Under the lease that is one commit. Should somebody write the lane without it, from another machine for one, the
    log leaves out rows whose numbers it has seen; they get new ones, so that none is lost.
    """
    appended = log.write(batch, prepared)
    while appended.num_rows < prepared.rows.num_rows:
        ours = set(prepared.rows["_sequence"].to_pylist()) - set(appended["_sequence"].to_pylist())
        left = [event for event in batch.events if event.record.sequence in ours]
        first = left[0].record
        batch = number(log, first.writer, first.arrival or 0, [(event.fields, event.record.origin) for event in left])
        prepared = log.prepare(batch)
        appended = log.write(batch, prepared)
