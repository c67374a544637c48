"""What one writer's section of one key holds, as a pure function of the writer's rows for that key.

A section at sequence s answers, for every ``t`` that pruning allows, for all that writer's rows of the key up to s.
Rows whose event time exceeds the section's greatest arrival are *pending*: kept apart as they are until a later
arrival passes them. Nothing here reads a clock, and the same rows in any batches give the same section.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from featurestore.online.layout import WindowLayout
from featurestore.semantics.accumulators import Order, clean
from featurestore.semantics.windows import floor_to

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class OnlineRow(NamedTuple):
    """A row as a section holds it: its order within its writer, and its input columns in the view's order."""

    event_timestamp: int
    arrival: int
    sequence: int
    values: list[Any]


def _split(
    pending: list[OnlineRow], rows: Iterable[OnlineRow], arrival: int | None
) -> tuple[int, list[OnlineRow], list[OnlineRow]]:
    """Return the greatest arrival now, the rows that are due by it, and those that are pending, in order."""
    everything = [*pending, *rows]
    greatest = max(row.arrival for row in everything)
    if arrival is not None and arrival > greatest:
        greatest = arrival
    due = [row for row in everything if row.event_timestamp <= greatest]
    return greatest, due, sorted((row for row in everything if row.event_timestamp > greatest), key=_row_order)


class StateSection:
    """The newest row that is due, and the pending ones."""

    __slots__ = ("arrival", "newest", "pending")

    def __init__(self) -> None:
        self.arrival: int | None = None
        self.newest: OnlineRow | None = None
        self.pending: list[OnlineRow] = []

    @classmethod
    def decode(cls, payload: bytes) -> StateSection:
        """Return the section that `encode` wrote."""
        section = cls()
        section.arrival, newest, pending = _decode(payload)[:3]
        section.newest = None if newest is None else OnlineRow(*newest)
        section.pending = [OnlineRow(*row) for row in pending]
        return section

    def encode(self, entity: bytes | None) -> bytes:
        """Return the section's bytes; `entity` is the whole key where the stored one is shortened."""
        return _encode((self.arrival, self.newest, self.pending, entity))

    def add(self, rows: Iterable[OnlineRow]) -> None:
        """Take in more rows."""
        self.arrival, due, self.pending = _split(self.pending, rows, self.arrival)
        newest = max(due, default=None, key=_row_order)
        if newest is not None and (self.newest is None or newest[:3] > self.newest[:3]):
            self.newest = newest


class Tile:
    """State of the rows of one tile: their newest event time, and one state per accumulator of the tile's level.

    A stored tile is unpacked only where it is changed or asked for.
    """

    __slots__ = ("newest", "packed", "states")

    def __init__(self, newest: int, states: dict[int, Any] | None, packed: bytes | None = None) -> None:
        self.newest = newest
        self.states = states
        self.packed = packed


class WindowSection:
    """Header of a window section, and those of its tiles that are loaded.

    Attributes
    ----------
    chunks
        By level, the start of every chunk that is stored.
    bases
        By level, accumulator (as index) to the state of all rows before the base's end.
    tiles
        By level, tile start to tile, for the loaded chunks.
    fold
        Whether old tiles go into bases; not so in stream sections of lambda views, whose cut may still move.
    """

    def __init__(self, layout: WindowLayout, writer: str, *, fold: bool) -> None:
        self.layout = layout
        self.writer = writer
        self.fold = fold
        self.arrival: int | None = None
        self.pending: list[OnlineRow] = []
        self.chunks: list[set[int]] = [set() for _ in layout.hops]
        self.bases: list[dict[int, Any]] = [
            {index: layout.accumulators[index].empty() for index in indices} for indices in layout.base_accumulators
        ]
        self.tiles: list[dict[int, Tile]] = [{} for _ in layout.hops]

    @classmethod
    def decode(cls, layout: WindowLayout, writer: str, payload: bytes, *, fold: bool) -> WindowSection:
        """Return the header that `encode` wrote, with no tiles loaded."""
        section = cls(layout, writer, fold=fold)
        section.arrival, pending, bases, chunks = _decode(payload)[:4]
        section.pending = [OnlineRow(*row) for row in pending]
        section.chunks = [set(starts) for starts in chunks]
        for level, packed in enumerate(bases):
            indices = layout.base_accumulators[level]
            section.bases[level] = {
                index: layout.accumulators[index].unpack(data, writer)
                for index, data in zip(indices, packed, strict=True)
            }
        return section

    def encode(self, entity: bytes | None) -> bytes:
        """Return the header's bytes; `entity` is the whole key where the stored one is shortened."""
        accumulators = self.layout.accumulators
        bases = [[accumulators[index].pack(state) for index, state in base.items()] for base in self.bases]
        return _encode((self.arrival, self.pending, bases, [sorted(starts) for starts in self.chunks], entity))

    def load(self, level: int, payload: bytes) -> None:
        """Load the tiles of a chunk."""
        tiles = self.tiles[level]
        for start, newest, packed in _decode(payload):
            tiles[start] = Tile(newest, None, packed)

    def state(self, level: int, tile: Tile, index: int) -> Any:
        """Return a loaded tile's state of one accumulator."""
        return self._states(level, tile)[index]

    def _states(self, level: int, tile: Tile) -> dict[int, Any]:
        """Return a tile's states, to be changed."""
        if tile.states is None:
            assert tile.packed is not None  # noqa: S101  (a tile is packed or not)
            accumulators, indices = self.layout.accumulators, self.layout.tile_accumulators[level]
            tile.states = {
                index: accumulators[index].unpack(data, self.writer)
                for index, data in zip(indices, _decode(tile.packed), strict=True)
            }
        return tile.states

    def encode_chunk(self, level: int, chunk: int) -> bytes | None:
        """Return the bytes of a loaded chunk, or None where it holds no tile."""
        accumulators = self.layout.accumulators
        end = chunk + self.layout.spans[level]
        tiles = self.tiles[level]
        packed = []
        for start in sorted(start for start in tiles if chunk <= start < end):
            tile = tiles[start]
            if tile.packed is None and tile.states is not None:
                tile.packed = _encode([accumulators[index].pack(state) for index, state in tile.states.items()])
            packed.append((start, tile.newest, tile.packed))
        return _encode(packed) if packed else None

    def base_end(self, level: int) -> int | None:
        """Return the time before which the level's base holds all rows; None where there is no base."""
        if not self.fold or self.arrival is None or not self.layout.base_accumulators[level]:
            return None
        return self.layout.base_end(level, self.arrival)

    def kept_from(self, level: int, arrival: int) -> int | None:
        """Return the start of the oldest kept tile; None where all are."""
        if not self.fold and self.layout.base_accumulators[level]:
            return None
        return self.layout.kept_from(level, arrival)

    def touched(self, rows: Iterable[OnlineRow]) -> list[tuple[int, int]]:
        """Return the (level, chunk start) of the stored chunks that `add(rows)` reads or changes."""
        arrival, due, _ = _split(self.pending, rows, self.arrival)
        chunks: set[tuple[int, int]] = set()
        for level, span in enumerate(self.layout.spans):
            starts = {floor_to(row.event_timestamp, span) for row in due}
            chunks.update((level, start) for start in starts & self.chunks[level])
            before = self.base_end(level)
            if before is not None:
                after = self.layout.base_end(level, arrival)
                chunks.update((level, start) for start in self.chunks[level] if start < after and start + span > before)
        return sorted(chunks)

    def add(self, rows: Iterable[OnlineRow]) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        """Take in more rows, with the chunks of `touched` loaded; return the chunks changed and those dropped."""
        before = [self.base_end(level) for level in range(len(self.layout.hops))]
        self.arrival, due, self.pending = _split(self.pending, rows, self.arrival)
        changed: set[tuple[int, int]] = set()
        for level, end in enumerate(before):
            if end is not None:
                self._fold(level, end)
        for level in range(len(before)):
            self._add_rows(level, due, changed)
        dropped = self._prune()
        return changed - dropped, dropped

    def _fold(self, level: int, before: int) -> None:
        after = self.base_end(level)
        assert after is not None  # noqa: S101  (there was a base before)
        base = self.bases[level]
        for start, tile in self.tiles[level].items():
            if before <= start < after:
                for index, state in base.items():
                    base[index] = self.layout.accumulators[index].merge(state, self.state(level, tile, index))

    def _add_rows(self, level: int, rows: Iterable[OnlineRow], changed: set[tuple[int, int]]) -> None:
        layout, writer = self.layout, self.writer
        assert self.arrival is not None  # noqa: S101  (set by add)
        hop, span, indices = layout.hops[level], layout.spans[level], layout.tile_accumulators[level]
        tiles, base = self.tiles[level], self.bases[level]
        base_end, kept_from = self.base_end(level), self.kept_from(level, self.arrival)
        for event_timestamp, arrival, sequence, values in rows:
            order = Order(event_timestamp, arrival, writer, sequence)
            if base_end is not None and event_timestamp < base_end:
                self._update(base, values, order)
            start = event_timestamp // hop * hop
            if kept_from is not None and start < kept_from:
                continue
            tile = tiles.get(start)
            if tile is None:
                tile = tiles[start] = Tile(
                    event_timestamp, {index: layout.accumulators[index].empty() for index in indices}
                )
            elif event_timestamp > tile.newest:
                tile.newest = event_timestamp
            self._update(self._states(level, tile), values, order)
            tile.packed = None
            changed.add((level, start // span * span))
        self.chunks[level].update(chunk for changed_level, chunk in changed if changed_level == level)

    def _update(self, states: dict[int, Any], values: list[Any], order: Order) -> None:
        layout = self.layout
        for index, state in states.items():
            position = layout.positions[index]
            value = True if position is None else clean(values[position])
            if value is not None:
                states[index] = layout.accumulators[index].add(state, value, order)

    def _prune(self) -> set[tuple[int, int]]:
        """Forget tiles and chunks that no reader can ask for any more; return the chunks."""
        assert self.arrival is not None  # noqa: S101  (set by add)
        dropped = set()
        for level, span in enumerate(self.layout.spans):
            kept_from = self.kept_from(level, self.arrival)
            if kept_from is None:
                continue
            for start in [start for start in self.tiles[level] if start < kept_from]:
                del self.tiles[level][start]
            gone = {chunk for chunk in self.chunks[level] if chunk + span <= kept_from}
            self.chunks[level] -= gone
            dropped |= {(level, chunk) for chunk in gone}
        return dropped


def whole_key(payload: bytes) -> bytes | None:
    """Return the whole entity key that a header's section holds where the stored one is shortened."""
    entity: bytes | None = _decode(payload)[-1]
    return entity


def chunk_payloads(
    section: WindowSection, changed: Iterable[tuple[int, int]]
) -> Mapping[tuple[int, int], bytes | None]:
    """Return the bytes of the changed chunks."""
    return {(level, chunk): section.encode_chunk(level, chunk) for level, chunk in changed}


def _row_order(row: OnlineRow) -> tuple[int, int, int]:
    return row[:3]
