"""Every batch source: one body of tests over files here and in S3, SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from featurestore.testing.source_suite import SourceSuite, SourceTables
from tests.conformance.source_tables import Csv, Delta, Json, Parquet, Postgres, PostgresQuery, Sqlite, SqliteQuery
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server


class TestParquet(SourceSuite):
    @pytest.fixture
    def tables(self, tmp_path: Path) -> SourceTables:
        return Parquet(str(tmp_path))


class TestCsv(SourceSuite):
    @pytest.fixture
    def tables(self, tmp_path: Path) -> SourceTables:
        return Csv(str(tmp_path))


class TestJson(SourceSuite):
    @pytest.fixture
    def tables(self, tmp_path: Path) -> SourceTables:
        return Json(str(tmp_path))


class TestDelta(SourceSuite):
    @pytest.fixture
    def tables(self, tmp_path: Path) -> SourceTables:
        return Delta(str(tmp_path))


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """Return a new bucket."""
    name = f"bucket-{uuid4().hex}"
    s3.filesystem().create_dir(name)
    return name


class TestParquetInS3(SourceSuite):
    @pytest.fixture
    def tables(self, s3: S3Server, bucket: str) -> SourceTables:
        return Parquet(f"{bucket}/some where", s3)


class TestCsvInS3(SourceSuite):
    @pytest.fixture
    def tables(self, s3: S3Server, bucket: str) -> SourceTables:
        return Csv(f"{bucket}/a", s3)


class TestJsonInS3(SourceSuite):
    @pytest.fixture
    def tables(self, s3: S3Server, bucket: str) -> SourceTables:
        return Json(f"{bucket}/a", s3)


class TestDeltaInS3(SourceSuite):
    @pytest.fixture
    def tables(self, s3: S3Server, bucket: str) -> SourceTables:
        return Delta(f"{bucket}/a", s3)


class TestSqlite(SourceSuite):
    @pytest.fixture
    def tables(self, tmp_path: Path) -> SourceTables:
        return Sqlite(tmp_path / "lite.db")


class TestSqliteQuery(SourceSuite):
    @pytest.fixture
    def tables(self, tmp_path: Path) -> SourceTables:
        return SqliteQuery(tmp_path / "lite.db")


class TestPostgres(SourceSuite):
    @pytest.fixture
    def tables(self, postgres: PostgresServer) -> Iterator[SourceTables]:
        tables = Postgres(postgres)
        yield tables
        tables.drop()


class TestPostgresQuery(SourceSuite):
    @pytest.fixture
    def tables(self, postgres: PostgresServer) -> Iterator[SourceTables]:
        tables = PostgresQuery(postgres)
        yield tables
        tables.drop()
