"""The reference: a slow, obvious interpreter of section 2 of the design, the oracle of every fast path.

Plain Python over lists of rows and exact rationals: no tiles, no arrays, its own window bounds and its own
rounding. Nothing here is shared with an engine or a store except types. Where this file and a fast path
disagree, read this file against the design line by line: the numbers in the comments are its sections.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from featurestore.definitions.aggregation import Aggregation
from featurestore.definitions.feature_view import FeatureView
from featurestore.errors import ClockError
from featurestore.semantics.rows import BATCH_WRITER, Cut, Result, Row, Status
from featurestore.types import ValueType

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
SMALLEST_NORMAL = 2.0**-1022


class _Overflow(Exception):  # noqa: N818  (a signal within this file, not an error)
    """The window holds a value, or has a result, outside what the design answers."""


def evaluate(
    view: FeatureView,
    key: tuple[Any, ...],
    t: int,
    rows: Sequence[Row],
    *,
    known_at: str = "event",
    cuts: Sequence[Cut] = (),
) -> dict[str, Result]:
    """Return every feature of a view for one key, as of ``t``, given the rows of its log.

    Parameters
    ----------
    view
        A state or a window view.
    key
        The values of ``view.join_keys``, in their order. A key holding None matches no row.
    t
        Microseconds since the epoch. A state view sees ``event_timestamp <= t``; a window ends before ``t``.
    rows
        Any rows of the log in any order: of other keys, delivered twice (same writer and sequence: the first
        counts), in the future of ``t``. Keys and values are as the store holds them, timestamps as
        microseconds; a column that a row lacks is null.
    known_at
        ``"event"``: all rows count; ``"arrival"``: only those with ``arrival <= t``.
    cuts
        The cuts of a lambda view in the order they were recorded; ignored for other views.

    Returns
    -------
    dict
        Feature name to value and status, in the view's order.

    Raises
    ------
    ClockError
        Where ``known_at`` is neither of the two.
    """
    _check_known_at(known_at)
    seen = _once([row for row in rows if _matches(row.key, key)])
    if known_at == "arrival":  # 2.7: "sees only rows with arrival <= t"
        seen = [row for row in seen if row.arrival <= t]
    if view.is_lambda:
        cut = cut_at(cuts, t, known_at)
        seen = [row for row in seen if _on_its_side(row, cut)]
    seen.sort(key=_order)
    if not view.is_window:
        return _state_features(view, t, seen)
    return {aggregation.name: _window_feature(view, aggregation, t, seen) for aggregation in view.aggregations}


def cut_at(cuts: Sequence[Cut], t: int, known_at: str = "event") -> Cut | None:
    """Return the cut in force, or None where there is none yet (2.4).

    With ``known_at="event"`` that is the last one recorded, whatever ``t`` is; with ``"arrival"`` it is the
    last one with ``arrival <= t``, and before all of them the first: nothing was served then, and history that is
    loaded in one go is to be trained on. ``cuts`` are in the order they were recorded.
    """
    _check_known_at(known_at)
    in_force = cuts[0] if cuts else None
    for cut in cuts:
        if known_at == "event" or cut.arrival <= t:
            in_force = cut
    return in_force


def _check_known_at(known_at: str) -> None:
    if known_at not in {"event", "arrival"}:
        raise ClockError(f"known_at={known_at!r}: use 'event' (all rows) or 'arrival' (rows known by then)")


# --- Which rows are seen: 2.1, 2.4, 2.6 ---


def _once(rows: list[Row]) -> list[Row]:
    # 2.6: "A row already applied (same writer and sequence) is applied once, however often it is delivered".
    seen: dict[tuple[str, int], Row] = {}
    for row in rows:
        seen.setdefault((row.writer, row.sequence), row)
    return list(seen.values())


def _matches(have: tuple[Any, ...], want: tuple[Any, ...]) -> bool:
    # 2.1: "A null in a requested key matches nothing". Python holds 1 == True; as join keys they are two.
    if any(part is None for part in want):
        return False
    return have == want and [type(part) for part in have] == [type(part) for part in want]


def _on_its_side(row: Row, cut: Cut | None) -> bool:
    # 2.4: "seen = batch rows before the cut and stream rows from it on". No cut yet means that no job has
    # covered anything: no batch row counts and every stream row does, as if the cut lay before all time.
    if row.writer == BATCH_WRITER:
        return cut is not None and row.event_timestamp < cut.at
    return cut is None or row.event_timestamp >= cut.at


def _order(row: Row) -> tuple[int, int, bytes, int]:
    # 2.2: "(event_timestamp, arrival, writer, sequence) (writers compare by UTF-8 bytes)".
    return row.event_timestamp, row.arrival, row.writer.encode("utf-8"), row.sequence


# --- State views: 2.2 ---


def _state_features(view: FeatureView, t: int, seen: list[Row]) -> dict[str, Result]:
    names = [field.name for field in view.schema]
    past = [row for row in seen if row.event_timestamp <= t]
    if not past:
        return dict.fromkeys(names, Result(None, Status.NOT_FOUND))
    newest = past[-1]
    ttl = view.ttl_micros
    if ttl is not None and not newest.event_timestamp >= t - ttl:
        # "OUTSIDE_MAX_AGE where the newest row is in [t - 2*ttl, t - ttl)", "else NOT_FOUND", both with null.
        status = Status.OUTSIDE_MAX_AGE if newest.event_timestamp >= t - 2 * ttl else Status.NOT_FOUND
        return dict.fromkeys(names, Result(None, status))
    # "All its values come from that one row, nulls included." Values pass unchanged: NaN, -0.0 and lists too.
    return {name: _present_or_null(newest.values.get(name)) for name in names}


def _present_or_null(value: Any) -> Result:
    return Result(value, Status.NULL_VALUE if value is None else Status.PRESENT)


# --- Window views: 2.3 ---


def _window_feature(view: FeatureView, aggregation: Aggregation, t: int, seen: list[Row]) -> Result:
    within = [row for row in seen if _covers(aggregation, t, row.event_timestamp)]
    if aggregation.column is None:
        return Result(len(within), Status.PRESENT)  # "count without a column counts rows"
    dtype = _type_of(view, aggregation.column)
    values = [_value_of(view, row, aggregation.column) for row in within]
    counted = [_normal(value, dtype) for value in values if _counts(value, dtype)]
    try:
        return _present_or_null(_FUNCTIONS[aggregation.function](counted, dtype, aggregation))
    except _Overflow:
        return Result(None, Status.OVERFLOW)


def _covers(aggregation: Aggregation, t: int, event_timestamp: int) -> bool:
    # "covers floor((t - o - w)/h)*h <= event_timestamp < t for o = 0, and < floor((t - o)/h)*h otherwise".
    # Python's // floors toward minus infinity, before 1970 too (2.1).
    w, h, o = aggregation.window.length, aggregation.window.hop, aggregation.window.offset
    before_end = event_timestamp < (t if o == 0 else (t - o) // h * h)
    after_start = w is None or (t - o - w) // h * h <= event_timestamp  # None: all history
    return after_start and before_end


def _type_of(view: FeatureView, column: str) -> ValueType:
    return next(field.dtype for field in (*view.schema, *view.join_keys) if field.name == column)


def _value_of(view: FeatureView, row: Row, column: str) -> Any:
    for field, part in zip(view.join_keys, row.key, strict=True):
        if field.name == column:
            return part
    return row.values.get(column)


def _counts(value: Any, dtype: ValueType) -> bool:
    # "Nulls are skipped by every function"; "NaN and infinities count as missing". A list counts, whatever it
    # holds, and passes unchanged.
    if value is None:
        return False
    return math.isfinite(value) if dtype.is_float else True


def _normal(value: Any, dtype: ValueType) -> Any:
    # "-0.0 counts as 0.0; float32 is widened exactly" (rows hold float32 values as Python floats).
    return 0.0 if dtype.is_float and value == 0.0 else value


# Each function takes the counted values, oldest first, and returns the result: None where 2.3 says null.


def _count(values: list[Any], _dtype: ValueType, _aggregation: Aggregation) -> int:
    return len(values)  # "Empty window: count* 0"


def _sum(values: list[Any], dtype: ValueType, _aggregation: Aggregation) -> int | float | None:
    if not values:
        return None
    if dtype.is_float:
        return _nearest_double(_exact_sum(values, dtype))
    # "Integer sum is int64, beyond it OVERFLOW".
    total = sum(values)
    if not INT64_MIN <= total <= INT64_MAX:
        raise _Overflow
    return int(total)


def _mean(values: list[Any], dtype: ValueType, _aggregation: Aggregation) -> float | None:
    # "sum and mean are the exact rational rounded once to the nearest double"; "integer mean is exact".
    return _nearest_double(_exact_sum(values, dtype) / len(values)) if values else None


def _exact_sum(values: list[Any], dtype: ValueType) -> Fraction:
    if not dtype.is_float:
        return Fraction(sum(values))
    if any(abs(x) >= 2**62 for x in values):  # "|x| >= 2^62 (sum, mean of floats) ... OVERFLOW"
        raise _Overflow
    # "A float addend is rounded once, half to even, to a multiple of 2^-80".
    return sum((_round_to_multiple(x, Fraction(1, 2**80)) for x in values), start=Fraction(0))


def _variance(values: list[Any], _dtype: ValueType, _aggregation: Aggregation) -> float | None:
    if any(abs(x) >= 2**46 for x in values):  # "or >= 2^46 (variance, stddev) makes the window OVERFLOW"
        raise _Overflow
    n = len(values)
    if n < 2:  # "null for n < 2"
        return None
    # "x is rounded to a multiple of 2^-46, the sums of x and of x*x are exact over the rounded values".
    rounded = [_round_to_multiple(x, Fraction(1, 2**46)) for x in values]
    s = sum(rounded, start=Fraction(0))
    q = sum((x * x for x in rounded), start=Fraction(0))
    return _nearest_double((n * q - s * s) / (n * (n - 1)))


def _stddev(values: list[Any], dtype: ValueType, aggregation: Aggregation) -> float | None:
    variance = _variance(values, dtype, aggregation)
    # "its square root": of the rounded variance; IEEE 754 rounds a root correctly, so every machine agrees.
    return None if variance is None else math.sqrt(variance)


def _min(values: list[Any], _dtype: ValueType, _aggregation: Aggregation) -> Any:
    return min(values, key=_ordering, default=None)


def _max(values: list[Any], _dtype: ValueType, _aggregation: Aggregation) -> Any:
    return max(values, key=_ordering, default=None)


def _ordering(value: Any) -> Any:
    return value.encode("utf-8") if isinstance(value, str) else value  # "strings by UTF-8 bytes"


def _first(values: list[Any], _dtype: ValueType, _aggregation: Aggregation) -> Any:
    return values[0] if values else None


def _last(values: list[Any], _dtype: ValueType, _aggregation: Aggregation) -> Any:
    return values[-1] if values else None


def _first_n(values: list[Any], _dtype: ValueType, aggregation: Aggregation) -> list[Any]:
    return values[: aggregation.n]  # "(oldest first)"; "Empty window: ... lists empty"


def _last_n(values: list[Any], _dtype: ValueType, aggregation: Aggregation) -> list[Any]:
    assert aggregation.n is not None  # noqa: S101  (the definition checks it)
    return values[-aggregation.n :]  # "(oldest first)"


def _count_distinct(values: list[Any], _dtype: ValueType, aggregation: Aggregation) -> int:
    assert aggregation.max_distinct is not None  # noqa: S101  (the definition sets it)
    distinct = len(set(values))
    if distinct > aggregation.max_distinct:  # "exact up to max_distinct ...; past it OVERFLOW"
        raise _Overflow
    return distinct


def _approx_quantile(values: list[Any], _dtype: ValueType, aggregation: Aggregation) -> float | None:
    if not values:
        return None
    buckets = sorted(_bucket(float(x)) for x in values)  # an integer counts as the double nearest to it
    # "the answer is the bucket of rank max(1, ceil(q*n))"; q is the decimal that was written, exactly.
    rank = max(1, math.ceil(aggregation.quantile * len(buckets)))
    bucket = buckets[rank - 1]
    # "with bit 44 set (within 0.4 %)"; the bucket of zeros and subnormals answers 0.0 itself.
    return 0.0 if bucket == 0.0 else _double(_bits(bucket) | 1 << 44)


def _bucket(x: float) -> float:
    # "buckets are doubles with their low 45 bits cleared (subnormals and zeros: 0.0)".
    return 0.0 if abs(x) < SMALLEST_NORMAL else _double(_bits(x) >> 45 << 45)


_FUNCTIONS: dict[str, Callable[[list[Any], ValueType, Aggregation], Any]] = {
    "count": _count,
    "sum": _sum,
    "mean": _mean,
    "min": _min,
    "max": _max,
    "variance": _variance,
    "stddev": _stddev,
    "first": _first,
    "last": _last,
    "first_n": _first_n,
    "last_n": _last_n,
    "count_distinct": _count_distinct,
    "approx_quantile": _approx_quantile,
}


# --- Numbers ---


def _round_to_multiple(x: float, step: Fraction) -> Fraction:
    # Fraction(x) is the double's exact value; round() of a Fraction is to the nearest integer, half to even.
    return round(Fraction(x) / step) * step


def _nearest_double(x: Fraction) -> float:
    # CPython rounds int / int correctly, once, half to even, however long the integers are.
    return x.numerator / x.denominator


def _bits(x: float) -> int:
    bits: int = struct.unpack("<Q", struct.pack("<d", x))[0]
    return bits


def _double(bits: int) -> float:
    x: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
    return x
