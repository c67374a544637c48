"""A column as the window functions see it: missing values left out, in a form that kernels work on."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.offline.exact import DigitSums
from featurestore.offline.kernels import Ints, prefix
from featurestore.semantics.accumulators import BUCKET_MASK
from featurestore.types import ValueType

_SMALLEST_NORMAL = 2.0**-1022


class PresentValues:
    """The values of a column that are not missing, in row order.

    Nulls, NaN and infinities are missing; -0.0 is 0.0.

    Attributes
    ----------
    array
        The present values as an Arrow array of the column's type.
    before
        For each row index, how many present values lie before it: maps ranges of rows to ranges of present values. None
        where no value is missing.
    """

    def __init__(self, column: pa.ChunkedArray | pa.Array, dtype: ValueType) -> None:
        self.dtype = dtype
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        present = _present(array, dtype)
        self.before: Ints | None = None
        if present is not None:
            self.before = prefix(present.astype(np.int64))
            array = array.filter(pa.array(present))
        self.array: pa.Array = pc.add(array, pa.scalar(0.0, array.type)) if dtype.is_float else array
        self._sums: DigitSums | None = None

    def span(self, starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
        """Return ranges of rows as ranges of present values."""
        return (starts, ends) if self.before is None else (self.before[starts], self.before[ends])

    def sums(self, longest: int) -> DigitSums:
        """Return the running sums of the numbers' digits, for ranges of up to so many values."""
        if self._sums is None or self._sums.longest < longest:
            self._sums = DigitSums(self.numbers, longest)
        return self._sums

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
        """The values of a number, timestamp or bool column: int64, or float64 exactly widened."""
        target = pa.float64() if self.dtype.is_float else pa.int64()
        result: npt.NDArray[Any] = _numpy(self.array.cast(target))
        return result

    @cached_property
    def ranks(self) -> Ints:
        """A code per value: equal for equal values, ascending with the values (text by its bytes)."""
        if self.dtype.kind in {"string", "bytes"}:
            binary = self.array.cast(pa.binary()).dictionary_encode()
            order = _numpy(pc.array_sort_indices(binary.dictionary)).astype(np.int64)
            rank = np.empty(len(order), dtype=np.int64)
            rank[order] = np.arange(len(order))
            codes: Ints = rank[_numpy(binary.indices).astype(np.int64)]
            return codes
        inverse: Ints = np.unique(self.numbers, return_inverse=True)[1].astype(np.int64).reshape(-1)
        return inverse

    @cached_property
    def buckets(self) -> tuple[Ints, npt.NDArray[np.float64]]:
        """Code of each value's quantile bucket, and the buckets by code, ascending."""
        values = self.numbers.astype(np.float64)
        bits = values.view(np.uint64) & np.uint64(BUCKET_MASK)
        bucket = np.where(np.abs(values) < _SMALLEST_NORMAL, 0.0, bits.view(np.float64))
        buckets, codes = np.unique(bucket, return_inverse=True)
        return codes.astype(np.int64).reshape(-1), buckets


def _present(array: pa.Array, dtype: ValueType) -> npt.NDArray[np.bool_] | None:
    """Return which values are not missing, or None where none is."""
    if dtype.is_float:
        finite: npt.NDArray[np.bool_] = np.isfinite(_numpy(array.cast(pa.float64())))  # a null is NaN there
        return None if finite.all() else finite
    return _numpy(array.is_valid()) if array.null_count else None


def _numpy(array: pa.Array) -> npt.NDArray[Any]:
    result: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return result
