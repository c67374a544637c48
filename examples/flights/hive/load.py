"""Puts the histories of the flights example into Hive tables, those of events partitioned by the UTC day."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featurestore.materialize.hive_spark import SparkEngine

TIMES = {"departures": "departed_at", "arrivals": "landed_at", "weather": "observed_at", "planes": ""}
"""The tables, and the time whose day each is partitioned by."""


def load(data: Path, settings: Mapping[str, Any]) -> None:
    """Make the tables of the database ``flights`` anew from the Parquet files of a folder.

    Parameters
    ----------
    data
        What `prepare` wrote.
    settings
        Of a connection through Spark.
    """
    engine = SparkEngine("connections.hive", {key: value for key, value in settings.items() if key != "type"})
    engine.rows("SET hive.exec.dynamic.partition.mode=nonstrict")
    engine.rows("CREATE DATABASE IF NOT EXISTS flights")
    for table, time in TIMES.items():
        engine.rows(f"DROP TABLE IF EXISTS flights.{table}")
        engine.rows(_create(table, time, data / f"{table}.parquet"))
    engine.close()


def _create(table: str, time: str, file: Path) -> str:
    rows = f"FROM parquet.`{file.absolute().as_uri()}`"
    if not time:
        return f"CREATE TABLE flights.{table} STORED AS PARQUET AS SELECT * {rows}"
    day = f"date_format({time}, 'yyyy-MM-dd') AS day"
    return (
        f"CREATE TABLE flights.{table} STORED AS PARQUET PARTITIONED BY (day) AS SELECT *, {day} {rows} "
        "DISTRIBUTE BY day"  # one file for each day
    )
