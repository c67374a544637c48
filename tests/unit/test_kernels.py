"""Array kernels against brute force: every range of random and of extreme arrays, empty ranges and arrays too."""

from __future__ import annotations

import bisect
import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore.offline import kernels
from featurestore.offline.columns import PresentValues
from featurestore.offline.exact import (
    Digits,
    DigitSums,
    integers,
    longest_range,
    means_once,
    moment_digits,
    overflow,
    sums_once,
    variances_once,
)
from featurestore.offline.kernels import Floats, Ints
from featurestore.semantics.accumulators import bucket_of
from featurestore.semantics.rows import Status
from featurestore.types import Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp, ValueType

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
INTS = (0, 1, -1, 2, 7, -100, 2**27, -(2**27), 2**27 - 1, 2**53 + 1, -(2**53) - 1, INT64_MAX, INT64_MIN, INT64_MIN + 1)
FLOATS = (
    *(0.0, 1.0, -1.0, 0.1, -0.3, 2.5, 1e-11, -1e-11, 5e-324, -1e-310, 2.0**-80, 2.0**-81, 3 * 2.0**-81, -(2.0**-81)),
    *(math.nextafter(2.0**-81, 1), 2.0**-46, 2.0**-47, -3 * 2.0**-47, math.nextafter(1, 0), 1e9 + 1, 2.0**53 + 2),
    *(math.nextafter(2.0**46, 0), -math.nextafter(2.0**46, 0), math.nextafter(2.0**62, 0), -math.nextafter(2.0**62, 0)),
)
LARGE = (2.0**46, -(2.0**46), 2.0**62, -(2.0**62), 1e300, -1.7976931348623157e308)
each_seed = pytest.mark.parametrize("seed", range(25))


def ints(values: Any) -> Ints:
    return np.array(values, dtype=np.int64)


def floats(values: Any) -> Floats:
    return np.array(values, dtype=np.float64)


def ranges(random_: random.Random, length: int, count: int = 40) -> tuple[Ints, Ints]:
    """Return random ranges, and all of the array, and the empty ones at either end."""
    pairs = [sorted((random_.randint(0, length), random_.randint(0, length))) for _ in range(count)]
    pairs += [[0, length], [0, 0], [length, length]]
    return ints([start for start, _ in pairs]), ints([end for _, end in pairs])


def parts(values: Any, starts: Ints, ends: Ints) -> list[list[Any]]:
    listed = values.tolist()
    return [listed[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def drawn(random_: random.Random, options: tuple[Any, ...], most: int = 70) -> list[Any]:
    return random_.choices(options, k=random_.randint(0, most))


# --- Kernels ---


@each_seed
@pytest.mark.parametrize("right", [False, True])
def test_search(seed: int, right: bool) -> None:
    random_ = random.Random(seed)
    segments = [sorted(drawn(random_, INTS, 9)) for _ in range(random_.randint(0, 12))]
    values = ints([value for segment in segments for value in segment])
    bounds = np.cumsum(ints([0, *map(len, segments)]))
    picks = [random_.randrange(len(segments)) for _ in range(40)] if segments else []
    starts, ends = bounds[ints(picks)], bounds[ints(picks) + 1]
    wanted = ints(random_.choices(INTS, k=len(picks)))
    find = bisect.bisect_right if right else bisect.bisect_left
    expected = [s + find(segments[pick], w) for pick, s, w in zip(picks, starts.tolist(), wanted.tolist(), strict=True)]
    assert kernels.search(values, starts, ends, wanted, right=right).tolist() == expected


@each_seed
def test_range_sums(seed: int) -> None:
    random_ = random.Random(seed)
    values = ints(drawn(random_, INTS))
    starts, ends = ranges(random_, len(values))
    modulo = [(sum(part) + 2**63) % 2**64 - 2**63 for part in parts(values, starts, ends)]
    assert kernels.range_sums(values, starts, ends).tolist() == modulo


@each_seed
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("options", [INTS, FLOATS + LARGE])
def test_range_extremes(seed: int, largest: bool, options: tuple[Any, ...]) -> None:
    random_ = random.Random(seed)
    values = ints(drawn(random_, options)) if options is INTS else floats(drawn(random_, options))
    starts, ends = ranges(random_, len(values))
    best = max if largest else min
    found = kernels.range_extremes(values, starts, ends, largest=largest).tolist()
    for part, answer in zip(parts(values, starts, ends), found, strict=True):
        assert not part or answer == best(part)


@each_seed
def test_wavelet_counts_and_ranks(seed: int) -> None:
    random_ = random.Random(seed)
    options = (0, 1, 2, 3, 5, 8, 2**20, 2**40 + 1, 2**62) if seed % 2 else tuple(range(20))
    codes = ints(drawn(random_, options))
    starts, ends = ranges(random_, len(codes))
    limits = ints(random_.choices((*options, 4, 2**62 + 1), k=len(starts)))
    held = parts(codes, starts, ends)
    below = [sum(code < limit for code in part) for part, limit in zip(held, limits.tolist(), strict=True)]
    assert kernels.range_count_below(codes, starts, ends, limits).tolist() == below
    assert kernels.range_distinct(codes, starts, ends).tolist() == [len(set(part)) for part in held]
    full = ends > starts
    ranks = ints([random_.randrange(len(part)) for part in held if part])
    selected = [sorted(part)[rank] for part, rank in zip(filter(None, held), ranks.tolist(), strict=True)]
    assert kernels.range_select(codes, starts[full], ends[full], ranks).tolist() == selected


@each_seed
def test_expand(seed: int) -> None:
    random_ = random.Random(seed)
    starts, ends = ranges(random_, random_.randint(0, 20), random_.randint(0, 9))
    indices, offsets = kernels.expand(starts, ends)
    held = [list(range(start, end)) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    assert indices.tolist() == [index for part in held for index in part]
    assert offsets.tolist() == np.cumsum([0, *map(len, held)]).tolist()


def test_no_ranges_at_all() -> None:
    none, some = ints([]), ints([3, 1])
    for values in (none, some):
        assert kernels.search(values, none, none, none, right=True).tolist() == []
        assert kernels.range_sums(values, none, none).tolist() == []
        assert kernels.range_extremes(values, none, none, largest=True).tolist() == []
        assert kernels.range_select(values, none, none, none).tolist() == []
        assert kernels.range_distinct(values, none, none).tolist() == []
        assert [part.tolist() for part in kernels.expand(none, none)] == [[], [0]]
        assert totals(sum_digits(values, none, none)[0]) == []


# --- Exact sums ---


def sum_digits(values: Any, starts: Ints, ends: Ints) -> tuple[Digits, Ints]:
    return DigitSums(values, longest_range(starts, ends)).of(starts, ends)


def totals(digits: Digits) -> list[int]:
    """Put the digits of each range's sum together."""
    sums = [[part << shift for part in column.tolist()] for shift, column in digits.parts]
    return [sum(of_range) for of_range in zip(*sums, strict=True)]


def in_units(values: list[Any], scale: int) -> list[int]:
    """Round each to a multiple of ``2**-scale``, half to even."""
    return [round(Fraction(value) * 2**scale) for value in values]


@each_seed
def test_sums_of_integers_are_exact_beyond_64_bits(seed: int) -> None:
    random_ = random.Random(seed)
    values = ints(drawn(random_, INTS))
    starts, ends = ranges(random_, len(values))
    digits, too_large = sum_digits(values, starts, ends)
    assert digits.scale == 0
    expected = [sum(part) for part in parts(values, starts, ends)]
    assert (totals(digits) or [0] * len(starts)) == expected
    sums, beyond = integers(digits, np.ones(len(starts), dtype=bool))
    assert beyond.tolist() == [not INT64_MIN <= total <= INT64_MAX for total in expected]
    assert [total for total, out in zip(sums.tolist(), beyond.tolist(), strict=True) if not out] == [
        total for total in expected if INT64_MIN <= total <= INT64_MAX
    ]
    assert not too_large.any()


@each_seed
def test_sums_of_floats_are_exact_over_the_rounded_addends(seed: int) -> None:
    random_ = random.Random(seed)
    scattered = tuple(math.ldexp(random_.uniform(-1, 1), random_.randint(-90, 62)) for _ in range(30))
    values = floats(drawn(random_, FLOATS + scattered + (LARGE if seed % 3 == 0 else ())))
    starts, ends = ranges(random_, len(values))
    digits, too_large = sum_digits(values, starts, ends)
    held = parts(values, starts, ends)
    expected = [sum(in_units([x for x in part if abs(x) < 2**62], 80)) for part in held]
    assert digits.scale == 80
    assert (totals(digits) or [0] * len(starts)) == expected
    assert too_large.tolist() == [sum(abs(x) >= 2**62 for x in part) for part in held]


@each_seed
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_moments_are_exact_over_the_rounded_addends(seed: int, dtype: type) -> None:
    random_ = random.Random(seed)
    scattered = tuple(math.ldexp(random_.uniform(-1, 1), random_.randint(-50, 46)) for _ in range(30))
    near = (2**46 - 1, 1 - 2**46, 2**46, -(2**46), 2**23, -(2**23) - 1)
    options: tuple[Any, ...] = INTS + near if dtype is np.int64 else FLOATS + LARGE + scattered
    values: Any = np.array(drawn(random_, options), dtype=dtype)
    starts, ends = ranges(random_, len(values))
    first, second, too_large = moment_digits(values, starts, ends)
    scale = 0 if dtype is np.int64 else 46
    assert first.scale == scale
    held = parts(values, starts, ends)
    units = [in_units([x for x in part if abs(x) < 2**46], scale) for part in held]
    assert (totals(first) or [0] * len(starts)) == [sum(part) for part in units]
    assert (totals(second) or [0] * len(starts)) == [sum(x * x for x in part) for part in units]
    assert too_large.tolist() == [sum(abs(x) >= 2**46 for x in part) for part in held]


WHOLE = (0, 1, -1, 3, 10, 2**49, 2**50 - 1, 2**50, -(2**50), 2**52 + 1, 2**53, 2**53 - 1, -(2**53) + 1)


@each_seed
@pytest.mark.parametrize("kind", ["int", "whole", "cents", "float"])
def test_sums_and_means_are_rounded_once(seed: int, kind: str) -> None:
    random_ = random.Random(seed)
    cents = tuple(random_.randint(-(10**9), 10**9) / 100 for _ in range(20))
    options = {"int": (*WHOLE, 2**53 + 1, INT64_MAX), "whole": WHOLE, "cents": cents, "float": FLOATS}[kind]
    values = ints(drawn(random_, options)) if kind == "int" else floats(drawn(random_, options))
    starts, ends = ranges(random_, len(values))
    digits, _ = sum_digits(values, starts, ends)
    chosen = ends > starts
    means, sums = means_once(digits, ends - starts, chosen).tolist(), sums_once(digits, chosen).tolist()
    for index, part in enumerate(parts(values, starts, ends)):
        if part:
            total, unit = sum(in_units(part, digits.scale)), 1 << digits.scale
            assert float(sums[index]).hex() == (total / unit).hex()
            assert float(means[index]).hex() == (total / (len(part) * unit)).hex()


@each_seed
@pytest.mark.parametrize("kind", ["int", "float"])
def test_variances_are_rounded_once(seed: int, kind: str) -> None:
    random_ = random.Random(seed)
    scattered = tuple(math.ldexp(random_.uniform(-1, 1), random_.randint(-50, 45)) for _ in range(30))
    values = (
        ints(drawn(random_, (*WHOLE[:5], 2**46 - 1, 1 - 2**46)))
        if kind == "int"
        else floats(drawn(random_, (0.1, 0.1, 1e-11, 1e9 + 1, *scattered)))
    )
    starts, ends = ranges(random_, len(values))
    first, second, _ = moment_digits(values, starts, ends)
    found = variances_once(first, second, ends - starts, ends - starts > 1).tolist()
    for index, part in enumerate(parts(values, starts, ends)):
        n, units = len(part), in_units(part, first.scale)
        if n > 1:
            exact = (n * sum(x * x for x in units) - sum(units) ** 2) / (n * (n - 1) << 2 * first.scale)
            assert float(found[index]).hex() == exact.hex()


def test_overflow_goes_before_null_and_present() -> None:
    statuses = overflow(ints([0, 1, 2]), ints([0, 0, 1]))
    assert statuses.tolist() == [Status.NULL_VALUE, Status.PRESENT, Status.OVERFLOW]


# --- Present values ---

COLUMNS: list[tuple[ValueType, list[Any]]] = [
    (Float64, [0.1, None, math.nan, -0.0, math.inf, -math.inf, 5e-324, -1e-310, 1e300, 0.0, 1.0 + 2.0**-7]),
    (Float32, [0.5, None, math.nan, -0.0, math.inf, 2.0**-149, 1.5]),
    (Int64, [2**53 + 1, None, INT64_MIN, INT64_MAX, 0, 2**53]),
    (Int32, [None, -(2**31), 3, 3]),
    (String, ["b", None, "", "\uffff", "\U0001f600", "b", "a\x00b", "a"]),
    (Bytes, [b"\xff", None, b"", b"\x00", b"\xff"]),
    (Bool, [True, None, False, True]),
    (UnixTimestamp, [-1, None, 1_700_000_000_000_001, 0]),
]


def column_of(dtype: ValueType, values: list[Any]) -> pa.Array:
    plain = pa.int64() if dtype == UnixTimestamp else dtype.to_arrow()
    return pa.array(values, plain).cast(dtype.to_arrow())


def is_present(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


@pytest.mark.parametrize(("dtype", "values"), COLUMNS, ids=str)
@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_present_values(dtype: ValueType, values: list[Any], chunks: int) -> None:
    array = column_of(dtype, values)
    column = PresentValues(pa.chunked_array([array[:chunks], array[chunks:]]) if chunks else array, dtype)
    kept = [value for value in values if is_present(value)]
    assert column.array.type == dtype.to_arrow()
    whole = np.arange(len(values) + 1)
    before = [sum(map(is_present, values[:index])) for index in range(len(values) + 1)]
    assert column.span(whole, whole)[0].tolist() == before
    ordered = sorted({value.encode() if isinstance(value, str) else value for value in kept})
    assert column.ranks.tolist() == [ordered.index(v.encode() if isinstance(v, str) else v) for v in kept]
    if dtype.kind in {"string", "bytes"}:
        assert column.array.to_pylist() == kept
    else:
        assert column.numbers.tolist() == kept
        assert not np.signbit(column.numbers[column.numbers == 0]).any()
    if dtype.is_number:
        codes, buckets = column.buckets
        assert buckets[codes].tolist() == [bucket_of(float(value)) for value in kept]
        assert buckets.tolist() == sorted(set(buckets.tolist()))


@pytest.mark.parametrize("dtype", [dtype for dtype, _ in COLUMNS], ids=str)
@pytest.mark.parametrize("values", [[], [None, None]])
def test_columns_without_present_values(dtype: ValueType, values: list[Any]) -> None:
    column = PresentValues(column_of(dtype, values), dtype)
    assert len(column.array) == len(column.ranks) == 0
    whole = np.arange(len(values) + 1)
    assert column.span(whole, whole)[0].tolist() == [0] * (len(values) + 1)
