"""One SQL database that holds a registry: opened late, created whole, and honest about what is wrong with it."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Executable,
    Row,
    create_engine,
    exc,
    func,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.pool import NullPool, StaticPool

from featurestore.errors import RegistryError
from featurestore.registry.schema import METADATA, MIGRATED_FROM, SCHEMA, SCHEMA_VERSION

BUSY_SECONDS = 10.0
_CONNECT_SECONDS = 10


class ConflictError(RegistryError):
    """Another process wrote a row with the same key first; nothing of this transaction was written."""


class Database:
    """A registry's database: a SQLite file, or whatever a SQLAlchemy URL names.

    Nothing is touched before the first read or write. Reading a registry that does not exist yet finds nothing and
    creates nothing; the first write creates it. A SQLite file appears with all its tables at once, so an empty file
    is never a new registry and is refused as truncated.

    Parameters
    ----------
    location
        A path, or a URL such as ``postgresql+psycopg://user@host/registry``.
    busy_seconds
        How long to wait for another process's write.

    Notes
    -----
    A connection to a server is tried before it is used again, so that nothing but the statement under way fails when
    the server is restarted.
    """

    def __init__(self, location: str | Path, busy_seconds: float = BUSY_SECONDS) -> None:
        self._busy_seconds = busy_seconds
        self._url = str(location)
        self._engine_or_none: Engine | None = None
        self._ready = False
        self.path: Path | None = None
        self.label = f"the registry {self._url}"
        if "://" not in self._url:
            self.path = Path(location)
            return
        try:
            url = make_url(self._url)
        except exc.ArgumentError as error:
            raise RegistryError("the registry is neither a path nor a URL such as sqlite:///registry.db") from error
        self.label = f"the registry {url.render_as_string(hide_password=True)}"
        if url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}:
            self.path = Path(str(url.database))

    def fetch(self, statement: Executable) -> list[Row[Any]]:
        """Return the rows of a query; none where the registry does not exist yet."""
        with self._translated():
            if not self._open(create=False):
                return []
            with self._engine.connect() as connection:
                return list(connection.execute(statement).all())

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a connection in one transaction: committed at the end, rolled back on any error."""
        with self._translated():
            self._open(create=True)
            with self._engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    wait = f"{max(1, round(self._busy_seconds * 1000))}ms"
                    connection.execute(select(func.set_config("lock_timeout", wait, True)))
                yield connection

    def close(self) -> None:
        """Let go of pooled connections; the database may be used again."""
        if self._engine_or_none is not None:
            self._engine_or_none.dispose()

    @property
    def _engine(self) -> Engine:
        if self._engine_or_none is None:
            if self.path is not None:
                path = self.path
                self._engine_or_none = create_engine(
                    "sqlite://", creator=lambda: self._connect(path, "rw"), poolclass=NullPool
                )
            elif self._url.startswith("sqlite"):
                self._engine_or_none = create_engine(
                    self._url, poolclass=StaticPool, connect_args={"check_same_thread": False}
                )
            else:
                self._engine_or_none = self._remote_engine()
        return self._engine_or_none

    def _remote_engine(self) -> Engine:
        url = make_url(self._url)
        try:
            return create_engine(url, pool_pre_ping=True, connect_args=_connect_arguments(url))
        except ModuleNotFoundError as error:
            raise RegistryError(
                f"{self.label} needs the Python package {error.name!r}: pip install {error.name}"
            ) from error
        except exc.NoSuchModuleError as error:
            raise RegistryError(f"{self.label}: no such database type; use sqlite or postgresql") from error

    def _connect(self, path: Path, mode: str) -> sqlite3.Connection:
        # The mode keeps SQLite from creating an empty file where somebody removed the registry.
        return sqlite3.connect(
            f"file:{quote(str(path))}?mode={mode}", uri=True, timeout=self._busy_seconds, check_same_thread=False
        )

    def _open(self, *, create: bool) -> bool:
        """Check the schema once; return whether there is one, creating it where asked."""
        if self._ready:
            return True
        if self.path is not None and not self.path.exists():
            if not create:
                return False
            self._create_file(self.path)
        if self.path is not None and self.path.stat().st_size == 0:
            raise RegistryError(
                f"{self.label} is an empty file, so it was truncated: restore it from a backup, "
                "or delete it to start a new registry"
            )
        self._ready = self._check_schema(create=create)
        return self._ready

    def _check_schema(self, *, create: bool) -> bool:
        inspector = inspect(self._engine)
        if not inspector.has_table(SCHEMA.name):
            others = inspector.get_table_names() if self.path is not None else []
            if others:
                raise RegistryError(
                    f"{self.label} is a database of something else (it holds {', '.join(others[:3])}): "
                    "give the registry a file of its own"
                )
            if create:
                self._create_tables()
            return create
        with self._engine.connect() as connection:
            found = connection.execute(select(SCHEMA.c.version)).scalar()
        if found is not None and MIGRATED_FROM <= found < SCHEMA_VERSION:
            self._migrate(found)
        elif found != SCHEMA_VERSION:
            is_old = found is not None and found < SCHEMA_VERSION
            fix = "delete it, then apply and materialize again" if is_old else "upgrade featurestore"
            raise RegistryError(
                f"{self.label} has schema version {found}, this featurestore reads version {SCHEMA_VERSION}: {fix}"
            )
        return True

    def _create_tables(self) -> None:
        try:
            with self._engine.begin() as connection:
                METADATA.create_all(connection)
                connection.execute(insert(SCHEMA).values(id=1, version=SCHEMA_VERSION))
        except exc.DBAPIError:
            # Another process may have created them at the same moment; then all is well.
            if not inspect(self._engine).has_table(SCHEMA.name):
                raise

    def _migrate(self, found: int) -> None:
        """Add the tables that an earlier version lacks, unless another process just did."""
        try:
            with self._engine.begin() as connection:
                # The first statement takes the write lock; who waited for it finds nothing left to do.
                behind = update(SCHEMA).where(SCHEMA.c.version == found).values(version=SCHEMA_VERSION)
                if connection.execute(behind).rowcount:
                    METADATA.create_all(connection)
        except exc.DBAPIError as error:
            raise RegistryError(
                f"{self.label} has schema version {found} and could not be brought to version {SCHEMA_VERSION} "
                f"({_explain(str(error.orig))}): run featurestore doctor once as a user who may change its tables"
            ) from error

    def _create_file(self, path: Path) -> None:
        """Create the file with all tables in it, or leave the one that another process just created."""
        new = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine("sqlite://", creator=lambda: self._connect(new, "rwc"), poolclass=NullPool)
            with engine.begin() as connection:
                METADATA.create_all(connection)
                connection.execute(insert(SCHEMA).values(id=1, version=SCHEMA_VERSION))
            _publish(new, path)
        except OSError as error:
            raise RegistryError(f"{self.label} cannot be created: {error}") from error
        finally:
            new.unlink(missing_ok=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what SQLAlchemy and the driver raise into a `RegistryError` that names the registry and the fix."""
        try:
            yield
        except OSError as error:
            raise RegistryError(f"{self.label} cannot be read: {error}") from error
        except exc.IntegrityError as error:
            raise ConflictError(f"{self.label} refused a row that is there already ({error.orig})") from error
        except exc.DBAPIError as error:
            raise RegistryError(f"{self.label} {_explain(str(error.orig))}") from error
        except exc.SQLAlchemyError as error:
            raise RegistryError(f"{self.label} cannot be used: {error}") from error


def _publish(new: Path, path: Path) -> None:
    """Give the finished file its name, unless that name is taken."""
    try:
        path.hardlink_to(new)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            new.rename(path)


def _connect_arguments(url: URL) -> dict[str, Any]:
    """Return what a driver needs beyond the URL: an end to waiting, and no statements kept by a server or its proxy."""
    if url.get_backend_name() != "postgresql":
        return {}
    waiting = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_SECONDS}
    return waiting | ({"prepare_threshold": None} if url.get_driver_name() == "psycopg" else {})


_EXPLANATIONS = (
    ("lock timeout", "is being written by another process: wait until that apply or job has ended, and try again"),
    ("locked", "is locked by another process: wait until that apply or job has ended, or end it, and try again"),
    (
        "not a database",
        "is corrupt (not a SQLite file): restore it from a backup, or delete it to start a new registry",
    ),
    ("malformed", "is corrupt: restore it from a backup, or delete it to start a new registry"),
    ("readonly", "cannot be written: give this user write permission to the file and its folder"),
    ("unable to open", "cannot be opened: see that it is a file, that it still exists, and that this user may read it"),
    ("full", "cannot be written: the disk is full"),
    ("password", "refused the login: see that user and password in the registry's URL are right"),
    ("permission denied", "refused this user: grant it CREATE on the schema, and ownership of the featurestore tables"),
    ("read-only transaction", "cannot be written: it is a read-only replica; name the primary server in its URL"),
    ("too many clients", "has no connection left: raise max_connections of the server, or run fewer processes"),
    ("too many connections", "has no connection left: raise the limit of the user or database, or run fewer processes"),
    ("starting up", "is not ready yet: its server is starting or recovering; try again in a moment"),
    ("shutting down", "cannot be reached: its server is shutting down; try again when it runs"),
    ("terminating connection", "broke the connection off: see that its server runs, and try again"),
    ("closed the connection", "broke the connection off: see that its server runs, and try again"),
    ("no space left", "cannot be written: the disk is full"),
    ("relation", "lacks a table that it once had: restore it from a backup"),
    ("does not exist", "is not there: create the database and the user that its URL names, or correct the URL"),
    ("connection refused", "cannot be reached: see that its server runs, and that host and port in its URL are right"),
    ("connection failed", "cannot be reached: see that its server runs, and that host and port in its URL are right"),
    ("connection timeout", "cannot be reached: see that its server runs, and that host and port in its URL are right"),
)


def _explain(text: str) -> str:
    for part, explanation in _EXPLANATIONS:
        if part in text.lower():
            return f"{explanation} ({' '.join(text.split())})"
    return f"cannot be used: {text}"
