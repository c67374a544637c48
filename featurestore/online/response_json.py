"""The answer to a lookup as JSON, in the form of Feast's lookup API; what columns have in common is encoded once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from featurestore.clock import from_micros
from featurestore.semantics.rows import Status
from featurestore.types import ValueType, to_python

if TYPE_CHECKING:
    from featurestore.online.response import OnlineResponse, Shape

encode = msgspec.json.Encoder().encode
_STATUSES = {status: b'"%b"' % status.name.encode() for status in Status}
_EPOCH = b'"1970-01-01T00:00:00Z"'
_FLOATS = {"float32", "float64"}
_MANY = 8
"""From how many times on an array is quicker."""

_YEARS_1_TO_9999 = -62_135_596_800_000_000, 253_402_300_799_999_999

PLAIN = {"bool", "int32", "int64", "float32", "float64"}
"""Types whose values JSON shows as the store holds them, with nothing in them that could be taken for a bracket."""


def encode_response(response: OnlineResponse, shape: Shape, *, receipts: bool) -> bytes:
    """Return a response as JSON: see `OnlineResponse.to_json`."""
    n = len(response.evaluated_at)
    present, epochs = _repeated(_STATUSES[Status.PRESENT], n), _repeated(_EPOCH, n)
    results = [_column(_shown(values, dtype), _rest(present, epochs)) for values, dtype in response.typed_keys()]
    stamps = [_event_timestamps(view.columns.event_timestamps, epochs) for view in response.views]
    evaluated: bytes | None = None
    for run in shape.runs:
        happened = stamps[run.view] if run.view is not None else None
        if happened is None:
            happened = evaluated = evaluated or _times(response.evaluated_at)
        values, statuses = response.columns_of(run)
        if statuses.count(statuses[0]) == len(statuses):
            rest = _rest(_encode_statuses(statuses[0], present), happened)
            if run.is_plain and (n < _MANY or _are_finite(values)):
                together = _together(values, rest) if n < _MANY else [_column(column, rest) for column in values]
                if together:
                    results += together
                    continue
            rests = [rest] * len(statuses)
        else:
            rests = [_rest(_encode_statuses(column, present), happened) for column in statuses]
        asked = shape.columns[run.first : run.first + len(rests)]
        results += [
            _column(_shown(column, each.dtype), rest) for column, each, rest in zip(values, asked, rests, strict=True)
        ]
    told = b',"receipts":' + _receipts(response) if receipts else b""
    return b'{"metadata":{"feature_names":%b%b},"results":[%b]}' % (shape.names, told, b",".join(results))


def _rest(statuses: bytes, event_timestamps: bytes) -> bytes:
    """Return what follows the values of a column."""
    return b',"statuses":%b,"event_timestamps":%b}' % (statuses, event_timestamps)


def _column(values: Sequence[Any], rest: bytes) -> bytes:
    return b'{"values":%b%b' % (encode(values), rest)


def _together(columns: Sequence[Sequence[Any]], rest: bytes) -> list[bytes]:
    """Return columns of plain values that have all but these in common; nothing where some value may be no number."""
    data = encode(columns)
    if b"null" in data:  # as which infinities and what is no number are encoded too
        return []
    rest = b"]" + rest
    return [b'{"values":[%b%b' % (data[2:-2].replace(b"],[", rest + b',{"values":['), rest)]


def _are_finite(columns: Sequence[Sequence[Any]]) -> bool:
    """Return whether, for sure, all values are finite numbers; False needs no reason."""
    try:
        return math.isfinite(sum(map(sum, columns)))
    except TypeError:  # there is a null
        return False


def _shown(values: Sequence[Any], dtype: ValueType) -> Sequence[Any]:
    """Return values as JSON shows them."""
    if dtype.kind == "timestamp" or dtype.item == "timestamp":
        return [to_python(value, dtype) for value in values]
    if dtype.item in _FLOATS:
        return [None if value is None else [_finite(item) for item in value] for value in values]
    if dtype.kind in _FLOATS:
        return [_finite(value) for value in values]
    return values


def _finite(value: float | None) -> float | str | None:
    """Return a value or, as protobuf does, the name of what is no number in JSON."""
    if value is None or math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


@lru_cache(maxsize=256)
def _repeated(item: bytes, n: int) -> bytes:
    return b"[%b]" % b",".join([item] * n)


def _encode_statuses(statuses: Sequence[Status], present: bytes) -> bytes:
    if statuses.count(Status.PRESENT) == len(statuses):
        return present
    return b"[%b]" % b",".join([_STATUSES[status] for status in statuses])


def _event_timestamps(times: Sequence[int | None] | None, epochs: bytes) -> bytes | None:
    """Return a view's event timestamps, encoded; None for a view that has none."""
    if times is None:
        return None
    if None not in times:
        return _times(times)  # type: ignore[arg-type]  # there is no None among them
    known = [0 if time is None else time for time in times]
    return _times(known) if any(known) else epochs


def _times(times: Sequence[int]) -> bytes:
    first, last = _YEARS_1_TO_9999
    if len(times) < _MANY or min(times) < first or max(times) > last:
        return encode([from_micros(time) for time in times])
    naive = encode(np.array(times, dtype=np.int64).view("M8[us]").tolist())
    return naive[:-2].replace(b'",', b'Z",') + b'Z"]'


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
