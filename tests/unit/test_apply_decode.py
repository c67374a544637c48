"""Decoding takes one JSON object within bounds, and says why it does not take anything else."""

from __future__ import annotations

import sys

import pytest

from featurestore.errors import RowError
from featurestore.streaming.decode import JsonDecoder


def test_an_object_is_decoded_with_its_numbers_as_written() -> None:
    fields = JsonDecoder()(b' {"a": 1, "b": 1.0, "c": -0.0, "d": null, "e": [true, {"f": "x"}], "g": 9007199254740993}')
    assert fields == {"a": 1, "b": 1.0, "c": 0.0, "d": None, "e": [True, {"f": "x"}], "g": 2**53 + 1}
    assert isinstance(fields["a"], int)
    assert isinstance(fields["b"], float)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b'{"a": 1} {"a": 2}',
        b"[1]",
        b"null",
        b'"text"',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b"\x80\x81",
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_anything_else_is_refused(payload: bytes) -> None:
    with pytest.raises(RowError, match="is not a JSON object"):
        JsonDecoder()(payload)


def test_size_is_bounded() -> None:
    decode = JsonDecoder(max_bytes=20)
    assert decode(b'{"a": "0123456789a"}') == {"a": "0123456789a"}
    with pytest.raises(RowError, match="21 bytes; at most 20"):
        decode(b'{"a": "0123456789ab"}')


def nested(levels: int) -> bytes:
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


def test_depth_is_bounded_whatever_the_stack() -> None:
    decode = JsonDecoder(max_depth=8)
    decode(nested(8))
    decode(b'{"a": [' + b"[]," * 100 + b"[]]}")  # many, but not deep
    for levels in (9, sys.getrecursionlimit() * 5):
        with pytest.raises(RowError, match="nested more than 8 levels deep"):
            decode(nested(levels))
