"""The one place that opens DuckDB: in UTC, within a memory limit, never reaching for the network."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from featurestore.errors import OfflineStoreError

DEFAULT_MEMORY_LIMIT = "2GB"
_LOCK = threading.Lock()
_shared: dict[str, Any] = {}
_GLOB = re.compile(r"([\[*?])")


def connect(
    *,
    memory_limit: str = DEFAULT_MEMORY_LIMIT,
    temp_directory: Path | None = None,
    threads: int | None = None,
) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB in which times are UTC and text cannot reach Python variables or the network.

    Parameters
    ----------
    memory_limit
        Beyond it DuckDB spills to disk; a number with a unit, such as ``"2GB"``.
    temp_directory
        Folder for spilled data; each connection makes, and at its end removes, its own folder inside it. By default
        the system's temporary folder.
    threads
        By default the number of CPUs.

    Raises
    ------
    OfflineStoreError
        Where a setting is refused.
    """
    spill = (temp_directory or Path(tempfile.gettempdir())) / f"featurestore-{os.getpid()}-{uuid.uuid4().hex}"
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory_limit,
        "temp_directory": str(spill),
        "threads": threads or os.cpu_count() or 2,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,
    }
    with engine_errors("the embedded engine could not be opened"):
        connection = duckdb.connect(config=config)
        # Not part of the config: there it makes DuckDB look for an extension.
        connection.execute("SET TimeZone = 'UTC'")
    return connection


def session() -> duckdb.DuckDBPyConnection:
    """Open a session in this process's DuckDB, which is made once with the defaults of `connect`.

    Sessions share its threads and memory limit; temporary tables and registered objects are a session's own. A forked
    process makes a DuckDB of its own.
    """
    with _LOCK:
        if _shared.get("process") != os.getpid():
            _shared.update(process=os.getpid(), connection=connect())
        with engine_errors("the embedded engine could not be opened"):
            cursor: duckdb.DuckDBPyConnection = _shared["connection"].cursor()
            cursor.execute("SET TimeZone = 'UTC'")
    return cursor


@contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """Turn DuckDB's errors into an `OfflineStoreError` that starts with ``what``."""
    try:
        yield
    except duckdb.Error as error:
        raise OfflineStoreError(f"{what}: {describe(error)}") from error


def describe(error: duckdb.Error) -> str:
    """Return what DuckDB says, without its advice to users of DuckDB."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


def literal_path(path: str | Path) -> str:
    """Return a path as DuckDB's file functions take it when its brackets and stars are no glob."""
    return _GLOB.sub(r"[\1]", str(path))


def identifier(name: str) -> str:
    """Return a column's name quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'
