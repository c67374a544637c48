"""Window arithmetic: which event times a window of a given length, hop and offset covers when evaluated at ``t``.

Every quantity is an integer number of microseconds; times count from the Unix epoch and floors go toward minus
infinity. Windows are half-open. The tail moves in hops, the head is exact ("sawtooth" windows).
"""

from __future__ import annotations

import msgspec

from featurestore.clock import format_duration

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Window(msgspec.Struct, frozen=True, order=True):
    """One window: ``length`` (None: all history), ``hop`` and ``offset``, in microseconds."""

    length: int | None
    hop: int
    offset: int = 0

    def bounds(self, t: int) -> tuple[int | None, int]:
        """Return ``(start, end)``: the window at ``t`` covers ``start <= event_timestamp < end``.

        ``start`` is None where the window reaches back over all history.
        """
        end = t if self.offset == 0 else floor_to(t - self.offset, self.hop)
        start = None if self.length is None else floor_to(t - self.offset - self.length, self.hop)
        return start, end

    def describe(self) -> str:
        """Return the window and the span it truly covers, for example ``1h: 60m to 65m``."""
        if self.length is None:
            text = "all history"
        elif self.offset == 0:
            longest = self.length + self.hop
            text = f"{format_duration(self.length)}: {format_duration(self.length, longest)} to "
            text += format_duration(longest, self.length)
        else:
            text = f"{format_duration(self.length)}: whole hops of {format_duration(self.hop)}"
        return text if self.offset == 0 else f"{text}, {format_duration(self.offset)} ago"


def floor_to(t: int, step: int) -> int:
    """Return the greatest multiple of ``step`` that is at most ``t``."""
    return t // step * step


def default_hop(length: int | None) -> int:
    """Return the hop of a window for which the user named none."""
    if length is None or length >= 12 * DAY:
        return DAY
    if length >= 12 * HOUR:
        return HOUR
    if length >= HOUR:
        return 5 * MINUTE
    limit = max(SECOND, length // 60)
    return max(step * SECOND for step in (1, 5, 10, 30, 60) if step * SECOND <= limit)


def hop_error(length: int | None, hop: int) -> str | None:
    """Return what is wrong with a hop, or None where it divides a day or is whole days, and fits its window."""
    if hop <= 0:
        return "the slide_interval must be positive"
    shown = f"the slide_interval {format_duration(hop)}"
    if length is not None and hop > length:
        return f"{shown} is longer than the time_window {format_duration(length)}; make it at most that"
    if DAY % hop and hop % DAY:
        return f"{shown} neither divides one day nor is whole days; take 5m, 1h or 1d"
    return None
