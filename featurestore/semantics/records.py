"""From one delivered record to one typed row: the user's transform, then strict conversion."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from featurestore.clock import to_micros
from featurestore.definitions.feature_view import FeatureView
from featurestore.errors import DefinitionError, RowError
from featurestore.types import UnixTimestamp, ValueType, convert

ConvertedRow = tuple[int, dict[str, Any], dict[str, Any]]
"""Event timestamp in microseconds, join keys by name, input columns by name; as the store holds them."""

_EARLIEST = to_micros(datetime.min)  # noqa: DTZ901  (naive is UTC)
_LATEST = to_micros(datetime.max)  # noqa: DTZ901


class RecordConverter:
    """Converts records for one view; make one and call it for each record.

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
        if view.code is not None and view.code.function is None:
            raise DefinitionError(
                f"FeatureView {view.name!r}: the code of its transform {view.code.path} is not loaded; "
                "open the store with its repo_path"
            )
        self._transform = view.code
        self._timestamp_field = timestamp_field
        self._keys = [(field.name, field.dtype) for field in view.join_keys]
        self._columns = [(field.name, field.dtype) for field in view.columns]

    def __call__(self, record: Mapping[str, Any]) -> ConvertedRow | None:
        """Return the row of a record, or None where the transform drops it.

        A field that is absent is null; join keys and the timestamp may be neither absent nor null.

        Raises
        ------
        RowError
            Where the transform raises, its result is no mapping, or a value is missing or of the wrong type.
        """
        row = record
        if self._transform is not None:
            result = self._transformed(record)
            if result is None:
                return None
            row = result
        timestamp = self._timestamp(row if self._timestamp_field in row else record)
        keys = {}
        for name, dtype in self._keys:
            value = row.get(name)
            if value is None:
                raise RowError(f"the join key {name!r} is {'null' if name in row else 'missing'}")
            keys[name] = _convert(name, value, dtype)
        return timestamp, keys, {name: _convert(name, row.get(name), dtype) for name, dtype in self._columns}

    def _transformed(self, record: Mapping[str, Any]) -> Mapping[str, Any] | None:
        assert self._transform is not None  # noqa: S101  (the caller asked)
        try:
            result = self._transform(dict(record))
        except Exception as error:
            raise RowError(f"the transform raised {type(error).__name__}: {error}") from error
        if result is not None and not isinstance(result, Mapping):
            raise RowError(f"the transform returned {result!r:.60} ({type(result).__name__}); return a dict or None")
        return result

    def _timestamp(self, row: Mapping[str, Any]) -> int:
        name = self._timestamp_field
        value = row.get(name)
        if value is None:
            raise RowError(f"the timestamp {name!r} is {'null' if name in row else 'missing'}")
        micros: int = _convert(name, value, UnixTimestamp)
        return micros


def convert_record(view: FeatureView, record: Mapping[str, Any], timestamp_field: str) -> ConvertedRow | None:
    """Return the row that a view makes of one record, or None where its transform drops it.

    Parameters
    ----------
    view
        The view whose transform, join keys and columns count.
    record
        Field to Python or decoded JSON value. It is not changed: the transform gets its own dict.
    timestamp_field
        The field that says when the event happened; the record's where the transform's result lacks it.

    Returns
    -------
    tuple or None
        Event timestamp in microseconds since the epoch, join keys by name and input columns by name.

    Raises
    ------
    RowError
        Where the transform raises or returns neither a dict nor None, a join key or the timestamp is missing
        or null, or a value is not of its declared type. The message is the reason for a dead letter.
    DefinitionError
        Where the transform's code is not loaded.
    """
    return RecordConverter(view, timestamp_field)(record)


def _convert(name: str, value: object, dtype: ValueType) -> Any:
    try:
        converted = convert(value, dtype)
    except RowError as error:
        raise RowError(f"column {name!r}: {error}") from error
    if dtype.kind == "timestamp" and converted is not None and not _EARLIEST <= converted <= _LATEST:
        raise RowError(f"column {name!r}: {value!r:.60} is outside the years 1 to 9999 in UTC")
    return converted
