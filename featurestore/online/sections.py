"""What one writer's section of one key of a window view holds, as a pure function of the writer's rows for that key.

A section at sequence s answers, for every ``t`` that pruning allows, for all that writer's rows of the key up to s.
Rows whose event time exceeds the section's greatest arrival are *pending*: kept apart as they are until a later
arrival passes them. Nothing here reads a clock, and the same rows in any batches give the same section.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import msgspec

from featurestore.online.layout import WindowLayout
from featurestore.online.rows import OnlineRow, split_pending
from featurestore.online.tiles import Chunk, Tile
from featurestore.semantics.accumulators import Order, clean
from featurestore.semantics.windows import floor_to

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_MANY = 20
"""From how many numbers on a set is looked into more quickly than a list."""


class Header(msgspec.Struct, array_like=True):
    """A section's part of a header, as it is stored.

    Attributes
    ----------
    arrival
        The greatest arrival; None where there were no rows.
    pending
        The pending rows, as `OnlineRow`, in their order.
    bases
        By level, the packed states of `WindowLayout.base_accumulators` over all rows before the base's end.
    tails
        By level, (start, packed states) of the rows from there on.
    chunks
        By level, the numbers (start by span) of the stored chunks: the first, then the distance to each next one.
    entity
        The whole entity key where the stored one is shortened.
    """

    arrival: int | None
    pending: list[list[Any]]
    bases: list[list[Any]]
    tails: list[list[tuple[int, list[Any]]]]
    chunks: list[list[int]]
    entity: bytes | None

    def listed(self) -> list[Collection[int]]:
        """Return the numbers of the stored chunks by level."""
        return [[*accumulate(steps)] if len(steps) < _MANY else {*accumulate(steps)} for steps in self.chunks]


header_of = msgspec.msgpack.Decoder(Header).decode
"""Returns what a section holds of a header."""


class WindowSection:
    """Header of a window section, and those of its chunks that are loaded.

    Attributes
    ----------
    chunks
        By level, the start of every chunk that is stored.
    bases
        By level, accumulator (as index) to the state of all rows before the base's end.
    tails
        By level and start of a tail, accumulator (as index) to the state of its rows.
    fold
        Whether old rows go into bases; not so in stream sections of lambda views, whose cut may still move.
    """

    def __init__(self, layout: WindowLayout, writer: str, *, fold: bool) -> None:
        self.layout = layout
        self.writer = writer
        self.fold = fold
        self.arrival: int | None = None
        self.pending: list[OnlineRow] = []
        self.chunks: list[set[int]] = [set() for _ in layout.hops]
        self.bases: list[dict[int, Any]] = [self._empty(indices) for indices in layout.base_accumulators]
        self.tails: list[dict[int, dict[int, Any]]] = [{} for _ in layout.hops]
        self._loaded: dict[tuple[int, int], Chunk] = {}

    def _empty(self, indices: Iterable[int]) -> dict[int, Any]:
        return {index: self.layout.accumulators[index].empty() for index in indices}

    @classmethod
    def decode(cls, layout: WindowLayout, writer: str, payload: bytes, *, fold: bool) -> WindowSection:
        """Return the header that `encode` wrote, with no chunks loaded."""
        section = cls(layout, writer, fold=fold)
        header = header_of(payload)
        section.arrival = header.arrival
        section.pending = [OnlineRow(*row) for row in header.pending]
        section.chunks = [
            {number * span for number in found} for found, span in zip(header.listed(), layout.spans, strict=True)
        ]
        for level, packed in enumerate(header.bases):
            section.bases[level] = section._unpack(level, packed)
            section.tails[level] = {start: section._unpack(level, states) for start, states in header.tails[level]}
        return section

    def _unpack(self, level: int, packed: Sequence[Any]) -> dict[int, Any]:
        accumulators, indices = self.layout.accumulators, self.layout.base_accumulators[level]
        return {
            index: accumulators[index].unpack(data, self.writer) for index, data in zip(indices, packed, strict=True)
        }

    def encode(self, entity: bytes | None) -> bytes:
        """Return the header's bytes; `entity` is the whole key where the stored one is shortened."""
        numbers = [
            sorted(start // span for start in starts)
            for starts, span in zip(self.chunks, self.layout.spans, strict=True)
        ]
        header = Header(
            self.arrival,
            [list(row) for row in self.pending],
            [self._pack(base) for base in self.bases],
            [[(start, self._pack(states)) for start, states in sorted(tails.items())] for tails in self.tails],
            [[*found[:1], *(after - before for before, after in pairwise(found))] for found in numbers],
            entity,
        )
        return _encode(header)

    def _pack(self, states: dict[int, Any]) -> list[Any]:
        return [self.layout.accumulators[index].pack(state) for index, state in states.items()]

    @property
    def lifetime(self) -> int | None:
        """For how long after its write the section may be needed, in microseconds; None: for ever."""
        lifetime = self.layout.lifetime
        if lifetime is None or not self.pending or self.arrival is None:
            return lifetime
        return lifetime + self.pending[-1].event_timestamp - self.arrival

    def load(self, level: int, payload: bytes) -> None:
        """Load the tiles of a chunk."""
        chunk = Chunk(self.layout.codecs[level], self.layout.hops[level], self.writer, payload)
        self._loaded[level, floor_to(chunk.starts()[0], self.layout.spans[level])] = chunk

    def tiles(self, level: int) -> dict[int, Tile]:
        """Return the loaded tiles of a level, by start."""
        loaded = [chunk for (chunk_level, _), chunk in sorted(self._loaded.items()) if chunk_level == level]
        return {start: tile for chunk in loaded for start in chunk.starts() if (tile := chunk.tile(start)) is not None}

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
        """Return the (level, chunk start) of the stored chunks that `add(rows)` changes."""
        _, due, _ = split_pending(self.pending, rows, self.arrival)
        return [
            (level, start)
            for level, span in enumerate(self.layout.spans)
            for start in sorted(self.chunks[level] & {floor_to(row.event_timestamp, span) for row in due})
        ]

    def add(self, rows: Iterable[OnlineRow]) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        """Take in more rows, with the chunks of `touched` loaded; return the chunks changed and those dropped."""
        self.arrival, due, self.pending = split_pending(self.pending, rows, self.arrival)
        news = self._tiles_of(due)
        changed: set[tuple[int, int]] = set()
        for level in range(len(self.layout.hops)):
            self._add_to_base(level, news)
            if self.layout.is_tiled(level, fold=self.fold):
                self._add_to_tiles(level, news, changed)
        dropped = self._prune()
        return changed - dropped, dropped

    def _tiles_of(self, rows: Iterable[OnlineRow]) -> dict[int, Tile]:
        """Return the smallest tiles of some rows, which say all about them."""
        layout, hop, indices = self.layout, self.layout.hops[0], self.layout.tile_accumulators[0]
        places = [(index, layout.positions[index], layout.accumulators[index].add) for index in indices]
        tiles: dict[int, Tile] = {}
        for event_timestamp, arrival, sequence, values in rows:
            start = event_timestamp // hop * hop
            tile = tiles.get(start)
            if tile is None:
                tile = tiles[start] = Tile(event_timestamp, self._empty(indices))
            elif event_timestamp > tile.newest:
                tile.newest = event_timestamp
            order = Order(event_timestamp, arrival, self.writer, sequence)
            states = tile.states
            for index, position, add in places:
                value = True if position is None else clean(values[position])
                if value is not None:
                    states[index] = add(states[index], value, order)
        return tiles

    def _merge(self, states: dict[int, Any], more: dict[int, Any]) -> None:
        for index, state in states.items():
            states[index] = self.layout.accumulators[index].merge(state, more[index])

    def _add_to_base(self, level: int, news: Mapping[int, Tile]) -> None:
        end = self.base_end(level)
        if end is None:
            return
        base, tails, length = self.bases[level], self.tails[level], self.layout.tails[level]
        for start in sorted(start for start in tails if start < end):
            self._merge(base, tails.pop(start))
        for start, tile in news.items():
            tail = start // length * length
            if tail < end:
                self._merge(base, tile.states)
            else:
                if tail not in tails:
                    tails[tail] = self._empty(base)
                self._merge(tails[tail], tile.states)

    def _add_to_tiles(self, level: int, news: Mapping[int, Tile], changed: set[tuple[int, int]]) -> None:
        layout = self.layout
        assert self.arrival is not None  # noqa: S101  (set by add)
        hop, span, indices = layout.hops[level], layout.spans[level], layout.tile_accumulators[level]
        kept_from = self.kept_from(level, self.arrival)
        for small, new in news.items():
            start = small // hop * hop
            if kept_from is not None and start < kept_from:
                continue
            place = level, start // span * span
            chunk = self._loaded.get(place)
            if chunk is None:
                chunk = self._loaded[place] = Chunk(layout.codecs[level], hop, self.writer)
            tile = chunk.tile(start)
            if tile is None:
                tile = Tile(new.newest, {index: new.states[index] for index in indices})
            else:
                tile.newest = max(tile.newest, new.newest)
                self._merge(tile.states, new.states)
            chunk.change(start, tile)
            changed.add(place)
            self.chunks[level].add(place[1])

    def _prune(self) -> set[tuple[int, int]]:
        """Forget chunks that no reader can ask for any more; return them."""
        assert self.arrival is not None  # noqa: S101  (set by add)
        dropped = set()
        for level, span in enumerate(self.layout.spans):
            kept_from = self.kept_from(level, self.arrival)
            if kept_from is None:
                continue
            gone = {chunk for chunk in self.chunks[level] if chunk + span <= kept_from}
            self.chunks[level] -= gone
            dropped |= {(level, chunk) for chunk in gone}
        return dropped

    def encode_chunk(self, level: int, chunk: int) -> bytes:
        """Return the bytes of a loaded chunk."""
        return self._loaded[level, chunk].encode()


def whole_key(payload: bytes) -> bytes | None:
    """Return the whole entity key that a header's section holds where the stored one is shortened."""
    entity: bytes | None = _decode(payload)[-1]
    return entity


def chunk_payloads(
    section: WindowSection, changed: Iterable[tuple[int, int]]
) -> Mapping[tuple[int, int], bytes | None]:
    """Return the bytes of the changed chunks."""
    return {(level, chunk): section.encode_chunk(level, chunk) for level, chunk in changed}
