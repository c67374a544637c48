"""Which ranges of event time an incremental run covers: what is new, late, corrected or deleted since the last one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from featurestore.definitions import FeatureView
from featurestore.materialize.rows import FIRST, RowReader
from featurestore.registry.progress import Job
from featurestore.semantics.windows import DAY, floor_to

OVERLAP = DAY
"""How far back of the last run a source without created timestamps is read again, in microseconds."""


class Range(NamedTuple):
    """A half-open range of event time in microseconds, and whether it ends the run."""

    start: int
    end: int
    last: bool


def ranges_since(done: Sequence[Job], reader: RowReader, view: FeatureView, end: int, overlap: int) -> list[Range]:
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
        How far back to go where the source does not say when rows were created, in microseconds.
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
    if not created:
        return _ranges({}, max(FIRST, base.end - overlap), end)
    days: dict[int, None] = {}
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
    return [Range(first, after, last=number == len(joined)) for number, (first, after) in enumerate(joined, start=1)]
