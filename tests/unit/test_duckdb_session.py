"""Connections to the embedded engine are in UTC, bounded, and closed to the outside."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.errors import OfflineStoreError
from featurestore.offline.duckdb.session import connect, engine_errors, identifier, literal_path


def setting(connection: duckdb.DuckDBPyConnection, name: str) -> object:
    row = connection.execute("SELECT value FROM duckdb_settings() WHERE name = $1", [name]).fetchone()
    assert row is not None
    return row[0]


def test_times_are_utc_and_settings_are_applied(tmp_path: Path) -> None:
    with connect(memory_limit="200MB", temp_directory=tmp_path, threads=1) as connection:
        assert setting(connection, "TimeZone") == "UTC"
        assert setting(connection, "threads") == "1"
        assert str(setting(connection, "memory_limit")).startswith("190")
        assert str(setting(connection, "temp_directory")).startswith(str(tmp_path))
        assert connection.execute("SELECT epoch_us(TIMESTAMPTZ '1969-12-31 23:59:59.999999')").fetchone() == (-1,)


def test_no_extension_is_loaded_and_no_variable_is_read() -> None:
    secret = pa.table({"a": [1]})
    with connect() as connection:
        assert setting(connection, "autoload_known_extensions") == "false"
        assert setting(connection, "autoinstall_known_extensions") == "false"
        with pytest.raises(duckdb.CatalogException):
            connection.execute("SELECT * FROM secret")
    assert secret.num_rows == 1


def test_spilled_data_is_removed_and_two_connections_do_not_share_it(tmp_path: Path) -> None:
    first = connect(memory_limit="60MB", temp_directory=tmp_path, threads=1)
    second = connect(temp_directory=tmp_path)
    assert setting(first, "temp_directory") != setting(second, "temp_directory")

    first.execute("CREATE TEMP TABLE big AS SELECT i, hash(i) || repeat('x', 30) AS h FROM range(2000000) t(i)")
    assert list(tmp_path.iterdir())
    first.close()
    assert not list(tmp_path.iterdir())


def test_errors_are_ours() -> None:
    expected = pytest.raises(OfflineStoreError, match=r"^reading x: Catalog Error: .*nothing")
    with connect() as connection, expected, engine_errors("reading x"):
        connection.execute("SELECT * FROM nothing")
    with pytest.raises(OfflineStoreError, match="could not be opened"):
        connect(memory_limit="many")


@pytest.mark.parametrize("name", ["a*b", "a?b", "a[b]", "plain", "a[*]", "wei'rd"])
def test_paths_are_literal(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with connect() as connection:
        files = [literal_path(path)]
        assert connection.execute("SELECT a FROM read_parquet($1)", [files]).fetchall() == [(1,)]


def test_identifiers_are_quoted() -> None:
    with connect() as connection:
        name = 'a "b"; DROP'
        assert connection.sql(f"SELECT 1 AS {identifier(name)}").columns == [name]
