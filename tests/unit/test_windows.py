"""Window arithmetic: bounds, default hops, which hops are refused, and how a window is described (2.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.semantics.windows import DAY, HOUR, MINUTE, SECOND, Window, default_hop, floor_to, hop_error

TIMES = st.integers(-(2**60), 2**60)
LENGTHS = st.integers(1, 400 * DAY)
# A hop divides one day or is whole days.
HOPS = st.sampled_from([1, 3, 1000, SECOND, 5 * MINUTE, HOUR, 8 * HOUR, DAY, 7 * DAY])
OFFSETS = st.one_of(st.sampled_from([1, MINUTE, HOUR, DAY]), st.integers(1, 100 * DAY))


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (2 * HOUR, (HOUR, 2 * HOUR)),
        (2 * HOUR + 1, (HOUR, 2 * HOUR + 1)),
        (2 * HOUR + 5 * MINUTE - 1, (HOUR, 2 * HOUR + 5 * MINUTE - 1)),
        (2 * HOUR + 5 * MINUTE, (HOUR + 5 * MINUTE, 2 * HOUR + 5 * MINUTE)),
        (0, (-HOUR, 0)),
        (-1, (-HOUR - 5 * MINUTE, -1)),
        (-HOUR, (-2 * HOUR, -HOUR)),
        (-HOUR - 1, (-2 * HOUR - 5 * MINUTE, -HOUR - 1)),
    ],
)
def test_the_head_is_exact_and_the_tail_moves_in_hops(t: int, expected: tuple[int, int]) -> None:
    assert Window(HOUR, 5 * MINUTE).bounds(t) == expected


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (3 * HOUR, (HOUR, 2 * HOUR)),
        (3 * HOUR - 1, (HOUR - 5 * MINUTE, 2 * HOUR - 5 * MINUTE)),
        (3 * HOUR + 5 * MINUTE - 1, (HOUR, 2 * HOUR)),
        (-1, (-2 * HOUR - 5 * MINUTE, -HOUR - 5 * MINUTE)),
    ],
)
def test_with_an_offset_both_ends_move_in_hops(t: int, expected: tuple[int, int]) -> None:
    assert Window(HOUR, 5 * MINUTE, HOUR).bounds(t) == expected


def test_a_length_that_is_no_multiple_of_the_hop_is_covered_whole() -> None:
    window = Window(7 * MINUTE, 5 * MINUTE)
    assert window.bounds(20 * MINUTE) == (10 * MINUTE, 20 * MINUTE)
    assert window.bounds(22 * MINUTE) == (15 * MINUTE, 22 * MINUTE)
    assert window.bounds(22 * MINUTE - 1) == (10 * MINUTE, 22 * MINUTE - 1)


def test_all_history_has_no_start() -> None:
    assert Window(None, DAY).bounds(-5) == (None, -5)
    assert Window(None, DAY, HOUR).bounds(DAY + HOUR - 1) == (None, 0)


@given(length=LENGTHS, hop=HOPS, t=TIMES)
def test_a_window_spans_its_length_and_less_than_a_hop_more(length: int, hop: int, t: int) -> None:
    start, end = Window(length, hop).bounds(t)
    assert start is not None
    assert end == t
    assert start % hop == 0
    assert length <= end - start < length + hop


@given(length=LENGTHS, hop=HOPS, offset=OFFSETS, t=TIMES)
def test_a_lagged_window_is_whole_hops_and_ends_at_the_offset(length: int, hop: int, offset: int, t: int) -> None:
    start, end = Window(length, hop, offset).bounds(t)
    assert start is not None
    assert start % hop == end % hop == 0
    assert end <= t - offset < end + hop
    assert start <= t - offset - length < start + hop


@given(length=LENGTHS, hop=HOPS, offset=st.one_of(st.just(0), OFFSETS), t=TIMES, later=st.integers(0, 10 * DAY))
def test_bounds_never_move_backwards(length: int, hop: int, offset: int, t: int, later: int) -> None:
    window = Window(length, hop, offset)
    (start, end), (next_start, next_end) = window.bounds(t), window.bounds(t + later)
    assert start is not None
    assert next_start is not None
    assert start <= next_start
    assert end <= next_end


@pytest.mark.parametrize(
    ("t", "step", "expected"), [(7, 5, 5), (5, 5, 5), (0, 5, 0), (-1, 5, -5), (-5, 5, -5), (-6, 5, -10)]
)
def test_floors_go_toward_minus_infinity(t: int, step: int, expected: int) -> None:
    assert floor_to(t, step) == expected


@pytest.mark.parametrize(
    ("length", "hop"),
    [
        (None, DAY),
        (400 * DAY, DAY),
        (12 * DAY, DAY),
        (12 * DAY - 1, HOUR),
        (12 * HOUR, HOUR),
        (12 * HOUR - 1, 5 * MINUTE),
        (HOUR, 5 * MINUTE),
        (HOUR - 1, 30 * SECOND),
        (30 * MINUTE, 30 * SECOND),
        (30 * MINUTE - 1, 10 * SECOND),
        (10 * MINUTE, 10 * SECOND),
        (10 * MINUTE - 1, 5 * SECOND),
        (5 * MINUTE, 5 * SECOND),
        (5 * MINUTE - 1, SECOND),
        (MINUTE, SECOND),
        (SECOND, SECOND),
    ],
)
def test_default_hops(length: int | None, hop: int) -> None:
    assert default_hop(length) == hop


@given(length=st.one_of(st.none(), st.integers(SECOND, 4000 * DAY)))
def test_every_default_hop_is_allowed(length: int | None) -> None:
    assert hop_error(length, default_hop(length)) is None


@pytest.mark.parametrize("hop", [1, 1000, SECOND, 7 * MINUTE + 30 * SECOND, 8 * HOUR, DAY, 2 * DAY, 30 * DAY])
def test_hops_that_divide_a_day_or_are_whole_days(hop: int) -> None:
    assert hop_error(60 * DAY, hop) is None
    assert hop_error(hop, hop) is None
    assert hop_error(None, hop) is None


@pytest.mark.parametrize(
    ("length", "hop", "words"),
    [
        (DAY, 0, ["positive"]),
        (DAY, -HOUR, ["positive"]),
        (HOUR, HOUR + 1, ["slide_interval", "longer", "time_window 1h"]),
        (HOUR, DAY, ["slide_interval 1d", "longer", "time_window 1h"]),
        (DAY, 7 * HOUR, ["slide_interval 7h", "divides one day"]),
        (7 * DAY, 36 * HOUR, ["slide_interval 36h", "whole days"]),
        (None, 11 * MINUTE, ["slide_interval 11m", "take 5m, 1h or 1d"]),
    ],
)
def test_a_bad_hop_is_named_with_the_fix(length: int | None, hop: int, words: list[str]) -> None:
    problem = hop_error(length, hop)
    assert problem is not None
    assert [word for word in words if word not in problem] == []


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (Window(HOUR, 5 * MINUTE), "1h: 60m to 65m"),
        (Window(7 * DAY, HOUR), "7d: 168h to 169h"),
        (Window(None, DAY), "all history"),
        (Window(HOUR, 5 * MINUTE, DAY), "1h: whole hops of 5m, 1d ago"),
        (Window(None, DAY, 7 * DAY), "all history, 7d ago"),
    ],
)
def test_a_window_tells_its_true_span(window: Window, text: str) -> None:
    assert window.describe() == text
