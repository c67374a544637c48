"""When two values are the same: equal to the bit."""

from __future__ import annotations

import math
import struct
from typing import Any

from featurestore.semantics.rows import Result


def same_value(left: Any, right: Any) -> bool:
    """Whether two values are equal to the bit; any NaN equals any other, -0.0 does not equal 0.0, True is not 1."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same_value(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, float) and isinstance(right, float):
        return struct.pack("<d", left) == struct.pack("<d", right) or (math.isnan(left) and math.isnan(right))
    return type(left) is type(right) and bool(left == right)


def same_result(left: Result, right: Result) -> bool:
    """Whether two results have one status and the same value."""
    return left.status == right.status and same_value(left.value, right.value)
