"""Hive tables and queries as a source: their columns, and SQL that reads the partitions of a range and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from featurestore.clock import EPOCH, from_micros
from featurestore.definitions.warehouse import HiveSource
from featurestore.errors import ClockError, SourceError, suggest
from featurestore.materialize.tables import Partition, Span, TableReader

_ENGINES = {
    "spark": ("featurestore.materialize.hive_spark", "SparkEngine"),
    "hiveserver2": ("featurestore.materialize.hive_server2", "Server2Engine"),
}
_DAY = 86_400_000_000
_MOST_DAYS = 10_000
"""Past so many days a range names no partitions: the statement would be longer than it is worth."""

_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_SIMPLE = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
    "timestamp_ntz": pa.timestamp("us"),
    "void": pa.null(),
}
_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")


class HiveColumn(NamedTuple):
    """A column: its name, its type as Hive writes it, and the Arrow type it is delivered in."""

    name: str
    type: str
    arrow: pa.DataType

    @property
    def is_readable(self) -> bool:
        """Whether the type is one of those delivered; maps, structs, intervals and nested arrays are not."""
        return not isinstance(self.arrow, pa.OpaqueType)

    @property
    def sql(self) -> str:
        """The name as an identifier."""
        return quote(self.name)


class StatementError(SourceError):
    """A server refused a statement, or could not carry it out to its end."""


class Engine(Protocol):
    """What runs SQL. Errors are `SourceError`: `StatementError` where a statement is at fault, not the connection."""

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return all rows of a small answer."""

    def describe(self, query: str) -> list[tuple[str, str]]:
        """Return names and types of the columns of a query, reading no rows."""

    def stream(self, columns: Sequence[HiveColumn], rest: str) -> Iterator[pa.RecordBatch]:
        """Yield columns of ``SELECT ... <rest>`` in bounded batches."""

    def close(self) -> None:
        """Let go of connections."""


def open_hive(source: HiveSource, settings: Mapping[str, Any]) -> TableReader:
    """Return what reads a Hive source the way its connection says.

    Parameters
    ----------
    settings
        ``type: spark`` or ``type: hiveserver2``, and what that takes.

    Raises
    ------
    SourceError
        Where a setting is missing, unknown or wrong.
    """
    given = dict(settings)
    kind = given.pop("type", None)
    if kind not in _ENGINES:
        shown = "say how Hive is reached" if kind is None else f"{kind!r} is no way to reach Hive"
        raise SourceError(f"connections.{source.connection or 'hive'}: {shown}; write type: spark or type: hiveserver2")
    module, name = _ENGINES[kind]
    return HiveTable(source, getattr(import_module(module), name)(f"connections.{source.connection}", given))


class HiveTable(TableReader):
    """Reads one Hive table or query.

    Parameters
    ----------
    source
        The source.
    engine
        Runs the SQL.
    """

    def __init__(self, source: HiveSource, engine: Engine) -> None:
        self._source = source
        self._engine = engine
        self._names = _table_names(source.table)
        self._query = source.query.strip().rstrip(";")
        self._relation = ".".join(map(quote, self._names)) or f"(\n{self._query}\n) AS source"
        _check_format(source)

    def schema(self) -> pa.Schema:
        """Return the columns; those of a type that no value has are opaque, and cannot be read."""
        return pa.schema([(column.name, column.arrow) for column in self._columns])

    def batches(self, columns: Sequence[str] | None, span: Span) -> Iterator[pa.RecordBatch]:
        """Yield rows of the span's partitions, and of the one for rows without a partition."""
        known = {column.name: column for column in self._columns}
        wanted = [self._readable(known, name) for name in (known if columns is None else columns)]
        conditions = []
        if span.column:
            conditions.append(time_condition(self._column(known, span.column), span))
            if self._source.partition_column:
                conditions.append(day_condition(self._partition_column(known), self._source.partition_format, span))
        where = " AND ".join(f"({condition})" for condition in conditions if condition)
        yield from self._engine.stream(wanted, f"FROM {self._relation}" + (f" WHERE {where}" if where else ""))

    def partitions(self) -> list[Partition]:
        """Return the table's partitions, by the names that Hive gives them."""
        if not self._described[1]:
            return []
        return [
            Partition(name) for name in sorted(row[0] for row in self._engine.rows(f"SHOW PARTITIONS {self._relation}"))
        ]

    def close(self) -> None:
        """Let go of the connection; a Spark session stays, for the next reader."""
        self._engine.close()

    @property
    def _columns(self) -> list[HiveColumn]:
        return self._described[0]

    @cached_property
    def _described(self) -> tuple[list[HiveColumn], list[str]]:
        """The columns, and the names of those that partition the table."""
        if not self._names:
            described = self._engine.describe(self._query)
            partitioned: list[str] = []
        else:
            try:
                rows = self._engine.rows(f"DESCRIBE {self._relation}")
            except StatementError as error:
                raise self._absent() or error from error
            described, partitioned = _split_description(rows)
        return [HiveColumn(name, kind, arrow_type(kind)) for name, kind in described], partitioned

    def _absent(self) -> SourceError | None:
        """Return the error for a table or database that is not there; None where something else is wrong."""
        *within, table = self._names
        place = f" IN {'.'.join(map(quote, within))}" if within else ""
        try:
            tables = [row[1] if len(row) > 1 else row[0] for row in self._engine.rows(f"SHOW TABLES{place}")]
        except StatementError:
            databases = [row[0] for row in self._engine.rows("SHOW DATABASES")]
            if len(within) != 1 or within[0].lower() in databases:
                return None
            return SourceError(f"there is no database {within[0]!r}{suggest(within[0], databases)}")
        return None if table.lower() in tables else SourceError(f"there is no table {table!r}{suggest(table, tables)}")

    def _column(self, known: Mapping[str, HiveColumn], name: str) -> HiveColumn:
        if name not in known:
            raise SourceError(f"{self._source.location} has no column {name!r}{suggest(name, known)}")
        return known[name]

    def _readable(self, known: Mapping[str, HiveColumn], name: str) -> HiveColumn:
        column = self._column(known, name)
        if not column.is_readable:
            raise SourceError(
                f"the column {name!r} is {column.type}, which no feature type holds; give a query that takes out "
                f'what you need, for example query="SELECT ..., to_json({name}) AS {name} FROM ...", or leaves it out'
            )
        return column

    def _partition_column(self, known: Mapping[str, HiveColumn]) -> HiveColumn:
        name, partitioned = self._source.partition_column, self._described[1]
        if partitioned and name not in partitioned:
            raise SourceError(f"{self._source.location} is not partitioned by {name!r}{suggest(name, partitioned)}")
        return self._column(known, name)


def arrow_type(text: str) -> pa.DataType:
    """Return the Arrow type in which a Hive type is delivered; opaque where it is not."""
    text = text.lower()
    if text in _SIMPLE:
        return _SIMPLE[text]
    if text.startswith(("varchar", "char")):
        return pa.string()
    if match := _DECIMAL.fullmatch(text):
        return pa.decimal128(*map(int, match.groups()))
    if text.startswith("array<"):
        item = _SIMPLE.get(text.removeprefix("array<").removesuffix(">"))
        if item is not None and not pa.types.is_null(item):
            return pa.list_(item)
    return pa.opaque(pa.null(), text, "Hive")


def time_condition(column: HiveColumn, span: Span) -> str:
    """Return the SQL for rows of a span or without a time, on the bare column so that scans can use it; "" for all."""
    name = column.sql
    bounds = []
    for operator, micros in ((">=", span.start), ("<", span.end)):
        literal = None if micros is None else _time_literal(column, micros)
        if literal:
            bounds.append(f"{name} {operator} {literal}")
    return f"{name} IS NULL OR ({' AND '.join(bounds)})" if bounds else ""


def day_condition(column: HiveColumn, written: str, span: Span) -> str:
    """Return the SQL for the partitions of a span's UTC days and of no day; "" where the span is open or very long."""
    days = _days(span)
    if days is None:
        return ""
    if pa.types.is_date(column.arrow):
        values = [f"DATE '{day.isoformat()}'" for day in days]
    elif pa.types.is_integer(column.arrow):
        values = [str(int(day.strftime(written))) for day in days]
    elif pa.types.is_string(column.arrow):
        values = [text(value) for value in [*(day.strftime(written) for day in days), _NULL_PARTITION]]
    else:
        raise SourceError(
            f"partition_column {column.name!r} is {column.type}; it must be a string, a date or an integer"
        )
    name = column.sql
    listed = f"{name} IN ({', '.join(dict.fromkeys(values))})"
    return f"{listed} OR {name} IS NULL" if values else f"{name} IS NULL"


def quote(name: str) -> str:
    """Return a name as an SQL identifier."""
    return "`" + name.replace("`", "``") + "`"


def text(value: str) -> str:
    """Return a string as an SQL literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _time_literal(column: HiveColumn, micros: int) -> str | None:
    """Return a bound as SQL; None where no time is beyond it, or where the column holds no times."""
    try:
        if pa.types.is_date(column.arrow):  # midnight of a day is at or after the bound from the bound's ceiling on
            return f"DATE '{from_micros(-(-micros // _DAY) * _DAY).date().isoformat()}'"
        if pa.types.is_timestamp(column.arrow):
            return f"TIMESTAMP '{from_micros(micros).replace(tzinfo=None).isoformat(' ', 'microseconds')}'"
    except ClockError:  # years before 1 and after 9999: not a bound that Hive could write
        pass
    return None


def _days(span: Span) -> list[date] | None:
    if span.start is None or span.end is None:
        return None
    first, after = span.start // _DAY, -(-span.end // _DAY)
    if after - first > _MOST_DAYS:
        return None
    try:
        return [from_micros(day * _DAY).date() for day in range(first, after)]
    except ClockError:
        return None


def _check_format(source: HiveSource) -> None:
    """Refuse partitions that are finer than a day: those of a range would not be all that hold its rows."""
    last = EPOCH + timedelta(days=1, microseconds=-1)
    if source.partition_column and EPOCH.strftime(source.partition_format) != last.strftime(source.partition_format):
        raise SourceError(
            f"HiveSource {source.name!r}: partition_format {source.partition_format!r} differs within a day; "
            "name a partition column that holds days (or longer), or leave partition_column out"
        )


def _table_names(table: str) -> list[str]:
    """Split ``database.table``; a part may be in backticks."""
    parts: list[tuple[str, str]] = re.findall(r"`((?:[^`]|``)+)`|([^.`]+)", table)
    return [quoted.replace("``", "`") or bare for quoted, bare in parts]


def _split_description(rows: Sequence[tuple[Any, ...]]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the columns that DESCRIBE lists, and which of them its section on partitions names."""
    named = [((row[0] or "").strip(), (row[1] or "").strip()) for row in rows]
    heads = [number for number, (name, _) in enumerate(named) if name.startswith("#")]
    columns = [pair for pair in named[: heads[0] if heads else len(named)] if pair[0]]
    if not any(name.startswith("# Partition Information") for name, _ in named):
        return columns, []
    after = [name for name, _ in named[heads[0] + 1 :] if name and not name.startswith("#")]
    partitioned = [name for name in after if name in dict(columns)]
    return columns, partitioned
