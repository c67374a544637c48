"""Runs the emulator local-bigquery without a network; started by `tests.servers.bigquery`, in its own environment."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import duckdb

EXTENSIONS = ("icu", "json", "ducklake")


def install(folder: Path) -> None:
    """Put the extensions that came as packages where DuckDB looks for them, instead of downloading them."""
    platform = duckdb.execute("PRAGMA platform").fetchall()[0][0]
    place = folder / f"v{duckdb.__version__}" / platform
    place.mkdir(parents=True)
    for name in EXTENSIONS:
        spec = importlib.util.find_spec(f"duckdb_extension_{name}")
        assert spec is not None
        assert spec.origin is not None
        (file,) = Path(spec.origin).parent.rglob("*.duckdb_extension")
        shutil.copy(file, place)


def connect(real: Any, folder: Path, database: str = ":memory:", *, config: Any = None, **options: Any) -> Any:
    """Open a database with the extensions loaded, and only then set its time zone, which needs one of them."""
    settings = {**(config or {}), "extension_directory": str(folder)}
    zone = settings.pop("TimeZone", "UTC")
    connection = real(database, config=settings, **options)
    for name in EXTENSIONS:
        connection.execute(f"LOAD {name}")
    connection.execute(f"SET TimeZone = '{zone}'")
    return connection


def main() -> None:
    """Serve until ended; the first argument is a scratch folder, the others are the emulator's."""
    folder = Path(sys.argv.pop(1)) / "extensions"
    install(folder)
    duckdb.connect = functools.partial(connect, duckdb.connect, folder)
    from local_bigquery import cli  # type: ignore[import-not-found]
    from local_bigquery.engine import database  # type: ignore[import-not-found]

    # Its geography functions need an extension of 80 MB.
    database.FUNCTIONS = [path for path in database.FUNCTIONS if path.stem != "geography"]
    cli.main(sys.argv[1:])


if __name__ == "__main__":
    main()
