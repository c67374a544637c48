"""Every window function of the reference against answers worked out by hand from 2.3 of the design."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from featurestore.definitions import Aggregation, Entity, FeatureView, Field, FileSource
from featurestore.semantics.reference import evaluate
from featurestore.semantics.rows import Result, Row, Status
from featurestore.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
    ValueType,
    Vector,
)

BATCH = FileSource("src", path="x.parquet", timestamp_field="ts")
ID = Entity("id", value_type=Int64)
NULL = Result(None, Status.NULL_VALUE)
OVERFLOW = Result(None, Status.OVERFLOW)
NAN, INF = math.nan, math.inf
U = 2.0**-80  # the unit of float addends
V = 2.0**-46  # the unit of variance


def over(dtype: ValueType, values: list[Any], function: str, **parts: Any) -> Result:
    """Aggregate values that came in this order."""
    aggregation = Aggregation("v", function, name="f", **parts)
    view = FeatureView("v", entities=[ID], schema=[Field("v", dtype)], source=BATCH, aggregations=[aggregation])
    rows = [Row((1,), n, n, "batch", n, {"v": value}) for n, value in enumerate(values)]
    return evaluate(view, (1,), len(rows), rows)["f"]


def bits(result: Result) -> str:
    assert result.status == Status.PRESENT
    assert isinstance(result.value, float)
    return result.value.hex()


# --- Empty windows and missing values ---

NULLABLE = ["sum", "mean", "min", "max", "variance", "stddev", "first", "last"]


@pytest.mark.parametrize("values", [[], [None], [None, NAN, INF, -INF]])
def test_a_window_without_values(values: list[Any]) -> None:
    for function in NULLABLE:
        assert over(Float64, values, function) == NULL
    assert over(Float64, values, "approx_quantile", q=0.5) == NULL
    assert over(Float64, values, "count") == Result(0, Status.PRESENT)
    assert over(Float64, values, "count_distinct") == Result(0, Status.PRESENT)
    assert over(Float64, values, "first_n", n=2) == Result([], Status.PRESENT)
    assert over(Float64, values, "last_n", n=2) == Result([], Status.PRESENT)


def test_a_key_with_a_null_has_an_empty_window() -> None:
    features = [
        Aggregation(function="count", name="n"),
        Aggregation("v", "first_n", n=1, name="f"),
        Aggregation("v", "sum", name="s"),
    ]
    view = FeatureView("v", entities=[ID], schema=[Field("v", Int64)], source=BATCH, aggregations=features)
    assert evaluate(view, (None,), 9, [Row((None,), 1, 1, "batch", 0, {"v": 1})]) == {
        "n": Result(0, Status.PRESENT),
        "f": Result([], Status.PRESENT),
        "s": NULL,
    }


def test_count_without_a_column_counts_rows_with_nulls() -> None:
    features = [Aggregation(function="count", name="rows"), Aggregation("v", "count", name="values")]
    view = FeatureView("v", entities=[ID], schema=[Field("v", Float64)], source=BATCH, aggregations=features)
    rows = [Row((1,), n, n, "batch", n, {"v": v}) for n, v in enumerate([None, NAN, 1.0])]
    answer = evaluate(view, (1,), 9, rows)
    assert (answer["rows"].value, answer["values"].value) == (3, 1)


@pytest.mark.parametrize("function", ["sum", "mean", "min", "max", "first", "last", "variance", "stddev"])
def test_minus_zero_counts_as_zero(function: str) -> None:
    assert bits(over(Float64, [-0.0, -0.0], function)) == (0.0).hex()
    assert bits(over(Float32, [-0.0, -0.0], function)) == (0.0).hex()


def test_missing_values_are_skipped_by_first_and_last() -> None:
    values = [NAN, None, 1.0, 2.0, 3.0, -INF, None]
    assert over(Float64, values, "first").value == 1.0
    assert over(Float64, values, "last").value == 3.0
    assert over(Float64, values, "first_n", n=2).value == [1.0, 2.0]
    assert over(Float64, values, "last_n", n=2).value == [2.0, 3.0]
    assert over(Float64, values, "last_n", n=9).value == [1.0, 2.0, 3.0]
    assert over(Float64, values, "min").value == 1.0
    assert over(Float64, values, "max").value == 3.0


# --- Sums and means ---


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1] * 10, 1.0),  # a running sum gives 0.9999999999999999
        ([1e16, 1.0, -1e16], 1.0),
        ([2.0**53, 1.0, 1.0], 2.0**53 + 2),
        ([2.0**53, 1.0], 2.0**53),  # the tie goes to even
        ([2.0**53 + 2, 1.0], 2.0**53 + 4),
        ([U / 2], 0.0),  # half a unit goes to even
        ([U / 2, U / 2], 0.0),  # each addend is rounded before it is added
        ([1.5 * U], 2 * U),
        ([-1.5 * U, -U / 2], -2 * U),
        ([math.nextafter(U / 2, 1)], U),
        ([5e-324, 1e-300], 0.0),
        ([math.nextafter(2.0**62, 0), -math.nextafter(2.0**62, 0), 0.5], 0.5),
    ],
)
def test_float_sums_are_exact_and_rounded_once(values: list[float], expected: float) -> None:
    for order in (values, values[::-1]):
        assert bits(over(Float64, order, "sum")) == expected.hex()


def test_the_mean_is_the_exact_rational_rounded_once() -> None:
    assert over(Float64, [0.1] * 3, "mean").value == 0.1  # 0.30000000000000004 / 3 is not
    assert over(Float64, [2.0**53, 1.0], "mean").value == 2.0**52  # 2^52 + 1/2 ties to even
    assert over(Int64, [2**53 + 1, 2**53 + 1, 2**53 + 2], "mean").value == 2.0**53 + 2
    # 2^53 + 6/7 rounds to 2^53; the sum as a double is two too much, and a seventh of that rounds to 2^53 + 2.
    assert over(Int64, [2**53 + 1] * 6 + [2**53], "mean").value == 2.0**53
    assert over(Int64, [2**63 - 1, 2**63 - 1], "mean").value == 2.0**63  # though the sum overflows
    assert over(Int32, [1, 2], "mean").value == 1.5


@pytest.mark.parametrize("x", [2.0**62, -(2.0**62), 1e300])
def test_floats_of_2_to_the_62_overflow_sum_and_mean(x: float) -> None:
    for function in ("sum", "mean"):
        assert over(Float64, [1.0, x], function) == OVERFLOW
        assert over(Float64, [1.0, math.nextafter(x, 0)], function).status == (
            Status.OVERFLOW if abs(x) > 2.0**62 else Status.PRESENT
        )
    assert over(Float64, [1.0, x], "max").value == max(1.0, x)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2**63 - 2, 1], Result(2**63 - 1, Status.PRESENT)),
        ([2**63 - 1, 1], OVERFLOW),
        ([-(2**63)], Result(-(2**63), Status.PRESENT)),
        ([-(2**63), -1], OVERFLOW),
        ([2**63 - 1, 5, -5], Result(2**63 - 1, Status.PRESENT)),
        ([2**53 + 1], Result(2**53 + 1, Status.PRESENT)),
    ],
)
def test_integer_sums_are_int64_or_overflow(values: list[int], expected: Result) -> None:
    for order in (values, values[::-1]):
        assert over(Int64, order, "sum") == expected
    assert type(over(Int64, [1, 2], "sum").value) is int


def test_float32_is_widened_and_summed_as_a_double() -> None:
    tenth = 0.10000000149011612  # the float32 nearest to a tenth
    assert over(Float32, [tenth, tenth, tenth], "sum").value == 0.30000000447034836
    assert over(Float32, [tenth], "max").value == tenth


# --- Variance ---


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 4.0], 7 / 3),
        ([1e9 + 1, 1e9 + 2, 1e9 + 3], 1.0),  # sums of squares in doubles lose this
        ([0.1, 0.1, 0.1], 0.0),
        ([V / 2, 0.0], 0.0),  # half a unit goes to even
        ([1.5 * V, 0.0], (2 * V) ** 2 / 2),
        ([-1.5 * V, 0.5 * V], (2 * V) ** 2 / 2),
    ],
)
def test_variance_is_of_the_sample_and_exact(values: list[float], expected: float) -> None:
    assert bits(over(Float64, values, "variance")) == expected.hex()
    assert bits(over(Float64, values, "stddev")) == math.sqrt(expected).hex()


def test_variance_of_integers_and_of_one_value() -> None:
    assert over(Int64, [1, 2, 4], "variance").value == 7 / 3
    assert over(Int64, [1], "variance") == NULL
    assert over(Float64, [1.0, None, NAN], "stddev") == NULL


@pytest.mark.parametrize("function", ["variance", "stddev"])
def test_2_to_the_46_overflows_variance_even_alone(function: str) -> None:
    for x in (2.0**46, -(2.0**46)):
        assert over(Float64, [x], function) == OVERFLOW
        assert over(Int64, [int(x), 0], function) == OVERFLOW
        assert over(Float64, [math.nextafter(x, 0), 0.0], function).status == Status.PRESENT
        assert over(Int64, [int(x) - (1 if x > 0 else -1), 0], function).status == Status.PRESENT


# --- Quantiles ---


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (1.0, 1 + 2**-8),
        (math.nextafter(1 + 2**-7, 0), 1 + 2**-8),
        (1 + 2**-7, 1 + 2**-7 + 2**-8),
        (math.nextafter(1.0, 0), 1 - 2**-9),
        (-3.0, -(3 + 2**-7)),
        (0.0, 0.0),
        (-0.0, 0.0),
        (5e-324, 0.0),
        (-5e-324, 0.0),
        (math.nextafter(2.0**-1022, 0), 0.0),
        (2.0**-1022, 2.0**-1022 + 2.0**-1030),
    ],
)
def test_a_quantile_answers_the_middle_of_its_bucket(x: float, expected: float) -> None:
    assert bits(over(Float64, [x], "approx_quantile", q=0.5)) == expected.hex()


@pytest.mark.parametrize(
    ("n", "q", "rank"),
    [(10, 0.0, 1), (10, 0.1, 1), (11, 0.1, 2), (10, 0.3, 3), (10, 0.7, 7), (10, 1.0, 10), (100, 0.07, 7)],
)
def test_the_rank_is_exact_in_the_decimal_written(n: int, q: float, rank: int) -> None:
    # In doubles 0.07 * 100 is 7.000000000000001, and the double nearest to 0.1 is more than a tenth.
    values: list[Any] = list(range(n, 0, -1))
    assert over(Int64, values, "approx_quantile", q=q) == over(Int64, [rank], "approx_quantile", q=q)


def test_negative_buckets_come_in_numeric_order() -> None:
    answers = [over(Float64, [0.5, -1.0, 0.0, -2.0], "approx_quantile", q=q).value for q in (0, 0.5, 0.75, 1)]
    assert answers == [-(2 + 2**-7), -(1 + 2**-8), 0.0, 0.5 + 2**-9]


# --- Other types ---


def test_strings_and_bytes_compare_by_bytes() -> None:
    texts = ["\U0001f600", "\uffff", "a", None]
    assert (over(String, texts, "min").value, over(String, texts, "max").value) == ("a", "\U0001f600")
    assert over(Bytes, [b"\x80", b"\x7f\xff", b""], "max").value == b"\x80"
    assert over(Bytes, [b"\x80", b"\x7f\xff", b""], "min").value == b""
    assert over(UnixTimestamp, [0, -1, None], "min").value == -1


def test_count_distinct_is_exact_up_to_max_distinct() -> None:
    assert over(String, ["a", "A", "", "a", None], "count_distinct", max_distinct=3).value == 3
    assert over(String, ["a", "A", "", "b"], "count_distinct", max_distinct=3) == OVERFLOW
    assert over(Float64, [0.0, -0.0, NAN, INF], "count_distinct").value == 1
    assert over(Int64, [2**53, 2**53 + 1], "count_distinct").value == 2
    assert over(Int64, list(range(1000)), "count_distinct").value == 1000
    assert over(Int64, list(range(1001)), "count_distinct") == OVERFLOW


def test_bools_are_listed_and_counted() -> None:
    assert over(Bool, [True, None, False], "last_n", n=5).value == [True, False]
    assert over(Bool, [True, None, True], "count_distinct").value == 1


def test_lists_pass_unchanged() -> None:
    first = over(Array(Float64), [None, [-0.0, None], [1.0]], "first").value
    assert [str(item) for item in first] == ["-0.0", "None"]
    assert over(Vector(2), [[1.0, 2.0], None], "last").value == [1.0, 2.0]
    assert over(Array(Float64), [None, [], [NAN]], "count").value == 2


def test_join_keys_are_aggregated_like_columns() -> None:
    pair = Entity("pair", join_keys=[Field("id", Int64), Field("code", String)])
    view = FeatureView(
        "v",
        entities=[pair],
        schema=[Field("v", Int64)],
        source=BATCH,
        aggregations=[Aggregation("code", "last", timedelta(hours=1), name="code_now")],
    )
    rows = [Row((1, "a"), 0, 0, "batch", 0, {"v": None})]
    assert evaluate(view, (1, "a"), 1, rows)["code_now"].value == "a"
