"""SQL sources on a real PostgreSQL and on SQLite: types, ranges, rights, failures, and the whole path."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa

from featurestore import FeatureStore
from featurestore.cli.main import run
from featurestore.clock import to_micros
from featurestore.definitions import SqlSource
from featurestore.errors import FeatureStoreError, MissingExtraError, SourceError
from featurestore.materialize.readers import Rejected, SourceReader, Wanted
from featurestore.types import Array, Float64, Int64, String, UnixTimestamp, ValueType
from tests.servers.postgres import PASSWORD, PostgresServer

DAY = 86_400_000_000


class Database:
    """A schema of its own in the server."""

    def __init__(self, server: PostgresServer, connection: psycopg.Connection) -> None:
        self.server = server
        self.schema = f"s{uuid4().hex}"
        self.connection = connection
        self.readers = ExitStack()
        self.run(f"CREATE SCHEMA {self.schema}; SET search_path TO {self.schema}")

    def run(self, statements: str) -> None:
        self.connection.execute(statements.encode())

    def reader(self, table: str = "", *, query: str = "", url: str = "", **options: Any) -> SourceReader:
        options = {"timestamp_field": "ts", **options}
        place = f"{self.schema}.{table}" if table else ""
        source = SqlSource("trips", connection="pg", table=place, query=query, **options)
        return self.readers.enter_context(SourceReader(source, Path(), {"url": url or self.server.url()}))


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    with postgres.connect() as connection:
        found = Database(postgres, connection)
        yield found
        found.readers.close()
        found.run(f"DROP SCHEMA {found.schema} CASCADE")


def read(
    reader: SourceReader, columns: dict[str, ValueType], start: int | None = None, end: int | None = None
) -> list[Any]:
    """Return the rows, sorted as text, and close the reader."""
    wanted = [Wanted(name, name, dtype) for name, dtype in columns.items()]
    with reader:
        chunks = list(reader.typed(wanted, fail, start, end))
    rows = [row for chunk in chunks for row in zip(*(column.to_pylist() for column in chunk.columns), strict=True)]
    return sorted(rows, key=str)


def fail(rejected: Rejected) -> None:
    raise AssertionError(rejected)


TYPES = {
    "smallint": ("-32768", Int64, -32768),
    "numeric(18,0)": ("999999999999999999", Int64, 999999999999999999),
    "numeric(19,0)": ("9999999999999999999", String, "9999999999999999999"),
    "numeric(10,9)": ("0.000000001", String, "0.000000001"),
    "numeric(4,2)": ("1.5", String, "1.50"),
    "numeric": (
        "12345678901234567890.000000000000000000000001",
        String,
        "12345678901234567890.000000000000000000000001",
    ),
    "varchar(5)": ("'é'", String, "é"),
    "char(3)": ("'a'", String, "a  "),
    "uuid": ("'00000000-0000-0000-0000-00000000000A'", String, "00000000-0000-0000-0000-00000000000a"),
    "json": ("""'{"b":  1,"a": 1.10}'""", String, '{"b":  1,"a": 1.10}'),
    "jsonb": ("""'{"b":  1,"a": 1.10}'""", String, '{"a": 1.10, "b": 1}'),
    "interval": ("'1 day 2 seconds'", String, "1 day 00:00:02"),
    "inet": ("'10.0.0.1'", String, "10.0.0.1/32"),
    "time": ("'12:30:00.000001'", String, "12:30:00.000001"),
    "mood": ("'sad'", String, "sad"),
    "whole": ("7", Int64, 7),
    "numeric[]": ("'{1.5,2}'", String, "{1.5,2}"),
    "timestamptz[]": (
        "'{2024-05-01 00:00:00+02,null}'",
        Array(UnixTimestamp),
        [datetime(2024, 4, 30, 22, tzinfo=UTC), None],
    ),
    "date[]": ("'{2024-05-01}'", Array(UnixTimestamp), [datetime(2024, 5, 1, tzinfo=UTC)]),
}


def test_every_type_has_an_exact_place_or_its_text(database: Database) -> None:
    database.run("CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN whole AS bigint")
    columns = ", ".join(f"c{place} {name}" for place, name in enumerate(TYPES))
    values = ", ".join(text for text, _, _ in TYPES.values())
    database.run(f"CREATE TABLE t (ts timestamp, {columns}); INSERT INTO t VALUES (NULL, {values})")
    declared = {f"c{place}": dtype for place, (_, dtype, _) in enumerate(TYPES.values())}
    [row] = read(database.reader("t"), declared)
    assert dict(zip(TYPES, row, strict=True)) == {name: value for name, (_, _, value) in TYPES.items()}
    [[record]] = database.reader("t").records(fail)
    assert record["c4"] == Decimal("1.50")


@pytest.mark.parametrize(
    ("kind", "value", "dtype", "message"),
    [
        ("numeric(4,2)", "1.5", Float64, r"'x' is decimal128\(4, 2\).*declared float64.*declare it as String"),
        ("numeric(4,2)", "'NaN'", String, "the column 'x' of .* holds a value that is not of its type"),
        ("timestamptz", "'infinity'", UnixTimestamp, "too large"),
        ("date", "'20000-01-01'", UnixTimestamp, "too large"),
        ("bigint[]", "'{{1},{2}}'", Array(Int64), "the column 'x' of .* holds a value that is not of its type"),
        ("text", "'1'", Int64, "'x' is string .*declared int64"),
    ],
)
def test_what_has_no_exact_place_is_refused(
    database: Database, kind: str, value: str, dtype: ValueType, message: str
) -> None:
    database.run(f"CREATE TABLE t (ts timestamp, x {kind}); INSERT INTO t VALUES (NULL, {value})")
    with pytest.raises(SourceError, match=rf"SqlSource 'trips'.*{message}"):
        read(database.reader("t"), {"x": dtype})


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_a_range_is_pushed_down_to_an_index(database: Database, kind: str) -> None:
    database.run(f"""
        CREATE TABLE t (id bigint, ts {kind}); CREATE INDEX ON t (ts);
        INSERT INTO t SELECT n, DATE '2024-05-01' + n FROM generate_series(-2, 3) n; INSERT INTO t VALUES (9, NULL)
    """)
    start = to_micros(datetime(2024, 5, 1, tzinfo=UTC))
    statements: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: Any) -> None:
        statements.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        assert read(database.reader("t"), {"id": Int64}, start, start + 2 * DAY) == [(0,), (1,), (9,)]
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    if kind == "date":  # the bounds within a day take in the whole day, on either side
        assert read(database.reader("t"), {"id": Int64}, start + 1, start + DAY + 1) == [(0,), (1,), (9,)]
    database.run("SET enable_seqscan = off")
    plan = database.connection.execute(f"EXPLAIN {statements[-1][0]}".encode(), statements[-1][1]).fetchall()
    assert "Seq Scan" not in str(plan)
    assert str(plan).count("Index Cond") == 2


def test_naive_times_are_utc_whatever_the_servers_zone(database: Database) -> None:
    database.run("CREATE TABLE t (ts timestamp, z timestamptz, r tstzrange); SET TIME ZONE 'Asia/Tokyo'")
    database.run("INSERT INTO t VALUES ('2024-05-01 12:00', '2024-05-01 12:00', '[2024-05-01 12:00,)')")
    database.run("INSERT INTO t VALUES (NULL, '9999-12-31 23:59:59.999999Z', NULL)")
    url = f"{database.server.url()}?options=-c%20timezone%3DAsia/Tokyo"
    found = read(database.reader("t", url=url), {"ts": UnixTimestamp, "z": UnixTimestamp, "r": String})
    assert found == [
        (None, datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), None),
        (datetime(2024, 5, 1, 12, tzinfo=UTC), datetime(2024, 5, 1, 3, tzinfo=UTC), '["2024-05-01 03:00:00+00",)'),
    ]


def test_partitions_and_views(database: Database) -> None:
    database.run("""
        CREATE TABLE t (id bigint, ts timestamp) PARTITION BY RANGE (ts);
        CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM ('2024-05-02') TO ('2024-05-03');
        CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM ('2024-05-01') TO ('2024-05-02');
        INSERT INTO t VALUES (1, '2024-05-01'), (2, '2024-05-02'); CREATE VIEW v AS SELECT * FROM t
    """)
    with database.reader("t") as reader:
        assert [part.name.rpartition(".")[2] for part in reader.partitions()] == ["t_1", "t_2"]
    assert read(database.reader("v"), {"id": Int64}) == [(1,), (2,)]
    assert database.reader("v").partitions() == database.reader(query="SELECT 1").partitions() == []


def test_names_of_any_kind_are_quoted(database: Database) -> None:
    database.run('CREATE TABLE "Tri""p %s" (ts timestamp, "a %(b)s:c" bigint)')
    database.run('INSERT INTO "Tri""p %s" VALUES (NULL, 5)')
    assert read(database.reader('Tri"p %s'), {"a %(b)s:c": Int64}) == [(5,)]


def test_a_query_that_is_wrong_or_ambiguous(database: Database) -> None:
    for query, message in (
        ("SELEC 1", "the query cannot be read: syntax error"),
        ("SELECT now() AS ts, 1 AS x, 2 AS x", "'x' more than once"),
        ("DELETE FROM t RETURNING *", "the query cannot be read"),
        ("SELECT now() AS ts, 1 / (n - 2) AS x FROM generate_series(1, 3) n", "division by zero"),
    ):
        with pytest.raises(SourceError, match=f"SqlSource 'trips'.*{message}"):
            list(database.reader(query=query).records(fail))


def test_who_may_not_read_is_told_so(database: Database) -> None:
    role = f"role_{uuid4().hex}"
    database.run(f"CREATE TABLE t (ts timestamp); CREATE ROLE {role} LOGIN PASSWORD 'x'")
    database.run(f"GRANT USAGE ON SCHEMA {database.schema} TO {role}")
    try:
        with pytest.raises(
            SourceError, match=rf"table '.*\.t' may not be read by '{role}': permission denied.*GRANT SELECT"
        ):
            database.reader("t", url=database.server.url(role, "x")).schema()
    finally:
        database.run(f"REVOKE ALL ON SCHEMA {database.schema} FROM {role}; DROP ROLE {role}")


def test_no_connection_and_no_password_in_what_is_said(database: Database) -> None:
    url = database.server.url()
    wrong = {
        database.server.url(password="wrong " + PASSWORD): "cannot connect to .*password authentication failed",
        url.replace(str(database.server.port), "1"): "cannot connect to .*127.0.0.1:1/",
        url.replace("/postgres", "/nowhere"): 'database "nowhere" does not exist',
        f"{url}?no_such_option=1": "no_such_option",
        url.replace("postgresql://", "postgresql//"): "is not one of SQLAlchemy",
        url.replace("postgresql://", "oracel://"): "does not know 'oracel'",
    }
    for given, message in wrong.items():
        with pytest.raises(FeatureStoreError, match=f"SqlSource 'trips'.*{message}") as caught:
            database.reader("t", url=given).schema()
        assert "secret" in PASSWORD
        assert "secret" not in str(caught.value)


def test_a_driver_that_is_not_installed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"'psycopg'.*featurestore\[postgres\]"):
        database.reader("t")
    with pytest.raises(SourceError, match="needs the package 'MySQLdb'"):
        database.reader("t", url="mysql://u@h/d")


def test_settings_that_are_not_there_or_not_known() -> None:
    source = SqlSource("trips", connection="pg", table="t", timestamp_field="ts")
    with pytest.raises(SourceError, match=r"connections\.pg in feature_store\.yaml has no url"):
        SourceReader(source, Path())
    with pytest.raises(SourceError, match="unknown setting 'urll'; did you mean 'url'"):
        SourceReader(source, Path(), {"urll": "x"})


def test_a_reader_sees_one_state_until_it_is_closed(database: Database) -> None:
    database.run("CREATE TABLE t (id bigint, ts timestamp); INSERT INTO t VALUES (1, '2024-05-01'), (2, '2024-05-02')")
    middle = to_micros(datetime(2024, 5, 2, tzinfo=UTC))
    with database.reader("t") as reader:
        first = [
            chunk.columns[0].to_pylist() for chunk in reader.typed([Wanted("id", "id", Int64)], fail, None, middle)
        ]
        database.run("UPDATE t SET ts = '2024-04-01' WHERE id = 2")
        rest = [chunk.columns[0].to_pylist() for chunk in reader.typed([Wanted("id", "id", Int64)], fail, middle, None)]
    assert (first, rest) == ([[1]], [[2]])


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("query", ["", "SELECT * FROM v WHERE ':x' <> '%s'"])
def test_a_table_that_is_being_refilled_is_not_found_empty(database: Database, query: str, late: bool) -> None:
    database.run("CREATE TABLE t (id bigint, ts timestamp); INSERT INTO t VALUES (1, now()); CREATE VIEW v AS TABLE t")
    table, query = f"{database.schema}.t", query.replace("FROM v", f"FROM {database.schema}.v")
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    with database.server.connect() as writer, ThreadPoolExecutor(1) as pool:
        writer.execute("SET lock_timeout = '5s'")  # or a mistake here would wait for ever

        def truncate(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("SET LOCAL"):  # just after the reader has found out what it is to read
                writer.execute(f"TRUNCATE {table}".encode())

        with writer.transaction():
            if not late:
                truncate(None, None, "SET LOCAL")
            else:
                sa.event.listen(sa.Engine, "before_cursor_execute", truncate)
            found = pool.submit(read, database.reader("" if query else "t", query=query), {"id": Int64})
            while database.connection.execute(waiting, [table]).fetchall() == [(0,)]:
                assert not found.done()
            if late:
                sa.event.remove(sa.Engine, "before_cursor_execute", truncate)
            writer.execute(f"INSERT INTO {table} VALUES (2, now()), (3, now())".encode())
        assert found.result() == [(2,), (3,)]


def test_a_connection_that_breaks_half_way_is_an_error(database: Database) -> None:
    database.run(
        "CREATE TABLE t (id bigint, ts timestamp); INSERT INTO t SELECT n, now() FROM generate_series(1, 50000) n"
    )
    reader = database.reader("t", url=f"{database.server.url()}?application_name={database.schema}")
    chunks = reader.typed([Wanted("id", "id", Int64)], fail)
    next(chunks)
    database.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{database.schema}'")
    with pytest.raises(SourceError, match=r"SqlSource 'trips': .*cannot be read: .*(terminat|closed)"):
        list(chunks)


def lite(path: Path, table: str = "t", query: str = "", url: str = "") -> SourceReader:
    source = SqlSource("trips", connection="lite", table="" if query else table, query=query, timestamp_field="ts")
    return SourceReader(source, Path(), {"url": url or f"sqlite:///{path}"})


def test_sqlite_values_that_are_not_of_the_columns_type(tmp_path: Path) -> None:
    path = tmp_path / "lite.db"
    wrong = [
        ("INTEGER", "'a'"),
        ("BOOLEAN", "2"),
        ("TEXT", "x'00'"),
        ("TIMESTAMP", "'May 1'"),
        ("BLOB", "'a'"),
        ("REAL", "'a'"),
    ]
    columns = ", ".join(f"c{place} {kind}" for place, (kind, _) in enumerate(wrong))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE t (ts TIMESTAMP, {columns}, n NUMERIC)")
        database.execute("INSERT INTO t (ts, n) VALUES ('2024-05-01T12:00:00+02:00', 1.5), ('2024-05-01', 2)")
        for place, (_, value) in enumerate(wrong):
            database.execute(f"INSERT INTO t (c{place}) VALUES ({value})")
    types = {column.name: column.dtype for column in lite(path).schema()}
    for place in range(len(wrong)):
        with pytest.raises(SourceError, match=f"SqlSource 'trips'.*(c{place}|isoformat)"):
            read(lite(path), {f"c{place}": types[f"c{place}"] or String})
    times = read(lite(path, query="SELECT ts, n FROM t WHERE n IS NOT NULL"), {"ts": UnixTimestamp, "n": Float64})
    assert times == [(datetime(2024, 5, 1, 10, tzinfo=UTC), 1.5), (datetime(2024, 5, 1, tzinfo=UTC), 2.0)][::-1]


def test_an_sqlite_file_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no SQLite file .*none\.db"):
        lite(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


FEATURES = """
from featurestore import Entity, FeatureView, Field, SqlSource
from featurestore.types import Float64, Int64

driver = Entity(name="driver", join_keys=["driver_id"], value_type=Int64)
trips = SqlSource(name="trips", connection="pg", table="{schema}.trips", timestamp_field="happened")
fares = FeatureView(name="fares", entities=[driver], schema=[Field("fare", {dtype})], source=trips)
"""


def test_from_a_database_to_a_served_value(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database.run("CREATE TABLE trips (driver_id integer, happened timestamptz, fare real)")
    database.run("INSERT INTO trips VALUES (1, '2024-05-01 12:00Z', 0.1), (1, '2024-05-02 12:00Z', 0.2), (2, NULL, 1)")
    monkeypatch.setenv("TRIPS_URL", database.server.url())
    (tmp_path / "feature_store.yaml").write_text("project: rides\nconnections:\n  pg:\n    url: ${TRIPS_URL}\n")
    (tmp_path / "features.py").write_text(FEATURES.format(schema=database.schema, dtype="Float64"))
    at = ["-C", str(tmp_path)]
    assert run([*at, "source", "check"]) == 0
    assert "ok    trips: " in (said := capsys.readouterr().out)
    assert "3 rows sampled; driver_id, fare, happened as declared" in said
    assert run([*at, "apply"]) == 0
    assert run([*at, "materialize", "2024-05-01", "2024-05-03"]) == 0
    with closing(FeatureStore(repo_path=tmp_path)) as store:
        at_noon = datetime(2024, 5, 3, tzinfo=UTC)
        answer = store.get_online_features(["fares:fare"], [{"driver_id": 1}], now=at_noon).to_dict()
    assert answer["fare"] == [pa.scalar(0.2, pa.float32()).as_py()]

    (tmp_path / "features.py").write_text(FEATURES.format(schema=database.schema, dtype="Int64"))
    capsys.readouterr()
    assert run([*at, "source", "check", "trips", "--json"]) == 1
    [finding] = json.loads(capsys.readouterr().out)
    assert "'fare' is float" in finding["error"]
    assert "declared int64" in finding["error"]
