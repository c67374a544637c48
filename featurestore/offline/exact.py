"""Exact sums over ranges: values are split into few wide digits whose sums over any one range fit into 64 bits.

The digits of a range's sum are the accumulator's state; `semantics.rounding` makes values of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featurestore.offline.kernels import Bools, Floats, Ints, prefix, range_sums
from featurestore.semantics import rounding
from featurestore.semantics.accumulators import MOMENT_BITS, MOMENT_LIMIT, SUM_BITS, SUM_LIMIT
from featurestore.semantics.rows import Status

Statuses = npt.NDArray[np.int8]

_WIDTH = 27
_EXACT = 2**53
_BLOCK = 1 << 15
_LIMB = 23
_MEAN_PLACES = 4  # a quotient by up to 2**34 keeps more than 55 bits
_VARIANCE_PLACES = 5  # likewise by up to 2**68


class Digits(NamedTuple):
    """Sums of ranges as ``sum(digit << shift)``, in units of ``2**-scale``."""

    parts: list[tuple[int, Ints]]
    scale: int

    def at(self, chosen: Ints) -> list[tuple[int, Ints]]:
        """Return the parts of the chosen ranges."""
        return [(shift, sums[chosen]) for shift, sums in self.parts]


class DigitSums:
    """Running sums of the digits of a column's numbers, from which the exact sum of any range follows.

    Parameters
    ----------
    values
        The numbers: int64 or float64, finite.
    longest
        The most values that a range holds. Digits are as wide as their sums over such a range fit into 64 bits.
    """

    def __init__(self, values: Floats | Ints, longest: int) -> None:
        self.longest = longest
        self._large: Ints | None = None
        width = 62 - longest.bit_length()
        if values.dtype == np.int64:
            self._scale = 0
            digits = _integer_digits(values.astype(np.int64), width)
        else:
            self._scale = SUM_BITS
            digits = _float_digits(*self._addends(values), width)
        # Modulo 2**64, which no range's own sum exceeds.
        self._parts = [(shift, np.cumsum(digit, out=digit)) for shift, digit in digits]

    def _addends(self, values: Floats | Ints) -> tuple[Floats, float]:
        """Return a copy without the values that are too large to add, which are counted, and its greatest magnitude."""
        rest = values.astype(np.float64)
        most = float(max(values.max(initial=0.0), -values.min(initial=0.0)))
        if most >= SUM_LIMIT:
            large = np.abs(rest) >= SUM_LIMIT
            self._large = prefix(large.astype(np.int64))
            rest[large] = 0.0
            most = float(np.abs(rest).max(initial=0.0))
        return rest, most

    def of(self, starts: Ints, ends: Ints) -> tuple[Digits, Ints]:
        """Return the exact sums of ranges and how many of each range's values were too large to add."""
        parts = [(shift, sums[ends] - sums[starts]) for shift, sums in self._parts]
        large = self._large
        too_large = np.zeros(len(starts), dtype=np.int64) if large is None else large[ends] - large[starts]
        return Digits(parts, self._scale), too_large


def longest_range(starts: Ints, ends: Ints) -> int:
    """Return the number of values of the longest range."""
    return int((ends - starts).max(initial=0))


def _integer_digits(rest: Ints, width: int) -> Iterator[tuple[int, Ints]]:
    """Yield signed digits of a width, each behind a leading zero; `rest` is used up."""
    most = max(int(rest.max(initial=0)), -int(rest.min(initial=0)))
    shift = 0
    while most:
        digit = np.zeros(len(rest) + 1, dtype=np.int64)
        if most >> width:
            np.fmod(rest, 1 << width, out=digit[1:])
            rest -= digit[1:]
            rest >>= width
        else:
            digit[1:] = rest
        yield shift, digit
        most >>= width
        shift += width


def _float_digits(rest: Floats, most: float, width: int) -> Iterator[tuple[int, Ints]]:
    """Yield digits of floats in units of ``2**-SUM_BITS``, highest first, each behind a leading zero.

    The last digit is rounded half to even, as the accumulators do; all else is exact: truncation keeps leading bits
    of a double, and what it leaves are its other bits. `rest` is used up.
    """
    top = int(np.frexp(most)[1]) if most else -SUM_BITS
    while most:
        unit = max(top - width, -SUM_BITS)
        digit = np.zeros(len(rest) + 1, dtype=np.int64)
        make = np.rint if unit == -SUM_BITS else np.trunc
        left = False
        for start in range(0, len(rest), _BLOCK):
            block = rest[start : start + _BLOCK]
            scaled = block * 2.0**-unit
            make(scaled, out=scaled)
            digit[start + 1 : start + 1 + len(block)] = scaled
            if unit > -SUM_BITS:
                scaled *= 2.0**unit
                block -= scaled
                left = left or bool(block.any())
        yield unit + SUM_BITS, digit
        if not left:
            return
        top = unit


def moment_digits(values: Floats | Ints, starts: Ints, ends: Ints) -> tuple[Digits, Digits, Ints]:
    """Return the exact sums of x and of x*x, and how many values were too large; `scale` is that of x."""
    is_float = values.dtype != np.int64
    large = (values <= -MOMENT_LIMIT) | (values >= MOMENT_LIMIT)
    kept = np.where(large, 0, values)
    scale = MOMENT_BITS if is_float else 0
    limbs = _limbs(kept, is_float=is_float)
    first = [(_LIMB * place, range_sums(limb, starts, ends)) for place, limb in enumerate(limbs) if limb.any()]
    second: list[tuple[int, Ints]] = []
    for place in range(2 * len(limbs) - 1):
        pairs = [(limbs[i], limbs[place - i]) for i in range(len(limbs)) if 0 <= place - i < len(limbs)]
        product = sum((a * b for a, b in pairs), start=np.zeros(len(kept), dtype=np.int64))
        low = np.fmod(product, 1 << _WIDTH)
        for shift, digit in ((0, low), (_WIDTH, (product - low) >> _WIDTH)):
            if digit.any():
                second.append((_LIMB * place + shift, range_sums(digit, starts, ends)))
    return Digits(first, scale), Digits(second, scale), range_sums(large.astype(np.int64), starts, ends)


def _limbs(values: Floats | Ints, *, is_float: bool) -> list[Ints]:
    """Return values below 2**46 as signed limbs of `_LIMB` bits, lowest first; floats in units of 2**-46."""
    whole = np.trunc(values).astype(np.int64)
    limbs = []
    if is_float:
        fraction = np.rint(np.ldexp(values - whole, 2 * _LIMB)).astype(np.int64)
        low = np.fmod(fraction, 1 << _LIMB)
        limbs += [low, (fraction - low) >> _LIMB]
    low = np.fmod(whole, 1 << _LIMB)
    return [*limbs, low, (whole - low) >> _LIMB]


def integers(digits: Digits, chosen: Bools) -> tuple[Ints, Bools]:
    """Return the chosen ranges' sums as int64, and which ranges have a sum that does not fit."""
    values = np.zeros(len(chosen), dtype=np.int64)
    beyond = np.zeros(len(chosen), dtype=bool)

    def work(block: Ints) -> None:
        limbs, negative = rounding.limbs_of(digits.at(block), len(block))
        two = limbs[2]
        total = limbs[0] | (limbs[1] << _WIDTH) | ((two & 511) << 2 * _WIDTH)
        smallest = negative & (two == 512) & (total == 0)
        values[block] = np.where(smallest, np.iinfo(np.int64).min, np.where(negative, -total, total))
        beyond[block] = ((two >= 512) & ~smallest) | limbs[3:].any(axis=0)

    _in_blocks(np.flatnonzero(chosen), work)
    return values, beyond


def sums_once(digits: Digits, chosen: Bools) -> Floats:
    """Return the chosen ranges' sums, rounded once."""
    if len(digits.parts) == 1:  # converting an int64 rounds it once, and a power of two changes no digit
        ((shift, sums),) = digits.parts
        return np.where(chosen, sums.astype(np.float64) * 2.0 ** (shift - digits.scale), 0.0)
    return means_once(digits, None, chosen)


def means_once(digits: Digits, counts: Ints | None, chosen: Bools) -> Floats:
    """Return ``sum / count`` for the chosen ranges, rounded once; without counts the sums."""
    values = np.zeros(len(chosen), dtype=np.float64)
    hard = chosen
    if counts is not None and len(digits.parts) == 1:
        # Below 2**53 the division of two doubles is already the correctly rounded quotient (IEEE 754).
        ((shift, sums),) = digits.parts
        easy = chosen & (np.abs(sums) < _EXACT)
        np.divide(sums, counts, out=values, where=easy)
        values *= 2.0 ** (shift - digits.scale)
        hard = chosen & ~easy

    def work(block: Ints) -> None:
        limbs, negative = rounding.limbs_of(digits.at(block), len(block))
        more, exponent = np.zeros(len(block), dtype=bool), -digits.scale
        if counts is not None:
            limbs, more = rounding.divide(rounding.scaled_up(limbs, _MEAN_PLACES), counts[block])
            exponent -= _MEAN_PLACES * rounding.WIDTH
        magnitude = rounding.to_doubles(limbs, more, exponent)
        values[block] = np.where(negative, -magnitude, magnitude)

    _in_blocks(np.flatnonzero(hard), work)
    return values


def variances_once(first: Digits, second: Digits, counts: Ints, chosen: Bools) -> Floats:
    """Return ``(n*Q - S*S) / (n*(n-1))`` for the chosen ranges (n at least 2), rounded once."""
    values = np.zeros(len(chosen), dtype=np.float64)

    def work(block: Ints) -> None:
        n = counts[block]
        total = rounding.square(rounding.limbs_of(first.at(block), len(block))[0])
        squares = rounding.multiply(rounding.limbs_of(second.at(block), len(block))[0], n)
        limbs = rounding.scaled_up(rounding.subtract(squares, total), _VARIANCE_PLACES)
        limbs, more = rounding.divide(limbs, n)
        limbs, also = rounding.divide(limbs, n - 1)
        exponent = -2 * first.scale - _VARIANCE_PLACES * rounding.WIDTH
        values[block] = rounding.to_doubles(limbs, more | also, exponent)

    _in_blocks(np.flatnonzero(chosen), work)
    return values


def _in_blocks(chosen: Ints, work: Callable[[Ints], None]) -> None:
    """Do the work a block at a time, so that what it needs stays in the processor's cache."""
    for start in range(0, len(chosen), _BLOCK):
        work(chosen[start : start + _BLOCK])


def overflow(count: Ints, too_large: Ints) -> Statuses:
    """Return the status of each range: NULL_VALUE without rows, OVERFLOW with one too large, else PRESENT."""
    statuses = np.full(len(count), Status.PRESENT, dtype=np.int8)
    statuses[count == 0] = Status.NULL_VALUE
    statuses[too_large > 0] = Status.OVERFLOW
    return statuses
