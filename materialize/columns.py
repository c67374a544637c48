"""From a source's Arrow column to a column of a declared type: exact widenings only, nothing is ever rounded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as t

from featurestore.types import ValueType, from_arrow

Bad = dict[int, str]
"""Position in a column to what is wrong with the value there."""

_INTO_FLOAT64 = (t.is_int8, t.is_int16, t.is_int32, t.is_uint8, t.is_uint16, t.is_uint32)
_INTO_FLOAT32 = (t.is_int8, t.is_int16, t.is_uint8, t.is_uint16)


def fits(arrow: pa.DataType, dtype: ValueType) -> bool:
    """Return whether every value of an Arrow type has an exact place in a value type.

    A decimal has one as text, and as an integer where it has no fraction and few enough digits.
    """
    if t.is_null(arrow):
        return True
    if t.is_dictionary(arrow):
        return fits(arrow.value_type, dtype)
    if dtype.is_list:
        is_list = t.is_list(arrow) or t.is_large_list(arrow) or t.is_fixed_size_list(arrow)
        return is_list and fits(arrow.value_type, dtype.element)
    if t.is_decimal(arrow):
        digits = {"int32": 9, "int64": 18}.get(dtype.kind, 0)
        return dtype.kind == "string" or (arrow.scale == 0 and arrow.precision <= digits)
    natural = from_arrow(arrow)
    if natural is not None and natural.kind == dtype.kind:
        return True
    widenings: dict[str, tuple[Callable[[pa.DataType], bool], ...]] = {
        "int64": (lambda a: from_arrow(a) == ValueType("int32"),),
        "float64": (*_INTO_FLOAT64, t.is_float16, t.is_float32),
        "float32": _INTO_FLOAT32,
    }
    return any(test(arrow) for test in widenings.get(dtype.kind, ()))


def convert(array: pa.Array, dtype: ValueType) -> tuple[pa.Array, Bad]:
    """Return a column in the declared type, null where a value is bad, and what is bad.

    Parameters
    ----------
    array
        A column whose type `fits`. Naive timestamps are UTC; parts of a microsecond are cut off toward the past.
    dtype
        The declared type.

    Returns
    -------
    array
        In ``dtype.to_arrow()``; every NaN has the same bits.
    bad
        Values without a place in the type: a vector of another length or with a null element.

    Raises
    ------
    pyarrow.ArrowException
        Where a time is beyond what microseconds in 64 bits can hold.
    """
    if t.is_dictionary(array.type):
        array = array.dictionary_decode()
    if t.is_null(array.type):
        return pa.nulls(len(array), dtype.to_arrow()), {}
    if dtype.kind == "timestamp":
        return _timestamps(array), {}
    if t.is_decimal(array.type) and dtype.kind == "string":
        # Arrow's own cast writes small ones with an exponent.
        return pa.array([None if value is None else format(value, "f") for value in array.to_pylist()], pa.string()), {}
    if not dtype.is_list:
        return canonical(array.cast(dtype.to_arrow())), {}
    return _lists(array, dtype)


def canonical(array: pa.Array) -> pa.Array:
    """Return an array of floats with the same bits in every NaN; any other array as it is."""
    if not t.is_floating(array.type):
        return array
    is_nan = pc.is_nan(array)
    return pc.if_else(is_nan, pa.scalar(float("nan"), array.type), array) if pc.any(is_nan).as_py() else array


def order_bits(array: pa.Array) -> pa.Array:
    """Return integers that order floats totally: by value, -0.0 before 0.0, NaN last; nulls stay null."""
    if t.is_list(array.type) or t.is_fixed_size_list(array.type):
        plain = _compact_list(array)
        return pa.ListArray.from_arrays(plain.offsets, order_bits(plain.values), mask=plain.is_null())
    width, signed = (pa.int32(), np.int32) if t.is_float32(array.type) else (pa.int64(), np.int64)
    bits = array.fill_null(0.0).to_numpy(zero_copy_only=False).view(signed)
    ordered = bits ^ ((bits >> (width.bit_width - 1)) & np.iinfo(signed).max)
    return pa.array(ordered, width, mask=array.is_null().to_numpy(zero_copy_only=False))


def _timestamps(array: pa.Array) -> pa.Array:
    target = pa.timestamp("us", "UTC")
    if t.is_timestamp(array.type) and array.type.unit == "ns":
        nanos = array.cast(pa.int64())
        micros = np.floor_divide(nanos.fill_null(0).to_numpy(zero_copy_only=False), 1000)
        return pa.array(micros, pa.int64(), mask=nanos.is_null().to_numpy(zero_copy_only=False)).cast(target)
    # By way of integers: a naive time is UTC, and one with a zone is held in UTC already.
    return array.cast(pa.timestamp("us", getattr(array.type, "tz", None))).cast(pa.int64()).cast(target)


def _lists(array: pa.Array, dtype: ValueType) -> tuple[pa.Array, Bad]:
    bad: Bad = {}
    if dtype.kind == "vector":
        bad = _bad_vectors(array, dtype)
        if bad:
            keep = np.ones(len(array), dtype=bool)
            keep[list(bad)] = False
            array = pc.if_else(pa.array(keep), array, pa.scalar(None, array.type))
    plain = _compact_list(array)
    values, _ = convert(plain.values, dtype.element)
    lists = pa.ListArray.from_arrays(plain.offsets, values, mask=plain.is_null())
    return lists.cast(dtype.to_arrow()), bad


def _compact_list(array: pa.Array) -> pa.ListArray:
    """Return the lists as one plain list array: no slice, and no values behind a null."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(array) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    values = pc.list_flatten(array)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=array.is_null())


def _bad_vectors(array: pa.Array, dtype: ValueType) -> Bad:
    lengths = pc.list_value_length(array)
    wrong = pc.fill_null(pc.not_equal(lengths, dtype.length), False)
    bad = {
        int(row): f"a {dtype} has {dtype.length} elements, this one has {lengths[int(row)].as_py()}"
        for row in np.flatnonzero(wrong.to_numpy(zero_copy_only=False))
    }
    plain = _compact_list(array)
    if plain.values.null_count:
        rows = pc.list_parent_indices(plain).filter(plain.values.is_null()).to_pylist()
        bad |= {row: f"a {dtype} has no null elements" for row in rows if row not in bad}
    return bad
