"""Merges as calls of `redis_merge.lua`: which writes go into one call, and what its keys and arguments are."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.resources import files

from featurestore.online.contract import NEVER, Given, Outcome, SectionWrite
from featurestore.online.framing import BIAS, VERSION
from featurestore.online.redis_keys import Keys

SCRIPT = files(__package__).joinpath("redis_merge.lua").read_bytes()
_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()

_MOST_KEYS = 500
_ALIKE_FROM = 8
"""From so many writes on it pays to see whether they can be added together."""

_MOST_BYTES = 1 << 20
_LONGEST = 100 * 366 * 86_400_000_000
"""From so many microseconds on a lifetime is for ever."""

_pack_sequence = struct.Struct(">Q").pack
_pack_length = struct.Struct(">I").pack
_pack_name = struct.Struct(">H").pack
_EXPECTS_NONE, _EXPECTS, _HAS_LIFETIME, _DROPS, _HAS_CHUNKS = 1, 2, 4, 8, 16
_OUTCOMES = {ord("A"): Outcome.APPLIED, ord("I"): Outcome.IGNORED, ord("R"): Outcome.REFUSED}


class Call:
    """One call of the script: writes to one part, and marks of it.

    Attributes
    ----------
    part
        The part that it is for.
    places
        The places of its writes among those of the merge.
    given
        The marks that must be as they are said to be.
    marks
        Those to set or (None) to remove where no write is refused.
    carries_script
        Whether the script goes with it, because the server does not know it.
    """

    __slots__ = ("_arguments", "_keys", "_plan", "carries_script", "given", "marks", "part", "places", "size")

    def __init__(self, part: int, given: Given | None = None, marks: Given | None = None) -> None:
        self.part = part
        self.given: Given = given or {}
        self.marks: Given = marks or {}
        self.places: list[int] = []
        self.carries_script = False
        self.size = 0
        self._plan = bytearray()
        self._keys: list[bytes] = []
        self._arguments: list[bytes | int] = []

    def add(self, place: int, write: SectionWrite, prefix: bytes) -> None:
        """Add a write, its keys being stored under `prefix`."""
        header, writer, expected, sequence, payload, chunks, drop, lifetime = write
        stamp = _stamp(writer, sequence)
        value = stamp + _pack_length(len(payload)) + payload
        self.places.append(place)
        self.size += len(value)
        self._keys.append(prefix + header)
        arguments = self._arguments
        arguments.append(value)
        code = 0
        if expected == NEVER:
            code = _EXPECTS_NONE
        elif expected is not None:
            code = _EXPECTS
            arguments.append(_pack_sequence(expected + BIAS))
        millis = _millis(lifetime)
        if millis is not None:
            code |= _HAS_LIFETIME
            arguments.append(millis)
        if drop:
            code |= _DROPS
            arguments += (len(drop), *[name.encode() for name in drop])
        if chunks:
            code |= _HAS_CHUNKS
            arguments.append(len(chunks))
            for key, part in chunks.items():
                self._keys.append(prefix + key)
                own = b"" if part is None else stamp + _pack_length(len(part)) + part
                arguments.append(own)
                self.size += len(own)
        self._plan.append(code)

    def add_alike(self, place: int, writes: Sequence[SectionWrite], prefix: bytes) -> bool:
        """Add writes that differ only in header and payload, as a job makes them; say whether they do.

        It takes a fourth of the time of `add`, and comes to the same.

        Parameters
        ----------
        place
            The first one's place.
        writes
            No more than fit into a call by their number.
        """
        n = len(writes)
        first = writes[0]
        headers, *columns = zip(*writes, strict=True)
        writers, expected, sequences, payloads, chunks, drops, lifetimes = columns
        if (
            any(chunks)
            or any(drops)
            or expected.count(None) < n
            or sequences.count(first.sequence) < n
            or writers.count(first.writer) < n
            or lifetimes.count(first.lifetime) < n
            or first.sequence <= NEVER
            or sum(map(len, payloads)) > _MOST_BYTES
        ):
            return False
        stamp = _stamp(first.writer, first.sequence)
        heads = {size: stamp + _pack_length(size) for size in set(map(len, payloads))}
        values = [heads[len(payload)] + payload for payload in payloads]
        self.places += range(place, place + n)
        self.size += sum(map(len, values))
        self._keys += [prefix + header for header in headers]
        millis = _millis(first.lifetime)
        if millis is None:
            self._arguments += values
        else:
            arguments: list[bytes | int] = [millis] * (2 * n)
            arguments[::2] = values
            self._arguments += arguments
        self._plan += bytes((0 if millis is None else _HAS_LIFETIME,)) * n
        return True

    @property
    def is_full(self) -> bool:
        """Whether the server should not be kept busy with more at once."""
        return self.size >= _MOST_BYTES or len(self._keys) >= _MOST_KEYS

    def command(self, keys: Keys, generation: bytes) -> tuple[bytes | int, ...]:
        """Return the call's command."""
        prefix = keys.prefixes[self.part]
        names = [prefix + key for key in (*self.given, *self.marks)]
        return (
            *((b"EVAL", SCRIPT) if self.carries_script else (b"EVALSHA", _SHA)),
            1 + len(names) + len(self._keys),
            keys.generations[self.part],
            *names,
            *self._keys,
            generation,
            len(self.given),
            *map(_wrapped, self.given.values()),
            len(self.marks),
            *map(_wrapped, self.marks.values()),
            bytes(self._plan),
            *self._arguments,
        )


def calls(
    writes: Sequence[SectionWrite], keys: Keys, given: Given | None, outcomes: list[Outcome | None]
) -> Iterator[Call]:
    """Yield the calls that make the writes, those to one key in their order.

    Parameters
    ----------
    outcomes
        Where the outcome of a write is put that no call is needed for.
    """
    if keys.parts > 1 or len(writes) < _ALIKE_FROM:
        yield from _one_by_one(range(len(writes)), writes, keys, given, outcomes)
        return
    for start in range(0, len(writes), _MOST_KEYS):
        some = writes[start : start + _MOST_KEYS]
        call = Call(0, given)
        if call.add_alike(start, some, keys.prefix):
            yield call
        else:
            yield from _one_by_one(range(start, start + len(some)), some, keys, given, outcomes)


def _one_by_one(
    places: range, writes: Sequence[SectionWrite], keys: Keys, given: Given | None, outcomes: list[Outcome | None]
) -> Iterator[Call]:
    filling: dict[int, Call] = {}
    for place, write in zip(places, writes, strict=True):
        if write.sequence <= NEVER:
            outcomes[place] = Outcome.IGNORED
            continue
        part = keys.part(write.header)
        call = filling.get(part)
        if call is None:
            call = filling[part] = Call(part, given)
        call.add(place, write, keys.prefixes[part])
        if call.is_full:
            yield filling.pop(part)
    yield from filling.values()


def outcomes_of(reply: bytes) -> list[Outcome]:
    """Return the outcomes that the script tells."""
    return list(map(_OUTCOMES.__getitem__, reply[1:]))


@lru_cache(maxsize=1024)
def _stamp(writer: str, sequence: int) -> bytes:
    """Return what a value begins with that holds a writer's section alone, up to the section's length."""
    name = writer.encode()
    return b"%c%b%b%b" % (VERSION, _pack_name(len(name)), name, _pack_sequence(sequence + BIAS))


def _millis(lifetime: int | None) -> int | None:
    """Return a lifetime in milliseconds, rounded up; None for ever."""
    return None if lifetime is None or lifetime >= _LONGEST else max(1, -(-lifetime // 1000))


def _wrapped(value: bytes | None) -> bytes:
    return b"-" if value is None else b"=" + value
