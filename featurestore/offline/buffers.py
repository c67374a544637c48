"""Columns put together from batches, in memory that is touched once."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa


class ColumnBuffer(Protocol):
    """Takes a column's parts, then gives the whole."""

    def add(self, part: pa.Array) -> None:
        """Append a part; it may be let go of afterwards."""

    def array(self) -> pa.Array:
        """Return all parts as one array."""


def column_buffer(dtype: pa.DataType, limit: int) -> ColumnBuffer:
    """Return a buffer for up to `limit` values of a type."""
    plain = pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_timestamp(dtype)
    return _Numbers(dtype, limit) if plain else _Parts(dtype)


class _Numbers:
    """Numbers and times, in one array that is only as large in memory as it is filled."""

    def __init__(self, dtype: pa.DataType, limit: int) -> None:
        self._type = dtype
        self._number = pa.int64() if pa.types.is_timestamp(dtype) else dtype
        self._values = np.empty(limit, dtype=self._number.to_pandas_dtype())
        self._missing: npt.NDArray[np.bool_] | None = None
        self._count = 0

    def add(self, part: pa.Array) -> None:
        numbers = part.view(self._number)
        end = self._count + len(part)
        if part.null_count:
            if self._missing is None:
                self._missing = np.zeros(len(self._values), dtype=bool)
            self._missing[self._count : end] = part.is_null().to_numpy(zero_copy_only=False)
            numbers = numbers.fill_null(0)
        self._values[self._count : end] = numbers.to_numpy()
        self._count = end

    def array(self) -> pa.Array:
        missing = None if self._missing is None else self._missing[: self._count]
        return pa.array(self._values[: self._count], self._number, mask=missing).view(self._type)


class _Parts:
    """Values of any type, part by part."""

    def __init__(self, dtype: pa.DataType) -> None:
        self._type = dtype
        self._parts: list[pa.Array] = []

    def add(self, part: pa.Array) -> None:
        self._parts.append(part)

    def array(self) -> pa.Array:
        return pa.concat_arrays(self._parts) if self._parts else pa.nulls(0, self._type)
