"""Where a store in Redis keeps a key: under a prefix and, in a cluster, under one of 256 hash tags.

A server alone is one *part*. A cluster has 256 parts, named by two hexadecimal digits in braces, which Redis hashes
instead of the whole key. All headers and chunks of an entity are in the part that the CRC-32 of its entity key gives,
whatever their view, and every part has a copy of every mark.

Every part has a *generation mark*: a value made up when its filling began. Without it nothing of the part is valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

_FINGERPRINT = 16
_SPAN = 9
MARK = b"\x00"
GENERATION = b"\x00\x00generation"
EVICTIONS = b"\x00\x00evictions"
_SLOTS = 16384


class Portion(NamedTuple):
    """The keys of a read that are in one part.

    Attributes
    ----------
    part
        The part's number.
    keys
        The keys as the server knows them, marks last.
    places
        Where the values go in the answer, those of the marks left aside.
    """

    part: int
    keys: list[bytes]
    places: list[int]


def is_mark(key: bytes) -> bool:
    """Whether a key is a mark's."""
    return key[:1] == MARK


def entity_of(key: bytes) -> bytes:
    """Return what decides on the part of a header's or a chunk's key: its entity key; of another key, the key."""
    kind = key[_FINGERPRINT : _FINGERPRINT + 1]
    if kind == b"h":
        return key[_FINGERPRINT + 1 :]
    if kind == b"c" and len(key) > _FINGERPRINT + _SPAN:
        return key[_FINGERPRINT + 1 : -_SPAN]
    return key


class Keys:
    """The names of a server's or a cluster's keys.

    Attributes
    ----------
    parts
        Number of parts.
    prefixes
        By part, what its keys begin with.
    slots
        By part, its hash slot; of a server alone 0.
    generations
        By part, the key of its generation mark.
    evictions
        The key of what is known of evictions, in part 0.
    """

    def __init__(self, prefix: bytes, parts: int) -> None:
        self.prefix = prefix
        self.parts = parts
        tags = [b"%02x" % part for part in range(parts)] if parts > 1 else []
        self.prefixes = [b"%b{%b}" % (prefix, tag) for tag in tags] or [prefix]
        self.slots = [crc16(tag) % _SLOTS for tag in tags] or [0]
        self.generations = [own + GENERATION for own in self.prefixes]
        self.evictions = self.prefixes[0] + EVICTIONS

    def part(self, key: bytes) -> int:
        """Return the part of a key that is no mark's."""
        return crc32(entity_of(key)) & 0xFF if self.parts > 1 else 0

    def physical(self, key: bytes) -> bytes:
        """Return the name of a key that is no mark's."""
        return self.prefixes[self.part(key)] + key

    def portions(self, keys: Sequence[bytes]) -> tuple[list[Portion], list[int]]:
        """Divide a read by part, and return the places of the marks in it.

        Marks are read in each part that the other keys are in; where there are only marks, in every part.
        """
        found: dict[int, Portion] = {}
        marks: list[int] = []
        for place, key in enumerate(keys):
            if key[:1] == MARK:
                marks.append(place)
                continue
            part = self.part(key)
            portion = found.get(part)
            if portion is None:
                portion = found[part] = Portion(part, [], [])
            portion.keys.append(self.prefixes[part] + key)
            portion.places.append(place)
        if not found:
            found = {part: Portion(part, [], []) for part in range(self.parts)}
        for part, portion in found.items():
            portion.keys.extend([self.prefixes[part] + keys[place] for place in marks])
        return list(found.values()), marks

    def locate(self, physical: bytes) -> tuple[int, bytes] | None:
        """Return the part and the key of a name; None where it is not one of this store's, or not data."""
        if self.parts == 1:
            part, key = 0, physical.removeprefix(self.prefix)
        else:
            try:
                part = int(physical[len(self.prefix) + 1 : len(self.prefix) + 3], 16)
            except ValueError:
                return None
            key = physical[len(self.prefixes[0]) :]
        if not physical.startswith(self.prefixes[part]) or key in {GENERATION, EVICTIONS}:
            return None
        return part, key


def answer(copies: Sequence[bytes | None]) -> bytes | None:
    """Return what a mark's copies say: the least integer; nothing where one is missing or they are no integers."""
    first = copies[0]
    if all(copy == first for copy in copies):
        return first
    try:
        return min((copy for copy in copies), key=int)  # type: ignore[arg-type]  # None raises TypeError
    except (TypeError, ValueError):
        return None


def assemble(
    n: int, portions: Sequence[Portion], marks: Sequence[int], replies: Sequence[Sequence[bytes | None]]
) -> list[bytes | None]:
    """Return the values of a read's `n` keys, given what each portion's were."""
    values: list[bytes | None] = [None] * n
    for portion, reply in zip(portions, replies, strict=True):
        for place, value in zip(portion.places, reply, strict=False):  # those of the marks come after them
            values[place] = value
    copies = [reply[len(portion.places) :] for portion, reply in zip(portions, replies, strict=True)]
    for place, own in zip(marks, zip(*copies, strict=True), strict=True):
        values[place] = answer(own)
    return values


def pattern(prefix: bytes) -> bytes:
    """Return the glob pattern of the keys that begin with `prefix`."""
    special = b"\\*?["
    return b"".join(b"\\%c" % byte if byte in special else b"%c" % byte for byte in prefix) + b"*"


def crc16(data: bytes) -> int:
    """Return the CRC-16 (XMODEM) by which Redis Cluster places keys."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021) & 0xFFFF if crc & 0x8000 else (crc << 1) & 0xFFFF
    return crc
