"""Compares two answers to the same labels: which rows, which types and which values differ."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROUNDING = 1e-9
"""The relative difference that another order of a sum of doubles may make."""


def kept(labels: pa.Table, answer: pa.Table) -> list[str]:
    """Return what is wrong with an answer that should hold every label, unchanged and in its place."""
    if answer.num_rows != labels.num_rows:
        return [f"{answer.num_rows:,} rows for {labels.num_rows:,} labels"]
    return [] if answer.select(labels.column_names).equals(labels) else ["the labels' columns or their order changed"]


def reordered(answer: pa.Table) -> list[str]:
    """Return whether the rows that are there are in another order than the labels."""
    return ["rows came back in another order"] if (np.diff(np.asarray(answer["row"])) <= 0).any() else []


def differences(
    right: pa.Table, other: pa.Table, columns: Sequence[str], *, rounded: Collection[str] = ()
) -> list[str]:
    """Return what differs in `other`, in words; nothing where every row, type and bit is the same.

    Rows are matched by their column ``row``, in any order.

    Parameters
    ----------
    rounded
        Columns whose values may differ by `ROUNDING`, because their sums were added up in another order.
    """
    right, other = (table.select(["row", *columns]).sort_by("row").combine_chunks() for table in (right, other))
    found = []
    missing = right.filter(pc.invert(pc.is_in(right["row"], other["row"])))
    if missing.num_rows:
        found.append(f"{missing.num_rows:,} of {right.num_rows:,} rows are missing, such as row {missing['row'][0]}")
    if other.num_rows != right.num_rows - missing.num_rows:
        return [*found, f"{other.num_rows:,} rows for {right.num_rows:,} labels"]
    right = right.filter(pc.is_in(right["row"], other["row"])).combine_chunks()
    if not right["row"].equals(other["row"]):
        return [*found, "rows are not those of the labels"]
    for name in columns:
        found += _column(name, right, other, ROUNDING if name in rounded else 0.0)
    return found


def _column(name: str, right: pa.Table, other: pa.Table, tolerance: float) -> Iterator[str]:
    kinds = [table.schema.field(name).type for table in (right, other)]
    if kinds[0] != kinds[1]:
        yield f"{name}: {kinds[0]} came back as {kinds[1]}"
    ours, theirs = (table[name].combine_chunks() for table in (right, other))
    differ = np.asarray(_differ(ours, theirs, tolerance))
    if differ.any():
        place = int(np.flatnonzero(differ)[0])
        yield (
            f"{name}: {int(differ.sum()):,} of {len(differ):,} values differ, such as row {right['row'][place]}: "
            f"{ours[place].as_py()!r} came back as {theirs[place].as_py()!r}"
        )


def _differ(ours: pa.Array, theirs: pa.Array, tolerance: float) -> np.ndarray:
    """Tell which values differ: as bits where there is no tolerance, and whole numbers as whole numbers."""
    nulls = [np.asarray(pc.is_null(column)) for column in (ours, theirs)]
    left, right = (np.asarray(pc.fill_null(column, 0)) for column in (ours, theirs))
    if tolerance:
        unequal = ~np.isclose(left, right, rtol=tolerance, atol=0)
    elif left.dtype == right.dtype:
        unequal = left.view(np.int64) != right.view(np.int64)
    else:  # an integer that became a double: compared as the integers they stand for
        unequal = np.array([a != b for a, b in zip(left.tolist(), right.tolist(), strict=True)], dtype=bool)
    both = ~nulls[0] & ~nulls[1]
    differ: np.ndarray = (nulls[0] != nulls[1]) | (both & unequal)
    return differ
