"""Values and keys at the edges that 2.8 of the design lists, by type: the simplest first.

The *wild* ones make a window overflow; a case takes them or leaves them as a whole, so that most windows have
a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from featurestore.testing.choices import Choices
from featurestore.types import CANONICAL_NAN, ValueType, round_float32

SMALLEST_NORMAL = 2.0**-1022

_FLOATS = (
    *(0.0, 1.0, -1.0, 0.1, 0.2, 0.3, -0.1, 2.5, 1e9 + 1, 1e9 + 2),
    *(-0.0, CANONICAL_NAN, math.inf, -math.inf),
    *(1e-11, -1e-11, 5e-324, -5e-324, 1e-310, SMALLEST_NORMAL, -SMALLEST_NORMAL, 1e-300),
    # Ties of the roundings to multiples of 2^-80 and 2^-46, and their neighbours.
    *(
        2.0**-80,
        2.0**-81,
        3 * 2.0**-81,
        -(2.0**-81),
        math.nextafter(2.0**-81, 1),
        math.nextafter(2.0**-81, 0),
    ),
    *(2.0**-46, 2.0**-47, 3 * 2.0**-47, -3 * 2.0**-47, math.nextafter(2.0**-27, 0)),
    # Neighbours of bucket bounds of approx_quantile, and the last double that variance takes.
    *(1 + 2.0**-7, math.nextafter(1 + 2.0**-7, 0), math.nextafter(1, 0), math.nextafter(2.0**46, 0)),
)
_WILD_FLOATS = (
    *(2.0**53, 2.0**53 + 2, 2.0**46, -(2.0**46), 2.0**62, -(2.0**62), math.nextafter(2.0**62, 0)),
    *(1e300, -1.7976931348623157e308),
)
_INTS = (0, 1, -1, 2, 3, 10**9 + 1, 2**31 - 1, -(2**31), 2**46 - 1)
_WILD_INTS = (2**53 + 1, 2**53, -(2**53) - 1, 2**46, -(2**46), 2**62, 2**63 - 1, -(2**63))
_STRINGS = ("", "a", "b", "A", "23", " a", "é", "\uffff", "\U0001f600", "a\x00b", "null")
_BYTES = (b"", b"a", b"\x00", b"\xff", b"a\x00", b"\x7f", b"\x80\xff")
_TIMES = (0, 1, -1, 1_700_000_000_000_000, -2_208_988_800_000_001, 951_782_399_999_999)

Chooser = Callable[[Choices, bool], Any]


def value(choices: Choices, dtype: ValueType, *, wild: bool) -> Any:
    """Return a value of the type as the store holds it, or None about one time in eight."""
    if choices.chance(12):
        return None
    if dtype.kind == "vector":
        return [_scalar(choices, dtype.item, wild=wild) for _ in range(dtype.length)]
    if dtype.kind == "array":
        return choices.many(lambda inner: _item(inner, dtype.item), 0, 3)
    return _scalar(choices, dtype.kind, wild=wild)


def _item(choices: Choices, kind: str) -> Any:
    return None if choices.chance(12) else _scalar(choices, kind, wild=True)


def _scalar(choices: Choices, kind: str, *, wild: bool) -> Any:
    return _SCALARS[kind](choices, wild)


def _float64(choices: Choices, wild: bool) -> float:
    if wild and choices.chance(20):
        return choices.pick(_WILD_FLOATS)
    if choices.chance(40):  # a full mantissa, at a scale where roundings matter
        return math.ldexp(choices.integer(-(2**53), 2**53), choices.pick((-60, -53, -33, -110, -85)))
    return choices.pick(_FLOATS)


def _float32(choices: Choices, wild: bool) -> float:
    narrowed = round_float32(_float64(choices, wild))
    return narrowed if math.isfinite(narrowed) else choices.pick((3.4028234663852886e38, narrowed))


def _int64(choices: Choices, wild: bool) -> int:
    if wild and choices.chance(20):
        return choices.pick(_WILD_INTS)
    return choices.integer(-100, 100) if choices.chance(40) else choices.pick(_INTS)


def _int32(choices: Choices, _wild: bool) -> int:
    drawn = _int64(choices, False)
    return max(-(2**31), min(2**31 - 1, drawn))


_SCALARS: dict[str, Chooser] = {
    "bool": lambda choices, _wild: choices.pick((False, True)),
    "int32": _int32,
    "int64": _int64,
    "float32": _float32,
    "float64": _float64,
    "string": lambda choices, _wild: choices.pick(_STRINGS),
    "bytes": lambda choices, _wild: choices.pick(_BYTES),
    "timestamp": lambda choices, _wild: choices.pick(_TIMES),
}

# --- Keys ---

_KEY_PARTS: dict[str, tuple[Any, ...]] = {
    "bool": (False, True),
    "int32": (1, 0, -1, 2**31 - 1, -(2**31)),
    "int64": (1, 12, 0, -1, 2**53 + 1, 2**53, 2**63 - 1, -(2**63)),
    "string": ("a", "3", "23", "", "A", "é", "\U0001f600", "a\x00b", "k" * 600),
    "bytes": (b"a", b"", b"\x00", b"\xff", b"a\x00", b"k" * 600),
    "timestamp": (0, 1, -1, 1_700_000_000_000_000),
}
_INT_THEN_STRING = ((1, "23"), (12, "3"), (12, "3"), (1, "23"), (1, ""), (-1, "a"), (123, "k" * 600))
"""Composite keys whose parts run together the same way."""


def key(choices: Choices, dtypes: tuple[ValueType, ...]) -> tuple[Any, ...]:
    """Return a join key without nulls."""
    kinds = tuple(dtype.kind for dtype in dtypes)
    if kinds == ("int64", "string") and not choices.chance(25):
        return choices.pick(_INT_THEN_STRING)
    return tuple(choices.pick(_KEY_PARTS[kind]) for kind in kinds)
