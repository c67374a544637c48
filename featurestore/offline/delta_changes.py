"""What changed in a Delta table of others since a version of it: the times in the files that came and went."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

_MILLISECOND = 1000
_Span = tuple[int | None, int | None]


def changed_spans(
    location: str, options: Mapping[str, str], since: str, now: str, column: str
) -> list[tuple[int, int]] | None:
    """Return the least and the greatest time of each file that was added or removed between two versions.

    Parameters
    ----------
    location, options
        The table, and how deltalake reaches it.
    since, now
        The versions, as the token of a `DeltaSnapshot` names them.
    column
        The time column.

    Returns
    -------
    list of tuple of int, or None
        Microseconds, both inclusive; None where it cannot be told: another table, a version that was cleaned up, a
        file without statistics or with a null time.
    """
    (table, _, first), (same_table, _, last) = since.rpartition(" "), now.rpartition(" ")
    if table != same_table or not first.isdecimal():
        return None
    try:
        before, after = (
            _spans(DeltaTable(location, version=int(version), storage_options=dict(options) or None), column)
            for version in (first, last)
        )
    except (DeltaError, OSError, pa.ArrowException):
        return None
    changed = []
    for file in before.keys() ^ after.keys():
        low, high = (before | after)[file]
        if low is None or high is None:
            return None
        changed.append((low, high + _MILLISECOND))  # Delta cuts statistics off to milliseconds, downwards
    return sorted(changed)


def _spans(table: DeltaTable, column: str) -> dict[str, _Span]:
    """Return the least and the greatest time of each file, where its statistics say and no time is null."""
    actions = pa.table(table.get_add_actions(flatten=True))
    nothing = [None] * actions.num_rows
    bounds = []
    for name in (f"min.{column}", f"max.{column}"):
        is_time = name in actions.column_names and pa.types.is_timestamp(actions[name].type)
        bounds.append(actions[name].cast(pa.timestamp("us")).cast(pa.int64()).to_pylist() if is_time else nothing)
    count = f"null_count.{column}"
    nulls = actions[count].to_pylist() if count in actions.column_names else nothing
    rows = zip(actions["path"].to_pylist(), *bounds, nulls, strict=True)
    return {path: (None, None) if missing else (low, high) for path, low, high, missing in rows}
