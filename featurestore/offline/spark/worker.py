"""What runs in Spark's Python workers: the same evaluation as everywhere, on the rows and labels of some keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from featurestore.definitions import FeatureView, Field
from featurestore.definitions.project import decode, encode
from featurestore.offline.engine import answer
from featurestore.offline.frame import EntityFrame
from featurestore.offline.log import RowLog, log_schema
from featurestore.offline.plan import KnownAt, ViewTask, plan
from featurestore.offline.table_rows import TableRows
from featurestore.semantics.rows import Cut


class Work(msgspec.Struct, frozen=True):
    """What a worker needs to know: plain data, so that nothing but itself travels.

    Attributes
    ----------
    views
        By task name, the view's definition as JSON.
    tasks
        Name, features, and the labels' column of each join key; all of one log and one set of keys.
    cuts
        By task name, the cuts of a lambda view.
    names
        The entity frame's columns; Spark gives the labels' first columns other names.
    """

    views: dict[str, str]
    tasks: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    cuts: dict[str, tuple[Cut, ...]]
    names: tuple[str, ...]
    known_at: KnownAt

    @classmethod
    def of(
        cls, tasks: list[ViewTask], cuts: Mapping[str, tuple[Cut, ...]], names: tuple[str, ...], known_at: KnownAt
    ) -> Work:
        """Return the work of some tasks."""
        views = {task.name: encode(task.view).decode() for task in tasks}
        return cls(views, tuple((task.name, task.features, task.keys) for task in tasks), dict(cuts), names, known_at)


def value_column(task: int, feature: int) -> str:
    """Return the column of a feature's values in a worker's answer."""
    return f"_value_{task}_{feature}"


def status_column(task: int, feature: int) -> str:
    """Return the column of a feature's statuses."""
    return f"_status_{task}_{feature}"


def evaluator(work: bytes) -> Callable[[pa.Table, pa.Table], pa.Table]:
    """Return the function that Spark calls with the labels and the rows of a group of keys."""

    def evaluate(labels: pa.Table, rows: pa.Table) -> pa.Table:
        return evaluate_group(work, labels, rows)

    return evaluate


def evaluate_group(work: bytes, labels: pa.Table, rows: pa.Table) -> pa.Table:
    """Return the labels with values and statuses of every feature; rows without labels give none."""
    given, tasks = _decoded(work)
    known_at, cuts = given.known_at, given.cuts
    labels = labels.cast(pa.schema([field.with_type(_in_utc(field.type)) for field in labels.schema]))
    frame = EntityFrame(labels.select(range(len(given.names))).rename_columns(list(given.names)))

    def keys_of(task: ViewTask) -> dict[str, Any]:
        what = f"the join key of view {task.name!r},"
        return {
            key.name: frame.typed(Field(column, key.dtype), what)
            for key, column in zip(task.view.join_keys, task.keys, strict=True)
        }

    typed = _typed(rows, tasks[0].view)
    cuts_of = lambda view: cuts.get(_task_of(tasks, view), ())  # noqa: E731
    scans = plan(tasks, frame.times, lambda view: RowLog(Path(), view), cuts_of, known_at)
    found = answer(scans, keys_of, frame.times, source=TableRows(typed), known_at=known_at)
    for place, task in enumerate(tasks):
        for number, name in enumerate(task.features):
            feature = found[task.name, name]
            values = feature.values
            if pa.types.is_fixed_size_list(values.type):  # Spark has lists only
                values = values.cast(pa.list_(values.type.value_type))
            labels = labels.append_column(value_column(place, number), values)
            labels = labels.append_column(status_column(place, number), pa.array(feature.statuses, pa.int8()))
    return labels


def _in_utc(dtype: pa.DataType) -> pa.DataType:
    """Return the type with times in UTC, the zone that Spark takes them back in, whatever the session's is."""
    if pa.types.is_timestamp(dtype) and dtype.tz is not None:
        return pa.timestamp(dtype.unit, "UTC")
    return pa.list_(_in_utc(dtype.value_type)) if pa.types.is_list(dtype) else dtype


def _task_of(tasks: list[ViewTask], view: FeatureView) -> str:
    return next(task.name for task in tasks if task.view is view)


def _typed(rows: pa.Table, view: FeatureView) -> pa.Table:
    """Return Spark's columns in the types of the log."""
    schema = log_schema(view)
    names = [name for name in schema.names if name in rows.column_names]
    return pa.table({name: rows.column(name).cast(schema.field(name).type) for name in names})


@lru_cache(maxsize=8)
def _decoded(work: bytes) -> tuple[Work, list[ViewTask]]:
    """Return what `Work` says; a worker is called with the same one again and again."""
    given = msgspec.json.decode(work, type=Work)
    tasks = []
    for name, features, keys in given.tasks:
        view = decode(given.views[name])
        assert isinstance(view, FeatureView)  # noqa: S101  (encoded from one)
        tasks.append(ViewTask(name, view, features, keys))
    return given, tasks
