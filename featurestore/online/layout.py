"""How a view's state is laid out online: which accumulators, in tiles of which lengths, kept for how long.

Tiles of the view's smallest hop form level 0, of the next hop level 1, and so on. A window whose hop is that of level
j is read as level-j tiles from its tail, then ever smaller ones up to the tile that holds ``t``. A section keeps what
any reader may ask for whose clock is at most `max_clock_skew` behind the section's greatest arrival; what is older is
dropped or, for windows over all history, folded into a *base*: one state of all rows before the base's end. Rows from
there on are in the base's *tails*, a few long tiles beside it, so that no window needs a chunk that does not follow
from ``t`` alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from featurestore.definitions import Aggregation, FeatureView
from featurestore.definitions.project import digest, row_fingerprint
from featurestore.online.tiles import TileCodec
from featurestore.semantics.accumulators import Accumulator, accumulator_for
from featurestore.semantics.windows import Window, floor_to
from featurestore.types import ValueType

FORMAT = 2
_CHUNKS_PER_WINDOW = 4
_TAILS = 8


class Piece(NamedTuple):
    """Tiles of one level with ``start <= tile start < end``; a start of None: however old."""

    level: int
    start: int | None
    end: int


class Output(NamedTuple):
    """One aggregation: its window, its column's type and the index of the accumulator that answers it."""

    aggregation: Aggregation
    window: Window
    level: int
    dtype: ValueType | None
    accumulator: int


class WindowLayout:
    """Layout of a window view. Times and lengths are in microseconds.

    Attributes
    ----------
    hops
        Length of a tile by level, ascending.
    accumulators
        All accumulators; those of a tile of level j are `tile_accumulators[j]`, as indices.
    base_accumulators
        By level, the accumulators (as indices) that windows over all history with that hop need.
    positions
        By accumulator, the place of its column among a row's values (input columns, then join keys); None: no column.
    tails
        Length of a tail by level: a whole number of tiles, one where that makes few tails.
    spans
        Length of a chunk by level: a whole number of tiles.
    codecs
        The stored form of the tiles of each level.
    """

    def __init__(self, view: FeatureView, skew: int) -> None:
        self.skew = skew
        self.is_lambda = view.is_lambda
        self.hops = view.hops
        self.accumulators: list[Accumulator] = []
        types = {field.name: field.dtype for field in (*view.schema, *view.join_keys)}
        known: dict[tuple[Any, ...], int] = {}
        outputs = []
        dtypes = []
        for aggregation in view.aggregations:
            dtype = types.get(aggregation.column or "")
            accumulator = accumulator_for(aggregation, dtype)
            index = known.setdefault(accumulator.identity, len(self.accumulators))
            if index == len(self.accumulators):
                self.accumulators.append(accumulator)
                dtypes.append(dtype)
            window = aggregation.window
            outputs.append(Output(aggregation, window, self.hops.index(window.hop), dtype, index))
        self.outputs = tuple(outputs)
        places = {field.name: place for place, field in enumerate((*view.columns, *view.join_keys))}
        self.positions = [None if acc.column is None else places[acc.column] for acc in self.accumulators]
        levels = range(len(self.hops))
        self.tile_accumulators = [
            sorted({out.accumulator for out in outputs if out.level >= level}) for level in levels
        ]
        self.base_accumulators = [
            sorted({out.accumulator for out in outputs if out.level == level and out.window.length is None})
            for level in levels
        ]
        self.has_base = any(self.base_accumulators)
        self.tails = [self._tail(level) for level in levels]
        self.spans = [self._span(level) for level in levels]
        self.codecs = [TileCodec(self.accumulators, dtypes, indices) for indices in self.tile_accumulators]

    def _tail(self, level: int) -> int:
        """Return a tail's length such that all that a reader a skew behind may ask for is in few of them."""
        hop = self.hops[level]
        return max(1, -(-(self.skew + self._lag(level)) // (hop * _TAILS))) * hop

    def _lag(self, level: int) -> int:
        """Return the greatest offset of the windows over all history that have a level's hop."""
        return max(
            (out.window.offset for out in self.outputs if out.level == level and out.window.length is None), default=0
        )

    def _span(self, level: int) -> int:
        """Return a chunk length such that a window is read from few chunks and an event rewrites a small one."""
        hop = self.hops[level]
        needs = [self.tails[level]]
        needs += [out.window.length for out in self.outputs if out.level == level and out.window.length is not None]
        if level + 1 < len(self.hops):
            needs.append(self.hops[level + 1])
        return max(1, -(-max(needs) // (hop * _CHUNKS_PER_WINDOW))) * hop

    def is_tiled(self, level: int, *, fold: bool) -> bool:
        """Whether a reader asks for tiles of a level; for a window over all history tails of one tile each do."""
        return (
            level == 0
            or not fold
            or self.tails[level] > self.hops[level]
            or any(out.level > level or (out.level == level and out.window.length is not None) for out in self.outputs)
        )

    def kept_from(self, level: int, arrival: int) -> int:
        """Return the start of the oldest tile of a level that is kept at a section's greatest arrival."""
        t = arrival - self.skew
        starts = [floor_to(t, self.hops[level + 1])] if level + 1 < len(self.hops) else []
        for out in self.outputs:
            if out.level == level:
                start = self.base_end(level, arrival) if out.window.length is None else out.window.bounds(t)[0]
                assert start is not None  # noqa: S101  (a bounded window has a start)
                starts.append(start)
        return min(starts)

    def base_end(self, level: int, arrival: int) -> int:
        """Return the time before which a level's base holds all rows, those from it on being in its tails."""
        return floor_to(arrival - self.skew - self._lag(level), self.tails[level])

    @property
    def horizon(self) -> int | None:
        """How far before its greatest arrival a section needs rows; None where it needs all."""
        if self.has_base:
            return None
        longest = max((out.window.length or 0) + out.window.offset for out in self.outputs)
        return longest + 2 * self.hops[-1] + self.skew

    @property
    def lifetime(self) -> int | None:
        """How long after a write some reader may need what it wrote, rows still pending left aside; None: for ever."""
        return None if self.horizon is None else self.horizon + self.skew

    def pieces(self, window: Window, t: int, cut: int | None, *, fold: bool) -> list[Piece]:
        """Return the tiles that together are the window at `t`, less what is in the base and its tails.

        Parameters
        ----------
        cut
            Time before which no tile counts.
        fold
            Whether the section has a base; without one, windows over all history are tiles from the cut on.
        """
        level = self.hops.index(window.hop)
        start, end = window.bounds(t)
        if start is None and fold:
            start = floor_to(end, self.tails[level])
        if cut is not None and (start is None or start < cut):
            start = cut
        if window.offset:
            return [Piece(level, start, end)] if start is None or start < end else []
        pieces = []
        for smaller in range(level, -1, -1):
            # the head tile holds only rows before t: whoever evaluates at t has made sure of that
            upto = floor_to(end, self.hops[smaller]) if smaller else -(-end // self.hops[0]) * self.hops[0]
            if start is None or start < upto:
                pieces.append(Piece(smaller, start, upto))
                start = upto
        return pieces


def state_fingerprint(project: str, view: FeatureView, skew: int) -> bytes:
    """Return the 16 bytes that name a view's stored state: equal where the stored bytes mean the same."""
    keys = [(key.name, str(key.dtype)) for key in view.join_keys]
    shape: list[Any] = ["state"]
    if view.is_window:
        layout = WindowLayout(view, skew)
        shape = [
            "window",
            [list(map(str, accumulator.identity)) for accumulator in layout.accumulators],
            layout.hops,
            layout.tile_accumulators,
            layout.base_accumulators,
            layout.spans,
            layout.tails,
            [(out.level, out.window.length, out.window.offset) for out in layout.outputs],
            skew,
        ]
    facts = [FORMAT, project, view.name, row_fingerprint(view), keys, view.is_lambda, shape]
    first, *others = bytes.fromhex(digest(msgspec.json.encode(facts)))
    return bytes((first or 1, *others))  # keys that begin with a zero byte are marks
