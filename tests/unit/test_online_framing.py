"""The stored form of values and keys: it goes round, sorts as its sequences do, and is never ambiguous."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from featurestore.errors import OnlineStoreError
from featurestore.online import framing
from featurestore.online.framing import Section, build, entity_key, parse, shorten
from featurestore.types import Bytes, Int64, String


def test_what_is_built_is_parsed_in_the_order_of_the_writers() -> None:
    sections = [Section("é", 2**62, b"x"), Section("z", -1, b""), Section("", 0, b"\x00" * 70_000)]
    value = build(sections)
    assert value[0] == framing.VERSION
    assert parse(value) == [sections[2], sections[1], sections[0]]
    assert parse(memoryview(value)) == parse(value)
    assert build(parse(value)) == value
    assert parse(build([])) == []


def test_sequences_compare_byte_by_byte() -> None:
    values = [build([Section("w", sequence, b"")]) for sequence in (-1, 0, 1, 2**53, 2**53 + 1, 2**62)]
    assert values == sorted(values)


def test_a_value_of_another_version_is_refused() -> None:
    with pytest.raises(OnlineStoreError, match="format version 2, this release reads version 1: upgrade"):
        parse(b"\x02" + build([])[1:])


KEYS: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = [
    ((1, "23"), (Int64, String)),
    ((12, "3"), (Int64, String)),
    ((1, "2", "3"), (Int64, String, String)),
    ((1, "", "23"), (Int64, String, String)),
    ((1, "23", ""), (Int64, String, String)),
    (("1", "23"), (String, String)),
    ((b"1", b"23"), (Bytes, Bytes)),
    (("123",), (String,)),
    ((123,), (Int64,)),
    ((-1,), (Int64,)),
    ((), ()),
]


def test_entity_keys_are_unambiguous() -> None:
    encoded = [entity_key(*key) for key in KEYS]
    assert len(set(encoded)) == len(encoded)
    for left, right in permutations(KEYS, 2):
        if left[1] == right[1]:
            assert not entity_key(*left).startswith(entity_key(*right)), "a prefix would mix their chunks"


def test_a_long_key_becomes_short_and_stays_distinct() -> None:
    fits, long, other = (entity_key(("k" * 380 + end,), (String,)) for end in ("", "l" * 200, "l" * 199 + "m"))
    assert shorten(fits) == fits
    assert len({shorten(long), shorten(other), fits}) == 3
    assert all(len(framing.chunk_key(b"f" * 16, shorten(key), 3, -5)) <= 511 for key in (fits, long))
