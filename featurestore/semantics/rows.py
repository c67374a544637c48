"""What a value is made from and what it comes with: rows, cuts, statuses and results."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

BATCH_WRITER = "batch"
"""The writer of every row that a batch job wrote; all other writers are streams."""

RANK_BITS = 38
"""The sequence of a batch row is ``job << RANK_BITS | rank``."""


class Status(IntEnum):
    """What stands behind a value. The numbers are stored; never reuse one."""

    PRESENT = 0
    NULL_VALUE = 1
    NOT_FOUND = 2
    OUTSIDE_MAX_AGE = 3
    OVERFLOW = 4
    ERROR = 5


class Row(NamedTuple):
    """One row of a log. Times are microseconds since the epoch; `values` holds the input columns, by name."""

    key: tuple[Any, ...]
    event_timestamp: int
    arrival: int
    writer: str
    sequence: int
    values: dict[str, Any]


class Cut(NamedTuple):
    """Where a lambda view changes from batch rows (before `at`) to stream rows (from `at` on), since `arrival`."""

    at: int
    arrival: int


class Result(NamedTuple):
    """A feature's value as the store holds it (timestamps as microseconds) and its status."""

    value: Any
    status: Status
