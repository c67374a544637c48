"""The stored form of the tiles of one level: records of one width, so that many chunks are read as one matrix.

A chunk's section is: the number of tiles (4 bytes), the *form* (below), one record for each tile in the order of time
and, where some accumulators have no fixed width, MessagePack of their packed states, tile by tile.

Record: the newest event time of the tile, which also says which tile it is; for each least or greatest number a key (8
bytes); digits (4 bytes each); zeros up to a multiple of 8 bytes. All integers are little-endian.

Whole numbers of any size (counts, exact sums) are digits of base 2**31 with the sign of the number, so that adding up
the digits of 2**32 tiles stays within 64 bits. The form says, for each number, which digits the chunk's records hold (2
bytes: from, to); the others are zero in every tile. Keys are such that the least key is that of the least or greatest
number, and the greatest of all keys is that of no number; where a number has that very key, a count says so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from featurestore.semantics.accumulators import (
    Accumulator,
    Count,
    Greatest,
    Least,
    Moments,
    MomentState,
    Sum,
    SumState,
)
from featurestore.types import ValueType

DIGIT_BITS = 31
NO_KEY = 2**63 - 1
_MASK = 2**DIGIT_BITS - 1
_COUNT = struct.Struct("<I")
_TIME = struct.Struct("<q")
_DOUBLE = struct.Struct("<d")
_SIGN_KEPT = 2**63 - 1
_STATES: dict[type[Accumulator], Any] = {Count: int, Sum: SumState, Moments: MomentState}
_PARTS: dict[type[Accumulator], int] = {Count: 1, Sum: 3, Moments: 4, Least: 1, Greatest: 1}
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
decode_packed = msgspec.msgpack.Decoder(list[list[Any]]).decode


class Number(NamedTuple):
    """A whole number of a tile: a part of an accumulator's state, or how often its value is the greatest key."""

    accumulator: int
    part: int


class Extreme(NamedTuple):
    """A least or greatest number of a tile."""

    accumulator: int
    is_float: bool
    is_greatest: bool

    def key(self, value: float | None) -> int:
        """Return the key of a number."""
        if value is None:
            return NO_KEY
        key: int = value  # type: ignore[assignment]
        if self.is_float:
            (key,) = _TIME.unpack(_DOUBLE.pack(value))
            key = key if key >= 0 else key ^ _SIGN_KEPT
        return ~key if self.is_greatest else key

    def value(self, key: int, marked: int) -> float | None:
        """Return the number of a key; `marked` is how many tiles have a number with the greatest key."""
        if key == NO_KEY and not marked:
            return None
        key = ~key if self.is_greatest else key
        if not self.is_float:
            return key
        value: float = _DOUBLE.unpack(_TIME.pack(key if key >= 0 else key ^ _SIGN_KEPT))[0]
        return value


class Form:
    """Which digits of each number a chunk's records hold.

    Attributes
    ----------
    columns
        (place of the number, digit) by column of digits.
    words
        Times and keys of a record, of 8 bytes each; digits follow them.
    size
        Bytes of a record.
    """

    def __init__(self, words: int, packed: bytes) -> None:
        self.packed = packed
        self.ranges = list(zip(packed[::2], packed[1::2], strict=True))
        self.columns = [(place, digit) for place, (low, high) in enumerate(self.ranges) for digit in range(low, high)]
        self.words = words
        self._struct = struct.Struct(f"<{words}q{len(self.columns)}i{len(self.columns) % 2 * 4}x")
        self.size = self._struct.size

    def pack(self, newest: int, keys: Sequence[int], numbers: Sequence[int]) -> bytes:
        """Return the record of a tile."""
        digits = []
        for number, (low, high) in zip(numbers, self.ranges, strict=True):
            rest = abs(number) >> low * DIGIT_BITS
            for _ in range(low, high):
                digits.append(rest & _MASK if number >= 0 else -(rest & _MASK))
                rest >>= DIGIT_BITS
        return self._struct.pack(newest, *keys, *digits)

    def unpack(self, records: bytes, place: int) -> tuple[int, tuple[int, ...], list[int]]:
        """Return newest event time, keys and numbers of the tile at a place."""
        found = self._struct.unpack_from(records, place * self.size)
        numbers = [0] * len(self.ranges)
        for (number, digit), value in zip(self.columns, found[self.words :], strict=True):
            numbers[number] += value << digit * DIGIT_BITS
        return found[0], found[1 : self.words], numbers

    def widened(self, several: Iterable[Sequence[int]]) -> bytes:
        """Return the form that also holds some tiles' numbers."""
        ranges = list(self.ranges)
        for numbers in several:
            for place, number in enumerate(numbers):
                if number:
                    low = ((number & -number).bit_length() - 1) // DIGIT_BITS
                    high = (abs(number).bit_length() - 1) // DIGIT_BITS + 1
                    known = ranges[place]
                    ranges[place] = (min(known[0], low), max(known[1], high)) if known[1] else (low, high)
        return bytes(bound for known in ranges for bound in known)

    def convert(self, records: bytes, wider: Form) -> bytes:
        """Return records in a form that holds all the digits of this one."""
        found = np.frombuffer(records, np.dtype("<i4")).reshape(-1, self.size // 4)
        made = np.zeros((len(found), wider.size // 4), np.dtype("<i4"))
        first = 2 * self.words
        made[:, :first] = found[:, :first]
        places = {column: first + place for place, column in enumerate(wider.columns)}
        made[:, [places[column] for column in self.columns]] = found[:, first : first + len(self.columns)]
        return made.tobytes()


class Tile:
    """State of the rows of one tile: their newest event time, and by accumulator (as index) its state."""

    __slots__ = ("newest", "states")

    def __init__(self, newest: int, states: dict[int, Any]) -> None:
        self.newest = newest
        self.states = states


class TileCodec:
    """The stored form of the tiles that hold some accumulators' states.

    Attributes
    ----------
    numbers
        The whole numbers of a tile.
    extremes
        The least and greatest numbers of a tile.
    packed
        The accumulators (as indices) whose states are stored as MessagePack.
    begin
        Where a chunk's records begin.
    """

    def __init__(
        self, accumulators: Sequence[Accumulator], dtypes: Sequence[ValueType | None], indices: Sequence[int]
    ) -> None:
        self._accumulators = accumulators
        self.extremes = [
            Extreme(index, dtype.is_float, isinstance(accumulators[index], Greatest))
            for index in indices
            if isinstance(accumulators[index], Least)
            and (dtype := dtypes[index]) is not None
            and (dtype.is_number or dtype.kind == "timestamp")
        ]
        fixed = {extreme.accumulator for extreme in self.extremes}
        fixed |= {index for index in indices if type(accumulators[index]) in _STATES}
        self.numbers = [
            Number(index, part) for index in sorted(fixed) for part in range(_PARTS[type(accumulators[index])])
        ]
        self.packed = [index for index in indices if index not in fixed]
        self._summed = [index for index in sorted(fixed) if type(accumulators[index]) in _STATES]
        self._places = {number: place for place, number in enumerate(self.numbers)}
        self.begin = _COUNT.size + 2 * len(self.numbers)
        self._forms: dict[bytes, Form] = {}
        self.narrowest = self.form(bytes(2 * len(self.numbers)))

    def form(self, packed: bytes) -> Form:
        """Return the form that bytes stand for."""
        form = self._forms.get(packed)
        if form is None:
            form = self._forms[packed] = Form(1 + len(self.extremes), packed)
        return form

    def split(self, states: dict[int, Any]) -> tuple[list[int], list[int]]:
        """Return the keys and numbers of a tile's states."""
        numbers = [0] * len(self.numbers)
        for index in self._summed:
            state, place = states[index], self._places[Number(index, 0)]
            parts = (state,) if isinstance(state, int) else state
            numbers[place : place + len(parts)] = parts
        keys = []
        for extreme in self.extremes:
            value = states[extreme.accumulator]
            key = extreme.key(value)
            keys.append(key)
            numbers[self._places[Number(extreme.accumulator, 0)]] = int(key == NO_KEY and value is not None)
        return keys, numbers

    def join(self, keys: Sequence[int], numbers: Sequence[int], packed: Sequence[Any], writer: str) -> dict[int, Any]:
        """Return the states of a tile; `writer` is that of the section it is in."""
        states: dict[int, Any] = {}
        for index in self._summed:
            kind, place = type(self._accumulators[index]), self._places[Number(index, 0)]
            states[index] = _STATES[kind](*numbers[place : place + _PARTS[kind]])
        for extreme, key in zip(self.extremes, keys, strict=True):
            states[extreme.accumulator] = extreme.value(key, numbers[self._places[Number(extreme.accumulator, 0)]])
        for index, data in zip(self.packed, packed, strict=True):
            states[index] = self._accumulators[index].unpack(data, writer)
        return states

    def pack_rest(self, states: dict[int, Any]) -> bytes:
        """Return the MessagePack of a tile's states that have no fixed width."""
        return _encode([self._accumulators[index].pack(states[index]) for index in self.packed])


class Chunk:
    """One section's part of a chunk: its stored tiles, and those that were changed since.

    Parameters
    ----------
    payload
        What `encode` gave; None for a chunk that does not exist yet.
    """

    def __init__(self, codec: TileCodec, hop: int, writer: str, payload: bytes | None = None) -> None:
        self._codec, self._hop, self._writer = codec, hop, writer
        self._form, self._records = codec.narrowest, b""
        self._rest: list[msgspec.Raw] = []
        self._changed: dict[int, Tile] = {}
        if payload is not None:
            (count,) = _COUNT.unpack_from(payload)
            self._form = codec.form(payload[_COUNT.size : codec.begin])
            end = codec.begin + count * self._form.size
            self._records = payload[codec.begin : end]
            self._rest = _decode(payload[end:]) if codec.packed else []

    def tile(self, start: int) -> Tile | None:
        """Return the tile that starts at a time; its caller may change it after `change`."""
        tile = self._changed.get(start)
        if tile is None:
            place = place_of(self._records, self._form.size, start)
            if place * self._form.size < len(self._records):
                newest, keys, numbers = self._form.unpack(self._records, place)
                if newest < start + self._hop:
                    packed = msgspec.msgpack.decode(self._rest[place]) if self._rest else ()
                    tile = Tile(newest, self._codec.join(keys, numbers, packed, self._writer))
        return tile

    def change(self, start: int, tile: Tile) -> None:
        """Hold a tile that was changed or is new."""
        self._changed[start] = tile

    def starts(self) -> list[int]:
        """Return the starts of all tiles, in order."""
        size = self._form.size
        times = [_TIME.unpack_from(self._records, at)[0] for at in range(0, len(self._records), size)]
        return sorted({*(time // self._hop * self._hop for time in times), *self._changed})

    def encode(self) -> bytes:
        """Return the section's bytes."""
        codec = self._codec
        split = {start: codec.split(tile.states) for start, tile in self._changed.items()}
        form = codec.form(self._form.widened(numbers for _, numbers in split.values()))
        if form is not self._form and self._records:
            self._records = self._form.convert(self._records, form)
        self._form = form
        made = {start: form.pack(self._changed[start].newest, *split[start]) for start in sorted(split)}
        rest = (
            {start: msgspec.Raw(codec.pack_rest(self._changed[start].states)) for start in made} if codec.packed else {}
        )
        if self._records:
            for start, record in made.items():
                self._replace(start, record, rest.get(start))
        else:
            self._records, self._rest = b"".join(made.values()), list(rest.values())
        self._changed = {}
        count = _COUNT.pack(len(self._records) // form.size)
        return b"".join((count, form.packed, self._records, _encode(self._rest) if codec.packed else b""))

    def _replace(self, start: int, record: bytes, rest: msgspec.Raw | None) -> None:
        records, size = self._records, self._form.size
        place = place_of(records, size, start)
        at = end = place * size
        if at < len(records) and _TIME.unpack_from(records, at)[0] < start + self._hop:
            end += size
        self._records = records[:at] + record + records[end:]
        if rest is not None:
            self._rest[place : place + (end > at)] = [rest]


def place_of(records: bytes, size: int, start: int) -> int:
    """Return the place of the first record whose tile does not start before a time."""
    low, high = 0, len(records) // size
    while low < high:
        middle = (low + high) // 2
        if _TIME.unpack_from(records, middle * size)[0] < start:
            low = middle + 1
        else:
            high = middle
    return low


def newest_in(records: bytes, size: int, start: int, hop: int) -> int | None:
    """Return the newest event time in the tile that starts at a time; None where there is no such tile."""
    at = place_of(records, size, start) * size
    newest: int | None = _TIME.unpack_from(records, at)[0] if at < len(records) else None
    return newest if newest is not None and newest < start + hop else None
