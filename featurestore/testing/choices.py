"""Where generated test data gets its decisions: one contract, drawn from a seed or by Hypothesis.

A builder that asks a `Choices` for every decision works in both: fast over a seed, shrinking under Hypothesis
(see `featurestore.testing.strategies`). It lists the simplest option first, because that is what shrinking
moves toward.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Choices(Protocol):
    """Decisions, one at a time."""

    def integer(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both inclusive."""

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options, the simplest of which stands first."""

    def chance(self, percent: int) -> bool:
        """Return True about ``percent`` times in a hundred; False is the simpler outcome."""

    def many(self, build: Callable[[Choices], T], low: int, high: int) -> list[T]:
        """Return ``low`` to ``high`` things (both inclusive), each built on its own."""


class SeededChoices:
    """Decisions from a seed: the same seed gives the same decisions."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both inclusive."""
        return self._random.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options, each as likely."""
        return options[int(self._random.random() * len(options))]

    def chance(self, percent: int) -> bool:
        """Return True ``percent`` times in a hundred."""
        return self._random.random() * 100 < percent

    def many(self, build: Callable[[Choices], T], low: int, high: int) -> list[T]:
        """Return ``low`` to ``high`` things (both inclusive), each built on its own."""
        return [build(self) for _ in range(self._random.randint(low, high))]
