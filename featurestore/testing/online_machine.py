"""A model-based machine that compares an online store with a dictionary, after every step of random sequences."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from featurestore.online.contract import NEVER, OnlineStore, Outcome, SectionWrite
from featurestore.online.framing import Section, build, chunk_key, header_key

_VIEW = bytes(range(1, 17))
_ENTITIES = [b"", b"a", b"b{c}"]
_SPANS = [-1, 0]
_HEADERS = [header_key(_VIEW, entity) for entity in _ENTITIES]
_CHUNKS = [chunk_key(_VIEW, entity, 0, span) for entity in _ENTITIES for span in _SPANS]
_WRITERS = ["", "w", "é"]
_MARKS = [b"\x00a", b"\x00b", b"\x00" + b"\xff" * 200]


class OnlineStoreMachine(RuleBasedStateMachine):
    """Derive from it with `make`; its `TestCase` is a test."""

    def __init__(self) -> None:
        super().__init__()
        self.store = self.make()
        self.model: dict[bytes, dict[str, tuple[int, bytes]]] = {}
        self.marks: dict[bytes, bytes] = {}

    @abstractmethod
    def make(self) -> OnlineStore:
        """Return an empty store."""

    @rule(
        entity=st.sampled_from(_ENTITIES),
        writer=st.sampled_from(_WRITERS),
        expected=st.one_of(st.none(), st.integers(NEVER, 4)),
        sequence=st.integers(0, 5),
        payload=st.binary(max_size=3),
        chunks=st.dictionaries(st.sampled_from(_SPANS), st.one_of(st.none(), st.binary(max_size=3))),
        drop=st.lists(st.sampled_from(_WRITERS), max_size=2),
    )
    def merge(self, entity: bytes, chunks: dict[int, bytes | None], drop: list[str], **parts: Any) -> None:
        """Merge a write, and say beforehand what becomes of it."""
        merged = SectionWrite(
            header_key(_VIEW, entity),
            chunks={chunk_key(_VIEW, entity, 0, span): payload for span, payload in chunks.items()},
            drop=tuple(set(drop) - {parts["writer"]}),
            **parts,
        )
        stored = self.model.get(merged.header, {}).get(merged.writer, (NEVER, b""))[0]
        if merged.sequence <= stored:
            outcome = Outcome.IGNORED
        elif merged.expected in {None, stored}:
            outcome = Outcome.APPLIED
            for key, payload in ((merged.header, merged.payload), *merged.chunks.items()):
                sections = self.model.setdefault(key, {})
                for gone in (merged.writer, *merged.drop):
                    sections.pop(gone, None)
                if payload is not None:
                    sections[merged.writer] = (merged.sequence, payload)
        else:
            outcome = Outcome.REFUSED
        assert self.store.merge([merged]) == [outcome]

    @rule(marks=st.dictionaries(st.sampled_from(_MARKS), st.one_of(st.none(), st.binary(max_size=2))))
    def put(self, marks: dict[bytes, bytes | None]) -> None:
        """Set and remove marks."""
        self.store.put(marks)
        self.marks.update({key: value for key, value in marks.items() if value is not None})
        for key in [key for key, value in marks.items() if value is None]:
            self.marks.pop(key, None)

    @rule(keys=st.lists(st.sampled_from([*_HEADERS, *_CHUNKS, *_MARKS]), max_size=3))
    def delete(self, keys: list[bytes]) -> None:
        """Remove keys of any kind."""
        self.store.delete(keys)
        for key in keys:
            self.model.pop(key, None)
            self.marks.pop(key, None)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        """Compare everything that can be read."""
        values = {
            key: build(Section(writer, *state) for writer, state in sections.items())
            for key, sections in self.model.items()
            if sections
        }
        expected = {**values, **self.marks}
        assert self.store.scan(b"") == sorted(expected)
        chunks = _VIEW + b"c"
        assert self.store.scan(chunks) == sorted(key for key in expected if key.startswith(chunks))
        with self.store.snapshot() as snapshot:
            assert dict(zip(expected, snapshot.get(list(expected)), strict=True)) == expected

    def teardown(self) -> None:
        """Close the store."""
        self.store.close()
