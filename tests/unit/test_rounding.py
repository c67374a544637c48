"""Large integers as limbs against Python's own: every operation, and quotients rounded as ``int / int`` rounds them."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from featurestore.semantics import rounding

COUNT = 3000
SHIFTS = (0, 40, 53, 100, 140, 200)
each_seed = pytest.mark.parametrize("seed", range(6))


def drawn(random_: random.Random) -> int:
    """Return an integer of up to 160 bits: any, a power of two and its neighbours, or one halfway between doubles."""
    bits = random_.randint(0, 159)
    halfway = (random_.getrandbits(54) | 1 << 53 | 1) << random_.randint(0, 90)
    size = random_.choice((0, 1, 1 << bits, (1 << bits) - 1, random_.getrandbits(bits + 1), halfway))
    return random_.choice((1, -1)) * max(0, size + random_.choice((-1, 0, 0, 1)))


def split(values: list[int]) -> list[tuple[int, Any]]:
    parts = []
    for shift, following in pairwise(SHIFTS):
        mask = (1 << (following - shift)) - 1
        parts.append((shift, np.array([(abs(v) >> shift & mask) * (1 if v >= 0 else -1) for v in values], np.int64)))
    return parts


def whole(limbs: Any) -> list[int]:
    return [sum(limb << rounding.WIDTH * place for place, limb in enumerate(column)) for column in limbs.T.tolist()]


def signed(limbs: Any, more: Any, exponent: int, negative: Any) -> list[float]:
    doubles = rounding.to_doubles(limbs, more, exponent)
    found: list[float] = np.where(negative, -doubles, doubles).tolist()
    return found


@each_seed
def test_limbs_round_trip_and_become_the_nearest_doubles(seed: int) -> None:
    random_ = random.Random(seed)
    values = [drawn(random_) for _ in range(COUNT)]
    limbs, negative = rounding.limbs_of(split(values), COUNT)
    assert whole(limbs) == [abs(value) for value in values]
    assert negative.tolist() == [value < 0 for value in values]
    none = np.zeros(COUNT, dtype=bool)
    assert signed(limbs, none, -80, negative) == [value / (1 << 80) for value in values]


@each_seed
def test_quotients_are_the_nearest_doubles(seed: int) -> None:
    random_ = random.Random(seed)
    values = [drawn(random_) for _ in range(COUNT)]
    divisors = [random_.choice((1, 2, 3, 10, 2**34, random_.randint(1, 2**34))) for _ in range(COUNT)]
    limbs, negative = rounding.limbs_of(split(values), COUNT)
    quotients, more = rounding.divide(rounding.scaled_up(limbs, 4), np.array(divisors))
    expected = [value / (divisor << 80) for value, divisor in zip(values, divisors, strict=True)]
    assert signed(quotients, more, -80 - 4 * rounding.WIDTH, negative) == expected


@each_seed
def test_products_squares_and_differences_are_exact(seed: int) -> None:
    random_ = random.Random(seed)
    values = [drawn(random_) for _ in range(COUNT)]
    factors = [random_.randint(0, 2**34) for _ in range(COUNT)]
    limbs, _ = rounding.limbs_of(split(values), COUNT)
    products = rounding.multiply(limbs, np.array(factors))
    assert whole(products) == [abs(value) * factor for value, factor in zip(values, factors, strict=True)]
    squares = rounding.square(limbs)
    assert whole(squares) == [value * value for value in values]
    others, _ = rounding.limbs_of(split([value // 3 for value in map(abs, values)]), COUNT)
    assert whole(rounding.subtract(limbs, others)) == [value - value // 3 for value in map(abs, values)]
