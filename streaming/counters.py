"""What became of the records of a stream, per view."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

UNDECODABLE = "undecodable"
INVALID = "invalid"
FUTURE = "future"
NO_ARRIVAL = "no_arrival"


@dataclass(slots=True)
class Counters:
    """Counts since the process started. Every event is an applied row, dropped, rejected or a duplicate.

    Attributes
    ----------
    events
        Records delivered.
    rows
        Rows logged, and applied online where the view is served online.
    dropped
        Records that the transform mapped to no row.
    duplicates
        Records that the log held already.
    superseded
        Of `rows`, those before the cut in force of a lambda view: its batch rows count instead.
    rejected
        Kind of rejection to the number of records: `UNDECODABLE`, `INVALID` (the transform raised, or a value is
        missing or of the wrong type), `FUTURE` (too far ahead of its arrival) and `NO_ARRIVAL`.
    """

    events: int = 0
    rows: int = 0
    dropped: int = 0
    duplicates: int = 0
    superseded: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
