"""A row as sections hold it, and which rows of a section are pending."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class OnlineRow(NamedTuple):
    """A row as a section holds it: its order within its writer, and its input columns in the view's order."""

    event_timestamp: int
    arrival: int
    sequence: int
    values: list[Any]


def split_pending(
    pending: list[OnlineRow], rows: Iterable[OnlineRow], arrival: int | None
) -> tuple[int, list[OnlineRow], list[OnlineRow]]:
    """Return the greatest arrival now, the rows that are due by it, and those that are pending, in order."""
    everything = [*pending, *rows]
    greatest = max(row.arrival for row in everything)
    if arrival is not None and arrival > greatest:
        greatest = arrival
    due = [row for row in everything if row.event_timestamp <= greatest]
    return greatest, due, sorted((row for row in everything if row.event_timestamp > greatest), key=row_order)


def row_order(row: OnlineRow) -> tuple[int, int, int]:
    """Return what orders the rows of one writer."""
    return row[:3]
