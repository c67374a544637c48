"""Columns put together from batches that several threads read, in memory that is touched once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Spans = Sequence[tuple[int, int]]
"""The places that were filled: half-open, ascending."""

_BLOCK = 1 << 16


class ColumnBuffer(Protocol):
    """Takes a column's parts at their places, then gives the whole."""

    def put(self, place: int, part: pa.Array) -> None:
        """Put a part at a place; it may be let go of afterwards."""

    def array(self, spans: Spans) -> tuple[pa.Array, bool]:
        """Return what was put into some places, and whether values stand at their places or one after the other."""


def column_buffer(dtype: pa.DataType, limit: int) -> ColumnBuffer:
    """Return a buffer with `limit` places for values of a type."""
    plain = pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_timestamp(dtype)
    return _Numbers(dtype, limit) if plain else _Parts(dtype)


def close_gaps(array: npt.NDArray[np.generic], spans: Spans) -> npt.NDArray[np.generic]:
    """Move what stands in some places down until no gap is left, and return that part of the array."""
    filled = 0
    for start, end in spans:
        if start != filled:
            for first in range(start, end, _BLOCK):  # block by block, so that nothing is copied aside
                last = min(first + _BLOCK, end)
                array[filled + first - start : filled + last - start] = array[first:last]
        filled += end - start
    return array[:filled]


class _Numbers:
    """Numbers and times, in one array that takes only as much memory as is filled of it."""

    def __init__(self, dtype: pa.DataType, limit: int) -> None:
        self._type = dtype
        self._number = pa.int64() if pa.types.is_timestamp(dtype) else dtype
        self._values = np.empty(limit, dtype=self._number.to_pandas_dtype())
        self._missing: npt.NDArray[np.bool_] | None = None
        self._lock = threading.Lock()

    def put(self, place: int, part: pa.Array) -> None:
        numbers = part.view(self._number)
        end = place + len(part)
        if part.null_count:
            with self._lock:
                if self._missing is None:
                    self._missing = np.zeros(len(self._values), dtype=bool)
            self._missing[place:end] = part.is_null().to_numpy(zero_copy_only=False)
            numbers = numbers.fill_null(0)
        self._values[place:end] = numbers.to_numpy()

    def array(self, spans: Spans) -> tuple[pa.Array, bool]:
        end = spans[-1][1] if spans else 0
        missing = None if self._missing is None else self._missing[:end]
        return pa.array(self._values[:end], self._number, mask=missing).view(self._type), True


class _Parts:
    """Values of any type, part by part."""

    def __init__(self, dtype: pa.DataType) -> None:
        self._type = dtype
        self._parts: dict[int, pa.Array] = {}

    def put(self, place: int, part: pa.Array) -> None:
        self._parts[place] = part

    def array(self, spans: Spans) -> tuple[pa.Array, bool]:  # noqa: ARG002  (parts have no gaps)
        parts = [self._parts[place] for place in sorted(self._parts) if len(self._parts[place])]
        return (pa.concat_arrays(parts) if parts else pa.nulls(0, self._type)), False
