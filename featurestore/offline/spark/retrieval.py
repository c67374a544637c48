"""A retrieval carried out by Spark: logs and entity frame stay there, and each group of keys is evaluated by a worker.

The plan, the scans' SQL and the evaluation are those of every engine; Spark reads, shuffles and holds the data.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from featurestore.errors import EntityFrameError, suggest
from featurestore.offline.dialects import scan_sql
from featurestore.offline.engine import Features
from featurestore.offline.frame import TIMESTAMP, EntityFrame
from featurestore.offline.plan import Scan, ViewTask, plan
from featurestore.offline.retrieval import RetrievalJob
from featurestore.offline.spark.session import is_spark_frame, quiet, spark_errors, spark_session
from featurestore.offline.spark.worker import Work, evaluator, status_column, value_column
from featurestore.offline.windows import Feature

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_PLACE = "_place"
_BUCKET = "_bucket"
_ROWS_A_BUCKET = 1_000_000


class SparkRetrievalJob(RetrievalJob):
    """A retrieval in Spark.

    An entity frame of Spark, or SQL text for Spark, stays there, and `to_spark` gives its columns and the features. Any
    other frame is sent to Spark, and the answer comes back in its order.
    """

    engine = "spark"

    @cached_property
    def _session(self) -> SparkSession:
        if is_spark_frame(self._entities):
            session: SparkSession = self._entities.sparkSession
            return session
        return spark_session()

    @cached_property
    def _remote(self) -> DataFrame | None:
        """The entity frame where it is Spark's own."""
        if isinstance(self._entities, str):
            with spark_errors("the entity frame's SQL query failed"):
                return self._session.sql(self._entities)
        return self._entities if is_spark_frame(self._entities) else None

    @cached_property
    def _frame(self) -> EntityFrame:
        if self._remote is None:
            return EntityFrame(self._entities)
        return EntityFrame(self._collected.select(self._remote.columns))

    def _input_names(self) -> list[str]:
        return list(super()._input_names() if self._remote is None else self._remote.columns)

    @cached_property
    def _scans(self) -> list[Scan]:
        return plan(self._tasks, self._times, self._log_of, self._cuts_of, "event")

    @cached_property
    def _times(self) -> np.ndarray:
        """The labels' times, or of a frame in Spark the first and the last, which is what pruning needs."""
        if self._remote is None:
            return self._frame.times
        from pyspark.sql import functions as f

        if TIMESTAMP not in self._remote.columns:
            raise EntityFrameError(f"the entity frame has no column {TIMESTAMP!r}, the time of each row's features")
        with spark_errors("the entity frame's times could not be read"):
            column = f.col(TIMESTAMP)
            table = self._remote.agg(f.min(column).alias("first"), f.max(column).alias("last")).toArrow()
        first, last = table.column("first"), table.column("last")
        times = pa.chunked_array([*first.chunks, *last.chunks]).drop_null()
        return EntityFrame(pa.table({TIMESTAMP: times})).times

    def to_spark(self) -> DataFrame:
        """Return the entity frame's columns and the features as a DataFrame of Spark, evaluated when it is used.

        Rows come in no order. On-demand features need values in this process, so a request with some is refused.
        """
        if self.request.on_demand:
            names = ", ".join(view.name for view in self.request.on_demand)
            raise EntityFrameError(
                f"on-demand views ({names}) are computed where the job is; use to_arrow, or ask for them apart"
            )
        frame = self._remote if self._remote is not None else self._sent(self._frame.table)
        evaluated, columns = self._evaluated(frame)
        wanted = [columns[column.view, column.feature][0] for column in self.request.columns]
        kept = [*frame.columns, *(column.name for column in self.request.columns)]
        safe = evaluated.toDF(*_safe_names(evaluated.columns))  # names may hold dots and backticks
        places = [*range(len(frame.columns)), *(evaluated.columns.index(name) for name in wanted)]
        return safe.select(*(f"c{place}" for place in places)).toDF(*kept)

    def _stored(self) -> Features:
        remote = self._remote is not None
        table = self._collected if remote else self._answer
        columns = self._columns
        found: Features = {}
        for task in self._tasks:
            types = {field.name: field.dtype.to_arrow() for field in task.view.features}
            for name in task.features:
                value, status = columns[task.name, name]
                values = table.column(value).combine_chunks().cast(types[name])
                found[task.name, name] = Feature(values, table.column(status).to_numpy().astype(np.int8))
        return found

    @cached_property
    def _columns(self) -> dict[tuple[str, str], tuple[str, str]]:
        """By task and feature, the columns of its values and statuses."""
        found = {}
        for group, tasks in enumerate(self._groups):
            for place, task in enumerate(tasks):
                for number, name in enumerate(task.features):
                    pair = value_column(place, number), status_column(place, number)
                    found[task.name, name] = (f"g{group}{pair[0]}", f"g{group}{pair[1]}")
        return found

    @cached_property
    def _collected(self) -> pa.Table:
        """The whole answer to a frame in Spark: its columns, values and statuses."""
        assert self._remote is not None  # noqa: S101  (the callers looked)
        evaluated, _ = self._evaluated(self._remote)
        with spark_errors("the retrieval failed"):
            return evaluated.toArrow()

    @cached_property
    def _answer(self) -> pa.Table:
        """Values and statuses for a frame of this process, in its order."""
        names = dict.fromkeys(column for task in self._tasks for column in task.keys)
        fields = {key.name: key for read in self.request.reads for key in read.keys}
        frame = self._frame
        columns: dict[str, Any] = {name: frame.typed(fields[name], "a join key,") for name in names}
        columns[TIMESTAMP] = pa.array(frame.times, pa.int64()).cast(pa.timestamp("us", "UTC"))
        columns[_PLACE] = pa.array(np.arange(len(frame.times)))
        evaluated, _ = self._evaluated(self._sent(pa.table(columns)))
        listed = [column for pair in self._columns.values() for column in pair]
        with spark_errors("the retrieval failed"):
            table = evaluated.select(_PLACE, *listed).toArrow()
        order = np.argsort(table.column(_PLACE).to_numpy())
        return table.take(pa.array(order))

    def _sent(self, table: pa.Table) -> DataFrame:
        with spark_errors("the entity frame could not be sent to Spark"), quiet():
            return self._session.createDataFrame(table)

    @cached_property
    def _groups(self) -> list[list[ViewTask]]:
        """The tasks that are evaluated together: of one log and one set of keys."""
        groups: dict[tuple[str, tuple[str, ...]], list[ViewTask]] = {}
        for task in self._tasks:
            by_name = dict(zip([key.name for key in task.view.join_keys], task.keys, strict=True))
            keys = tuple(by_name[name] for name in sorted(by_name))
            groups.setdefault((self._log_of(task.view).fingerprint, keys), []).append(task)
        return list(groups.values())

    def _evaluated(self, frame: DataFrame) -> tuple[DataFrame, dict[tuple[str, str], tuple[str, str]]]:
        """Return the frame with the values and statuses of every feature."""
        for number, tasks in enumerate(self._groups):
            frame = self._with_group(frame, number, tasks)
        return frame, self._columns

    def _with_group(self, frame: DataFrame, number: int, tasks: list[ViewTask]) -> DataFrame:
        from pyspark.sql import functions as f

        names = sorted(key.name for key in tasks[0].view.join_keys)
        by_name = dict(zip([key.name for key in tasks[0].view.join_keys], tasks[0].keys, strict=True))
        for column in by_name.values():
            if column not in frame.columns:
                hint = suggest(column, frame.columns)
                raise EntityFrameError(
                    f"the entity frame has no column {column!r}, the join key of view {tasks[0].name!r}{hint}"
                )
        rows = self._rows(tasks)
        types = dict(rows.dtypes)
        buckets = max(int(self._session.conf.get("spark.sql.shuffle.partitions") or 200), 1)

        def bucket(columns: Sequence[Any]) -> Any:
            hashed = f.pmod(f.xxhash64(*columns), f.lit(buckets)) if columns else f.lit(0)
            return hashed.cast("int").alias(_BUCKET)

        given = frame.columns
        safe = frame.toDF(*_safe_names(given))  # names may hold dots and backticks
        label_keys = [f.col(f"c{given.index(by_name[name])}").cast(types[name]) for name in names]
        left = safe.select("*", bucket(label_keys)).groupBy(_BUCKET)
        right = rows.select("*", bucket([f.col(_quoted(name)) for name in names])).groupBy(_BUCKET)
        cuts = {task.name: tuple(self._cuts_of(task.view)) for task in tasks}
        work = msgspec.json.encode(Work.of(tasks, cuts, tuple(given), self.known_at))
        with quiet():
            answer = left.cogroup(right).applyInArrow(evaluator(work), self._schema(safe, tasks))
        made = [
            f"g{number}{column}"
            for place, task in enumerate(tasks)
            for place_in_task in range(len(task.features))
            for column in (value_column(place, place_in_task), status_column(place, place_in_task))
        ]
        return answer.drop(_BUCKET).toDF(*given, *made)

    def _schema(self, frame: DataFrame, tasks: list[ViewTask]) -> Any:
        from pyspark.sql.pandas.types import from_arrow_type
        from pyspark.sql.types import ByteType, IntegerType, StructType

        schema = StructType(list(frame.schema.fields)).add(_BUCKET, IntegerType())
        for place, task in enumerate(tasks):
            types = {field.name: field.dtype.to_arrow() for field in task.view.features}
            for number, name in enumerate(task.features):
                dtype = types[name]
                plain = pa.list_(dtype.value_type) if pa.types.is_fixed_size_list(dtype) else dtype
                schema = schema.add(value_column(place, number), from_arrow_type(plain))
                schema = schema.add(status_column(place, number), ByteType())
        return schema

    def _rows(self, tasks: list[ViewTask]) -> DataFrame:
        """Return the rows of a log that labels may see, in Spark: all cuts' rows, which workers tell apart."""
        names = {task.name for task in tasks}
        scans = [scan for scan in self._scans if any(task.name in names for task in scan.tasks)]
        starts, ends = [scan.start for scan in scans], [scan.end for scan in scans]
        columns = tuple(dict.fromkeys(name for scan in scans for name in scan.columns))
        start = None if None in starts else min(time for time in starts if time is not None)
        end = None if None in ends else max(time for time in ends if time is not None)
        scan = scans[0]._replace(columns=columns, start=start, end=end, every_cut=True)
        files = scan.log.files(start, end)
        with spark_errors(f"the rows of view {scan.view.name!r} could not be read"):
            if files:
                source = self._session.read.parquet(*files)
            else:
                stored = pa.schema([field.with_type(_stored(field.type)) for field in scan.log.schema])
                source = self._session.createDataFrame(stored.empty_table())
            return self._queried(scan, source)

    def _queried(self, scan: Scan, source: DataFrame) -> DataFrame:
        """Return the answer to a scan's SQL; the name that it uses lives only while Spark reads the SQL."""
        name = f"featurestore_{uuid.uuid4().hex}"
        source.createOrReplaceTempView(name)
        try:
            return self._session.sql(scan_sql(scan, "spark", name, pretty=False))
        finally:
            self._session.catalog.dropTempView(name)


def _safe_names(names: Sequence[str]) -> list[str]:
    return [f"c{place}" for place in range(len(names))]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _stored(arrow: pa.DataType) -> pa.DataType:
    return pa.list_(arrow.value_type) if pa.types.is_fixed_size_list(arrow) else arrow
