"""Tables of every kind of source, written around the readers: files here and in S3, SQLite and PostgreSQL."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import sqlite3
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake
from psycopg.errors import LockNotAvailable
from pyarrow import fs

from featurestore.definitions import FileSource, SqlSource
from featurestore.testing.source_suite import SourceTables
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server


class Files(SourceTables):
    """Files below a folder, or below a bucket's key: a table is a file, or a folder for Delta."""

    ending: ClassVar[str]
    sees_one_state = True

    def __init__(self, root: str, server: S3Server | None = None) -> None:
        self.root = root
        self.server = server
        self.files = fs.LocalFileSystem() if server is None else server.filesystem()

    def path(self, name: str) -> str:
        return f"{self.root}/{name}.{self.ending}"

    def source(self, name: str, **options: Any) -> FileSource:
        path = self.path(name) if self.server is None else f"s3://{self.path(name)}"
        return FileSource(name, path=path, connection="s3" if self.server else "", **options)

    def settings(self) -> Mapping[str, Any]:
        return self.server.settings if self.server is not None else {}

    def write(self, name: str, table: pa.Table) -> None:
        with self.files.open_output_stream(self.path(name)) as stream:
            stream.write(self.content(table))

    @abstractmethod
    def content(self, table: pa.Table) -> bytes: ...


class Parquet(Files):
    ending = "parquet"

    def content(self, table: pa.Table) -> bytes:
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=50_000)
        return sink.getvalue()


class Csv(Files):
    ending = "csv"
    is_typed = False
    cannot_hold: ClassVar[Mapping[str, str]] = {"empty_bytes": "an empty field is a null"}

    def content(self, table: pa.Table) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(table.column_names)
        for row in table.to_pylist():
            text.write(",".join(map(self.cell, row.values())) + "\n")
        return text.getvalue().encode()

    def cell(self, value: Any) -> str:
        """Text is quoted, so that an empty one is not a null."""
        if value is None:
            return ""
        if isinstance(value, str):
            return '"' + value.replace('"', '""') + '"'
        return self.cell(json.dumps(value)) if isinstance(value, list) else str(plain(value))


class Json(Files):
    ending = "jsonl"
    many = 25_000
    is_typed = False
    cannot_hold: ClassVar[Mapping[str, str]] = dict.fromkeys(("nans", "infinities"), "JSON has no such number")

    def content(self, table: pa.Table) -> bytes:
        return "".join(json.dumps({k: plain(v) for k, v in row.items()}) + "\n" for row in table.to_pylist()).encode()


class Delta(Files):
    ending = "delta"

    def write(self, name: str, table: pa.Table) -> None:
        target, options = self.path(name), None
        if self.server is not None:
            target = f"s3://{target}"
            options = {
                "AWS_ENDPOINT_URL": self.server.endpoint,
                "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": "eu-west-1",
                "AWS_ACCESS_KEY_ID": str(self.server.settings["access_key_id"]),
                "AWS_SECRET_ACCESS_KEY": str(self.server.settings["secret_access_key"]),
            }
        write_deltalake(target, table, mode="overwrite", schema_mode="overwrite", storage_options=options)

    def content(self, table: pa.Table) -> bytes:
        raise NotImplementedError

    def source(self, name: str, **options: Any) -> FileSource:
        return super().source(name, file_format="delta", **options)


class Sqlite(SourceTables):
    """Tables of an SQLite file, whose values are written as SQLAlchemy writes them."""

    times = pa.timestamp("us")
    has_versions = False
    suggests_tables = True
    many = 25_000
    cannot_hold: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("int32s", "float32s", "vectors"), "its numbers have 64 bits"),
        **dict.fromkeys(("int_lists", "text_lists"), "it has no lists"),
        **dict.fromkeys(("times", "ancient_times", "last_times"), "its times have no zone"),
        "widened_float32s": "its numbers have 64 bits",
        "negative_zeros": "it keeps them as 0",
        "nans": "it keeps them as null",
    }
    types: ClassVar[Mapping[pa.DataType, str]] = {
        pa.bool_(): "BOOLEAN",
        pa.int32(): "INTEGER",
        pa.int64(): "BIGINT",
        pa.float64(): "REAL",
        pa.string(): "TEXT",
        pa.binary(): "BLOB",
        pa.timestamp("us"): "TIMESTAMP",
        pa.date32(): "DATE",
    }

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode=WAL")  # so that one can write while another reads

    def source(self, name: str, **options: Any) -> SqlSource:
        return SqlSource(name, connection="lite", table=name, **options)

    def settings(self) -> Mapping[str, Any]:
        return {"url": f"sqlite:///{self.path}"}

    def write(self, name: str, table: pa.Table) -> None:
        columns = ", ".join(f"{field.name} {self.types[field.type]}" for field in table.schema)
        self.run([f"DROP TABLE IF EXISTS {name}", f"CREATE TABLE {name} ({columns})"], name, table)

    def rewrite(self, name: str, table: pa.Table) -> None:
        self.run([f"DELETE FROM {name}"], name, table)

    def run(self, statements: list[str], name: str, table: pa.Table) -> None:
        rows = [[str(value) if isinstance(value, date) else value for value in row] for row in rows_of(table)]
        with closing(sqlite3.connect(self.path)) as database, database:
            for statement in statements:
                database.execute(statement)
            database.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * table.num_columns)})", rows)


class SqliteQuery(Sqlite):
    suggests_tables = False

    def source(self, name: str, **options: Any) -> SqlSource:
        return SqlSource(name, connection="lite", query=f"SELECT * FROM {name} WHERE ':x' <> '%s';", **options)


class Postgres(SourceTables):
    """Tables of a schema of its own."""

    has_versions = False
    sees_one_state = True
    suggests_tables = True
    many = 25_000
    types: ClassVar[Mapping[pa.DataType, str]] = {
        pa.bool_(): "boolean",
        pa.int32(): "integer",
        pa.int64(): "bigint",
        pa.float32(): "real",
        pa.float64(): "double precision",
        pa.string(): "text",
        pa.binary(): "bytea",
        pa.timestamp("us", "UTC"): "timestamptz",
        pa.timestamp("us"): "timestamp",
        pa.date32(): "date",
        pa.list_(pa.int64()): "bigint[]",
        pa.list_(pa.string()): "text[]",
        pa.list_(pa.float32()): "real[]",
    }

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.schema = f"Schema {uuid4().hex}"
        with server.connect() as connection:
            connection.execute(f'CREATE SCHEMA "{self.schema}"')

    def source(self, name: str, **options: Any) -> SqlSource:
        return SqlSource(name, connection="pg", table=f"{self.schema}.{name}", **options)

    def settings(self) -> Mapping[str, Any]:
        return {"url": self.server.url()}

    def write(self, name: str, table: pa.Table) -> None:
        columns = ", ".join(f'"{field.name}" {self.types[field.type]}' for field in table.schema)
        place = f'"{self.schema}"."{name}"'
        self.run([f"DROP TABLE IF EXISTS {place}", f"CREATE TABLE {place} ({columns})"], place, table)

    def try_write(self, name: str, table: pa.Table) -> bool:
        try:
            self.write(name, table)
        except LockNotAvailable:
            return False
        return True

    def rewrite(self, name: str, table: pa.Table) -> None:
        place = f'"{self.schema}"."{name}"'
        self.run([f"DELETE FROM {place}"], place, table)

    def run(self, statements: list[str], place: str, table: pa.Table) -> None:
        with self.server.connect() as connection, connection.transaction(), connection.cursor() as cursor:
            for statement in ("SET lock_timeout = '100ms'", *statements):
                cursor.execute(statement)
            with cursor.copy(f"COPY {place} FROM STDIN") as copy:
                for row in rows_of(table):
                    copy.write_row(row)

    def drop(self) -> None:
        with self.server.connect() as connection:
            connection.execute(f'DROP SCHEMA "{self.schema}" CASCADE')


class PostgresQuery(Postgres):
    suggests_tables = False

    def source(self, name: str, **options: Any) -> SqlSource:
        query = f"WITH t AS (SELECT * FROM \"{self.schema}\".{name}) SELECT * FROM t WHERE ' :x' <> '%s' AND 1::int=1"
        return SqlSource(name, connection="pg", query=query, **options)


def rows_of(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def plain(value: Any) -> Any:
    """Return a value as text formats spell it."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return value
