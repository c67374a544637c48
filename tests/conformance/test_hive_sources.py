"""Hive tables read through Spark and through HiveServer2: the same tests, tables and values for both."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.clock import ManualClock, to_micros
from featurestore.config import Config
from featurestore.definitions import Entity, FeatureView, Field, HiveSource
from featurestore.errors import SourceError
from featurestore.materialize.hive_table import open_hive
from featurestore.materialize.tables import Span
from featurestore.store import FeatureStore
from featurestore.testing.source_suite import SourceSuite, SourceTables
from featurestore.types import Int64, String
from tests.servers.hive import Hive

TYPES = {
    pa.bool_(): "BOOLEAN",
    pa.int32(): "INT",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "STRING",
    pa.binary(): "BINARY",
    pa.timestamp("us", "UTC"): "TIMESTAMP",
    pa.timestamp("us"): "TIMESTAMP_NTZ",
    pa.date32(): "DATE",
    pa.list_(pa.int64()): "ARRAY<BIGINT>",
    pa.list_(pa.string()): "ARRAY<STRING>",
    pa.list_(pa.float32()): "ARRAY<FLOAT>",
}


class HiveTables(SourceTables):
    """External tables over Parquet files, in a database of their own, which goes with the servers."""

    has_versions = False
    sees_one_state = False
    suggests_tables = True
    cannot_hold: ClassVar[Mapping[str, str]] = {}

    def __init__(self, hive: Hive, settings: Mapping[str, Any]) -> None:
        self.hive = hive
        self.given = settings
        self.database = f"d{uuid4().hex}"
        hive.execute(f"CREATE DATABASE {self.database}")

    def source(self, name: str, **options: Any) -> HiveSource:
        return HiveSource(name, connection="hive", table=f"{self.database}.{name}", **options)

    def settings(self) -> Mapping[str, Any]:
        return self.given

    def write(self, name: str, table: pa.Table) -> None:
        folder = self.hive.folder / self.database / uuid4().hex
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "rows.parquet", row_group_size=50_000)
        columns = ", ".join(f"`{field.name}` {TYPES[field.type]}" for field in table.schema)
        self.hive.execute(
            f"DROP TABLE IF EXISTS {self.database}.{name}",
            f"CREATE TABLE {self.database}.{name} ({columns}) USING PARQUET LOCATION '{folder.as_uri()}'",
        )


class TestSpark(SourceSuite):
    @pytest.fixture
    def tables(self, hive: Hive) -> SourceTables:
        return HiveTables(hive, hive.through_spark)


class TestHiveServer2(SourceSuite):
    @pytest.fixture
    def tables(self, hive: Hive) -> SourceTables:
        return HiveTables(hive, hive.through_server)


@pytest.fixture(params=["spark", "hiveserver2"])
def settings(request: pytest.FixtureRequest, hive: Hive) -> Mapping[str, Any]:
    return hive.through_spark if request.param == "spark" else hive.through_server


EVERYTHING = Span("", None, None)


def read(settings: Mapping[str, Any], span: Span = EVERYTHING, **options: Any) -> pa.Table:
    source = HiveSource("trips", connection="hive", timestamp_field="ts", **options)
    with open_hive(source, settings) as table:
        return pa.Table.from_batches(table.batches(None, span))


@pytest.fixture(scope="module")
def daily(hive: Hive) -> str:
    """Return a Hive table partitioned by day; all its partitions but one day's and that of no day are unreadable."""
    table = f"daily_{uuid4().hex}"
    hive.execute(
        f"CREATE TABLE {table} (id BIGINT, ts TIMESTAMP) PARTITIONED BY (day STRING) STORED AS PARQUET",
        f"INSERT INTO {table} SELECT id, IF(id = 99, NULL, ts), IF(id = 99, NULL, date_format(ts, 'yyyy-MM-dd')) "
        "FROM (SELECT id, timestamp_seconds(1714521600 + id * 21600) AS ts FROM range(12) UNION ALL SELECT 99, NULL)",
    )
    folder = hive.folder / "warehouse" / table
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "day=2024-05-01",
        "day=2024-05-02",
        "day=2024-05-03",
        "day=__HIVE_DEFAULT_PARTITION__",
    ]
    for day in ("2024-05-01", "2024-05-03"):
        for path in (folder / f"day={day}").glob("*.parquet"):
            path.write_bytes(b"not Parquet, of the same kind of length")
            path.with_name(f".{path.name}.crc").unlink()
    return table


MAY = to_micros(datetime(2024, 5, 1, tzinfo=UTC))
DAY = 86_400_000_000


def test_only_the_partitions_of_a_range_are_read(settings: Mapping[str, Any], daily: str) -> None:
    found = read(settings, Span("ts", MAY + DAY, MAY + 2 * DAY), table=daily, partition_column="day")
    assert sorted(found["id"].to_pylist()) == [4, 5, 6, 7, 99]
    # Without the definition's word for it all partitions are looked at, so this shows what reading one does.
    with pytest.raises(SourceError, match=r"(?i)parquet"):
        read(settings, Span("ts", MAY + DAY, MAY + 2 * DAY), table=daily)
    with pytest.raises(SourceError, match=r"(?i)parquet"):
        read(settings, Span("ts", MAY + DAY, MAY + 2 * DAY + 1), table=daily, partition_column="day")


def test_a_job_reads_the_partitions_of_its_days(settings: Mapping[str, Any], daily: str, tmp_path: Path) -> None:
    source = HiveSource("trips", connection="hive", table=daily, timestamp_field="ts", partition_column="day")
    view = FeatureView(
        "newest",
        entities=[Entity("day", join_keys=["day"], value_type=String)],
        source=source,
        schema=[Field("id", Int64)],
    )
    config = Config(project="hive", repo_path=tmp_path, connections={"hive": dict(settings)})
    with closing(FeatureStore(config=config, clock=ManualClock(MAY + 3 * DAY))) as store:
        store.apply([*view.entities, source, view])
        (job,) = store.materialize(MAY + DAY, MAY + 2 * DAY)
        assert (job.rows, job.rejected) == (4, 1)  # rejected: the row without a time
        found = store.get_online_features(features=["newest:id"], entity_rows=[{"day": "2024-05-02"}])
        assert found.to_dict()["id"] == [7]
        with pytest.raises(SourceError, match=r"(?i)parquet"):
            store.materialize(MAY, MAY + DAY)


def test_the_partitions_are_listed(settings: Mapping[str, Any], daily: str) -> None:
    with open_hive(HiveSource("trips", connection="hive", table=daily, timestamp_field="ts"), settings) as table:
        names = [partition.name for partition in table.partitions()]
    assert names[:3] == ["day=2024-05-01", "day=2024-05-02", "day=2024-05-03"]


def test_partitions_may_be_dates(settings: Mapping[str, Any], hive: Hive) -> None:
    table = f"dates_{uuid4().hex}"
    hive.execute(
        f"CREATE TABLE {table} (id BIGINT, ts TIMESTAMP, v VARCHAR(3)) PARTITIONED BY (day DATE) STORED AS ORC",
        f"INSERT INTO {table} VALUES (1, TIMESTAMP'2024-05-01 23:59:59.999999', 'a', DATE'2024-05-01'), "
        "(2, TIMESTAMP'2024-05-02 00:00:00', 'b', DATE'2024-05-02'), "
        "(3, TIMESTAMP'2024-05-02 00:00:01', 'c', DATE'2024-05-01')",
    )
    found = read(settings, Span("ts", MAY + DAY, MAY + 2 * DAY), table=table, partition_column="day")
    assert (found["id"].to_pylist(), found["v"].to_pylist()) == (
        [2],
        ["b"],
    )  # and not 3, whose partition is that of another day


VALUES = """
    SELECT TINYINT(-1) AS tiny, SMALLINT(300) AS small, CAST(1.20 AS DECIMAL(20,2)) AS money,
        CAST('a ' AS CHAR(3)) AS c, CAST('b' AS VARCHAR(3)) AS v, NULL AS nothing,
        array(true, NULL) AS bools, array(double('NaN'), double('-Infinity'), -0.0D, 1e-320D) AS doubles,
        array(float('0.1'), float('1.4E-45')) AS floats, array(X'00FF') AS bytes, array(DATE'0001-01-01') AS days,
        array(TIMESTAMP'1905-03-01 04:05:06.000007', NULL) AS times, array(TIMESTAMP_NTZ'1969-12-31 23:59:59') AS naive,
        array('\\\\ " \\n', '') AS texts, TIMESTAMP'2024-05-01 00:00:00' AS ts
    UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, array(), NULL, NULL, NULL, NULL, NULL, NULL, NULL
"""


def test_both_ways_give_the_same_values(hive: Hive) -> None:
    one, other = (
        read(settings, query=VALUES).sort_by("tiny") for settings in (hive.through_spark, hive.through_server)
    )
    assert str(one.to_pylist()) == str(other.to_pylist())  # as text, in which NaN is NaN and -0.0 is not 0.0
    assert one["money"].to_pylist() == [Decimal("1.20"), None]
    assert one["doubles"].to_pylist()[0][2:] == [-0.0, 1e-320]
    assert one["times"].to_pylist()[0] == [datetime(1905, 3, 1, 4, 5, 6, 7, tzinfo=UTC), None]
    assert one["texts"].to_pylist()[0] == ['\\ " \n', ""]
    assert one["ts"].to_pylist()[0] == datetime(2024, 5, 1, tzinfo=UTC)


def test_a_query_that_fails_half_way_is_an_error(settings: Mapping[str, Any]) -> None:
    query = "SELECT IF(id = 150000, raise_error('gone wrong'), id) AS id, timestamp_seconds(id) AS ts FROM "
    source = HiveSource("trips", connection="hive", timestamp_field="ts", query=f"{query} range(0, 200000, 1, 4)")
    with open_hive(source, settings) as table:
        batches = table.batches(["id"], EVERYTHING)
        assert next(batches).num_rows > 0
        with pytest.raises(SourceError, match="gone wrong"):
            list(batches)
    with pytest.raises(SourceError, match="`nope`"):
        read(settings, query="SELECT nope FROM range(1)")
    with pytest.raises(SourceError, match="PARSE_SYNTAX_ERROR"):
        read(settings, query="SELECT 1 +")


def test_a_database_that_is_not_there_is_named(settings: Mapping[str, Any]) -> None:
    with pytest.raises(SourceError, match="no database 'defolt'; did you mean 'default'"):
        read(settings, table="defolt.trips")


def test_a_map_is_refused_and_the_rest_is_read(settings: Mapping[str, Any]) -> None:
    source = HiveSource("trips", connection="hive", query="SELECT 1 AS id, map('a', 1) AS m", timestamp_field="ts")
    with open_hive(source, settings) as table:
        assert [batch.to_pydict() for batch in table.batches(["id"], EVERYTHING)] == [{"id": [1]}]
        with pytest.raises(SourceError, match=r"'m' is map<string,int>.*to_json"):
            list(table.batches(["m"], EVERYTHING))


def test_a_running_session_is_used_and_left_as_it_is(hive: Hive) -> None:
    from pyspark.sql import SparkSession

    read(hive.through_spark, query="SELECT 1 AS id")
    users = SparkSession.active()
    users.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        found = read(hive.through_spark, query="SELECT TIMESTAMP'2024-05-01 00:00:00' AS ts")
        assert found["ts"].to_pylist() == [datetime(2024, 5, 1, tzinfo=UTC)]
        assert SparkSession.active() is users
        assert users.conf.get("spark.sql.session.timeZone") == "America/New_York"
    finally:
        users.conf.unset("spark.sql.session.timeZone")
    other = {**hive.through_spark, "metastore_uris": "thrift://127.0.0.1:1"}
    with pytest.raises(SourceError, match=f"already runs with .*uris = 'thrift://127.0.0.1:{hive.metastore_port}'"):
        read(other, query="SELECT 1 AS id")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"port": 1}, r"HiveServer2 127.0.0.1:1 does not answer \(auth: PLAIN\).*is it running there"),
        ({"user": "me", "password": ""}, "does not answer.*Error validating the login.*user and password"),
        ({"database": "nowhere"}, "nowhere"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_server_that_lets_nobody_in(hive: Hive, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SourceError, match=problem):
        read({**hive.through_server, **change}, query="SELECT 1 AS id")
    gc.collect()  # impyla leaves the socket of a login that was refused to the garbage collector
