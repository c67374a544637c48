"""The answer to a lookup as JSON, in the form of Feast's lookup API; what columns have in common is encoded once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from featurestore.clock import from_micros
from featurestore.semantics.rows import Status
from featurestore.types import ValueType, to_python

if TYPE_CHECKING:
    from featurestore.online.response import OnlineResponse

encode = msgspec.json.Encoder().encode
_STATUSES = {status: b'"%b"' % status.name.encode() for status in Status}
_EPOCH = b'"1970-01-01T00:00:00Z"'
_MANY = 8
"""From how many times on an array is quicker."""

_YEARS_1_TO_9999 = -62_135_596_800_000_000, 253_402_300_799_999_999


class _Column(msgspec.Struct):
    """What the answer holds of a column."""

    values: Sequence[Any]
    statuses: msgspec.Raw
    event_timestamps: msgspec.Raw


def encode_response(response: OnlineResponse, names: bytes, *, receipts: bool) -> bytes:
    """Return a response as JSON: see `OnlineResponse.to_json`.

    Parameters
    ----------
    names
        The names of all columns, join keys first, encoded.
    """
    n = len(response.evaluated_at)
    present, epochs = _repeated(_STATUSES[Status.PRESENT], n), _repeated(_EPOCH, n)
    columns = [_Column(_shown(values, dtype), present, epochs) for values, dtype in response.typed_keys()]
    stamps = [_event_timestamps(view.columns.event_timestamps, epochs) for view in response.views]
    evaluated: msgspec.Raw | None = None
    encoded: dict[int, msgspec.Raw] = {}
    floats = []
    for values, statuses, dtype, view in response.typed_columns():
        status = encoded.get(id(statuses))
        if status is None:
            status = encoded[id(statuses)] = _encode_statuses(statuses, present)
        happened = stamps[view] if view is not None else None
        if happened is None:
            happened = evaluated = evaluated or _times(response.evaluated_at)
        if dtype.kind in _HELD_AS_SHOWN:
            column = _Column(values, status, happened)
        else:
            column = _Column(_shown(values, dtype), status, happened)
        columns.append(column)
        if dtype.kind in _FLOATS:
            floats.append(column)
    if not _are_finite(floats):
        for column in floats:
            column.values = [_finite(value) for value in column.values]
    told = b',"receipts":' + _receipts(response) if receipts else b""
    return b'{"metadata":{"feature_names":%b%b},"results":%b}' % (names, told, encode(columns))


_FLOATS = {"float32", "float64"}
_HELD_AS_SHOWN = {"bool", "int32", "int64", "float32", "float64", "string", "bytes"}


def _shown(values: Sequence[Any], dtype: ValueType) -> Sequence[Any]:
    """Return values as JSON shows them, scalar floats as they are held."""
    if dtype.kind == "timestamp" or dtype.item == "timestamp":
        return [to_python(value, dtype) for value in values]
    if dtype.item in _FLOATS:
        return [None if value is None else [_finite(item) for item in value] for value in values]
    return values


def _are_finite(columns: Iterable[_Column]) -> bool:
    """Return whether, for sure, all values are finite numbers, or null; False needs no reason."""
    try:
        return math.isfinite(sum([sum(column.values) for column in columns]))
    except TypeError:  # there is a null
        return math.isfinite(sum([sum(filter(None, column.values)) for column in columns]))


def _finite(value: float | None) -> float | str | None:
    """Return a value or, as protobuf does, the name of what is no number in JSON."""
    if value is None or math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


@lru_cache(maxsize=256)
def _repeated(item: bytes, n: int) -> msgspec.Raw:
    return msgspec.Raw(b"[%b]" % b",".join([item] * n))


def _encode_statuses(statuses: Sequence[Status], present: msgspec.Raw) -> msgspec.Raw:
    if statuses.count(Status.PRESENT) == len(statuses):
        return present
    return msgspec.Raw(b"[%b]" % b",".join([_STATUSES[status] for status in statuses]))


def _event_timestamps(times: Sequence[int | None] | None, epochs: msgspec.Raw) -> msgspec.Raw | None:
    """Return a view's event timestamps, encoded; None for a view that has none."""
    if times is None:
        return None
    if None not in times:
        return _times(times)  # type: ignore[arg-type]  # there is no None among them
    known = [0 if time is None else time for time in times]
    return _times(known) if any(known) else epochs


def _times(times: Sequence[int]) -> msgspec.Raw:
    first, last = _YEARS_1_TO_9999
    if len(times) < _MANY or min(times) < first or max(times) > last:
        return msgspec.Raw(encode([from_micros(time) for time in times]))
    naive = encode(np.array(times, dtype=np.int64).view("M8[us]").tolist())
    return msgspec.Raw(naive[:-2].replace(b'",', b'Z",') + b'Z"]')


def _receipts(response: OnlineResponse) -> bytes:
    rows = [
        {
            "evaluated_at": from_micros(t),
            "views": {
                name: {
                    "fingerprint": receipt.fingerprint,
                    "sequences": receipt.sequences,
                    "cut": None if receipt.cut is None else from_micros(receipt.cut),
                }
                for name, receipt in views.items()
            },
        }
        for t, views in zip(response.evaluated_at, response.receipts, strict=True)
    ]
    return encode(rows)
