"""Stored rows of a state view side by side: many sections of one form are read, and written, as one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore.online.framing import BIAS, VERSION
from featurestore.online.state import ARRIVAL, EXTRAS, FLAG_BITS, LATE, NEWEST, NULLS, WIDE, StateCodec

if TYPE_CHECKING:
    from featurestore.online.pick import Pick

_NUMPY = {"d": "<f8", "q": "<i8", "i": "<i4", "f": "<f4", "?": "?"}
_HEAD = 15
"""Length of a value before its first payload, less the writer's name."""


def fields_of(codec: StateCodec, flags: int) -> list[tuple[Any, ...]]:
    """Return the part of fixed width of a section with these flags, as the fields of an array.

    The columns of one type are one field of several numbers, called by its code; a vector is a field by itself, called
    ``v`` and its place among the columns as they are stored.
    """
    fields: list[tuple[Any, ...]] = [("time", "<i8")]
    parts = (("event_timestamp", WIDE), ("section_arrival", ARRIVAL), ("row_arrival", LATE))
    fields += [(name, "<i8") for name, flag in parts if flags & flag]
    if flags & NULLS:
        fields.append(("nulls", "u1", (-(-len(codec.fixed) // 8),)))
    for code, numpy_code in _NUMPY.items():
        count = sum(column.code == code for column in codec.fixed)
        if count:
            fields.append((code, numpy_code, (count,)))
    for place, vector in codec.vectors:
        item = vector.format[-1]
        fields.append((f"v{place}", _NUMPY[item], (int(vector.format[1:-1]),)))
    return fields


class Block:
    """Values that each hold one section, of one writer and one form of fixed width, with a newest row.

    Attributes
    ----------
    event_timestamps
        When each row happened.
    writer
        The writer of all.
    """

    def __init__(self, array: npt.NDArray[Any], writer: str) -> None:
        self._array = array
        self.writer = writer
        self.event_timestamps: list[int] = (array["time"] >> FLAG_BITS).tolist()

    @classmethod
    def of(cls, codec: StateCodec, values: Sequence[bytes]) -> Block | None:
        """Return the values as a block; None where they are not of one such form."""
        first = values[0]
        size = len(first)
        if first[0] != VERSION or set(map(len, values)) != {size}:
            return None
        name = first[1] << 8 | first[2]
        start = _HEAD + name
        if start >= size or int.from_bytes(first[start - 4 : start], "big") != size - start:
            return None
        flags = first[start]
        dtype = _dtype(codec, name, flags) if flags < len(codec.forms) else None
        if dtype is None or dtype.itemsize != size:
            return None
        data = b"".join(values)
        raw = np.frombuffer(data, np.uint8).reshape(len(values), size)
        if (raw[:, : 3 + name] != raw[0, : 3 + name]).any() or (
            raw[:, start - 4 : start + 1] != raw[0, start - 4 : start + 1]
        ).any():
            return None
        return cls(np.frombuffer(data, dtype), str(first[3 : 3 + name], "utf-8"))

    def __len__(self) -> int:
        return len(self._array)

    def sequence(self, row: int) -> int:
        """Return the sequence of a row's section."""
        return int(self._array["sequence"][row]) - BIAS

    def columns(self, pick: Pick, rows: Sequence[int] | None) -> list[list[Any]]:
        """Return the values of some features.

        Parameters
        ----------
        rows
            Which rows, in this order; None where it is -1. Without it all, as they are.
        """
        columns: list[list[Any]] = [[]] * len(pick.places)
        taken = None if rows is None else np.array(rows, dtype=np.int64)
        present = None if taken is None else np.flatnonzero(taken >= 0)
        for name, selected, orders in pick.groups:
            numbers = self._array[name]
            if name[0] == "v":
                lists = numbers.tolist()
                columns[orders[0]] = lists if rows is None else [lists[row] if row >= 0 else None for row in rows]
                continue
            turned = numbers.T[selected]
            if taken is None or present is None:
                found = np.ascontiguousarray(turned).tolist()
            elif len(present) == len(taken):
                found = turned[:, taken].tolist()
            else:
                sparse = np.full((len(turned), len(taken)), None, dtype=object)
                sparse[:, present] = turned[:, taken[present]]
                found = sparse.tolist()
            for order, column in zip(orders, found, strict=True):
                columns[order] = column
        return columns


def _dtype(codec: StateCodec, name: int, flags: int) -> np.dtype[Any] | None:
    """Return the form of a whole value whose writer has a name of some length; None where it has no fixed width."""
    key = name, flags
    if key not in codec.dtypes:
        form = codec.forms[flags]
        if form.has_tail or flags & (WIDE | NULLS | EXTRAS) or not flags & NEWEST:
            codec.dtypes[key] = None
        else:
            head = [("head", "u1", (3 + name,)), ("sequence", ">u8"), ("size", ">u4")]
            codec.dtypes[key] = np.dtype([*head, *fields_of(codec, flags)])
    dtype: np.dtype[Any] | None = codec.dtypes[key]
    return dtype
