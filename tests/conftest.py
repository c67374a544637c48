"""Fixtures that all tests may ask for: real servers, started when the first test needs one."""

from __future__ import annotations

from tests.servers.bigquery import bigquery
from tests.servers.hive import hive
from tests.servers.postgres import postgres
from tests.servers.s3 import s3
from tests.servers.spark import spark

__all__ = ["bigquery", "hive", "postgres", "s3", "spark"]
