"""Time as the store counts it: integer microseconds since the Unix epoch, UTC.

No code but the outermost edge reads a clock; everything else is handed one of these.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from featurestore.errors import ClockError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """Anything that tells the time in microseconds since the epoch."""

    def now(self) -> int:
        """Return the current time in microseconds since the epoch, UTC."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        """Return the machine's time in microseconds since the epoch, UTC."""
        return time.time_ns() // 1000


class ManualClock:
    """A clock that stands still until it is set; used by replays, the demo and tests."""

    def __init__(self, start: int | datetime = 0) -> None:
        self._now = to_micros(start)

    def now(self) -> int:
        """Return the time it was last set to."""
        return self._now

    def set(self, value: int | datetime) -> None:
        """Move the clock to ``value``, forwards or backwards."""
        self._now = to_micros(value)


def to_micros(value: int | datetime) -> int:
    """Return ``value`` as microseconds since the epoch; a naive datetime is UTC."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        return (value - EPOCH) // _MICROSECOND
    if isinstance(value, bool) or not isinstance(value, int):
        raise ClockError(f"{value!r} is not a time: give a datetime or integer microseconds since the epoch")
    return value


def from_micros(value: int) -> datetime:
    """Return microseconds since the epoch as an aware UTC datetime."""
    try:
        return EPOCH + timedelta(microseconds=value)
    except OverflowError as error:
        raise ClockError(f"{value} microseconds since 1970 is outside the years 1 to 9999") from error


def delta_micros(value: timedelta) -> int:
    """Return a duration in whole microseconds."""
    return value // _MICROSECOND


def format_duration(micros: int, other: int = 0) -> str:
    """Return a duration the way a person writes it: ``90s``, ``5m``, ``6h``, ``7d``.

    With ``other``, the unit is one in which that is a whole number too: an hour beside 65 minutes is ``60m``.
    """
    both = math.gcd(micros, other)
    for unit, size in (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000)):
        if both and both % size == 0:
            return f"{micros // size}{unit}"
    return f"{micros}us"
