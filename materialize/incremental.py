"""Which ranges of event time an incremental run covers: what is new, late, corrected or deleted since the last one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from featurestore.definitions import FeatureView
from featurestore.materialize.rows import FIRST, RowReader
from featurestore.registry.progress import Job
from featurestore.semantics.windows import DAY, floor_to

OVERLAP = DAY
"""How far back of the last run a source without created timestamps is read again, in microseconds."""


class Range(NamedTuple):
    """A half-open range of event time in microseconds."""

    start: int
    end: int


def ranges_since(  # noqa: PLR0917
    done: Sequence[Job],
    reader: RowReader,
    view: FeatureView,
    end: int,
    overlap: int,
    changed_since: Callable[[str], list[tuple[int, int]] | None],
) -> list[Range]:
    """Return the ranges to cover, ascending.

    Parameters
    ----------
    done
        The finished jobs of the log.
    reader
        Reads the view's source.
    view
        The view.
    end
        Up to where, in microseconds, exclusive.
    overlap
        How far back to go where the source does not say what is new, in microseconds.
    changed_since
        Given the version of the source that an earlier job read, the first and the last event time of whatever was
        added or removed since; None where the source cannot tell.
    """
    source = view.batch_source
    created = bool(source and source.created_timestamp_column)
    base = _last_whole(done, None)
    if base is None:
        earliest = min((int(event.min()) for event, _ in reader.times() if len(event)), default=None)
        if earliest is None:
            return []
        base = _last_whole(done, earliest)
        if base is None:
            return _ranges({}, max(FIRST, floor_to(earliest, DAY)), end)
    days: dict[int, None] = {}
    if not created:
        changed = changed_since(base.source_version) if base.source_version is not None else None
        if changed is None:
            return _ranges({}, max(FIRST, base.end - overlap), end)
        for first, last in changed:
            days.update(dict.fromkeys(range(first // DAY, min(last, end - 1) // DAY + 1)))
    else:
        for event, arrival in reader.times():
            fresh = event[(arrival >= base.started) & (event < end)]
            days.update(dict.fromkeys(np.unique(np.floor_divide(fresh, DAY)).tolist()))
    return _ranges(days, floor_to(base.end, DAY), end)


def _last_whole(done: Sequence[Job], earliest: int | None) -> Job | None:
    """Return the furthest-reaching job up to whose end everything was loaded, as of when it started.

    These are the last jobs of incremental runs, and jobs that began at or before the source's earliest row.
    """
    whole = [
        job for job in done if job.view.endswith("[incremental]") or (earliest is not None and job.start <= earliest)
    ]
    return max(whole, key=lambda job: (job.end, job.number), default=None)


def _ranges(days: dict[int, None], start: int, end: int) -> list[Range]:
    """Join days that touch, and all from ``start`` on, into ranges that stop at ``end``."""
    spans = [(day * DAY, min((day + 1) * DAY, end)) for day in sorted(days) if day * DAY < end]
    if start < end:
        spans.append((start, end))
    joined: list[tuple[int, int]] = []
    for first, after in sorted(spans):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], after))
        else:
            joined.append((first, after))
    return [Range(first, after) for first, after in joined]
