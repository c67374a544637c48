"""Reading one view's stored state for one key at a time ``t``: which sections count, how far ``t`` must move, values.

A reader's ``t`` is its clock or, if later, one microsecond past the newest row that is not pending of the tile that
holds the clock (state views: past the newest row). So the head tile always counts whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from featurestore.clock import format_duration, from_micros
from featurestore.errors import ClockError, OnlineStoreError
from featurestore.online.framing import Section, parse
from featurestore.online.layout import Output, Piece, WindowLayout
from featurestore.online.sections import OnlineRow, StateSection, WindowSection, whole_key
from featurestore.online.view import OnlineView, cut_of, is_batch_of_cut
from featurestore.semantics.accumulators import Order, clean
from featurestore.semantics.finalise import finalise
from featurestore.semantics.rows import BATCH_WRITER, Result, Status
from featurestore.semantics.windows import floor_to

_PRESENT = Status.PRESENT
_NULL = Result(None, Status.NULL_VALUE)
_NOT_FOUND = Result(None, Status.NOT_FOUND)
_OUTSIDE = Result(None, Status.OUTSIDE_MAX_AGE)


class ViewAnswer(NamedTuple):
    """A view's answer for one key.

    Attributes
    ----------
    results
        Value and status by feature, in the view's order.
    event_timestamp
        Of a state view, when the row behind the values happened; else None.
    sequences
        By writer, the last sequence that was visible (of batch: the job).
    """

    results: list[Result]
    event_timestamp: int | None
    sequences: dict[str, int]


class StateReading:
    """The state of a key of a state view."""

    def __init__(self, view: OnlineView, header: bytes | None, cut: int | None, whole: bytes | None) -> None:
        self._online = view
        self._cut = cut if view.is_lambda else None
        self._sections: list[tuple[str, StateSection]] = []
        self.sequences: dict[str, int] = {}
        for section in _visible(view, header, cut, whole):
            writer = BATCH_WRITER if is_batch_of_cut(section.writer) else section.writer
            self._sections.append((writer, StateSection.decode(section.payload)))
            self.sequences[writer] = section.sequence

    def move(self, t: int, *, moved: bool) -> int:  # noqa: ARG002  (the windows' answer depends on it)
        """Return the earliest time from `t` on at which every row that is not pending counts."""
        for writer, section in self._sections:
            row = section.newest
            if row is not None and row.event_timestamp >= t and self._counts(writer, row):
                t = row.event_timestamp + 1
        return t

    def _counts(self, writer: str, row: OnlineRow) -> bool:
        return self._cut is None or writer == BATCH_WRITER or row.event_timestamp >= self._cut

    def evaluate(self, t: int) -> ViewAnswer:
        """Return the values at `t`."""
        best: OnlineRow | None = None
        rank: tuple[Any, ...] = ()
        for writer, section in self._sections:
            rows = section.pending if section.newest is None else (section.newest, *section.pending)
            for row in rows:
                if row.event_timestamp <= t and self._counts(writer, row):
                    order = (row.event_timestamp, row.arrival, writer.encode(), row.sequence)
                    if best is None or order > rank:
                        best, rank = row, order
        ttl, places = self._online.ttl, self._online.feature_places
        if best is None or (ttl is not None and best.event_timestamp < t - 2 * ttl):
            return ViewAnswer([_NOT_FOUND] * len(places), None, self.sequences)
        if ttl is not None and best.event_timestamp < t - ttl:
            return ViewAnswer([_OUTSIDE] * len(places), best.event_timestamp, self.sequences)
        values = best.values
        results = [_NULL if (value := values[place]) is None else Result(value, _PRESENT) for place in places]
        return ViewAnswer(results, best.event_timestamp, self.sequences)


class WindowReading:
    """The state of a key of a window view."""

    def __init__(self, view: OnlineView, header: bytes | None, cut: int | None, whole: bytes | None) -> None:
        assert view.layout is not None  # noqa: S101  (a window view has a layout)
        self._online = view
        self._entity = whole
        self._layout: WindowLayout = view.layout
        self._cut = cut if view.is_lambda else None
        self._sections: dict[str, WindowSection] = {}
        self._loaded: set[bytes] = set()
        self._answer: tuple[int, ViewAnswer] | None = None
        self.sequences: dict[str, int] = {}
        for section in _visible(view, header, cut, whole):
            writer = BATCH_WRITER if is_batch_of_cut(section.writer) else section.writer
            self._sections[section.writer] = WindowSection.decode(
                self._layout, writer, section.payload, fold=view.folds(writer)
            )
            self.sequences[writer] = section.sequence

    def chunks(self, t: int) -> list[bytes]:
        """Return the keys of the chunks, not loaded yet, that hold every tile of every window at `t`."""
        spans = {
            (piece.level, chunk)
            for section in self._sections.values()
            for out in self._layout.outputs
            for piece in self._pieces(section, out, t)
            for chunk in self._stored(section, piece)
        }
        spans |= {(0, floor_to(t, self._layout.spans[0]))}
        keys = [self._online.chunk(self._entity or b"", level, chunk) for level, chunk in sorted(spans)]
        return [key for key in keys if key not in self._loaded]

    def _stored(self, section: WindowSection, piece: Piece) -> Iterable[int]:
        span = self._layout.spans[piece.level]
        return (chunk for chunk in section.chunks[piece.level] if piece.start < chunk + span and chunk < piece.end)

    def load(self, chunks: Mapping[bytes, bytes | None]) -> None:
        """Load chunks that were read."""
        for key, value in chunks.items():
            self._loaded.add(key)
            if value is None:
                continue
            level = key[-9]
            for stored in parse(value):
                section = self._sections.get(stored.writer)
                if section is not None:
                    section.load(level, stored.payload)

    def move(self, t: int, *, moved: bool) -> int:
        """Return the earliest time from `t` on at which every row of the tile that holds it counts, if not pending.

        Where `t` has been moved onto the start of a tile, that tile holds no clock and does not count at all.
        """
        start = floor_to(t, self._layout.hops[0])
        if moved and start == t:
            return t
        for section in self._sections.values():
            tile = section.tiles[0].get(start)
            if tile is not None and tile.newest >= t and self._counts(section, start):
                t = tile.newest + 1
        return t

    def _counts(self, section: WindowSection, event_timestamp: int) -> bool:
        return self._cut is None or section.writer == BATCH_WRITER or event_timestamp >= self._cut

    def _pieces(self, section: WindowSection, out: Output, t: int) -> list[Piece]:
        base_end: int | None = None
        if out.window.length is None:
            base_end = section.base_end(out.level)
            if base_end is None:  # not folded: from the cut, or the oldest tile there is
                starts = section.chunks[out.level]
                base_end = min(starts, default=0) if self._cut is None else self._cut
        return self._layout.pieces(out, t, base_end)

    def evaluate(self, t: int) -> ViewAnswer:
        """Return the values at `t`, with the chunks of `chunks(t)` loaded, worked out once for each `t`."""
        if self._answer is None or self._answer[0] != t:
            self._answer = t, self._evaluate(t)
        return self._answer[1]

    def _evaluate(self, t: int) -> ViewAnswer:
        for section in self._sections.values():
            earliest = (section.arrival if section.arrival is not None else t) - self._layout.skew
            if t < earliest:
                raise ClockError(
                    f"view {self._online.view.name!r}: the reader's clock {from_micros(t)} is more than "
                    f"max_clock_skew ({format_duration(self._layout.skew)}) behind rows that arrived at "
                    f"{from_micros(earliest + self._layout.skew)}; the online store answers for the present, use "
                    "get_historical_features for the past"
                )
        results = [finalise(out.aggregation, out.dtype, self._state(out, t)) for out in self._layout.outputs]
        return ViewAnswer(results, None, self.sequences)

    def _state(self, out: Output, t: int) -> Any:
        accumulator = self._layout.accumulators[out.accumulator]
        states = []
        for section in self._sections.values():
            if out.window.length is None and section.base_end(out.level) is not None:
                states.append(section.bases[out.level][out.accumulator])
            for level, start, end in self._pieces(section, out, t):
                for tile_start, tile in section.tiles[level].items():
                    if start <= tile_start < end and self._counts(section, tile_start):
                        states.append(section.state(level, tile, out.accumulator))
        state = accumulator.combine(states)
        for section in self._sections.values():
            if section.pending:
                state = self._add_pending(out, section, state, t)
        return state

    def _add_pending(self, out: Output, section: WindowSection, state: Any, t: int) -> Any:
        start, end = out.window.bounds(t)
        position = self._layout.positions[out.accumulator]
        for row in section.pending:
            inside = row.event_timestamp < end and (start is None or row.event_timestamp >= start)
            if inside and self._counts(section, row.event_timestamp):
                value = True if position is None else clean(row.values[position])
                if value is not None:
                    order = Order(row.event_timestamp, row.arrival, section.writer, row.sequence)
                    state = self._layout.accumulators[out.accumulator].add(state, value, order)
        return state


Reading = StateReading | WindowReading


def _visible(view: OnlineView, header: bytes | None, cut: int | None, whole: bytes | None) -> list[Section]:
    """Return the sections that count: of a lambda view's batch sections the one for the cut in force."""
    if header is None:
        return []
    sections = parse(header)
    if len(whole or b"") > 400 and sections and whole_key(sections[0].payload) != whole:
        raise OnlineStoreError(f"two keys of view {view.view.name!r} share a shortened key")
    if not view.is_lambda:
        return sections
    cuts = [cut_of(section.writer) for section in sections if is_batch_of_cut(section.writer)]
    used = max((c for c in cuts if cut is not None and c <= cut), default=None)
    return [s for s in sections if not is_batch_of_cut(s.writer) or cut_of(s.writer) == used]
