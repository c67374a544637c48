"""Spark for tests: the application of the test's process, the one that reads Hive too, since a process has but one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from featurestore.materialize.hive_spark import SparkEngine
from tests.servers.hive import Hive

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Spark = Any


@pytest.fixture(scope="session")
def spark(hive: Hive) -> SparkSession:
    """Return the active session of this process's application."""
    SparkEngine("spark", {key: value for key, value in hive.through_spark.items() if key != "type"}).rows("SELECT 1")
    from pyspark.sql import SparkSession

    return SparkSession.active()
