"""Accumulators are commutative monoids over exact state, and `finalise` says of it what the reference says of rows."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.definitions import FUNCTIONS, Aggregation, Entity, FeatureView, Field, FileSource
from featurestore.semantics.accumulators import (
    Accumulator,
    Count,
    Ends,
    Order,
    accumulator_for,
    bucket_of,
    clean,
    pack_int,
    unpack_int,
)
from featurestore.semantics.finalise import bucket_middle, finalise, quantile_rank
from featurestore.semantics.reference import evaluate
from featurestore.semantics.rows import Result, Row, Status
from featurestore.semantics.values import same_result
from featurestore.testing.strategies import values
from featurestore.types import Array, Float32, Float64, Int64, String, ValueType, Vector

TYPES = {kind: ValueType(kind) for kind in sorted(FUNCTIONS["first_n"])} | {
    "array": Array(String),
    "vector": Vector(2, Float32),
}
SUBTRACTABLE = {"count", "sum", "mean", "variance", "stddev", "approx_quantile"}
Rows = list[tuple[Order, Any]]
each_function = pytest.mark.parametrize("function", FUNCTIONS)
few = settings(max_examples=40, deadline=None)


def aggregation(function: str, small: int = 2) -> Aggregation:
    """Return an aggregation over all history whose limits are small enough to matter."""
    parts: dict[str, Any] = {}
    if function in {"first_n", "last_n"}:
        parts = {"n": small}
    elif function == "count_distinct":
        parts = {"max_distinct": 1 + small}
    elif function == "approx_quantile":
        parts = {"q": small / 10}
    return Aggregation("v", function, name="f", **parts)


def types_of(function: str) -> st.SearchStrategy[ValueType]:
    return st.sampled_from([TYPES[kind] for kind in sorted(FUNCTIONS[function])])


@st.composite
def rows_of(draw: st.DrawFn, dtype: ValueType, writers: Sequence[str] = ("a", "b\uffff", "b\U0001f600")) -> Rows:
    """Draw rows of one key in order of delivery; ties on all of the order but the sequence."""
    drawn = draw(
        st.lists(
            st.tuples(st.integers(-2, 2), st.integers(0, 1), st.sampled_from(writers), values(dtype, wild=True)),
            max_size=12,
        )
    )
    return [(Order(ts, arrival, writer, n), value) for n, (ts, arrival, writer, value) in enumerate(drawn)]


def fold(accumulator: Accumulator, rows: Rows) -> Any:
    state = accumulator.empty()
    for order, value in rows:
        cleaned = clean(value)
        if cleaned is not None:
            state = accumulator.add(state, cleaned, order)
    return state


def bits(accumulator: Accumulator, state: Any) -> bytes:
    """Return all of a state as bytes; `pack` alone leaves the writers out."""
    writers = [order.writer for order, _ in state] if isinstance(accumulator, Ends) else []
    return msgspec.msgpack.encode([writers, accumulator.pack(state)])


def thirds(rows: Rows) -> list[Rows]:
    return [rows[part::3] for part in range(3)]


@each_function
@few
@given(data=st.data())
def test_merging_is_associative_and_commutative_and_empty_is_its_identity(function: str, data: st.DataObject) -> None:
    dtype = data.draw(types_of(function))
    accumulator = accumulator_for(aggregation(function), dtype)
    merge = accumulator.merge
    rows = data.draw(rows_of(dtype))
    a, b, c = (fold(accumulator, part) for part in thirds(rows))
    before = [bits(accumulator, state) for state in (a, b, c)]
    whole = bits(accumulator, fold(accumulator, rows))
    assert bits(accumulator, merge(merge(a, b), c)) == whole
    assert bits(accumulator, merge(a, merge(b, c))) == whole
    assert bits(accumulator, merge(b, a)) == bits(accumulator, merge(a, b))
    for state, known in zip((a, b, c), before, strict=True):
        assert bits(accumulator, merge(state, accumulator.empty())) == known
        assert bits(accumulator, merge(accumulator.empty(), state)) == known
        assert bits(accumulator, state) == known, "merging changed its argument"


@each_function
@few
@given(data=st.data())
def test_order_and_batching_change_no_bit(function: str, data: st.DataObject) -> None:
    dtype = data.draw(types_of(function))
    accumulator = accumulator_for(aggregation(function), dtype)
    rows = data.draw(rows_of(dtype))
    whole = bits(accumulator, fold(accumulator, rows))
    shuffled = data.draw(st.permutations(rows))
    size = data.draw(st.integers(1, 4))
    state = accumulator.empty()
    for start in range(0, len(shuffled), size):
        state = accumulator.merge(fold(accumulator, shuffled[start : start + size]), state)
    assert bits(accumulator, fold(accumulator, shuffled)) == whole
    assert bits(accumulator, state) == whole


@each_function
@few
@given(data=st.data())
def test_packed_state_comes_back_and_is_canonical(function: str, data: st.DataObject) -> None:
    dtype = data.draw(types_of(function))
    accumulator = accumulator_for(aggregation(function), dtype)
    rows = data.draw(rows_of(dtype, writers=["w"]))
    packed = msgspec.msgpack.encode(accumulator.pack(fold(accumulator, rows)))
    back = accumulator.unpack(msgspec.msgpack.decode(packed), "w")
    assert msgspec.msgpack.encode(accumulator.pack(back)) == packed
    assert bits(accumulator, back) == bits(accumulator, fold(accumulator, rows))
    # A state from storage goes on as one that was never stored.
    a, b, _ = (fold(accumulator, part) for part in thirds(rows))
    stored = accumulator.unpack(msgspec.msgpack.decode(msgspec.msgpack.encode(accumulator.pack(a))), "w")
    assert bits(accumulator, accumulator.merge(stored, b)) == bits(accumulator, accumulator.merge(a, b))
    reversed_state = fold(accumulator, rows[::-1])
    assert msgspec.msgpack.encode(accumulator.pack(reversed_state)) == packed


@each_function
@few
@given(data=st.data())
def test_what_can_be_subtracted_is_undone_exactly(function: str, data: st.DataObject) -> None:
    dtype = data.draw(types_of(function))
    accumulator = accumulator_for(aggregation(function), dtype)
    rows = data.draw(rows_of(dtype))
    a, b, _ = (fold(accumulator, part) for part in thirds(rows))
    assert accumulator.subtractable == (function in SUBTRACTABLE)
    if not accumulator.subtractable:
        with pytest.raises(TypeError, match=f"{type(accumulator).__name__} cannot be subtracted"):
            accumulator.subtract(accumulator.merge(a, b), b)
        return
    rest = accumulator.subtract(accumulator.merge(a, b), b)
    assert bits(accumulator, rest) == bits(accumulator, a)
    assert bits(accumulator, accumulator.subtract(b, b)) == bits(accumulator, accumulator.empty())


@each_function
@few
@given(data=st.data())
def test_finalised_state_is_what_the_reference_answers(function: str, data: st.DataObject) -> None:
    dtype = data.draw(types_of(function))
    wanted = aggregation(function, data.draw(st.integers(1, 10)))
    accumulator = accumulator_for(wanted, dtype)
    rows = data.draw(rows_of(dtype))
    view = FeatureView(
        "v",
        entities=[Entity("id", value_type=Int64)],
        schema=[Field("v", dtype)],
        source=FileSource("s", path="s.parquet", timestamp_field="ts"),
        aggregations=[wanted],
    )
    given_rows = [
        Row((1,), order.event_timestamp, order.arrival, order.writer, order.sequence, {"v": value})
        for order, value in rows
    ]
    expected = evaluate(view, (1,), 10, given_rows)["f"]
    answer = finalise(wanted, dtype, fold(accumulator, rows))
    assert same_result(answer, expected), f"{answer} is not {expected}"


# --- By hand ---


@pytest.mark.parametrize(
    ("function", "dtype", "numbers", "expected"),
    [
        ("sum", Float64, [0.1] * 10, 1.0),
        ("sum", Float64, [2.0**61, 0.1, -(2.0**61)], 0.1),
        ("sum", Float64, [math.nextafter(2.0**62, 0), 1e-7, -math.nextafter(2.0**62, 0)], 1e-7),
        ("mean", Int64, [2**53 + 1, 2**53 + 1], float(2**53)),
        ("mean", Int64, [2**63 - 1, 2**63 - 1, 1 - 2**63, 4], 2.0**61),
        ("variance", Float64, [1e9 + 1, 1e9 + 2, 1e9 + 3], 1.0),
        ("stddev", Int64, [2**46 - 1, 2**46 - 5], math.sqrt(8)),
    ],
)
def test_the_exact_result_is_rounded_once(function: str, dtype: ValueType, numbers: list[Any], expected: float) -> None:
    wanted = aggregation(function)
    accumulator = accumulator_for(wanted, dtype)
    rows = [(Order(n, n, "w", n), number) for n, number in enumerate(numbers)]
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        assert finalise(wanted, dtype, fold(accumulator, rows)) == Result(expected, Status.PRESENT)


@pytest.mark.parametrize(
    ("function", "dtype", "largest", "smaller"),
    [
        ("sum", Float64, 2.0**62, math.nextafter(2.0**62, 0)),
        ("mean", Float64, -(2.0**62), -math.nextafter(2.0**62, 0)),
        ("variance", Float64, 2.0**46, math.nextafter(2.0**46, 0)),
        ("stddev", Int64, -(2**46), 1 - 2**46),
        ("sum", Int64, 2**63 - 1, 2**63 - 2),
    ],
)
def test_a_window_overflows_at_its_limit_and_recovers(
    function: str, dtype: ValueType, largest: Any, smaller: Any
) -> None:
    wanted = aggregation(function)
    accumulator = accumulator_for(wanted, dtype)
    one = 1 if dtype == Int64 else 1.0
    small = fold(accumulator, [(Order(0, 0, "w", 0), one)])
    for value, status in ((smaller, Status.PRESENT), (largest, Status.OVERFLOW)):
        state = accumulator.merge(small, fold(accumulator, [(Order(1, 1, "w", 1), value)]))
        assert finalise(wanted, dtype, state).status == status
        rest = accumulator.subtract(state, fold(accumulator, [(Order(1, 1, "w", 1), value)]))
        assert bits(accumulator, rest) == bits(accumulator, small)


def test_functions_that_read_one_state_share_it_and_others_do_not() -> None:
    def identity(function: str, small: int = 2) -> tuple[Any, ...]:
        return accumulator_for(aggregation(function, small), Float64).identity

    assert identity("sum") == identity("mean")
    assert identity("variance") == identity("stddev")
    assert identity("last") == identity("last_n", 1)
    assert identity("approx_quantile", 1) == identity("approx_quantile", 9)
    apart = [identity(f) for f in FUNCTIONS if f not in {"mean", "stddev"}]
    apart += [identity("last_n", 3), identity("count_distinct", 3), Count(None).identity]
    assert len(set(apart)) == len(apart)


@given(st.one_of(st.integers(), st.sampled_from([2**63, -(2**63) - 1, 2**64, -(2**71), 2**71 - 1, 2**71])))
def test_integers_of_any_size_pack_shortest(value: int) -> None:
    packed = pack_int(value)
    assert unpack_int(msgspec.msgpack.decode(msgspec.msgpack.encode(packed))) == value
    if isinstance(packed, bytes):
        assert not -(2**63) <= value < 2**63
        bound = 1 << (8 * (len(packed) - 1) - 1)
        assert not -bound <= value < bound, "one byte fewer would do"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_bucket_stands_for_its_values_within_four_in_a_thousand(value: float) -> None:
    bucket = bucket_of(value)
    assert bucket_of(bucket) == bucket
    assert bucket_of(-value) == -bucket
    if abs(value) < 2.0**-1022:
        assert math.copysign(1, bucket_middle(bucket)) == 1
        assert bucket_middle(bucket) == 0.0
    else:
        assert abs(bucket) <= abs(value)
        assert abs(bucket_middle(bucket) - value) <= 0.004 * abs(value)


def test_ranks_are_of_the_decimal_that_was_written() -> None:
    def rank(n: int, q: float) -> int:
        return quantile_rank(n, Aggregation("v", "approx_quantile", q=q).quantile)

    assert [rank(10, q) for q in (0.0, 0.1, 0.3, 0.55, 0.7, 1.0)] == [1, 1, 3, 6, 7, 10]
    assert rank(100, 0.29) == 29  # in doubles 0.29 * 100 is 28.999999999999996, and 0.07 * 100 is 7.000000000000001
    assert rank(100, 0.07) == 7
