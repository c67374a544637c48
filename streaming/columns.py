"""From many records to typed Arrow columns at once, with the meaning of `featurestore.semantics.records`.

The fast path takes a whole column where every value is plainly of its type, which is what nearly every batch holds.
Anything else goes through `RecordConverter`, record by record, so that there is one judge of what is valid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.clock import to_micros
from featurestore.definitions import FeatureView
from featurestore.errors import RowError
from featurestore.semantics.records import ConvertedRow, RecordConverter
from featurestore.types import UnixTimestamp, ValueType, convert

EVENT_TIMESTAMP = "event_timestamp"
_EARLIEST = to_micros(datetime.min)  # noqa: DTZ901  (naive is UTC)
_LATEST = to_micros(datetime.max)  # noqa: DTZ901
_EXACT = 2**53
_NONE = type(None)
# The Python type whose values are valid as they are; integers are checked against their range by Arrow.
_PLAIN: dict[str, type] = {"bool": bool, "int32": int, "int64": int, "string": str, "bytes": bytes}


class Converted(NamedTuple):
    """The rows that a batch of records became.

    Attributes
    ----------
    places
        For each row, the index of its record.
    columns
        ``event_timestamp``, join keys and input columns by name, each as long as `places`.
    errors
        Index of a record and why it has no row.
    dropped
        Number of records that the transform mapped to no row.
    """

    places: list[int]
    columns: dict[str, pa.Array]
    errors: list[tuple[int, str]]
    dropped: int


class BatchConverter:
    """Converts batches of records for one view.

    Parameters
    ----------
    view
        The view whose transform, join keys and columns count.
    timestamp_field
        The field that says when an event happened.

    Raises
    ------
    DefinitionError
        Where the view has a transform whose code is not loaded.
    """

    def __init__(self, view: FeatureView, timestamp_field: str) -> None:
        self._one = RecordConverter(view, timestamp_field)
        self._has_transform = view.code is not None
        self._timestamp_field = timestamp_field
        self._keys = [(field.name, field.dtype) for field in view.join_keys]
        self._columns = [(field.name, field.dtype) for field in view.columns]

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> Converted:
        """Return the rows of the records, in their order: those that `RecordConverter` gives one by one."""
        if not self._has_transform:
            try:
                return Converted(list(range(len(records))), self._whole(records), [], 0)
            except RowError:
                pass  # some record is bad: find out which
        return self._each(records)

    def _whole(self, records: Sequence[Mapping[str, Any]]) -> dict[str, pa.Array]:
        times = [record.get(self._timestamp_field) for record in records]
        columns = {EVENT_TIMESTAMP: _required(column(times, UnixTimestamp))}
        for name, dtype in self._keys:
            columns[name] = _required(column([record.get(name) for record in records], dtype))
        for name, dtype in self._columns:
            columns[name] = column([record.get(name) for record in records], dtype)
        return columns

    def _each(self, records: Sequence[Mapping[str, Any]]) -> Converted:
        places: list[int] = []
        rows: list[ConvertedRow] = []
        errors: list[tuple[int, str]] = []
        for place, record in enumerate(records):
            try:
                row = self._one(record)
            except RowError as error:
                errors.append((place, str(error)))
                continue
            if row is not None:
                places.append(place)
                rows.append(row)
        columns = {EVENT_TIMESTAMP: pa.array([row[0] for row in rows], UnixTimestamp.to_arrow())}
        for name, dtype in self._keys:
            columns[name] = pa.array([row[1][name] for row in rows], dtype.to_arrow())
        for name, dtype in self._columns:
            columns[name] = pa.array([row[2][name] for row in rows], dtype.to_arrow())
        return Converted(places, columns, errors, len(records) - len(places) - len(errors))


def column(values: Sequence[Any], dtype: ValueType) -> pa.Array:
    """Return values as an Arrow column: element by element what `featurestore.types.convert` makes of them.

    Raises
    ------
    RowError
        Where one of them is not of the type, or a timestamp lies outside the years 1 to 9999.
    """
    kinds = set(map(type, values)) - {_NONE}
    arrow = dtype.to_arrow()
    if not kinds:
        return pa.nulls(len(values), arrow)
    plain: pa.Array | None = None
    if kinds == {_PLAIN.get(dtype.kind)}:
        plain = _array(values, arrow)
    elif dtype.is_float:
        plain = _floats(values, kinds, arrow)
    if plain is not None:
        return plain
    converted = [convert(value, dtype) for value in values]
    if dtype.kind == "timestamp":
        known = [value for value in converted if value is not None]
        _check_years(min(known), max(known))
    return pa.array(converted, arrow)


def timestamp(text: str) -> int:
    """Return ISO 8601 text as microseconds since the epoch; without an offset it is UTC.

    Raises
    ------
    RowError
        Where it is something else, or lies outside the years 1 to 9999.
    """
    micros: int = convert(text, UnixTimestamp)
    _check_years(micros, micros)
    return micros


def _check_years(earliest: int, latest: int) -> None:
    if earliest < _EARLIEST or latest > _LATEST:
        raise RowError("a timestamp lies outside the years 1 to 9999 in UTC")


def _array(values: Sequence[Any], arrow: pa.DataType) -> pa.Array | None:
    try:
        return pa.array(values, arrow)
    except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
        return None


def _floats(values: Sequence[Any], kinds: set[type], arrow: pa.DataType) -> pa.Array | None:
    """Return floats and small integers as a column; None where a value needs a closer look."""
    if not kinds <= {float, int}:
        return None
    if int in kinds:
        whole = [value for value in values if type(value) is int]
        if min(whole) < -_EXACT or max(whole) > _EXACT:
            return None
        values = [value if value is None else float(value) for value in values]
    array = pa.array(values, arrow)
    # Infinities may come from narrowing, and a NaN may carry a payload.
    return array if pc.all(pc.is_finite(array)).as_py() else None


def _required(array: pa.Array) -> pa.Array:
    if array.null_count:
        raise RowError("a join key or the timestamp is null")
    return array
