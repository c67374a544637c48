"""Finds the dead letters that are about a key, as far as their payloads tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from featurestore.definitions import FeatureView, Field
from featurestore.errors import RowError
from featurestore.offline.deadletters import DeadLetters
from featurestore.offline.maintenance import Key
from featurestore.types import convert


class Found(NamedTuple):
    """Positions of the letters about a key, and how many others hold no JSON object to look into."""

    positions: dict[str, list[int]]
    unreadable: int


def find_letters(letters: DeadLetters, view: FeatureView, key: Key, origins: Collection[bytes]) -> Found:
    """Return the letters of a log that hold a key, or that were replayed into one of its rows.

    A payload holds the key where it has a field of each join key's name (or one that the source's ``field_mapping``
    renames to it) whose value is, or reads like, the key's.
    """
    mapping: dict[str, str] = {}
    for source in (view.batch_source, view.stream_source):
        mapping |= getattr(source, "field_mapping", None) or {}
    replayed = set(origins)
    positions: dict[str, list[int]] = {}
    unreadable = 0
    for letter in letters.read().select(["writer", "sequence", "payload"]).to_pylist():
        writer, sequence = letter["writer"], letter["sequence"]
        is_replayed = f"{writer}:{sequence}".encode() in replayed
        fields = None if is_replayed else _decode(letter["payload"])
        if is_replayed or (fields is not None and _holds(fields, mapping, key)):
            positions.setdefault(writer, []).append(sequence)
        unreadable += fields is None and not is_replayed
    return Found(positions, unreadable)


def _decode(payload: bytes | None) -> dict[str, Any] | None:
    try:
        decoded = msgspec.json.decode(payload or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return decoded if isinstance(decoded, dict) else None


def _holds(fields: Mapping[str, Any], mapping: Mapping[str, str], key: Key) -> bool:
    named = dict(fields) | {mapping[name]: value for name, value in fields.items() if name in mapping}
    return all(field.name in named and _same(named[field.name], value, field) for field, value in key)


def _same(found: Any, value: Any, field: Field) -> bool:
    try:
        return bool(convert(found, field.dtype) == value)
    except RowError:  # of a wrong type, which may be why it was rejected
        return str(found) == str(value)
