"""Vectorised questions about many ranges of one array, exact, without a loop over rows or ranges.

Ranges are half-open: ``starts[i] <= index < ends[i]``, with ``starts <= ends``. Work and memory are O((n + m) log n)
and O(n + m) for n rows and m ranges, however long the ranges are: a hot key costs no more than many cold ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def search(values: Ints, starts: Ints, ends: Ints, wanted: Ints, *, right: bool) -> Ints:
    """Return, within each range of ascending values, the first index whose value is >= (right: >) the wanted one."""
    low, high = starts.copy(), ends.copy()
    if not len(values):
        return low
    for _ in range(int(np.max(ends - starts, initial=0)).bit_length()):
        middle = (low + high) >> 1
        found = values[np.minimum(middle, len(values) - 1)]
        before = (found <= wanted if right else found < wanted) & (low < high)
        low = np.where(before, middle + 1, low)
        high = np.where(before, high, np.minimum(middle, high))
    return low


def prefix(values: Ints) -> Ints:
    """Return the running sum with a leading zero; sums of ranges are differences, exact while they fit in 64 bits."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def range_sums(values: Ints, starts: Ints, ends: Ints) -> Ints:
    """Return the sum of each range (modulo 2**64)."""
    sums = prefix(values)
    return sums[ends] - sums[starts]


def range_extremes(
    values: npt.NDArray[np.generic], starts: Ints, ends: Ints, *, largest: bool
) -> npt.NDArray[np.generic]:
    """Return the smallest or largest value of each range; of an empty range an arbitrary one.

    A sparse table of which one level at a time is kept (Bender and Farach-Colton, "The LCA problem revisited", 2000).
    """
    result = np.zeros(len(starts), dtype=values.dtype)
    combine = np.maximum if largest else np.minimum
    lengths = ends - starts
    levels = np.zeros(len(starts), dtype=np.int64)
    positive = lengths > 0
    levels[positive] = np.frexp(lengths[positive].astype(np.float64))[1] - 1
    table, spare = values, None
    for level in range(int(levels.max(initial=0)) + 1):
        if level:  # two buffers take turns: new memory for each level would cost more than the work
            half = 1 << (level - 1)
            into = np.empty_like(values) if spare is None else spare
            spare = None if level == 1 else table
            table = combine(table[: len(table) - half], table[half:], out=into[: len(table) - half])
        chosen = np.flatnonzero(positive & (levels == level))
        result[chosen] = combine(table[starts[chosen]], table[ends[chosen] - (1 << level)])
    return result


def _wavelet_levels(codes: Ints, bits: int) -> Iterator[tuple[int, Ints, int]]:
    """Yield, from the highest bit, the bit, the running count of zeros, and the number of zeros, of a wavelet matrix.

    Claude and Navarro, "The wavelet matrix", 2012. The codes are reordered from level to level, zeros first.
    """
    for bit in range(bits - 1, -1, -1):
        is_zero = ((codes >> bit) & 1) == 0
        zeros = prefix(is_zero.astype(np.int64))
        yield bit, zeros, int(zeros[-1])
        codes = np.concatenate((codes[is_zero], codes[~is_zero]))


def range_count_below(codes: Ints, starts: Ints, ends: Ints, limits: Ints) -> Ints:
    """Return how many of each range's codes (non-negative) are below the range's limit."""
    bits = max(int(codes.max(initial=0)), int(limits.max(initial=0))).bit_length()
    low, high = starts.copy(), ends.copy()
    count = np.zeros(len(starts), dtype=np.int64)
    for bit, zeros, total in _wavelet_levels(codes, bits):
        low_zeros, high_zeros = zeros[low], zeros[high]
        one = ((limits >> bit) & 1) == 1
        count += np.where(one, high_zeros - low_zeros, 0)
        low = np.where(one, total + low - low_zeros, low_zeros)
        high = np.where(one, total + high - high_zeros, high_zeros)
    return count


def range_select(codes: Ints, starts: Ints, ends: Ints, ranks: Ints) -> Ints:
    """Return the code of each range that has rank `ranks` (from 0) in ascending order; ranges must hold that many."""
    low, high, rank = starts.copy(), ends.copy(), ranks.copy()
    code = np.zeros(len(starts), dtype=np.int64)
    for bit, zeros, total in _wavelet_levels(codes, int(codes.max(initial=0)).bit_length()):
        low_zeros, high_zeros = zeros[low], zeros[high]
        count = high_zeros - low_zeros
        one = rank >= count
        code |= np.where(one, 1 << bit, 0)
        rank = np.where(one, rank - count, rank)
        low = np.where(one, total + low - low_zeros, low_zeros)
        high = np.where(one, total + high - high_zeros, high_zeros)
    return code


def range_distinct(codes: Ints, starts: Ints, ends: Ints) -> Ints:
    """Return the number of distinct codes of each range: those whose previous occurrence lies before the range."""
    order = np.argsort(codes, kind="stable")
    previous = np.zeros(len(codes), dtype=np.int64)  # index + 1 of the previous occurrence, 0 for none
    same = codes[order[1:]] == codes[order[:-1]]
    previous[order[1:][same]] = order[:-1][same] + 1
    return range_count_below(previous, starts, ends, starts + 1)


def expand(starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """Return the indices of all ranges one after the other, and where each range begins in them (and the end)."""
    offsets = prefix(ends - starts)
    total = int(offsets[-1])
    indices = np.arange(total, dtype=np.int64) - np.repeat(offsets[:-1] - starts, ends - starts)
    return indices, offsets
