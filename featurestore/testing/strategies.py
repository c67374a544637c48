"""Hypothesis strategies for views, rows, times and whole cases, aimed at the edges that 2.8 lists.

They draw what `featurestore.testing.generate` builds, so that failures shrink. Examples::

    @given(cases(kinds=("window",)))
    def test_my_engine(case):
        for key, t in case.queries:
            assert my_engine(case, key, t) == evaluate(case.view, key, t, case.rows, cuts=case.cuts)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

from featurestore.definitions import FUNCTIONS, FeatureView
from featurestore.semantics.rows import Cut, Row
from featurestore.testing.choices import Choices
from featurestore.testing.generate import (
    Case,
    build_case,
    build_cuts,
    build_origin,
    build_rows,
    build_time,
)
from featurestore.testing.values import key as build_key
from featurestore.testing.values import value as build_value
from featurestore.testing.view_builder import COLUMNS, KINDS, SOURCES, build_view
from featurestore.types import ValueType

T = TypeVar("T")


class DrawnChoices:
    """Decisions that Hypothesis makes, and simplifies when a test fails."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both inclusive."""
        return self._draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options; the first is the simplest."""
        return self._draw(st.sampled_from(options))

    def chance(self, percent: int) -> bool:
        """Return True about ``percent`` times in a hundred; False is the simpler outcome."""
        return self._draw(st.integers(0, 99)) >= 100 - percent

    def many(self, build: Callable[[Choices], T], low: int, high: int) -> list[T]:
        """Return ``low`` to ``high`` things (both inclusive), each dropped on its own when a test fails."""
        # Shrinking one number to 0 drops a thing without moving the decisions of those after it.
        drawn = self._draw(st.lists(st.tuples(st.integers(0, 15), built(build)), min_size=low, max_size=high))
        kept = [thing for keep, thing in drawn if keep]
        return kept if len(kept) >= low else [thing for _, thing in drawn[:low]]


@st.composite
def _built(draw: st.DrawFn, build: Callable[[Choices], T]) -> T:
    return build(DrawnChoices(draw))


def built(build: Callable[[Choices], T]) -> st.SearchStrategy[T]:
    """Return the strategy that runs a builder on decisions of Hypothesis."""
    return _built(build)


def values(dtype: ValueType, *, wild: bool = False) -> st.SearchStrategy[Any]:
    """Draw values as the store holds them, None among them; ``wild`` adds those that overflow windows."""
    return built(lambda choices: build_value(choices, dtype, wild=wild))


def keys(view: FeatureView) -> st.SearchStrategy[tuple[Any, ...]]:
    """Draw join keys of the view, without nulls, in the order of ``view.join_keys``."""
    dtypes = tuple(field.dtype for field in view.join_keys)
    return built(lambda choices: build_key(choices, dtypes))


def views(
    *,
    kinds: tuple[str, ...] = KINDS,
    sources: tuple[str, ...] = SOURCES,
    columns: tuple[str, ...] = tuple(COLUMNS),
    functions: tuple[str, ...] = tuple(FUNCTIONS),
) -> st.SearchStrategy[FeatureView]:
    """Draw valid views named ``v``.

    Parameters
    ----------
    kinds
        Any of ``"state"`` and ``"window"``.
    sources
        Any of ``"batch"``, ``"stream"`` and ``"lambda"``.
    columns, functions
        Names from `featurestore.testing.view_builder.COLUMNS` and of aggregation functions to choose from; a
        column that takes none of the functions is counted.
    """
    return built(
        lambda choices: build_view(choices, kinds=kinds, sources=sources, columns=columns, functions=functions)
    )


def rows_for(view: FeatureView, *, max_rows: int = 24) -> st.SearchStrategy[list[Row]]:
    """Draw rows of the view's log in the order of delivery.

    Sequences increase per writer, ties occur on every component of the order tuple, about a seventh is
    delivered twice, and rows are early (at most `featurestore.testing.generate.MAX_FUTURE`) or late.
    """
    return built(lambda choices: build_rows(choices, view, build_origin(choices, view), max_rows=max_rows))


def cuts_for(view: FeatureView, origin: int) -> st.SearchStrategy[list[Cut]]:
    """Draw cuts of a lambda view around the time ``origin``, in the order recorded; none for other views."""
    return built(lambda choices: build_cuts(choices, view, origin))


def times_for(view: FeatureView, rows: Sequence[Row], cuts: Sequence[Cut] = ()) -> st.SearchStrategy[int]:
    """Draw times at which the view's answers change, given these rows and cuts, or a microsecond beside."""
    return built(lambda choices: build_time(choices, view, rows, cuts))


def cases(
    *,
    kinds: tuple[str, ...] = KINDS,
    sources: tuple[str, ...] = SOURCES,
    max_rows: int = 24,
    max_queries: int = 8,
) -> st.SearchStrategy[Case]:
    """Draw whole cases: a view, the rows of its log, cuts, and keys with times to ask for."""

    def build(choices: Choices) -> Case:
        view = build_view(choices, kinds=kinds, sources=sources)
        return build_case(choices, view, max_rows=max_rows, max_queries=max_queries)

    return built(build)
