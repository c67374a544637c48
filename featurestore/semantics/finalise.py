"""From accumulator state to a feature's value: the one place where exact state is rounded, for every path.

Python's ``int / int`` is the correctly rounded quotient (CPython, ``long_true_divide``), which is all that is needed
here: sums, means and variances are exact rationals until that one division.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from featurestore.definitions.aggregation import Aggregation
from featurestore.semantics.accumulators import MOMENT_BITS, SUM_BITS, MomentState, SumState
from featurestore.semantics.rows import Result, Status
from featurestore.types import ValueType

_MIN_INT64, _MAX_INT64 = -(2**63), 2**63 - 1
_OVERFLOW = Result(None, Status.OVERFLOW)
_NULL = Result(None, Status.NULL_VALUE)


def finalise(aggregation: Aggregation, dtype: ValueType | None, state: Any) -> Result:
    """Return the value and status of an aggregation whose window's rows have this state.

    Parameters
    ----------
    dtype
        Type of the aggregated column; None where rows are counted.
    state
        State of the accumulator that `accumulator_for` gives.
    """
    function = aggregation.function
    if function == "count":
        return Result(state, Status.PRESENT)
    if function == "count_distinct":
        return _OVERFLOW if state is None else Result(len(state), Status.PRESENT)
    if function in {"first_n", "last_n"}:
        return Result([value for _, value in state], Status.PRESENT)
    if function in {"first", "last"}:
        return Result(state[0][1], Status.PRESENT) if state else _NULL
    if function in {"min", "max"}:
        return _NULL if state is None else Result(state, Status.PRESENT)
    if function == "approx_quantile":
        return Result(quantile_of(state, aggregation.quantile), Status.PRESENT) if state else _NULL
    is_float = dtype is not None and dtype.is_float
    if function in {"variance", "stddev"}:
        return variance_of(state, is_float=is_float, root=function == "stddev")
    return sum_of(state) if function == "sum" and not is_float else total_of(state, is_float, function == "mean")


def finalise_column(
    aggregation: Aggregation, dtype: ValueType | None, states: Sequence[Any]
) -> tuple[Sequence[Any], list[Status]]:
    """Return what `finalise` returns for each of some states, as a column of values and one of statuses."""
    function = aggregation.function
    if function == "count":
        return states, [Status.PRESENT] * len(states)
    if function in {"min", "max"}:
        return states, [Status.NULL_VALUE if state is None else Status.PRESENT for state in states]
    if function in {"sum", "mean"} and dtype is not None and dtype.is_float:
        mean = function == "mean"
        if all([state.n and not state.too_large for state in states]):  # noqa: C419  (quicker than a generator)
            values = [state.total / ((state.n if mean else 1) << SUM_BITS) for state in states]
            return values, [Status.PRESENT] * len(states)
    results = [finalise(aggregation, dtype, state) for state in states]
    return [result[0] for result in results], [result[1] for result in results]


def sum_of(state: SumState) -> Result:
    """Return the int64 sum of integers, or OVERFLOW."""
    if not state.n:
        return _NULL
    return Result(state.total, Status.PRESENT) if _MIN_INT64 <= state.total <= _MAX_INT64 else _OVERFLOW


def total_of(state: SumState, is_float: bool, mean: bool) -> Result:
    """Return the sum of floats or the mean of numbers, rounded once."""
    if not state.n:
        return _NULL
    if state.too_large:
        return _OVERFLOW
    divisor = state.n if mean else 1
    return Result(state.total / (divisor << SUM_BITS if is_float else divisor), Status.PRESENT)


def variance_of(state: MomentState, *, is_float: bool, root: bool) -> Result:
    """Return the sample variance, rounded once, or the square root of that; null for fewer than two rows."""
    n, too_large, total, squares = state
    if too_large:
        return _OVERFLOW
    if n < 2:
        return _NULL
    scale = 2 * MOMENT_BITS if is_float else 0
    variance = (n * squares - total * total) / (n * (n - 1) << scale)
    return Result(math.sqrt(variance) if root else variance, Status.PRESENT)


def quantile_of(histogram: dict[float, int], q: Fraction) -> float:
    """Return the middle of the bucket that holds the value of rank ``max(1, ceil(q * n))``."""
    rank = quantile_rank(sum(histogram.values()), q)
    for bucket in sorted(histogram):
        rank -= histogram[bucket]
        if rank <= 0:
            break
    return bucket_middle(bucket)


def quantile_rank(n: int, q: Fraction) -> int:
    """Return the rank, from 1, of the quantile `q` among `n` values."""
    return max(1, -(-q.numerator * n // q.denominator))


def bucket_middle(bucket: float) -> float:
    """Return what stands for a bucket: its double with bit 44 set; 0.0 stands for itself."""
    if bucket == 0.0:
        return 0.0
    bits: int = struct.unpack("<Q", struct.pack("<d", bucket))[0]
    middle: float = struct.unpack("<d", struct.pack("<Q", bits | 1 << 44))[0]
    return middle
