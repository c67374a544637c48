"""Entity frames: which keys at which times, in whatever table the caller has, checked and typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.definitions import Field
from featurestore.errors import EntityFrameError, suggest
from featurestore.offline.kernels import Ints

TIMESTAMP = "event_timestamp"


class EntityFrame:
    """A caller's table of keys and times.

    Attributes
    ----------
    table
        The caller's columns as Arrow, in the order given.
    original
        The caller's own object, so that its type can be given back.
    times
        The time of each row in microseconds since the epoch; naive times are UTC, finer ones are floored.
    """

    def __init__(self, source: Any, *, need_times: bool = True) -> None:
        self.original = source
        self.table = to_arrow(source)
        names = self.table.column_names
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise EntityFrameError(f"the entity frame has the column {repeated[0]!r} twice; rename one")
        self.times: Ints = self._times() if need_times else np.zeros(0, dtype=np.int64)

    def _column(self, name: str, what: str) -> pa.ChunkedArray:
        if name not in self.table.column_names:
            hint = suggest(name, self.table.column_names)
            raise EntityFrameError(f"the entity frame has no column {name!r}, {what.rstrip(',')}{hint}")
        return self.table.column(name)

    def _times(self) -> Ints:
        column = self._column(TIMESTAMP, "the time as of which each row's features are wanted")
        dtype = column.type
        if pa.types.is_date(dtype):
            column, dtype = column.cast(pa.timestamp("us")), pa.timestamp("us")
        if not pa.types.is_timestamp(dtype):
            raise EntityFrameError(
                f"the entity frame's {TIMESTAMP} is of type {dtype}; make it a timestamp, for example with "
                "pandas.to_datetime(..., utc=True)"
            )
        if column.null_count:
            raise EntityFrameError(f"the entity frame's {TIMESTAMP} is null in {column.null_count} rows; drop them")
        ticks = column.cast(pa.int64()).to_numpy()
        factor = {"s": 1_000_000, "ms": 1000, "us": 1}.get(dtype.unit)
        if factor is None:
            floored: Ints = np.floor_divide(ticks, 1000)
            return floored
        if factor > 1 and len(ticks) and np.abs(ticks).max() > np.iinfo(np.int64).max // factor:
            raise EntityFrameError(f"the entity frame's {TIMESTAMP} holds a time beyond the year 9999")
        micros: Ints = ticks * factor
        return micros

    def typed(self, field: Field, what: str) -> pa.ChunkedArray:
        """Return a column as the type a definition declares, refusing any conversion that could change a value."""
        column = self._column(field.name, what)
        target = field.dtype.to_arrow()
        if column.type == target:
            return column
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not _convertible(column.type, target) and column.null_count < len(column):
            raise EntityFrameError(
                f"the entity frame's column {field.name!r} is of type {column.type}, {what} of type {field.dtype}; "
                f"{_advice(column.type, target)}"
            )
        try:
            if pa.types.is_timestamp(target) and pa.types.is_timestamp(column.type):
                return _floor_to_micros(column)
            return column.cast(target)
        except pa.ArrowInvalid as error:
            raise EntityFrameError(f"the entity frame's column {field.name!r}: {error}") from error


def to_arrow(source: Any) -> pa.Table:
    """Return a pandas or polars frame, an Arrow table, rows as dicts, or any Arrow stream, as an Arrow table."""
    if isinstance(source, pa.Table):
        return source
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    try:
        if isinstance(source, Mapping):
            return pa.table(dict(source))
        if type(source).__module__.partition(".")[0] == "pandas":
            return pa.Table.from_pandas(source, preserve_index=False)
        if hasattr(source, "__arrow_c_stream__"):
            return pa.table(source)
        if isinstance(source, Iterable) and not isinstance(source, (str, bytes)):
            return pa.Table.from_pylist(list(source))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise EntityFrameError(f"the table cannot be read as columns of one type each: {error}") from error
    raise EntityFrameError(
        f"a {type(source).__name__} is no table: give a pandas or polars DataFrame, an Arrow table, a list of dicts "
        "or a SQL query"
    )


def _convertible(given: pa.DataType, target: pa.DataType) -> bool:
    """Whether a cast, which refuses what does not fit, cannot change a value's meaning."""
    t: Any = pa.types
    if t.is_null(given):
        return True
    if t.is_floating(target):
        return bool(t.is_floating(given) or t.is_integer(given))
    families = (
        t.is_integer,
        t.is_boolean,
        t.is_timestamp,
        lambda a: t.is_string(a) or t.is_large_string(a) or t.is_string_view(a),
        lambda a: t.is_binary(a) or t.is_large_binary(a) or t.is_fixed_size_binary(a) or t.is_binary_view(a),
        lambda a: t.is_list(a) or t.is_large_list(a) or t.is_fixed_size_list(a),
    )
    return any(family(given) and family(target) for family in families)


def _advice(given: pa.DataType, target: pa.DataType) -> str:
    if pa.types.is_floating(given) and pa.types.is_integer(target):
        return "pandas makes integers with gaps floats: convert the column with .astype('Int64')"
    return f"convert it to {target}"


def _floor_to_micros(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.type.unit == "ns":
        ticks = column.cast(pa.int64())
        floored = np.floor_divide(ticks.fill_null(0).to_numpy(), 1000)
        mask = ticks.is_null().combine_chunks().to_numpy(zero_copy_only=False)
        return pa.chunked_array([pa.array(floored, mask=mask).cast(pa.timestamp("us", "UTC"))])
    if column.type.tz is None:
        return pc.assume_timezone(column.cast(pa.timestamp("us")), "UTC")
    return column.cast(pa.timestamp("us", "UTC"))
