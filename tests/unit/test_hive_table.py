"""Hive sources without a server: types, the SQL of a range, Thrift's columns, and settings that are refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from featurestore.clock import to_micros
from featurestore.definitions import HiveSource
from featurestore.errors import SourceError
from featurestore.materialize.hive_server2 import to_arrow
from featurestore.materialize.hive_table import (
    HiveColumn,
    HiveTable,
    StatementError,
    arrow_type,
    day_condition,
    open_hive,
    time_condition,
)
from featurestore.materialize.tables import Partition, Span


def column(kind: str, name: str = "c") -> HiveColumn:
    return HiveColumn(name, kind, arrow_type(kind))


def span(*bounds: datetime | None) -> Span:
    first, after = (None if bound is None else to_micros(bound) for bound in bounds)
    return Span("c", first, after)


@pytest.mark.parametrize(
    ("kind", "arrow"),
    [
        ("bigint", pa.int64()),
        ("FLOAT", pa.float32()),
        ("varchar(20)", pa.string()),
        ("char(3)", pa.string()),
        ("decimal(38,18)", pa.decimal128(38, 18)),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("timestamp_ntz", pa.timestamp("us")),
        ("array<timestamp>", pa.list_(pa.timestamp("us", "UTC"))),
        ("map<string,int>", pa.opaque(pa.null(), "map<string,int>", "Hive")),
        ("array<array<int>>", pa.opaque(pa.null(), "array<array<int>>", "Hive")),
        ("array<decimal(3,1)>", pa.opaque(pa.null(), "array<decimal(3,1)>", "Hive")),
    ],
)
def test_types(kind: str, arrow: pa.DataType) -> None:
    assert arrow_type(kind) == arrow


def test_a_range_of_times_is_a_predicate_on_the_bare_column() -> None:
    day = datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    found = time_condition(column("timestamp"), span(day, None))
    assert found == "`c` IS NULL OR (`c` >= TIMESTAMP '1969-12-31 23:59:59.999999')"
    assert time_condition(column("timestamp"), Span("c", None, None)) == ""
    assert time_condition(column("timestamp"), Span("c", -(2**62), 2**62)) == ""
    assert time_condition(column("string"), span(day, day)) == ""


def test_a_date_is_midnight() -> None:
    noon, midnight = datetime(2024, 5, 1, 12, tzinfo=UTC), datetime(2024, 5, 3, tzinfo=UTC)
    found = time_condition(column("date"), span(noon, midnight))
    assert found == "`c` IS NULL OR (`c` >= DATE '2024-05-02' AND `c` < DATE '2024-05-03')"


@pytest.mark.parametrize(
    ("kind", "written", "listed"),
    [
        ("string", "%Y-%m-%d", "'2024-02-29', '2024-03-01', '__HIVE_DEFAULT_PARTITION__'"),
        ("string", "%Y-%m", "'2024-02', '2024-03', '__HIVE_DEFAULT_PARTITION__'"),
        ("string", "d'%j\\", "'d\\'060\\\\', 'd\\'061\\\\', '__HIVE_DEFAULT_PARTITION__'"),
        ("date", "%d", "DATE '2024-02-29', DATE '2024-03-01'"),
        ("int", "%Y%m%d", "20240229, 20240301"),
    ],
)
def test_the_partitions_of_a_range_are_those_of_its_utc_days(kind: str, written: str, listed: str) -> None:
    bounds = span(datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC), datetime(2024, 3, 1, 0, 0, 0, 1, tzinfo=UTC))
    assert day_condition(column(kind), written, bounds) == f"`c` IN ({listed}) OR `c` IS NULL"


def test_an_end_at_midnight_needs_nothing_of_its_day() -> None:
    bounds = span(datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 2, tzinfo=UTC))
    assert "2024-05-02" not in day_condition(column("date"), "%Y", bounds)


def test_an_open_or_very_long_range_names_no_partitions() -> None:
    assert day_condition(column("date"), "%Y", span(datetime(2024, 5, 1, tzinfo=UTC), None)) == ""
    bounds = span(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))
    assert day_condition(column("date"), "%Y", bounds) == ""


class Thrift(NamedTuple):
    """A column as impyla hands it on: values, and bits that say which of them mean nothing."""

    values: list[Any]
    bits: list[int]

    @property
    def nulls(self) -> Thrift:
        return self

    def unpack(self) -> bytes:
        return bytes(self.bits)


@pytest.mark.parametrize(
    ("kind", "value", "filler", "found"),
    [
        ("bigint", 2**53 + 1, 0, 2**53 + 1),
        ("float", 0.1, 0.0, 0.10000000149011612),
        ("double", 0.1, 0.0, 0.1),
        ("boolean", False, True, False),
        ("string", "", None, ""),
        ("binary", b"\x00\xff", b"", b"\x00\xff"),
        ("decimal(20,2)", "1.20", None, Decimal("1.20")),
        ("date", -1, 0, date(1969, 12, 31)),
        ("date", "0001-01-01", None, date(1, 1, 1)),
        ("timestamp", -1, 0, datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("timestamp", "1969-12-31 23:59:59.9", None, datetime(1969, 12, 31, 23, 59, 59, 900000, tzinfo=UTC)),
        ("timestamp", "1969-12-31 23:59:59.123456789", None, datetime(1969, 12, 31, 23, 59, 59, 123456, tzinfo=UTC)),
        ("timestamp_ntz", -1, 0, datetime(1969, 12, 31, 23, 59, 59, 999999)),  # noqa: DTZ001
        ("array<bigint>", b"[9007199254740993,null]", b"", [9007199254740993, None]),
        ("array<float>", '["Infinity",0.1,1]', "", [float("inf"), 0.10000000149011612, 1.0]),
        ("array<string>", '["a\\"b",""]', None, ['a"b', ""]),
        ("array<binary>", '["AP8="]', None, [b"\x00\xff"]),
        ("array<date>", '["1950-01-01"]', None, [date(1950, 1, 1)]),
        ("array<timestamp>", '["1950-01-01 00:00:00.000001"]', None, [datetime(1950, 1, 1, 0, 0, 0, 1, tzinfo=UTC)]),
    ],
)
def test_columns_of_thrift(kind: str, value: Any, filler: Any, found: Any) -> None:
    array = to_arrow(column(kind), Thrift([value, filler], [0, 1, 0, 0]))
    assert array.type == arrow_type(kind)
    assert array.to_pylist() == [found, None]
    # The same, where nothing is null, all is, and there are no rows.
    assert to_arrow(column(kind), Thrift([value], [0])).to_pylist() == [found]
    assert to_arrow(column(kind), Thrift([filler], [1])).to_pylist() == [None]
    assert to_arrow(column(kind), Thrift([], [])).to_pylist() == []


class Engine:
    """Answers statements from a table of answers; an answer that is missing is a statement that was refused."""

    def __init__(self, answers: dict[str, list[tuple[Any, ...]]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        self.asked.append(sql)
        if sql not in self.answers:
            raise StatementError(f"refused: {sql}")
        return self.answers[sql]

    def describe(self, query: str) -> list[tuple[str, str]]:
        return [("id", "bigint"), ("ts", "timestamp")]

    def stream(self, columns: Sequence[HiveColumn], rest: str) -> Iterator[pa.RecordBatch]:
        self.asked.append(f"SELECT {', '.join(column.sql for column in columns)} {rest}")
        yield from ()

    def close(self) -> None: ...


DESCRIBED = [
    ("id", "bigint", None),
    ("ts", "timestamp", None),
    ("extra", "map<string,int>", None),
    ("day", "string", None),
    ("", None, None),
    ("# Partition Information", "", ""),
    ("# col_name", "data_type", "comment"),
    ("day", "string", None),
]


def source(**options: Any) -> HiveSource:
    return HiveSource("trips", connection="hive", timestamp_field="ts", **{"table": "db.trips", **options})


def test_a_table_is_described_by_the_server() -> None:
    engine = Engine({"DESCRIBE `db`.`trips`": DESCRIBED, "SHOW PARTITIONS `db`.`trips`": [("day=b",), ("day=a",)]})
    table = HiveTable(source(partition_column="day"), engine)
    assert table.schema().names == ["id", "ts", "extra", "day"]
    assert table.partitions() == [Partition("day=a"), Partition("day=b")]
    list(table.batches(["id"], Span("ts", 0, 1)))
    assert engine.asked[-1] == (
        "SELECT `id` FROM `db`.`trips` WHERE (`ts` IS NULL OR (`ts` >= TIMESTAMP '1970-01-01 00:00:00.000000' AND "
        "`ts` < TIMESTAMP '1970-01-01 00:00:00.000001')) AND "
        "(`day` IN ('1970-01-01', '__HIVE_DEFAULT_PARTITION__') OR `day` IS NULL)"
    )
    with pytest.raises(SourceError, match=r"'extra' is map<string,int>.*to_json\(extra\)"):
        list(table.batches(None, Span("", None, None)))


def test_a_query_is_a_relation() -> None:
    engine = Engine({})
    table = HiveTable(source(table="", query="SELECT 1 AS id, ts FROM t -- all;\n;"), engine)
    list(table.batches(None, Span("", None, None)))
    assert engine.asked == ["SELECT `id`, `ts` FROM (\nSELECT 1 AS id, ts FROM t -- all;\n\n) AS source"]
    assert table.partitions() == []


def test_what_is_not_there_is_told_apart() -> None:
    tables = [("db", "trips2", False), ("db", "cars", False)]
    with pytest.raises(SourceError, match="no table 'trips'; did you mean 'trips2'"):
        HiveTable(source(), Engine({"SHOW TABLES IN `db`": tables})).schema()
    with pytest.raises(SourceError, match="no database 'db'; did you mean 'dbs'"):
        HiveTable(source(), Engine({"SHOW DATABASES": [("dbs",)]})).schema()
    with pytest.raises(SourceError, match="refused: DESCRIBE"):
        HiveTable(source(), Engine({"SHOW TABLES IN `db`": [("trips",)]})).schema()
    table = HiveTable(source(partition_column="dy"), Engine({"DESCRIBE `db`.`trips`": DESCRIBED}))
    with pytest.raises(SourceError, match="not partitioned by 'dy'; did you mean 'day'"):
        list(table.batches(["id"], Span("ts", 0, 1)))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "connections.hive: say how Hive is reached; write type: spark"),
        ({"type": "impala"}, "'impala' is no way to reach Hive"),
        ({"type": "spark", "metastore": "thrift://h"}, "unknown setting 'metastore'; did you mean 'metastore_uris'"),
        ({"type": "spark", "conf": ["a"]}, "connections.hive.conf: write Spark's settings indented"),
        ({"type": "hiveserver2"}, "connections.hive: name the server"),
        ({"type": "hiveserver2", "host": "h", "port": "x"}, "connections.hive.port: 'x' is not a port"),
        ({"type": "hiveserver2", "host": "h", "auth": "PLAN"}, "'PLAN' is not supported; did you mean 'PLAIN'"),
        ({"type": "hiveserver2", "host": "h", "pasword": "x"}, "unknown setting 'pasword'; did you mean 'password'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SourceError, match=problem):
        open_hive(source(), settings)


def test_partitions_within_a_day_are_refused() -> None:
    with pytest.raises(SourceError, match="'%Y-%m-%d-%H' differs within a day"):
        HiveTable(source(partition_column="hour", partition_format="%Y-%m-%d-%H"), Engine({}))
