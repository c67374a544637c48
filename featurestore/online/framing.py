"""The stored form of keys and of values that hold one section per writer.

Value: a version byte, then for each section, in the order of the writers' UTF-8 bytes: length of the writer's name
(2 bytes), the name, its sequence plus 2**63 (8 bytes), length of the payload (4 bytes), the payload. All integers are
big-endian, so that a store's own script can compare sequences byte by byte.

Key: the 16 bytes of the state fingerprint, ``h`` or ``c``, the entity key; for chunks also level and span.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from featurestore.errors import OnlineStoreError
from featurestore.online.contract import NEVER, Outcome, SectionWrite
from featurestore.semantics.rows import BATCH_WRITER
from featurestore.types import ValueType

VERSION = 1
BATCH_OF_CUT = BATCH_WRITER + "@"
"""Before the cut in the name of a lambda view's batch section."""

MAX_ENTITY = 400
"""Length of the longest entity key that is stored as it is."""

_HEAD = struct.Struct(">H")
_TAIL = struct.Struct(">QI")
_LONG = 255
BIAS = 1 << 63
"""What is added to a sequence before it is stored."""

SMALL = 1 << 31
"""An integer in an entity key takes four bytes where it is at least minus this and less than this."""


class Section(NamedTuple):
    """One writer's part of a value."""

    writer: str
    sequence: int
    payload: bytes


def parse(value: bytes | memoryview) -> list[Section]:
    """Return the sections of a value."""
    if value[0] != VERSION:
        raise OnlineStoreError(
            f"a stored value has format version {value[0]}, this release reads version {VERSION}: upgrade this process"
        )
    sections = []
    at, end = 1, len(value)
    while at < end:
        (length,) = _HEAD.unpack_from(value, at)
        at += 2
        writer = str(value[at : at + length], "utf-8")
        at += length
        sequence, size = _TAIL.unpack_from(value, at)
        at += 12
        sections.append(Section(writer, sequence - BIAS, bytes(value[at : at + size])))
        at += size
    return sections


def build(sections: Iterable[Section]) -> bytes:
    """Return the value that holds these sections."""
    parts = [bytes((VERSION,))]
    for section in sorted(sections, key=lambda item: item.writer.encode()):
        name = section.writer.encode()
        parts += (
            _HEAD.pack(len(name)),
            name,
            _TAIL.pack(section.sequence + BIAS, len(section.payload)),
            section.payload,
        )
    return b"".join(parts)


def decide(stored: int, write: SectionWrite) -> Outcome:
    """Return what must become of a write, given the stored section's sequence (`NEVER` where there is none)."""
    if stored >= write.sequence:
        return Outcome.IGNORED
    if write.expected is None or write.expected == stored:
        return Outcome.APPLIED
    return Outcome.REFUSED


def stored_sequence(value: bytes | None, writer: str) -> int:
    """Return the sequence of a writer's section in a header, `NEVER` where there is none."""
    if value is None:
        return NEVER
    return next((section.sequence for section in parse(value) if section.writer == writer), NEVER)


def splice(value: bytes | None, write: SectionWrite, payload: bytes | None) -> bytes | None:
    """Return a value with the write's section replaced (None: removed) and its dropped ones gone; None if empty."""
    gone = {write.writer, *write.drop}
    sections = [] if value is None else [section for section in parse(value) if section.writer not in gone]
    if payload is not None:
        sections.append(Section(write.writer, write.sequence, payload))
    return build(sections) if sections else None


def entity_key(values: Sequence[Any], types: Sequence[ValueType]) -> bytes:
    """Return the unambiguous bytes of an entity's join key values.

    Integers, timestamps and bools are 4, or where they need it 8, big-endian bytes after their number; strings and
    bytes come after their kind and their length, in one byte, or four after 0xff.
    """
    parts: list[bytes] = []
    for value, dtype in zip(values, types, strict=True):
        if dtype.kind in {"string", "bytes"}:
            data, kind = (value.encode(), b"s") if dtype.kind == "string" else (value, b"b")
            parts += (kind, bytes((len(data),)) if len(data) < _LONG else b"\xff" + len(data).to_bytes(4, "big"), data)
        else:
            size = 4 if -SMALL <= value < SMALL else 8
            parts += (bytes((size,)), int(value).to_bytes(size, "big", signed=True))
    return b"".join(parts)


def is_batch_of_cut(writer: str) -> bool:
    """Whether a section's writer is the batch side of a lambda view, as of some cut."""
    return writer.startswith(BATCH_OF_CUT)


def cut_of(writer: str) -> int:
    """Return the cut that a batch section of a lambda view is for."""
    return int(writer.removeprefix(BATCH_OF_CUT))


def shorten(entity: bytes) -> bytes:
    """Return an entity key that fits into every store: a long one becomes a prefix and its SHA-256.

    The header of a shortened key holds the whole one, so that readers and writers can compare it.
    """
    return entity if len(entity) <= MAX_ENTITY else b"#" + entity[:64] + hashlib.sha256(entity).digest()


def header_key(fingerprint: bytes, entity: bytes) -> bytes:
    """Return the key of a group's header."""
    return fingerprint + b"h" + entity


def chunk_key(fingerprint: bytes, entity: bytes, level: int, span: int) -> bytes:
    """Return the key of the chunk that holds the tiles of one span of a level."""
    return b"%bc%b%c%b" % (fingerprint, entity, level, (span + BIAS).to_bytes(8, "big"))


def mark_key(fingerprint: bytes, name: str) -> bytes:
    """Return the key of a view's mark, such as ``ready`` or a writer's watermark."""
    return b"\x00" + fingerprint + name.encode()
