"""What every online store must do, as tests that a store's author inherits.

Derive from `OnlineStoreSuite` in a test module and override the fixture ``store``.
"""

# ruff: noqa: D102  (a test's name says what it asserts)

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from featurestore.online.contract import NEVER, Given, MarkMovedError, OnlineStore, Outcome, SectionWrite
from featurestore.online.framing import Section, chunk_key, header_key, parse

_VIEW = bytes(range(1, 17))
H = header_key(_VIEW, b"e")
C, C1, C2, C3 = (chunk_key(_VIEW, b"e", 0, span) for span in range(4))
CHUNKS = C[:-9]
"""What the keys of all chunks begin with."""


def read(store: OnlineStore, *keys: bytes) -> list[list[Section] | None]:
    """Return the sections stored under each key, None where there is no value."""
    with store.snapshot() as snapshot:
        return [None if value is None else parse(value) for value in snapshot.get(keys)]


def write(expected: int | None, sequence: int, payload: bytes = b"p", **more: Any) -> SectionWrite:
    """Return a write of writer ``w`` to the header `H`."""
    return SectionWrite(H, more.pop("writer", "w"), expected, sequence, payload, **more)


class OnlineStoreSuite:
    """Tests of one store. Override `store`: an empty store for each test, closed by the fixture."""

    @pytest.fixture
    def store(self) -> OnlineStore:
        """Return an empty store."""
        raise NotImplementedError

    def test_a_store_begins_empty(self, store: OnlineStore) -> None:
        assert read(store, H, C) == [None, None]
        assert store.scan(b"") == []
        store.delete([H])
        assert store.merge([]) == []

    @pytest.mark.parametrize(
        ("expected", "sequence", "outcome"),
        [
            (5, 8, Outcome.APPLIED),
            (5, 6, Outcome.APPLIED),
            (5, 5, Outcome.IGNORED),
            (NEVER, 5, Outcome.IGNORED),
            (4, 4, Outcome.IGNORED),
            (9, 3, Outcome.IGNORED),
            (4, 8, Outcome.REFUSED),
            (6, 8, Outcome.REFUSED),
            (NEVER, 8, Outcome.REFUSED),
            (None, 6, Outcome.APPLIED),
            (None, 5, Outcome.IGNORED),
            (None, 2, Outcome.IGNORED),
        ],
    )
    def test_a_merge_depends_on_the_stored_sequence(
        self, store: OnlineStore, expected: int | None, sequence: int, outcome: Outcome
    ) -> None:
        assert store.merge([write(NEVER, 5, b"old")]) == [Outcome.APPLIED]
        assert store.merge([write(expected, sequence, b"new", chunks={C: b"new"})]) == [outcome]
        if outcome is Outcome.APPLIED:
            assert read(store, H, C) == [[Section("w", sequence, b"new")]] * 2
        else:
            assert read(store, H, C) == [[Section("w", 5, b"old")], None]

    @pytest.mark.parametrize(
        ("expected", "outcome"), [(NEVER, Outcome.APPLIED), (None, Outcome.APPLIED), (0, Outcome.REFUSED)]
    )
    def test_a_merge_into_nothing(self, store: OnlineStore, expected: int | None, outcome: Outcome) -> None:
        assert store.merge([write(expected, 7)]) == [outcome]
        assert read(store, H) == [[Section("w", 7, b"p")] if outcome is Outcome.APPLIED else None]

    def test_great_sequences_are_told_apart(self, store: OnlineStore) -> None:
        at = 2**53
        assert store.merge([write(None, at), write(at, at + 1), write(at, at + 2)]) == [
            Outcome.APPLIED,
            Outcome.APPLIED,
            Outcome.REFUSED,
        ]
        assert read(store, H) == [[Section("w", at + 1, b"p")]]

    def test_the_writes_of_one_merge_follow_each_other(self, store: OnlineStore) -> None:
        outcomes = store.merge([write(NEVER, 1, b"a"), write(1, 3, b"b"), write(2, 4, b"c"), write(3, 3, b"d")])
        assert outcomes == [Outcome.APPLIED, Outcome.APPLIED, Outcome.REFUSED, Outcome.IGNORED]
        assert read(store, H) == [[Section("w", 3, b"b")]]

    def test_writers_do_not_disturb_each_other(self, store: OnlineStore) -> None:
        store.merge([write(NEVER, 5, b"w", chunks={C: b"w"})])
        store.merge([write(NEVER, 2, b"v", writer="v", chunks={C: b"v"})])
        store.merge([write(5, 6, b"w2", chunks={C: None})])
        assert read(store, H, C) == [[Section("v", 2, b"v"), Section("w", 6, b"w2")], [Section("v", 2, b"v")]]

    def test_a_write_touches_only_the_chunks_it_names(self, store: OnlineStore) -> None:
        store.merge([write(NEVER, 1, chunks={C1: b"a", C2: b"b", C3: b"c"})])
        store.merge([write(1, 2, chunks={C1: b"A", C2: None})])
        assert read(store, C1, C2, C3) == [[Section("w", 2, b"A")], None, [Section("w", 1, b"c")]]
        assert store.scan(CHUNKS) == [C1, C3]

    def test_dropped_writers_leave_the_header_and_the_named_chunks(self, store: OnlineStore) -> None:
        for name in ("old", "older", "stays"):
            store.merge([write(None, 1, b"x", writer=name, chunks={C1: b"x", C2: b"x"})])
        store.merge([write(None, 9, b"n", writer="new", chunks={C1: None}, drop=("old", "older", "never"))])
        header, first, second = read(store, H, C1, C2)
        assert header == [Section("new", 9, b"n"), Section("stays", 1, b"x")]
        assert first == [Section("stays", 1, b"x")]
        assert second is not None
        assert [section.writer for section in second] == ["old", "older", "stays"]

    def test_nothing_is_dropped_where_the_write_is_not_applied(self, store: OnlineStore) -> None:
        store.merge([write(None, 5, writer="w"), write(None, 5, writer="old")])
        store.merge([write(3, 7, drop=("old",)), write(None, 5, drop=("old",))])
        (header,) = read(store, H)
        assert header == [Section("old", 5, b"p"), Section("w", 5, b"p")]

    def test_marks_are_set_moved_and_removed(self, store: OnlineStore) -> None:
        store.put({b"\x00a": b"1", b"\x00b": b"2"})
        store.put({b"\x00a": b"3", b"\x00b": None, b"\x00c": None})
        with store.snapshot() as snapshot:
            assert snapshot.get([b"\x00a", b"\x00b", b"\x00c", b"\x00a"]) == [b"3", None, None, b"3"]

    def test_marks_of_a_merge_are_set_where_no_write_was_refused(self, store: OnlineStore) -> None:
        store.merge([write(NEVER, 1)], {b"\x00a": b"1"})
        store.merge([write(NEVER, 1), write(5, 9)], {b"\x00a": b"2", b"\x00b": b"2"})
        with store.snapshot() as snapshot:
            assert snapshot.get([b"\x00a", b"\x00b"]) == [b"1", None]
        store.merge([write(NEVER, 1)], {b"\x00a": b"3"})
        store.merge([], {b"\x00b": b"4"})
        with store.snapshot() as snapshot:
            assert snapshot.get([b"\x00a", b"\x00b"]) == [b"3", b"4"]

    def test_nothing_is_done_where_marks_are_not_as_given(self, store: OnlineStore) -> None:
        store.put({b"\x00a": b"1"})
        given: Given
        for given in ({b"\x00a": b"2"}, {b"\x00a": None}, {b"\x00b": b"1"}, {b"\x00a": b"1", b"\x00b": b"1"}):
            with pytest.raises(MarkMovedError):
                store.merge([write(NEVER, 1)], {b"\x00a": b"3"}, given)
            with pytest.raises(MarkMovedError):
                store.put({b"\x00a": b"3"}, given)
        assert read(store, H) == [None]
        given = {b"\x00a": b"1", b"\x00b": None}
        assert store.merge([write(NEVER, 1)], {b"\x00a": b"2"}, given) == [Outcome.APPLIED]
        store.put({b"\x00a": b"3", b"\x00b": b"1"}, {b"\x00a": b"2", b"\x00b": None})
        with store.snapshot() as snapshot:
            assert snapshot.get([b"\x00a", b"\x00b"]) == [b"3", b"1"]

    def test_an_event_loop_reads_the_same(self, store: OnlineStore) -> None:
        async def get() -> list[bytes | None]:
            reader = store.reader()
            try:
                return await reader.get([b"b", b"x", b"a"])
            finally:
                await reader.close()

        store.put({b"a": b"1", b"b": b"2"})
        assert asyncio.run(get()) == [b"2", None, b"1"]
        store.check()

    def test_scan_is_sorted_and_keeps_to_the_prefix(self, store: OnlineStore) -> None:
        keys = [b"\xff\xff", b"a", b"ab", b"a\xff", b"a\x00", b"b", b"\x00"]
        store.put(dict.fromkeys(keys, b"1"))
        assert store.scan(b"a") == [b"a", b"a\x00", b"ab", b"a\xff"]
        assert store.scan(b"") == sorted(keys)
        assert store.scan(b"\xff") == [b"\xff\xff"]
        assert store.scan(b"c") == []

    def test_delete_removes_keys_and_only_those(self, store: OnlineStore) -> None:
        store.put(dict.fromkeys([b"a", b"b", b"c"], b"1"))
        store.delete([b"a", b"c", b"never"])
        assert store.scan(b"") == [b"b"]

    def test_long_keys_and_values_are_held(self, store: OnlineStore) -> None:
        key, value = b"k" * 511, b"v" * 3_000_000
        store.merge([SectionWrite(key, "w" * 300, None, 1, value)])
        assert read(store, key) == [[Section("w" * 300, 1, value)]]

    def test_a_snapshot_gives_keys_in_the_order_asked(self, store: OnlineStore) -> None:
        store.put({b"a": b"1", b"b": b"2"})
        with store.snapshot() as snapshot:
            assert snapshot.get([b"b", b"x", b"a", b"b"]) == [b"2", None, b"1", b"2"]
            assert snapshot.get([]) == []
