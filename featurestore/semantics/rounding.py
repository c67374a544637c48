"""`finalise`'s one division, for many states at once: exact integers of any size, divided and rounded to doubles.

An array of large integers is held as limbs: a two-dimensional int64 array whose row ``i`` holds, for each number, its
bits ``27 * i`` to ``27 * i + 26``. Division is schoolbook, limb by limb (Knuth, "The Art of Computer Programming",
4.3.1); rounding is half to even, from 62 leading bits of which the last is set where any bit below them is ("round to
odd": Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008). `finalise` does the same with Python's
integers, one state at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

WIDTH = 27
_MASK = (1 << WIDTH) - 1
_LEADING = 62


def limbs_of(parts: Sequence[tuple[int, Ints]], size: int) -> tuple[Ints, Bools]:
    """Return ``sum(part << shift)`` of each of `size` numbers: limbs of its magnitude, and whether it is negative."""
    places = max((shift // WIDTH for shift, _ in parts), default=0)
    limbs = np.zeros((places + 5, size), dtype=np.int64)
    for shift, part in parts:
        place, rest = divmod(shift, WIDTH)
        limbs[place] += (part & _MASK) << rest
        limbs[place + 1] += ((part >> WIDTH) & _MASK) << rest
        limbs[place + 2] += (part >> 2 * WIDTH) << rest
    _carry(limbs)
    negative = limbs[-1] < 0
    if negative.any():
        limbs = np.where(negative, -limbs, limbs)
        _carry(limbs)
    return limbs, negative


def _carry(limbs: Ints) -> None:
    """Bring every limb but the last into 0 .. 2**27 - 1."""
    for place in range(len(limbs) - 1):
        limbs[place + 1] += limbs[place] >> WIDTH
        limbs[place] &= _MASK


def multiply(limbs: Ints, factors: Ints) -> Ints:
    """Return the product with factors from 0 to 2**34."""
    product = np.zeros((len(limbs) + 2, limbs.shape[1]), dtype=np.int64)
    carry = np.zeros_like(factors)
    for place, limb in enumerate(limbs):
        total = limb * factors + carry
        product[place] = total & _MASK
        carry = total >> WIDTH
    product[-2] = carry & _MASK
    product[-1] = carry >> WIDTH
    return product


def square(limbs: Ints) -> Ints:
    """Return the square of numbers of at most 2**9 limbs."""
    product = np.zeros((2 * len(limbs) + 1, limbs.shape[1]), dtype=np.int64)
    for one in range(len(limbs)):
        for other in range(len(limbs)):
            product[one + other] += limbs[one] * limbs[other]
    _carry(product)
    return product


def subtract(limbs: Ints, others: Ints) -> Ints:
    """Return the difference, which must not be negative."""
    difference = np.zeros((max(len(limbs), len(others)) + 1, limbs.shape[1]), dtype=np.int64)
    difference[: len(limbs)] += limbs
    difference[: len(others)] -= others
    _carry(difference)
    return difference


def divide(limbs: Ints, divisors: Ints) -> tuple[Ints, Bools]:
    """Return the quotients by divisors from 1 to 2**34, rounded down, and which divisions leave a remainder."""
    quotient = np.empty_like(limbs)
    rest = np.zeros_like(divisors)
    for place in range(len(limbs) - 1, -1, -1):
        rest = (rest << WIDTH) | limbs[place]
        quotient[place] = rest // divisors
        rest -= quotient[place] * divisors
    return quotient, rest != 0


def scaled_up(limbs: Ints, places: int) -> Ints:
    """Return the numbers times ``2**(27 * places)``."""
    return np.concatenate((np.zeros((places, limbs.shape[1]), dtype=np.int64), limbs))


def to_doubles(limbs: Ints, more: Bools, exponent: int) -> Floats:
    """Return the doubles nearest to ``number * 2**exponent``, ties to even.

    Parameters
    ----------
    limbs
        Magnitudes.
    more
        Whether the true number is above the limbs', by less than one unit.
    exponent
        At least -1022: results must not be subnormal.
    """
    limbs = scaled_up(limbs, 3)
    size = np.arange(limbs.shape[1])
    set_below = np.logical_or.accumulate(limbs != 0, axis=0)
    top = np.full(limbs.shape[1], 3, dtype=np.int64)
    for place in range(4, len(limbs)):
        top[limbs[place] != 0] = place
    high = (limbs[top, size] << WIDTH) | limbs[top - 1, size]
    low = (limbs[top - 2, size] << WIDTH) | limbs[top - 3, size]
    shift = _LEADING - np.frexp(high.astype(np.float64))[1].astype(np.int64)
    shift = np.minimum(shift, 2 * WIDTH)
    kept = 2 * WIDTH - shift
    odd = more | ((low & ((1 << kept) - 1)) != 0) | np.where(top > 3, set_below[np.maximum(top - 4, 0), size], False)
    leading = (high << shift) | (low >> kept) | odd
    doubles: Floats = np.ldexp(leading.astype(np.float64), (WIDTH * (top - 4) + exponent - shift).astype(np.int32))
    return doubles
