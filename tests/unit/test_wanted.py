"""Which rows readers keep: all that labels may see, few others, one part of the keys after the other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from featurestore.offline.kernels import Ints
from featurestore.offline.wanted import NUMBER, Asked, Grouped, Wanted

DAY = 86_400_000_000
TIME = pa.timestamp("us", "UTC")


def asked(numbers: list[int], times: list[int], reach: int | None) -> Asked:
    return Asked(np.array(numbers, dtype=np.int64), np.array(times, dtype=np.int64), reach)


def grouped(wanted: Wanted, numbers: Ints, times: Ints) -> Grouped:
    rows = pa.record_batch({"event_timestamp": pa.array(times).cast(TIME), "place": np.arange(len(times))})
    return wanted.group(rows, numbers)


def places(wanted: Wanted, numbers: list[int], times: list[int]) -> list[int]:
    found = grouped(wanted, np.array(numbers), np.array(times))
    return sorted(found.rows.column("place").to_pylist())


@pytest.mark.parametrize("reach", [None, 0, 1, 7 * DAY, 2**70])
def test_every_row_that_a_label_may_see_is_kept(reach: int | None) -> None:
    random = np.random.default_rng(1)
    keys = np.sort(random.integers(-1, 50, 200))
    times = random.integers(-20 * DAY, 20 * DAY, 200)
    wanted = Wanted(50, [Asked(keys, times, reach)], parts=7)
    row_keys, row_times = random.integers(-3, 60, 5_000), random.integers(-40 * DAY, 40 * DAY, 5_000)
    kept = np.zeros(5_000, dtype=bool)
    kept[grouped(wanted, row_keys, row_times).rows.column("place").to_numpy()] = True
    for key, time in zip(keys[keys >= 0].tolist(), times[keys >= 0].tolist(), strict=True):
        since = -(2**62) if reach is None else time - min(reach, 2**62)
        seen = (row_keys == key) & (row_times <= time) & (row_times >= since)
        assert kept[seen].all()
    assert not kept[(row_keys < 0) | (row_keys >= 50)].any()


def test_rows_of_no_label_are_dropped_and_those_far_from_the_labels_times_too() -> None:
    wanted = Wanted(3, [asked([-1, 0, 2], [0, 10 * DAY, 60 * DAY], DAY)])
    assert wanted.numbers.tolist() == [0, 2]
    assert places(wanted, [0, 1, 2, -1, 3], [10 * DAY, 10 * DAY, 60 * DAY, 0, 0]) == [0, 2]
    assert places(wanted, [0, 0, 2, 2], [30 * DAY, 10 * DAY - 1, 10 * DAY, 59 * DAY]) == [1, 3]


def test_what_one_of_several_sets_of_labels_may_see_is_kept() -> None:
    wanted = Wanted(3, [asked([1], [100 * DAY], DAY), asked([1, 2], [50 * DAY, 50 * DAY], None)])
    assert places(wanted, [1, 1, 1, 2, 2], [100 * DAY, 75 * DAY, 0, 0, 100 * DAY]) == [0, 2, 3]


def test_rows_stand_one_part_of_the_keys_after_the_other() -> None:
    numbers = np.repeat(np.arange(1_000), 3)
    wanted = Wanted(1_000, [Asked(numbers, np.zeros(3_000, dtype=np.int64), None)], parts=9)
    assert len(wanted.bounds) == 8
    keys = np.random.default_rng(2).permutation(1_000)
    rows, offsets = grouped(wanted, keys, np.zeros(1_000, dtype=np.int64))
    assert (len(offsets), offsets[0], offsets[-1], len(rows)) == (10, 0, 1_000, 1_000)
    bounds = [0, *wanted.bounds.tolist(), 1_000]
    for part, (start, end) in enumerate(pairwise(offsets)):
        found = rows.column(NUMBER).to_numpy()[start:end]
        assert set(found.tolist()) == set(range(bounds[part], bounds[part + 1]))


def test_without_labels_nothing_is_wanted() -> None:
    for labels in ([], [asked([], [], None)], [asked([-1], [5], None)]):
        wanted = Wanted(0, labels, parts=4)
        assert (wanted.numbers.tolist(), wanted.bounds.tolist()) == ([], [])
        assert places(wanted, [0, 7], [1, 2]) == []


def test_times_at_the_ends_of_what_64_bits_hold_are_no_error() -> None:
    extreme = np.iinfo(np.int64)
    wanted = Wanted(2, [asked([0, 1], [extreme.min, extreme.max], 1)])
    assert places(wanted, [1, 0], [2**61 - 1, 2**60]) == [0]
