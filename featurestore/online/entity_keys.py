"""Entity keys of many rows at once: the bytes that `framing.entity_key` gives each of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.online.framing import MAX_ENTITY, SMALL, entity_key
from featurestore.types import ValueType, python_values

_SMALL = struct.Struct(">Bi").pack
_LARGE = struct.Struct(">Bq").pack
_HEADS = {kind: [kind + bytes((length,)) for length in range(255)] for kind in (b"s", b"b")}


class EntityKeys:
    """Encodes the join keys of a view.

    Attributes
    ----------
    may_be_long
        Whether a key may be longer than stores take.
    """

    def __init__(self, types: Sequence[ValueType]) -> None:
        self._types = tuple(types)
        self._encoders = [_encoder(dtype) for dtype in types]
        self.may_be_long = any(_is_text(dtype) for dtype in types) or 9 * len(types) > MAX_ENTITY

    def one(self, key: Sequence[Any]) -> bytes:
        """Return the entity key of join key values in the view's order."""
        return entity_key(key, self._types)

    def columns(self, columns: Sequence[Sequence[Any]], n: int) -> list[bytes | None]:
        """Return the entity keys of `n` rows, given by column; None where a value is null."""
        if not columns:
            return [b""] * n
        if len(columns) == 1:
            if not _is_text(self._types[0]):
                try:
                    return [_SMALL(4, value) for value in columns[0]]
                except struct.error:  # null, or greater
                    pass
            encode = self._encoders[0]
            return [None if value is None else encode(value) for value in columns[0]]
        encoders = self._encoders
        return [
            None if None in key else b"".join([encode(value) for encode, value in zip(encoders, key, strict=True)])
            for key in zip(*columns, strict=True)
        ]

    def arrow(self, columns: Sequence[pa.Array | pa.ChunkedArray], n: int) -> list[bytes]:
        """Return the entity keys of `n` rows without nulls, given as Arrow columns."""
        if len(columns) == 1 and pa.types.is_integer(columns[0].type):
            numbers = columns[0].to_numpy()
            if not n or (numbers.min() >= -SMALL and numbers.max() < SMALL):
                packed = np.empty(n, dtype=[("size", "u1"), ("value", ">i4")])
                packed["size"] = 4
                packed["value"] = numbers
                data = packed.tobytes()
                return [data[start : start + 5] for start in range(0, 5 * n, 5)]
        found = self.columns([python_values(column) for column in columns], n)
        return [key for key in found if key is not None]


def _is_text(dtype: ValueType) -> bool:
    return dtype.kind in {"string", "bytes"}


def _encoder(dtype: ValueType) -> Callable[[Any], bytes]:
    """Return what encodes one value, as `entity_key` does."""
    if not _is_text(dtype):
        return lambda value: _SMALL(4, value) if -SMALL <= value < SMALL else _LARGE(8, value)
    heads = _HEADS[b"s" if dtype.kind == "string" else b"b"]
    types = (dtype,)

    def encode(value: Any) -> bytes:
        data: bytes = value.encode() if type(value) is str else value
        return heads[len(data)] + data if len(data) < len(heads) else entity_key((value,), types)

    return encode
