"""Aggregations over time windows: which function, over which column, over which window."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction

import msgspec
from msgspec.structs import force_setattr

from featurestore.clock import delta_micros, format_duration
from featurestore.definitions.naming import check_column, duration
from featurestore.errors import DefinitionError, suggest
from featurestore.semantics.windows import Window, default_hop, hop_error
from featurestore.types import Array, Float64, Int64, ValueType

_ANY = {"bool", "int32", "int64", "float32", "float64", "string", "bytes", "timestamp"}
_NUMBERS = {"int32", "int64", "float32", "float64"}
_ORDERED = _ANY - {"bool"}
_LISTS = {"array", "vector"}
FUNCTIONS: dict[str, set[str]] = {
    "count": _ANY | _LISTS,
    "sum": _NUMBERS,
    "mean": _NUMBERS,
    "min": _ORDERED,
    "max": _ORDERED,
    "variance": _NUMBERS,
    "stddev": _NUMBERS,
    "first": _ANY | _LISTS,
    "last": _ANY | _LISTS,
    "first_n": _ANY,
    "last_n": _ANY,
    "count_distinct": _ANY,
    "approx_quantile": _NUMBERS,
}


class Aggregation(msgspec.Struct, frozen=True):
    """One window aggregate, which is one feature of its view.

    Parameters
    ----------
    column
        Input column; ``None`` only for ``count``, which then counts rows.
    function
        One of `FUNCTIONS`. Nulls, NaN and infinities are skipped by all of them.
    time_window
        Length of the window; ``None`` means all history.
    slide_interval
        Hop by which the window's tail moves; by default 1 day for windows of 12 days or more, 1 hour for 12 hours or
        more, 5 minutes for 1 hour or more, else a 60th of the window, rounded down to 1, 5, 10, 30 or 60 s.
    offset
        Distance of the window's end before the time asked for; zero for "until now", a day for "until yesterday".
    name
        Name of the feature; by default ``{function}_{column}_{window}``, for example ``mean_delay_6h``.
    n
        Number of values of ``first_n`` and ``last_n``.
    q
        Quantile of ``approx_quantile``, between 0 and 1; its decimal form counts, so 0.1 is exactly a tenth.
    max_distinct
        Values up to which ``count_distinct`` is exact; beyond it the feature is null with status ``OVERFLOW``.

    Examples
    --------
    >>> Aggregation("amount", "sum", timedelta(hours=1)).name
    'sum_amount_1h'
    """

    column: str | None = None
    function: str = ""
    time_window: timedelta | None = None
    slide_interval: timedelta | None = None
    offset: timedelta = timedelta(0)
    name: str = ""
    n: int | None = None
    q: float | None = None
    max_distinct: int | None = None

    def __post_init__(self) -> None:
        label = f"Aggregation {self.name or self.function or '?'}({self.column or '*'})"
        if self.function not in FUNCTIONS:
            raise DefinitionError(f"{label}: unknown function {self.function!r}{suggest(self.function, FUNCTIONS)}")
        if self.column is not None:
            check_column(label, self.column)
        elif self.function != "count":
            raise DefinitionError(f"{label}: {self.function} needs a column; only count may go without")
        self._check_window(label)
        self._check_parameters(label)
        force_setattr(self, "name", check_column(label, self.name or self._default_name()))

    def _check_window(self, label: str) -> None:
        if self.time_window is not None:
            duration(label, "time_window", self.time_window, positive=True)
        duration(label, "offset", self.offset, positive=False)
        if self.slide_interval is None:
            length = None if self.time_window is None else delta_micros(self.time_window)
            force_setattr(self, "slide_interval", timedelta(microseconds=default_hop(length)))
        duration(label, "slide_interval", self.slide_interval, positive=True)
        window = self.window
        problem = hop_error(window.length, window.hop)
        if problem:
            raise DefinitionError(f"{label}: {problem}")

    def _check_parameters(self, label: str) -> None:
        takes_n = self.function in {"first_n", "last_n"}
        if takes_n and (not isinstance(self.n, int) or isinstance(self.n, bool) or not 1 <= self.n <= 10_000):
            raise DefinitionError(f"{label}: {self.function} needs n, from 1 to 10,000, for example n=5")
        if self.function == "approx_quantile" and (
            not isinstance(self.q, (int, float)) or isinstance(self.q, bool) or not 0 <= self.q <= 1
        ):
            raise DefinitionError(f"{label}: approx_quantile needs q, from 0 to 1, for example q=0.9")
        if self.function == "count_distinct":
            if self.max_distinct is None:
                force_setattr(self, "max_distinct", 1000)
            if (
                not isinstance(self.max_distinct, int)
                or isinstance(self.max_distinct, bool)
                or not 1 <= self.max_distinct <= 100_000
            ):
                raise DefinitionError(f"{label}: max_distinct is a whole number from 1 to 100,000")
        for name, value, function in (
            ("n", self.n, takes_n),
            ("q", self.q, self.function == "approx_quantile"),
            ("max_distinct", self.max_distinct, self.function == "count_distinct"),
        ):
            if value is not None and not function:
                raise DefinitionError(f"{label}: {self.function} takes no {name}")
        if self.q is not None:
            force_setattr(self, "q", float(self.q))

    def _default_name(self) -> str:
        function = self.function
        if self.n is not None:
            function = function.replace("_n", f"_{self.n}")
        if self.q is not None:
            function = f"p{self.q * 100:g}".replace(".", "_")
        window = self.window
        parts = [function, self.column or "", "all" if window.length is None else format_duration(window.length)]
        if window.offset:
            parts.append(f"lag_{format_duration(window.offset)}")
        return "_".join(part for part in parts if part)

    @property
    def window(self) -> Window:
        """The window in microseconds."""
        assert self.slide_interval is not None  # noqa: S101  (set by the constructor)
        return Window(
            length=None if self.time_window is None else delta_micros(self.time_window),
            hop=delta_micros(self.slide_interval),
            offset=delta_micros(self.offset),
        )

    @property
    def quantile(self) -> Fraction:
        """The quantile as the decimal number that was written."""
        return Fraction(repr(self.q))

    def check_type(self, owner: str, dtype: ValueType) -> None:
        """Refuse a column type that the function does not take."""
        if dtype.kind not in FUNCTIONS[self.function]:
            raise DefinitionError(
                f"{owner}: {self.function} does not take the column {self.column!r} of type {dtype}; "
                f"it takes {', '.join(sorted(FUNCTIONS[self.function]))}"
            )

    def result_type(self, dtype: ValueType | None) -> ValueType:
        """Return the feature's type, given its column's (None where it has no column)."""
        if dtype is None or self.function in {"count", "count_distinct"}:
            return Int64
        if self.function in {"mean", "variance", "stddev", "approx_quantile"}:
            return Float64
        if self.function == "sum":
            return Int64 if dtype.is_integer else Float64
        return Array(dtype) if self.function in {"first_n", "last_n"} else dtype
