"""How an SQL database is reached: from a connection's settings to an engine, and what is said where that fails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from featurestore.errors import MissingExtraError, SourceError
from featurestore.materialize.tables import check_settings

_CONNECT_SECONDS = 10


def open_engine(label: str, connection: str, settings: Mapping[str, Any]) -> sa.Engine:
    """Return an engine for a connection's ``url`` and ``connect_args``; nothing is connected yet.

    Raises
    ------
    SourceError
        Where a setting is missing or wrong.
    MissingExtraError
        Where the database's driver is not installed.
    """
    check_settings(label, connection, settings, ("url", "connect_args"))
    where = f"connections.{connection} in feature_store.yaml"
    try:
        url = sa.make_url(settings["url"])
    except KeyError:
        raise SourceError(f"{label}: {where} has no url; write, for example, url: postgresql://user@host/db") from None
    except (ArgumentError, ValueError):
        raise SourceError(
            f"{label}: the url of {where} is not one of SQLAlchemy; write, for example, postgresql://user@host/db"
        ) from None
    arguments = dict(settings.get("connect_args", {}))
    if url.drivername in {"postgres", "postgresql"}:
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername == "postgresql+psycopg" and "connect_timeout" not in url.query:
        arguments.setdefault("connect_timeout", _CONNECT_SECONDS)
    if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith((":memory:", "file:")):
        path = Path(url.database)
        if not path.exists():
            raise SourceError(f"{label}: there is no SQLite file {path.absolute()}; check the url of {where}")
    try:
        return sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args=arguments)
    except NoSuchModuleError:
        raise SourceError(
            f"{label}: SQLAlchemy does not know {url.drivername!r}; install its dialect, or correct the url of {where}"
        ) from None
    except ModuleNotFoundError as error:
        if url.drivername == "postgresql+psycopg":
            raise MissingExtraError.for_package("psycopg", "postgres") from error
        raise SourceError(
            f"{label}: {url.drivername!r} needs the package {error.name!r}: pip install {error.name}"
        ) from error
