"""Makes retrieval jobs: by which engine, for what kind of entity frame, and without one for a range of time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa

from featurestore.clock import to_micros
from featurestore.definitions import BatchSource
from featurestore.definitions.resolve import Request
from featurestore.errors import EntityFrameError
from featurestore.offline.duckdb.changes import changes
from featurestore.offline.frame import TIMESTAMP
from featurestore.offline.pins import Pins
from featurestore.offline.plan import KnownAt
from featurestore.offline.retrieval import RetrievalJob, Saver
from featurestore.offline.spark.session import is_spark_frame

Engine = Literal["duckdb", "spark"]
Time = datetime | int
ReadSource = Callable[[BatchSource], pa.Table]

_ENGINES = ("duckdb", "spark")


def retrieval(
    entities: Any,
    request: Request,
    pins: Pins,
    *,
    known_at: KnownAt = "event",
    engine: Engine | None = None,
    between: tuple[Time | None, Time | None] = (None, None),
    read_source: ReadSource,
    saver: Saver | None = None,
) -> RetrievalJob:
    """Return the job of a request.

    Parameters
    ----------
    entities
        The entity frame; a batch source, whose rows are read; or None for every change `between` two times.
    engine
        By default Spark for a frame of Spark, else DuckDB.
    between
        Without an entity frame: from when, inclusive, until when, exclusive.
    read_source
        Reads a batch source whole.

    Raises
    ------
    EntityFrameError
        Where frame, times and engine do not go together.
    """
    if engine not in {None, *_ENGINES}:
        raise EntityFrameError(f"no engine {engine!r}; use {' or '.join(map(repr, _ENGINES))}")
    if entities is None:
        entities = _changes(request, pins, between)
    elif between != (None, None):
        raise EntityFrameError("give an entity frame, or start_date and end_date without one, but not both")
    elif isinstance(entities, BatchSource):
        entities = _renamed(entities, read_source(entities))
    is_spark = is_spark_frame(entities)
    if is_spark and engine == "duckdb":
        raise EntityFrameError("the entity frame is Spark's; leave out engine='duckdb', or give frame.toArrow()")
    if not is_spark and engine != "spark":
        return RetrievalJob(entities, request, pins.log, pins.cuts, known_at, saver=saver)
    from featurestore.offline.spark.retrieval import SparkRetrievalJob

    return SparkRetrievalJob(entities, request, pins.log, pins.cuts, known_at, saver=saver)


def _changes(request: Request, pins: Pins, between: tuple[Time | None, Time | None]) -> pa.Table:
    start, end = (None if time is None else to_micros(time) for time in between)
    if start is None or end is None or start >= end:
        raise EntityFrameError("without an entity frame give start_date and a later end_date")
    if request.request_fields:
        names = ", ".join(request.request_fields)
        raise EntityFrameError(f"the request needs {names} for each row, so it needs an entity frame")
    keys = {frozenset(key.name for key in read.keys) for read in request.reads}
    if len(keys) > 1:
        views = ", ".join(read.name for read in request.reads)
        raise EntityFrameError(
            f"the views {views} have different join keys; without an entity frame they must be equal"
        )
    return changes(request.reads, pins.log, pins.cuts, (start, end))


def _renamed(source: BatchSource, table: pa.Table) -> pa.Table:
    """Return a source's rows with its time column under the name that entity frames have."""
    time = source.field_mapping.get(source.timestamp_field, source.timestamp_field)
    if time != TIMESTAMP and TIMESTAMP in table.column_names:
        raise EntityFrameError(
            f"source {source.name!r} has the time {time!r} and a column {TIMESTAMP!r} too; rename one by field_mapping"
        )
    return table.rename_columns([TIMESTAMP if name == time else name for name in table.column_names])
