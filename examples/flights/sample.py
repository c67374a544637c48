"""When the demo's clock stops, and which flights are looked up there."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.clock import to_micros

FLIGHTS = 8
"""Stops are minutes for which at least so many flights are scheduled."""

EVERY = 6
"""One in so many of these is a stop."""

REQUEST = ("origin", "dest", "tailnum", "distance", "sched_hour", "month")
"""What a request for a flight's features gives: join keys and request fields."""


class Stops:
    """Busy minutes, spread over the days and over the time of day.

    Parameters
    ----------
    flights
        The entity frame.
    start, end
        Stops come from ``start`` (inclusive) to ``end`` (exclusive).

    Attributes
    ----------
    moments
        Microseconds since the epoch, ascending.
    """

    def __init__(self, flights: pa.Table, start: datetime, end: datetime) -> None:
        self._requests = flights.select(REQUEST)
        scheduled = flights["event_timestamp"].cast(pa.int64()).to_numpy()
        minutes, counts = np.unique(scheduled, return_counts=True)
        between = (minutes >= to_micros(start)) & (minutes < to_micros(end))
        busy = minutes[(counts >= FLIGHTS) & between]
        self.moments: list[int] = busy[EVERY // 2 :: EVERY].tolist()
        self._order = np.argsort(scheduled, kind="stable")
        self._sorted = scheduled[self._order]

    def flights(self, moment: int) -> list[int]:
        """Return the flights scheduled for a moment, as row numbers of the entity frame."""
        start, end = np.searchsorted(self._sorted, [moment, moment + 1])
        numbers: list[int] = self._order[start:end].tolist()
        return numbers

    def requests(self, moment: int) -> list[dict[str, Any]]:
        """Return the requests for the flights scheduled for a moment."""
        rows: list[dict[str, Any]] = self._requests.take(pa.array(self.flights(moment))).to_pylist()
        return rows

    def asked_once(self) -> list[str]:
        """Return the aircraft that are asked for exactly once, in the order they are."""
        aircraft = Counter(row["tailnum"] for moment in self.moments for row in self.requests(moment))
        return [tailnum for tailnum, times in aircraft.items() if times == 1 and tailnum is not None]
