"""Window aggregates for many (key, time) pairs at once: from ranges of sorted rows to values and statuses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.definitions import Aggregation
from featurestore.offline.columns import PresentValues
from featurestore.offline.exact import (
    Statuses,
    integers,
    longest_range,
    means_once,
    moment_digits,
    overflow,
    sums_once,
    variances_once,
)
from featurestore.offline.kernels import Ints, expand, range_distinct, range_extremes, range_select
from featurestore.semantics.finalise import bucket_middle, quantile_rank
from featurestore.semantics.rows import Status


class Feature(NamedTuple):
    """One feature's column: values (null where there is none) and statuses."""

    values: pa.Array
    statuses: Statuses


def aggregate(aggregation: Aggregation, column: PresentValues | None, starts: Ints, ends: Ints) -> Feature:
    """Return an aggregation over ranges of rows that are sorted by key and then by their total order.

    Parameters
    ----------
    column
        The aggregated column; None for a count of rows.
    starts, ends
        Half-open ranges of row indices.
    """
    if column is None:
        return _count(ends - starts)
    starts, ends = column.span(starts, ends)
    function = aggregation.function
    if function == "count":
        return _count(ends - starts)
    if function in {"sum", "mean"}:
        return _sum(column, starts, ends, mean=function == "mean")
    if function in {"variance", "stddev"}:
        return _variance(column, starts, ends, root=function == "stddev")
    if function == "approx_quantile":
        return _quantile(aggregation, column, starts, ends)
    if function == "count_distinct":
        return _distinct(aggregation, column, starts, ends)
    if function in {"first_n", "last_n"}:
        assert aggregation.n is not None  # noqa: S101  (set by the constructor)
        if function == "first_n":
            ends = np.minimum(ends, starts + aggregation.n)
        else:
            starts = np.maximum(starts, ends - aggregation.n)
        return _lists(column, starts, ends)
    if function in {"min", "max"}:
        return _extreme(column, starts, ends, largest=function == "max")
    return _take(column, np.where(function == "first", starts, ends - 1), ends > starts)


def _count(counts: Ints) -> Feature:
    return Feature(pa.array(counts), np.full(len(counts), Status.PRESENT, dtype=np.int8))


def _finish(values: np.ndarray, statuses: Statuses, dtype: pa.DataType) -> Feature:
    return Feature(pa.array(values, type=dtype, mask=statuses != Status.PRESENT), statuses)


def _sum(column: PresentValues, starts: Ints, ends: Ints, *, mean: bool) -> Feature:
    count = ends - starts
    digits, too_large = column.sums(longest_range(starts, ends)).of(starts, ends)
    statuses = overflow(count, too_large)
    present = statuses == Status.PRESENT
    if mean:
        return _finish(means_once(digits, count, present), statuses, pa.float64())
    if column.dtype.is_float:
        return _finish(sums_once(digits, present), statuses, pa.float64())
    values, beyond = integers(digits, present)
    statuses[beyond] = Status.OVERFLOW
    return _finish(values, statuses, pa.int64())


def _variance(column: PresentValues, starts: Ints, ends: Ints, *, root: bool) -> Feature:
    count = ends - starts
    first, second, too_large = moment_digits(column.numbers, starts, ends)
    statuses = overflow(count, too_large)
    statuses[(count < 2) & (too_large == 0)] = Status.NULL_VALUE
    values = variances_once(first, second, count, statuses == Status.PRESENT)
    return _finish(np.sqrt(values) if root else values, statuses, pa.float64())


def _quantile(aggregation: Aggregation, column: PresentValues, starts: Ints, ends: Ints) -> Feature:
    codes, buckets = column.buckets
    present = ends > starts
    statuses = overflow(ends - starts, np.zeros_like(starts))
    values = np.zeros(len(starts), dtype=np.float64)
    if present.any():
        counts, places = np.unique((ends - starts)[present], return_inverse=True)
        ranks = np.array([quantile_rank(n, aggregation.quantile) - 1 for n in counts.tolist()], dtype=np.int64)
        chosen = range_select(codes, starts[present], ends[present], ranks[places.reshape(-1)])
        middles = np.array([bucket_middle(bucket) for bucket in buckets.tolist()], dtype=np.float64)
        values[present] = middles[chosen]
    return _finish(values, statuses, pa.float64())


def _distinct(aggregation: Aggregation, column: PresentValues, starts: Ints, ends: Ints) -> Feature:
    counts = range_distinct(column.ranks, starts, ends)
    statuses = np.full(len(starts), Status.PRESENT, dtype=np.int8)
    assert aggregation.max_distinct is not None  # noqa: S101  (set by the constructor)
    statuses[counts > aggregation.max_distinct] = Status.OVERFLOW
    return _finish(counts, statuses, pa.int64())


def _lists(column: PresentValues, starts: Ints, ends: Ints) -> Feature:
    indices, offsets = expand(starts, ends)
    items = column.array.take(pa.array(indices))
    values = pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), items)
    return Feature(values, np.full(len(starts), Status.PRESENT, dtype=np.int8))


def _extreme(column: PresentValues, starts: Ints, ends: Ints, *, largest: bool) -> Feature:
    present = ends > starts
    if column.dtype.kind in {"string", "bytes"}:
        ranks = column.ranks
        _, where = np.unique(ranks, return_index=True)
        best = range_extremes(ranks, starts, ends, largest=largest)
        index = where[np.where(present, best, 0).astype(np.int64)] if len(where) else np.zeros(len(starts), np.int64)
        return _take(column, index, present)
    best = range_extremes(column.numbers, starts, ends, largest=largest)
    values = pa.array(best, mask=~present).cast(column.array.type)
    return Feature(values, overflow(present.astype(np.int64), np.zeros_like(starts)))


def _take(column: PresentValues, indices: Ints, present: np.ndarray) -> Feature:
    values = column.array.take(pa.array(indices, mask=~present))
    return Feature(values, overflow(present.astype(np.int64), np.zeros(len(present), dtype=np.int64)))
