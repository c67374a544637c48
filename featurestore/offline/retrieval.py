"""Point-in-time retrieval: a caller's keys and times joined with the features of any number of views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.definitions import FeatureView, Field
from featurestore.definitions.resolve import Read, Request
from featurestore.errors import EntityFrameError, FeatureStoreError, MissingExtraError
from featurestore.offline.dialects import scan_sql
from featurestore.offline.duckdb.query import run_sql
from featurestore.offline.duckdb.scan import DuckDbRows
from featurestore.offline.engine import ROW_MEMORY, Features, RowSource, VisibleOf, answer
from featurestore.offline.exact import Statuses
from featurestore.offline.frame import EntityFrame
from featurestore.offline.kernels import Ints
from featurestore.offline.log import RowLog
from featurestore.offline.plan import CutsOf, KnownAt, LogOf, Scan, ViewTask, plan
from featurestore.offline.windows import Feature
from featurestore.semantics.on_demand import input_types
from featurestore.semantics.on_demand import run as run_on_demand
from featurestore.semantics.rows import Cut
from featurestore.types import ValueType, python_values

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from pyspark.sql import DataFrame

DUCKDB = DuckDbRows()
"""The engine of this process."""

Saver = Callable[["RetrievalJob", str], Any]
"""Keeps a job's result as a training set of a name, and returns what stands in its manifest."""


class RetrievalJob:
    """A retrieval, worked out on first use.

    Rows come back in the order given, one for each input row; every input column is kept, with its type. A feature
    that shares its name with an input column is refused.

    Attributes
    ----------
    engine
        What reads the logs and holds the rows.
    """

    engine = "duckdb"

    def __init__(  # noqa: PLR0917
        self,
        entities: Any,
        request: Request,
        log_of: LogOf,
        cuts_of: CutsOf,
        known_at: KnownAt = "event",
        saver: Saver | None = None,
    ) -> None:
        if known_at not in {"event", "arrival"}:
            raise EntityFrameError(f"known_at is 'event' or 'arrival', not {known_at!r}")
        self.request = request
        self.known_at: KnownAt = known_at
        self._log_of = log_of
        self._cuts_of = cuts_of
        self._saver = saver
        self._entities = entities
        taken = set(self._input_names()) & {column.name for column in request.columns}
        if taken:
            raise EntityFrameError(
                f"the entity frame already has a column {min(taken)!r}, which is also a feature's name; "
                "rename it or ask with full_feature_names=True"
            )

    @cached_property
    def _frame(self) -> EntityFrame:
        entities = self._entities
        return EntityFrame(run_sql(entities) if isinstance(entities, str) else entities)

    def _input_names(self) -> list[str]:
        names: list[str] = self._frame.table.column_names
        return names

    @cached_property
    def features(self) -> dict[tuple[str, str], Feature]:
        """Values and statuses by (view, feature), in the order of the entity frame."""
        found = self._stored()
        return found | self._on_demand(found)

    def _stored(self) -> Features:
        """Return the features of stored views."""
        return answer(self._scans, self._keys_of, self._frame.times, source=DUCKDB, known_at=self.known_at)

    @cached_property
    def _scans(self) -> list[Scan]:
        return plan(self._tasks, self._frame.times, self._log_of, self._cuts_of, self.known_at)

    @cached_property
    def _tasks(self) -> list[ViewTask]:
        return [
            ViewTask(read.name, read.view, tuple(self._needed(read)), tuple(key.name for key in read.keys))
            for read in self.request.reads
        ]

    def explain(self) -> str:
        """Return the plan in words: each log is read once, for all views that need it."""
        lines = [scan.explain() for scan in self._scans]
        for view in self.request.on_demand:
            inputs = [f"{item.view}:{feature}" for item in view.view_inputs for feature in item.features]
            inputs += [f"request field {field.name}" for field in view.request_fields]
            lines.append(f"compute {view.name} ({view.mode}): {', '.join(f.name for f in view.features)}")
            lines.append(f"  from {', '.join(inputs)}")
        columns = ", ".join(column.name for column in self.request.columns)
        lines.append(f"return every entity row in the order given, with {columns}")
        return "\n".join(lines)

    def to_sql(self, dialect: str = "duckdb") -> str:
        """Return the SQL that reads the rows, one statement for each scan, in the dialect of an engine.

        What follows, finding each label's rows and aggregating them exactly, is array work that SQL does not say.
        """
        return "\n\n".join(scan_sql(scan, dialect) for scan in self._scans)

    def _needed(self, read: Read) -> list[str]:
        """Return the features of a view that were asked for, or that an on-demand view reads."""
        wanted = {column.feature for column in self.request.columns if column.view == read.name}
        for derived in self.request.on_demand:
            wanted.update(*(item.features for item in derived.view_inputs if item.view == read.name))
        return [field.name for field in read.view.features if field.name in wanted]

    def _keys_of(self, task: ViewTask) -> dict[str, pa.ChunkedArray]:
        what = f"the join key of view {task.name!r},"
        pairs = zip(task.view.join_keys, task.keys, strict=True)
        return {key.name: self._frame.typed(Field(column, key.dtype), what) for key, column in pairs}

    @property
    def entities(self) -> pa.Table:
        """The entity frame as Arrow, its columns as given."""
        return self._frame.table

    def save(self, name: str) -> Any:
        """Save the result as a new version of a training set, and return its manifest (see `FeatureStore.datasets`).

        Raises
        ------
        DatasetError
            Where the name is not one, or the set cannot be written.
        """
        if self._saver is None:
            raise FeatureStoreError("this job was not made by a store, so it has nowhere to save training sets")
        return self._saver(self, name)

    def _on_demand(self, found: Mapping[tuple[str, str], Feature]) -> dict[tuple[str, str], Feature]:
        frame, result = self._frame, {}
        for view in self.request.on_demand:
            inputs = {
                feature: python_values(found[projection.view, feature].values)
                for projection in view.view_inputs
                for feature in projection.features
            }
            for field in view.request_fields:
                column = frame.typed(field, f"a request field of view {view.name!r},")
                inputs[field.name] = python_values(column.combine_chunks())
            answers = run_on_demand(view, inputs, len(frame.times), input_types(view, self.request.views))
            for field in view.features:
                values = [answer.value for answer in answers[field.name]]
                statuses = np.array([answer.status for answer in answers[field.name]], dtype=np.int8)
                result[view.name, field.name] = Feature(arrow_values(values, field.dtype), statuses)
        return result

    def to_arrow(self) -> pa.Table:
        """Return the entity frame's columns, then the features in the order they were asked for."""
        table = self._frame.table
        for column in self.request.columns:
            values = self.features[column.view, column.feature].values
            table = table.append_column(pa.field(column.name, column.field.dtype.to_arrow()), values)
        return table

    def statuses(self) -> dict[str, Statuses]:
        """Return the status of every value (see `Status`), by column."""
        return {column.name: self.features[column.view, column.feature].statuses for column in self.request.columns}

    def to_df(self) -> pd.DataFrame:
        """Return a pandas DataFrame; a pandas entity frame keeps its index and types.

        Integer and bool features with nulls are of pandas' nullable types, so that no integer becomes a float.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError.for_package("pandas", "pandas") from error
        nullable = {pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        original = self._frame.original
        from_pandas = isinstance(original, pd.DataFrame)
        table = self._frame.table
        columns = {} if from_pandas else {name: table.column(name) for name in table.column_names}
        columns |= {c.name: self.features[c.view, c.feature].values for c in self.request.columns}
        series = {
            name: column.to_pandas(types_mapper=nullable.get if column.null_count else None)
            for name, column in columns.items()
        }
        if not from_pandas:
            return pd.DataFrame(series)
        added = pd.DataFrame({name: column.set_axis(original.index) for name, column in series.items()})
        joined: pd.DataFrame = pd.concat([original, added], axis=1)
        return joined

    def to_spark(self) -> DataFrame:
        """Return the result as a DataFrame of Spark; only for a job whose engine that is."""
        raise FeatureStoreError("this job's engine is DuckDB; ask for the features with engine='spark'")

    def to_polars(self) -> pl.DataFrame:
        """Return a polars DataFrame."""
        try:
            import polars as pl
        except ImportError as error:
            raise MissingExtraError.for_package("polars", "polars") from error
        frame = pl.from_arrow(self.to_arrow())
        if not isinstance(frame, pl.DataFrame):
            raise FeatureStoreError("polars did not read the result as a DataFrame")  # pragma: no cover
        return frame


def evaluate_view(
    view: FeatureView,
    features: list[str],
    log: RowLog,
    cuts: Sequence[Cut],
    keys: Sequence[pa.ChunkedArray | pa.Array],
    *,
    times: Ints,
    known_at: KnownAt = "event",
    visible_of: VisibleOf | None = None,
    source: RowSource = DUCKDB,
    memory: int = ROW_MEMORY,
) -> dict[str, Feature]:
    """Return a view's features for each (key, time).

    Parameters
    ----------
    keys
        The join key columns, of the declared types, in the view's order. A null matches nothing.
    times
        Microseconds since the epoch.
    visible_of
        Given the rows that may matter, says which of them each label may see besides.
    source
        Reads the rows.
    memory
        About how many bytes of rows to hold at a time.
    """
    by_name = {field.name: key for field, key in zip(view.join_keys, keys, strict=True)}
    task = ViewTask(view.name, view, tuple(features), tuple(by_name))
    scans = plan([task], times, lambda _: log, lambda _: cuts, known_at)
    found = answer(
        scans, lambda _: by_name, times, source=source, known_at=known_at, visible_of=visible_of, memory=memory
    )
    return {name: found[view.name, name] for name in features}


def arrow_values(values: Sequence[Any], dtype: ValueType) -> pa.Array:
    """Return the store's Python values as a column."""
    target = dtype.to_arrow()
    if pa.types.is_timestamp(target):
        return pa.array(values, type=pa.int64()).cast(target)
    if pa.types.is_list(target) and pa.types.is_timestamp(target.value_type):
        return pa.array(values, type=pa.list_(pa.int64())).cast(target)
    return pa.array(values, type=target)
