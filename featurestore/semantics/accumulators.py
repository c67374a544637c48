"""Exact, mergeable state of every window function (design 2.3).

Each accumulator is a commutative monoid over plain Python values: `empty` is its identity, `add` takes one row in,
`merge` combines two states; order and batching change no bit. States are immutable values or are treated so.
`pack` gives a canonical form for storage, equal for equal states. What a state means is said in `finalise`.

Every value passes through `clean` first: nulls, NaN and infinities are missing, -0.0 is 0.0.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import Any, ClassVar, NamedTuple

from featurestore.definitions.aggregation import Aggregation
from featurestore.types import ValueType

SUM_BITS = 80
"""Float addends of sums are integers in units of 2**-80."""
MOMENT_BITS = 46
"""Float addends of variances are integers in units of 2**-46."""
SUM_LIMIT = 2.0**62
MOMENT_LIMIT = 2**46
BUCKET_MASK = ~((1 << 45) - 1) & ((1 << 64) - 1)
_SMALLEST_NORMAL = 2.0**-1022


class Order(NamedTuple):
    """Where a row stands in the total order of the rows of a key."""

    event_timestamp: int
    arrival: int
    writer: str
    sequence: int


def clean(value: Any) -> Any:
    """Return a value as the window functions see it, or None where it counts as missing."""
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else None
    return value


def bucket_of(value: float) -> float:
    """Return the bucket of a finite double: its low 45 bits cleared; 0.0 for zeros and subnormals."""
    if -_SMALLEST_NORMAL < value < _SMALLEST_NORMAL:
        return 0.0
    bits: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    result: float = struct.unpack("<d", struct.pack("<Q", bits & BUCKET_MASK))[0]
    return result


class Accumulator(ABC):
    """One kind of state over one column (None: over rows)."""

    subtractable: ClassVar[bool]
    """Whether ``subtract(merge(a, b), b) == a``."""

    def __init__(self, column: str | None) -> None:
        self.column = column

    @property
    @abstractmethod
    def identity(self) -> tuple[Any, ...]:
        """What tells this accumulator from others of its view; equal ones share their state."""

    @abstractmethod
    def empty(self) -> Any:
        """Return the state of no rows."""

    @abstractmethod
    def add(self, state: Any, value: Any, order: Order) -> Any:
        """Return the state with one more row, whose cleaned value is not None."""

    @abstractmethod
    def merge(self, left: Any, right: Any) -> Any:
        """Return the state of the rows of both."""

    def combine(self, states: Sequence[Any]) -> Any:
        """Return the state of the rows of all: what merging them one by one gives."""
        return reduce(self.merge, states, self.empty())

    def subtract(self, whole: Any, part: Any) -> Any:
        """Return the state of the rows of `whole` without those of `part`."""
        raise TypeError(f"{type(self).__name__} cannot be subtracted")

    def pack(self, state: Any) -> Any:
        """Return the state as MessagePack-able data, the same for equal states."""
        return state

    def unpack(self, data: Any, writer: str) -> Any:
        """Return the state that `pack` was given; `writer` is that of the section it is stored in."""
        return data


class Count(Accumulator):
    """Number of rows, or of rows whose value is not missing."""

    subtractable = True

    @property
    def identity(self) -> tuple[Any, ...]:
        return ("count", self.column)

    def empty(self) -> int:
        return 0

    def add(self, state: int, value: Any, order: Order) -> int:
        return state + 1

    def merge(self, left: int, right: int) -> int:
        return left + right

    def combine(self, states: Sequence[int]) -> int:
        return sum(states)

    def subtract(self, whole: int, part: int) -> int:
        return whole - part


class SumState(NamedTuple):
    """Rows counted, rows too large to add, and the exact sum of the others (floats: in units of 2**-80)."""

    n: int
    too_large: int
    total: int


class Sum(Accumulator):
    """Exact sum; the state behind `sum` and `mean`."""

    subtractable = True

    def __init__(self, column: str | None, dtype: ValueType) -> None:
        super().__init__(column)
        self.is_float = dtype.is_float

    @property
    def identity(self) -> tuple[Any, ...]:
        return ("sum", self.column)

    def empty(self) -> SumState:
        return SumState(0, 0, 0)

    def add(self, state: SumState, value: float, order: Order) -> SumState:
        n, too_large, total = state
        if not self.is_float:
            return SumState(n + 1, too_large, total + value)  # type: ignore[arg-type]
        if -SUM_LIMIT < value < SUM_LIMIT:
            return SumState(n + 1, too_large, total + round(math.ldexp(value, SUM_BITS)))
        return SumState(n + 1, too_large + 1, total)

    def merge(self, left: SumState, right: SumState) -> SumState:
        return SumState(left.n + right.n, left.too_large + right.too_large, left.total + right.total)

    def combine(self, states: Sequence[SumState]) -> SumState:
        return SumState(*map(sum, zip(*states, strict=True))) if states else self.empty()

    def subtract(self, whole: SumState, part: SumState) -> SumState:
        return SumState(whole.n - part.n, whole.too_large - part.too_large, whole.total - part.total)

    def pack(self, state: SumState) -> list[Any]:
        return [state.n, state.too_large, pack_int(state.total)]

    def unpack(self, data: Any, writer: str) -> SumState:
        return SumState(data[0], data[1], unpack_int(data[2]))


class MomentState(NamedTuple):
    """Rows counted, rows too large, and the exact sums of x and x*x (floats: x in units of 2**-46)."""

    n: int
    too_large: int
    total: int
    squares: int


class Moments(Accumulator):
    """Exact first and second moments; the state behind `variance` and `stddev`."""

    subtractable = True

    def __init__(self, column: str | None, dtype: ValueType) -> None:
        super().__init__(column)
        self.is_float = dtype.is_float

    @property
    def identity(self) -> tuple[Any, ...]:
        return ("moments", self.column)

    def empty(self) -> MomentState:
        return MomentState(0, 0, 0, 0)

    def add(self, state: MomentState, value: float, order: Order) -> MomentState:
        n, too_large, total, squares = state
        if not -MOMENT_LIMIT < value < MOMENT_LIMIT:
            return MomentState(n + 1, too_large + 1, total, squares)
        x = round(math.ldexp(value, MOMENT_BITS)) if self.is_float else int(value)
        return MomentState(n + 1, too_large, total + x, squares + x * x)

    def merge(self, left: MomentState, right: MomentState) -> MomentState:
        return MomentState(*(a + b for a, b in zip(left, right, strict=True)))

    def combine(self, states: Sequence[MomentState]) -> MomentState:
        return MomentState(*map(sum, zip(*states, strict=True))) if states else self.empty()

    def subtract(self, whole: MomentState, part: MomentState) -> MomentState:
        return MomentState(*(a - b for a, b in zip(whole, part, strict=True)))

    def pack(self, state: MomentState) -> list[Any]:
        return [state.n, state.too_large, pack_int(state.total), pack_int(state.squares)]

    def unpack(self, data: Any, writer: str) -> MomentState:
        return MomentState(data[0], data[1], unpack_int(data[2]), unpack_int(data[3]))


class Least(Accumulator):
    """Smallest value; strings compare by code point, which is the order of their UTF-8 bytes."""

    subtractable = False

    @property
    def identity(self) -> tuple[Any, ...]:
        return ("min", self.column)

    def empty(self) -> None:
        return None

    def add(self, state: Any, value: Any, order: Order) -> Any:
        return value if state is None or value < state else state

    def merge(self, left: Any, right: Any) -> Any:
        return left if right is None else self.add(left, right, _NO_ORDER)


class Greatest(Least):
    """Greatest value."""

    @property
    def identity(self) -> tuple[Any, ...]:
        return ("max", self.column)

    def add(self, state: Any, value: Any, order: Order) -> Any:
        return value if state is None or value > state else state


class Ends(Accumulator):
    """The first or last `n` values in the total order of rows: a tuple of (order, value), oldest first."""

    subtractable = False

    def __init__(self, column: str | None, n: int, *, last: bool) -> None:
        super().__init__(column)
        self.n = n
        self.last = last

    @property
    def identity(self) -> tuple[Any, ...]:
        return ("last" if self.last else "first", self.column, self.n)

    def empty(self) -> tuple[()]:
        return ()

    def add(self, state: tuple[Any, ...], value: Any, order: Order) -> tuple[Any, ...]:
        return self.merge(state, ((order, value),))

    def merge(self, left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...]:
        if not left or not right:
            return left or right
        merged = sorted((*left, *right), key=_order_of)
        return tuple(merged[-self.n :] if self.last else merged[: self.n])

    def combine(self, states: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        merged = sorted((item for state in states for item in state), key=_order_of)
        return tuple(merged[-self.n :] if self.last else merged[: self.n])

    def pack(self, state: tuple[Any, ...]) -> list[Any]:
        return [[order.event_timestamp, order.arrival, order.sequence, value] for order, value in state]

    def unpack(self, data: Any, writer: str) -> tuple[Any, ...]:
        return tuple((Order(ts, arrival, writer, sequence), value) for ts, arrival, sequence, value in data)


class Distinct(Accumulator):
    """The distinct values, up to a limit; None once there are more."""

    subtractable = False

    def __init__(self, column: str | None, limit: int) -> None:
        super().__init__(column)
        self.limit = limit

    @property
    def identity(self) -> tuple[Any, ...]:
        return ("distinct", self.column, self.limit)

    def empty(self) -> frozenset[Any]:
        return frozenset()

    def add(self, state: frozenset[Any] | None, value: Any, order: Order) -> frozenset[Any] | None:
        if state is None or value in state:
            return state
        return self.merge(state, frozenset((value,)))

    def merge(self, left: frozenset[Any] | None, right: frozenset[Any] | None) -> frozenset[Any] | None:
        if left is None or right is None:
            return None
        union = left | right
        return union if len(union) <= self.limit else None

    def pack(self, state: frozenset[Any] | None) -> list[Any] | None:
        return None if state is None else sorted(state)

    def unpack(self, data: Any, writer: str) -> frozenset[Any] | None:
        return None if data is None else frozenset(data)


class Histogram(Accumulator):
    """Counts by bucket (see `bucket_of`); the state behind `approx_quantile`."""

    subtractable = True

    @property
    def identity(self) -> tuple[Any, ...]:
        return ("histogram", self.column)

    def empty(self) -> dict[float, int]:
        return {}

    def add(self, state: dict[float, int], value: float, order: Order) -> dict[float, int]:
        bucket = bucket_of(float(value)) + 0.0
        return {**state, bucket: state.get(bucket, 0) + 1}

    def merge(self, left: dict[float, int], right: dict[float, int]) -> dict[float, int]:
        merged = dict(left)
        for bucket, count in right.items():
            merged[bucket] = merged.get(bucket, 0) + count
        return merged

    def combine(self, states: Sequence[dict[float, int]]) -> dict[float, int]:
        merged: dict[float, int] = {}
        for state in states:
            for bucket, count in state.items():
                merged[bucket] = merged.get(bucket, 0) + count
        return merged

    def subtract(self, whole: dict[float, int], part: dict[float, int]) -> dict[float, int]:
        rest = {bucket: count - part.get(bucket, 0) for bucket, count in whole.items()}
        return {bucket: count for bucket, count in rest.items() if count}

    def pack(self, state: dict[float, int]) -> list[Any]:
        return [part for bucket in sorted(state) for part in (bucket, state[bucket])]

    def unpack(self, data: Any, writer: str) -> dict[float, int]:
        return dict(zip(data[::2], data[1::2], strict=True))


def accumulator_for(aggregation: Aggregation, dtype: ValueType | None) -> Accumulator:
    """Return the accumulator whose state answers an aggregation over a column of type `dtype`."""
    column, function = aggregation.column, aggregation.function
    if function == "count" or dtype is None:
        return Count(column)
    if function in {"sum", "mean"}:
        return Sum(column, dtype)
    if function in {"variance", "stddev"}:
        return Moments(column, dtype)
    if function in {"min", "max"}:
        return Least(column) if function == "min" else Greatest(column)
    if function == "count_distinct":
        assert aggregation.max_distinct is not None  # noqa: S101  (set by the constructor)
        return Distinct(column, aggregation.max_distinct)
    if function == "approx_quantile":
        return Histogram(column)
    return Ends(column, aggregation.n or 1, last=function.startswith("last"))


def pack_int(value: int) -> int | bytes:
    """Return an integer of any size as something MessagePack holds: itself, or its shortest two's complement."""
    if -(2**63) <= value < 2**63:
        return value
    magnitude = value if value >= 0 else ~value
    return value.to_bytes(magnitude.bit_length() // 8 + 1, "little", signed=True)


def unpack_int(data: int | bytes) -> int:
    """Return the integer that `pack_int` was given."""
    return data if isinstance(data, int) else int.from_bytes(data, "little", signed=True)


def _order_of(item: tuple[Order, Any]) -> Order:
    return item[0]


_NO_ORDER = Order(0, 0, "", 0)
