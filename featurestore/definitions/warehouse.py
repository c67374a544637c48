"""Batch sources in warehouses: SQL databases, Hive and BigQuery. How to reach them stands in the configuration."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec

from featurestore.definitions.naming import check_column, check_name, check_tags, check_text, check_unique, duration
from featurestore.errors import DefinitionError


class SqlSource(msgspec.Struct, frozen=True, tag="sql"):
    """A table, or a query, of any database that SQLAlchemy speaks to.

    Parameters
    ----------
    connection
        Name of the connection in ``feature_store.yaml``; its ``url`` is an SQLAlchemy URL.
    table
        Table or view, ``"schema.table"`` where it is not in the default schema.
    query
        A SELECT instead of a table.
    timestamp_field
        Column that says when a row happened. Naive times are UTC.
    created_timestamp_column
        Column that says when a row could first be known; else that is the event's time plus `availability_delay`.
    field_mapping
        Source column to the name used in definitions.
    """

    name: str
    connection: str = ""
    table: str = ""
    query: str = ""
    timestamp_field: str = ""
    created_timestamp_column: str = ""
    field_mapping: dict[str, str] = {}
    availability_delay: timedelta = timedelta(0)
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""

    def __post_init__(self) -> None:
        label = f"SqlSource {self.name!r}"
        check_name("SqlSource", self.name)
        if not self.connection:
            raise DefinitionError(f"{label}: name a connection of feature_store.yaml: connection='warehouse'")
        _check_table(label, self)

    @property
    def location(self) -> str:
        """The table, or the query in one line."""
        return self.table or " ".join(self.query.split())


class HiveSource(msgspec.Struct, frozen=True, tag="hive"):
    """A Hive table, or a query in Spark SQL.

    The connection says how it is read: through Spark with the metastore, or through HiveServer2; values are the same.

    Parameters
    ----------
    connection
        Name of the connection in ``feature_store.yaml``.
    table
        ``"database.table"``.
    query
        A SELECT instead of a table.
    timestamp_field
        Column that says when a row happened. Naive times are UTC.
    partition_column
        A text or date partition column that is a function of the UTC day of the event's time. Where it is given, jobs
        read only the partitions of their range: a row in the partition of another day is not found.
    partition_format
        How a day is written in it, as in `time.strftime`.
    created_timestamp_column, field_mapping, availability_delay
        As for `SqlSource`.
    """

    name: str
    connection: str = ""
    table: str = ""
    query: str = ""
    timestamp_field: str = ""
    partition_column: str = ""
    partition_format: str = "%Y-%m-%d"
    created_timestamp_column: str = ""
    field_mapping: dict[str, str] = {}
    availability_delay: timedelta = timedelta(0)
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""

    def __post_init__(self) -> None:
        label = f"HiveSource {self.name!r}"
        check_name("HiveSource", self.name)
        check_text(label, partition_column=self.partition_column, partition_format=self.partition_format)
        if self.partition_column and "%" not in self.partition_format:
            raise DefinitionError(
                f"{label}: partition_format {self.partition_format!r} is the same for every day; "
                "write, for example, '%Y-%m-%d'"
            )
        _check_table(label, self)

    @property
    def location(self) -> str:
        """The table, or the query in one line."""
        return self.table or " ".join(self.query.split())


class BigQuerySource(msgspec.Struct, frozen=True, tag="bigquery"):
    """A BigQuery table, or a query.

    Parameters
    ----------
    connection
        Name of the connection in ``feature_store.yaml``, for its project, location and credentials; by default the
        environment's.
    table
        ``"project.dataset.table"`` or ``"dataset.table"``.
    query
        A SELECT instead of a table.
    timestamp_field
        Column that says when a row happened: TIMESTAMP, DATETIME (UTC) or DATE.
    created_timestamp_column, field_mapping, availability_delay
        As for `SqlSource`.
    """

    name: str
    connection: str = ""
    table: str = ""
    query: str = ""
    timestamp_field: str = ""
    created_timestamp_column: str = ""
    field_mapping: dict[str, str] = {}
    availability_delay: timedelta = timedelta(0)
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""

    def __post_init__(self) -> None:
        label = f"BigQuerySource {self.name!r}"
        check_name("BigQuerySource", self.name)
        _check_table(label, self)

    @property
    def location(self) -> str:
        """The table, or the query in one line."""
        return self.table or " ".join(self.query.split())


def check_batch(label: str, source: Any) -> None:
    """Check what all batch sources have: times, mapping, delay and prose."""
    if not source.timestamp_field:
        raise DefinitionError(f"{label}: say which column is the event's time: timestamp_field='ts'")
    check_text(
        label,
        timestamp_field=source.timestamp_field,
        created_timestamp_column=source.created_timestamp_column,
        connection=source.connection,
    )
    mapping = source.field_mapping
    if not isinstance(mapping, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in mapping.items()):
        raise DefinitionError(f"{label}: field_mapping maps source columns to names, {{'src_col': 'name'}}")
    for name in mapping.values():
        check_column(label, name)
    check_unique(label, "mapped name", mapping.values())
    duration(label, "availability_delay", source.availability_delay, positive=False)
    check_tags(label, source.tags)
    check_text(label, description=source.description, owner=source.owner)


def _check_table(label: str, source: SqlSource | HiveSource | BigQuerySource) -> None:
    check_text(label, table=source.table, query=source.query)
    if bool(source.table) == bool(source.query):
        raise DefinitionError(f"{label}: give either a table, table='trips', or a query, query='SELECT ...'")
    check_batch(label, source)
