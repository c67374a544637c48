"""The Spark application that retrievals run in: the one at hand, or one of this process."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from featurestore.errors import MissingExtraError, OfflineStoreError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_RAISED = re.compile(r"^[\w.]*(?:Error|Exception): ")
_CONF = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.sql.session.timeZone": "UTC"}


def is_spark_frame(value: Any) -> bool:
    """Return whether a value is a DataFrame of Spark, classic or Connect."""
    return type(value).__module__.partition(".")[0] == "pyspark" and hasattr(value, "sparkSession")


def spark_session() -> SparkSession:
    """Return the session that is active in this process, or one of a new application with the machine's CPUs.

    Raises
    ------
    MissingExtraError
        Where Spark is not installed.
    OfflineStoreError
        Where it cannot be started, for example because there is no Java.
    """
    with quiet():
        try:
            from pyspark.errors import PySparkException
            from pyspark.sql import SparkSession
        except ImportError as error:
            raise MissingExtraError.for_package("pyspark", "spark") from error
        active = SparkSession.getActiveSession()
        if active is not None:
            return active
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = SparkSession.builder.master(os.environ.get("SPARK_MASTER", "local[*]")).appName("featurestore")
        for key, value in _CONF.items():
            builder = builder.config(key, value)
        logging.getLogger("py4j").setLevel(logging.ERROR)
        try:
            return builder.getOrCreate()
        except PySparkException as error:
            raise OfflineStoreError(f"Spark cannot be started: {first_line(error)}; it needs Java 17") from error


@contextmanager
def spark_errors(what: str) -> Iterator[None]:
    """Turn Spark's errors into an `OfflineStoreError` that starts with ``what``; our own from workers come through."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        raise OfflineStoreError(f"{what}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return what an error of Spark says first; of an error in a worker, the error behind the traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    behind = [line for line in lines if _RAISED.match(line)]
    if behind:
        return _RAISED.sub("", behind[-1]) if behind[-1].startswith("featurestore.errors.") else behind[-1]
    return lines[0] if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what Spark says of versions of other packages from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
