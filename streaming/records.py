"""Delivered records, and the contract of what delivers them: a file now, Kafka later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

NEVER = -1
"""The position of a writer of which nothing was processed."""


class Record(NamedTuple):
    """One record as its source delivered it. All of it is the same whenever it is delivered again.

    Attributes
    ----------
    writer
        The ordered log the record stands in, for example ``file/trips/trips.jsonl``.
    sequence
        Its place there, from 0; it grows from record to record, and may leave gaps.
    arrival
        When it could first be known, in microseconds since the epoch. None: the source has no such time, or this
        record's is missing or unreadable.
    payload
        The bytes delivered. Empty where the source delivers decoded fields.
    origin
        Idempotency key or original position, where there is one.
    """

    writer: str
    sequence: int
    arrival: int | None
    payload: bytes
    origin: bytes | None = None


class StreamReader(ABC):
    """Delivers the records of one stream source, and remembers how far they were processed.

    Delivery is **at least once, in order per writer**: between two calls of `seek`, the sequences of a writer grow
    strictly, and no record is left out. After a restart, records whose processing was not committed come again; the
    row log recognises them by their position, so that the effect is exactly once.

    Positions name the **last processed** record. A reader resumes with the one after it: ``seek({w: 41})`` delivers
    42 next, ``seek({w: -1})`` starts at the beginning. Clients that store "the next record to read", as Kafka's do,
    must add one when they commit and subtract one when they report.
    """

    @property
    @abstractmethod
    def writers(self) -> Sequence[str]:
        """The writers whose records this reader delivers."""

    @abstractmethod
    def poll(self, limit: int, until: int | None = None) -> list[Record]:
        """Return up to `limit` records, in delivery order; an empty list where none are due now.

        Parameters
        ----------
        limit
            Greatest number of records to return, at least 1.
        until
            Stop before the first record whose arrival is later, in microseconds since the epoch. Records without a
            readable arrival do not stop it.
        """

    @abstractmethod
    def seek(self, positions: Mapping[str, int]) -> None:
        """Deliver, from now on, what follows the last processed sequence of each writer named.

        Call it before the first poll, with what the row log holds: the log is the truth, a committed position only
        saves work.
        """

    @abstractmethod
    def commit(self, positions: Mapping[str, int]) -> None:
        """Remember the last processed sequence of each writer named.

        It is the last step, after the log and the online store, and lies at or behind what was polled.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what the reader holds open; nothing is committed."""


def last_sequences(records: Iterable[Record]) -> dict[str, int]:
    """Return the greatest sequence of each writer, in the order in which the writers first occur."""
    last: dict[str, int] = {}
    for record in records:
        if record.sequence > last.get(record.writer, NEVER):
            last[record.writer] = record.sequence
    return last
