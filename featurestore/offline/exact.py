"""Exact sums over ranges: values are split into short digits whose running sums fit into 64 bits.

A digit has few enough bits that 2**34 of them add up in an int64; the digits of a range's sum are put together as
Python integers, which is the accumulator state that `finalise` rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featurestore.offline.kernels import Bools, Floats, Ints, range_sums
from featurestore.semantics.accumulators import MOMENT_BITS, MOMENT_LIMIT, SUM_BITS, SUM_LIMIT
from featurestore.semantics.rows import Result, Status

Statuses = npt.NDArray[np.int8]

_WIDTH = 27
_EXACT = 2**53


class Digits(NamedTuple):
    """Sums of ranges as ``sum(digit << shift)``, in units of ``2**-scale``."""

    parts: list[tuple[int, Ints]]
    scale: int

    def integers(self, chosen: Ints) -> list[int]:
        """Return the chosen ranges' sums in the unit."""
        totals = [0] * len(chosen)
        for shift, sums in self.parts:
            totals = [total + (digit << shift) for total, digit in zip(totals, sums[chosen].tolist(), strict=True)]
        return totals


def _split(values: Ints, shift: int, bits: int) -> list[tuple[int, Ints]]:
    """Split integers below 2**bits in magnitude into digits of `_WIDTH` bits, by truncation, without zero ones."""
    digits = []
    for place in range(0, bits, _WIDTH):
        last = place + _WIDTH >= bits
        digit = values if last else np.fmod(values, 1 << _WIDTH)
        if digit.any():
            digits.append((shift + place, digit))
        if last:
            break
        values = (values - digit) >> _WIDTH
        if not values.any():
            break
    return digits


def _fixed_point(values: Floats, scale: int) -> list[tuple[int, Ints]]:
    """Return floats below 2**62 as digits in units of ``2**-scale``, rounded half to even, as the accumulators do."""
    whole = np.trunc(values)
    digits = _split(whole.astype(np.int64), scale, 62)
    fraction = np.ldexp(values - whole, scale)  # exact: the subtraction and the power of two lose nothing
    if not fraction.any():
        return digits
    high_bits = scale - scale // 2
    high = np.trunc(np.ldexp(fraction, -(scale - high_bits)))
    low = np.rint(fraction - np.ldexp(high, scale - high_bits))
    digits += _split(low.astype(np.int64), 0, scale - high_bits + 1)
    digits += _split(high.astype(np.int64), scale - high_bits, high_bits + 1)
    return digits


def sum_digits(values: Floats | Ints, starts: Ints, ends: Ints) -> tuple[Digits, Ints]:
    """Return the exact sums of the ranges and how many of each range's values were too large to add."""
    if values.dtype == np.int64:
        parts = _split(values.astype(np.int64, copy=False), 0, 64)
        digits = Digits([(shift, range_sums(digit, starts, ends)) for shift, digit in parts], 0)
        return digits, np.zeros(len(starts), dtype=np.int64)
    large = np.abs(values) >= SUM_LIMIT
    parts = _fixed_point(np.where(large, 0.0, values), SUM_BITS)
    digits = Digits([(shift, range_sums(digit, starts, ends)) for shift, digit in parts], SUM_BITS)
    return digits, range_sums(large.astype(np.int64), starts, ends)


def moment_digits(values: Floats | Ints, starts: Ints, ends: Ints) -> tuple[Digits, Digits, Ints]:
    """Return the exact sums of x and of x*x, and how many values were too large; `scale` is that of x."""
    is_float = values.dtype != np.int64
    large = (values <= -MOMENT_LIMIT) | (values >= MOMENT_LIMIT)
    kept = np.where(large, 0, values)
    scale = MOMENT_BITS if is_float else 0
    base = 23
    limbs = _limbs(kept, is_float=is_float, base=base)
    first = [(base * place, range_sums(limb, starts, ends)) for place, limb in enumerate(limbs) if limb.any()]
    second: list[tuple[int, Ints]] = []
    for place in range(2 * len(limbs) - 1):
        pairs = [(limbs[i], limbs[place - i]) for i in range(len(limbs)) if 0 <= place - i < len(limbs)]
        product = sum((a * b for a, b in pairs), start=np.zeros(len(kept), dtype=np.int64))
        second += [(s, range_sums(digit, starts, ends)) for s, digit in _split(product, base * place, 54)]
    return Digits(first, scale), Digits(second, scale), range_sums(large.astype(np.int64), starts, ends)


def _limbs(values: Floats | Ints, *, is_float: bool, base: int) -> list[Ints]:
    """Return values below 2**46 as signed limbs of `base` bits, lowest first; floats in units of 2**-46."""
    whole = np.trunc(values).astype(np.int64)
    limbs = []
    if is_float:
        fraction = np.rint(np.ldexp(values - whole, 2 * base)).astype(np.int64)
        low = np.fmod(fraction, 1 << base)
        limbs += [low, (fraction - low) >> base]
    low = np.fmod(whole, 1 << base)
    return [*limbs, low, (whole - low) >> base]


def divide_once(
    digits: Digits, divisors: Ints, chosen: Bools, hard: Callable[[int, int], Result]
) -> tuple[Floats, list[tuple[int, Result]]]:
    """Return ``sum / divisor`` for the chosen ranges, rounded once.

    Where the sum is a whole number below 2**53 the division of two doubles is already the correctly rounded quotient
    (IEEE 754); all others go through `hard(index, sum)`, which is the finaliser's own arithmetic.
    """
    whole, small = _small_whole(digits)
    easy = chosen & small
    result = np.zeros(len(divisors), dtype=np.float64)
    np.divide(whole, divisors, out=result, where=easy)
    rest = np.flatnonzero(chosen & ~easy)
    return result, [
        (index, hard(index, total)) for index, total in zip(rest.tolist(), digits.integers(rest), strict=True)
    ]


def variance_once(first: Digits, second: Digits, count: Ints, chosen: Bools) -> tuple[Floats, Bools]:
    """Return the sample variances that double arithmetic gets right, and which those are.

    Where ``n * sum(x * x)`` and ``n * (n - 1)`` are whole numbers below 2**53, so are the numerator's terms and their
    difference, and the division of two doubles is the correctly rounded quotient (IEEE 754).
    """
    total, easy = _small_whole(first)
    squares, also = _small_whole(second._replace(scale=2 * second.scale))
    n = count.astype(np.float64)
    easy = easy & also & chosen & (n * squares < _EXACT) & (n * n < _EXACT)  # total**2 <= n * squares (Cauchy-Schwarz)
    values = np.zeros(len(count), dtype=np.float64)
    np.divide(n * squares - total * total, n * (n - 1.0), out=values, where=easy)
    return values, easy


def _small_whole(digits: Digits) -> tuple[Floats, Bools]:
    """Return the sums that are whole numbers below 2**53 as doubles, and which ranges have such a sum."""
    parts = digits.parts
    easy = np.ones(len(parts[0][1]) if parts else 1, dtype=bool)
    whole = np.zeros(len(easy), dtype=np.float64)
    for shift, sums in parts:
        exponent = shift - digits.scale
        if exponent < 0:
            easy &= sums == 0
        else:
            easy &= (sums == 0) | (np.abs(sums) < (_EXACT >> min(exponent + 3, 60)))
            whole += np.where(easy, np.ldexp(sums.astype(np.float64), exponent), 0.0)
    return whole, easy


def overflow(count: Ints, too_large: Ints) -> Statuses:
    """Return the status of each range: NULL_VALUE without rows, OVERFLOW with one too large, else PRESENT."""
    statuses = np.full(len(count), Status.PRESENT, dtype=np.int8)
    statuses[count == 0] = Status.NULL_VALUE
    statuses[too_large > 0] = Status.OVERFLOW
    return statuses
