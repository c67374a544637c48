"""Reads Hive through Spark and its metastore: one Spark application per process, batches as Arrow."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.errors import MissingExtraError, SourceError, suggest
from featurestore.materialize.hive_table import HiveColumn, StatementError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_KEYS = {"warehouse": "spark.sql.warehouse.dir", "metastore_uris": "spark.hadoop.hive.metastore.uris"}
_HIVE = ("spark.sql.catalogImplementation", "hive")
_QUIET = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.extraJavaOptions": (
        f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.json').as_uri()} "
        "-Dderby.stream.error.file=/dev/null"  # else a metastore in files leaves a log in the current folder
    ),
    "spark.executorEnv.PYTHONWARNINGS": "ignore:PySpark does not yet fully support pandas:FutureWarning",
}
_CAUSE = re.compile(r"^(?:Caused by: )?[\w.$]*(?:Exception|Error): (.+)$", re.MULTILINE)


class SparkEngine:
    """Runs SQL in a session of its own within the process's Spark application, which it starts where there is none.

    The settings, temporary views and time zone of a session that is already running are left alone.

    Parameters
    ----------
    label
        What errors about settings name.
    settings
        ``warehouse``, ``metastore_uris`` and ``conf``, a mapping of Spark's own settings.
    """

    def __init__(self, label: str, settings: Mapping[str, Any]) -> None:
        self._label = label
        self._conf = _conf(label, settings)
        self._opened: SparkSession | None = None

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return all rows of a small answer."""
        session = self._session()
        with _errors():
            return [tuple(row) for row in session.sql(sql).collect()]

    def describe(self, query: str) -> list[tuple[str, str]]:
        """Return the columns of a query."""
        session = self._session()
        with _errors():
            return [(field.name, field.dataType.simpleString()) for field in session.sql(query).schema.fields]

    def stream(self, columns: Sequence[HiveColumn], rest: str) -> Iterator[pa.RecordBatch]:
        """Yield Arrow batches; one partition of the scan is held at a time, and the next one is computed meanwhile."""
        listed = ", ".join(f"{column.sql} AS c{place}" for place, column in enumerate(columns))
        names = [column.name for column in columns]
        session = self._session()
        with _errors():
            rows = session.sql(f"SELECT {listed} {rest}")
            with _no_pandas_warning():
                packed = rows.mapInArrow(_packer(), "batch binary")
            for (data,) in packed.toLocalIterator(prefetchPartitions=True):
                with pa.ipc.open_stream(data) as stream:
                    yield from (batch.rename_columns(names) for batch in stream)

    def close(self) -> None:
        """Keep the application: starting one takes seconds, and others may use it."""
        self._opened = None

    def _session(self) -> SparkSession:
        if self._opened is None:
            _check_installed()
            with _errors(), _no_pandas_warning():
                self._opened = _session(self._label, self._conf)
        return self._opened


def _conf(label: str, settings: Mapping[str, Any]) -> dict[str, str]:
    known = [*_KEYS, "conf"]
    for key in settings:
        if key not in known:
            raise SourceError(f"{label}: unknown setting {key!r}{suggest(key, known)}; Spark's own go under conf:")
    conf = settings.get("conf") or {}
    if not isinstance(conf, Mapping):
        raise SourceError(f"{label}.conf: write Spark's settings indented below it, for example spark.master: local[2]")
    values = {key: settings[name] for name, key in _KEYS.items() if name in settings} | dict(conf)
    texts = {str(key): str(value).lower() if isinstance(value, bool) else str(value) for key, value in values.items()}
    if texts.get(_KEYS["warehouse"], "").startswith("/"):  # the way that Spark writes it when it runs
        texts[_KEYS["warehouse"]] = "file:" + texts[_KEYS["warehouse"]].rstrip("/")
    return texts


def _check_installed() -> None:
    try:
        with _no_pandas_warning():
            import pyspark.sql  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.for_package("pyspark", "spark") from error


def _session(label: str, conf: Mapping[str, str]) -> SparkSession:
    """Return a new session of the application that runs in this process, started where there is none."""
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    try:
        running = SparkSession.active()
    except PySparkRuntimeError:
        running = _start(conf)
    if running.conf.get(*_HIVE) != _HIVE[1]:
        raise SourceError(f"{label}: the running Spark session has no Hive; build it with enableHiveSupport()")
    session = running.newSession()
    for key, value in {**conf, "spark.sql.session.timeZone": "UTC"}.items():
        if session.conf.isModifiable(key):
            session.conf.set(key, value)
        elif session.conf.get(key, None) != value:
            raise SourceError(
                f"{label}: the Spark application of this process already runs with {key} = "
                f"{session.conf.get(key, None)!r}, not {value!r}; leave that out here, or start the application with it"
            )
    return session


def _start(conf: Mapping[str, str]) -> SparkSession:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder
    for key, value in {**_QUIET, **conf, _HIVE[0]: _HIVE[1]}.items():
        builder = builder.config(key, value)
    # Spark's default for its workers is whatever python3 is on the path, which on this machine need not be this one.
    is_local = conf.get("spark.master", "local").startswith("local")
    with _environment("PYSPARK_PYTHON", sys.executable if is_local else None):
        session = builder.getOrCreate()
    # It would print each error that is raised, and reported, as a line of JSON.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    return session


def _packer() -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return a function that makes one binary value of each batch.

    It is made here, not at module level, so that it travels to executors by value: they need pyarrow, not this package.
    """

    def pack(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        for batch in batches:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            yield pa.record_batch([pa.array([sink.getvalue().to_pybytes()], pa.binary())], names=["batch"])

    return pack


@contextmanager
def _errors() -> Iterator[None]:
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        raise StatementError(f"Spark: {_reason(str(error))}") from error


def _reason(message: str) -> str:
    """Return what a person needs of Spark's message: the innermost cause, without stack traces and plans."""
    causes = _CAUSE.findall(message)
    shown = causes[-1] if causes else re.split(r"\n\nJVM stacktrace|;\n", message)[0]
    return " ".join(shown.split())


@contextmanager
def _no_pandas_warning() -> Iterator[None]:
    """Silence Spark's remark on the version of pandas, which is not used here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
        yield


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    if value is None or name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
