"""Which chunks the windows of a view read at a time: from the time alone, so that they come with the header."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from featurestore.online.framing import chunk_key
from featurestore.online.layout import Piece, WindowLayout
from featurestore.semantics.windows import Window, floor_to

_MOST_CHUNKS = 64
_REMEMBERED = 64

Span = tuple[int, int]
"""A chunk: its level, and its number, which is its start by the span of the level."""


class ReadPlan(NamedTuple):
    """The chunks that windows read at any time within one of the smallest tiles, or at its end.

    Attributes
    ----------
    spans
        The chunks, ascending.
    ends
        What the store's keys of these chunks end with.
    unnamed
        Levels of which all chunks may be needed that a header lists.
    """

    spans: tuple[Span, ...]
    ends: tuple[bytes, ...]
    unnamed: frozenset[int]


class ReadPlans:
    """The read plans of some windows of a view.

    Attributes
    ----------
    cut
        Of a lambda view, the cut in force that was seen last. A guess: whoever sees another plans again.
    """

    def __init__(self, layout: WindowLayout, windows: Sequence[Window]) -> None:
        self.cut: int | None = None
        self._layout = layout
        self._windows = windows
        self._plans: dict[tuple[int, int | None], ReadPlan] = {}

    def at(self, t: int, cut: int | None) -> ReadPlan:
        """Return the plan for a time, given the cut of a lambda view: the same object for the same chunks."""
        key = t // self._layout.hops[0], cut
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _REMEMBERED:
                self._plans = {}
            plan = self._plans[key] = self._make(floor_to(t, self._layout.hops[0]), cut)
        return plan

    def _make(self, tile: int, cut: int | None) -> ReadPlan:
        layout = self._layout
        spans = {(0, tile // layout.spans[0])}
        unnamed = set()
        for level, start, end in self._pieces(tile, cut):
            span = layout.spans[level]
            if start is None or end - start > _MOST_CHUNKS * span:
                unnamed.add(level)
            else:
                spans.update((level, number) for number in range(start // span, (end - 1) // span + 1))
        chunks = tuple(sorted(spans))
        return ReadPlan(chunks, tuple(key_end(*span) for span in chunks), frozenset(unnamed))

    def _pieces(self, tile: int, cut: int | None) -> Iterable[Piece]:
        """Yield the pieces of all windows at the first and last times of a tile and at its end: what lies between."""
        hop = self._layout.hops[0]
        for t in {tile, tile + hop - 1, tile + hop}:
            for window in self._windows:
                yield from self._layout.pieces(window, t, None, fold=True)
                if self._layout.is_lambda:
                    yield from self._layout.pieces(window, t, cut, fold=False)


def key_end(level: int, number: int) -> bytes:
    """Return what the store's key of a chunk ends with, whichever entity it is of."""
    return chunk_key(b"", b"", level, number)[-9:]
