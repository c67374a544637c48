"""A PostgreSQL server of its own for tests: a scratch folder, a free port, nothing left behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from tests.servers.missing import missing

USER, PASSWORD = "featurestore", "a secret: nobody may see it"
_UNPRIVILEGED = "nobody"
# What is committed outlives the server, though not the machine.
_SETTINGS = ("fsync=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=30")


@dataclass(frozen=True)
class PostgresServer:
    """A running server.

    Attributes
    ----------
    port
        Where it listens, on 127.0.0.1.
    stop, start
        End it, whatever is under way, and run it again with what it had committed.
    programs
        Folder of its programs.
    """

    port: int
    stop: Callable[[], None]
    start: Callable[[], None]
    programs: Path

    def url(self, user: str = USER, password: str = PASSWORD) -> str:
        """Return an SQLAlchemy URL of its database."""
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/postgres"

    def new_database(self) -> str:
        """Create a database that sorts text as people do, as most in production do, and return its URL."""
        name = f"test_{uuid.uuid4().hex}"
        with self.connect() as connection:
            locale = "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'" if connection.info.server_version >= 150_000 else ""
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 {locale}".encode())
        return self.url().removesuffix("postgres") + name

    @contextmanager
    def connect(self, url: str = "") -> Iterator[psycopg.Connection]:
        """Open a connection as the owner that commits each statement, to its own database by default."""
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            yield connection


@contextmanager
def running_postgres(
    user: str = USER, password: str = PASSWORD, settings: Sequence[str] = ()
) -> Iterator[PostgresServer]:
    """Start a server with a superuser and more settings, and end it and remove its folder afterwards."""
    programs = _programs()
    if programs is None:
        missing("PostgreSQL is not installed: apt-get install postgresql, or put initdb and pg_ctl on the PATH")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    # PostgreSQL refuses to run as root.
    owner = _UNPRIVILEGED if os.geteuid() == 0 else None
    try:
        (folder / "password").write_text(password)
        if owner is not None:
            shutil.chown(folder, owner)
            shutil.chown(folder / "password", owner)

        def call(program: str, *arguments: str) -> None:
            command = [str(programs / program), *arguments]
            done = subprocess.run(
                command,
                user=owner,
                cwd=folder,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                check=False,
            )
            if done.returncode:
                log = folder / "log"
                raise RuntimeError(f"{command}: {done.stdout}{log.read_text() if log.exists() else ''}")

        data, port = str(folder / "data"), _free_port()
        security = ["--auth=scram-sha-256", f"--username={user}", f"--pwfile={folder / 'password'}"]
        call("initdb", "--pgdata", data, "--encoding=UTF8", "--no-sync", *security)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= "
        options += " ".join(f"-c {setting}" for setting in (*_SETTINGS, *settings))
        control = ("pg_ctl", "--pgdata", data, "--wait", "--log", str(folder / "log"), "--options", options)
        start, stop = partial(call, *control, "start"), partial(call, *control, "stop", "--mode=immediate")
        start()
        try:
            yield PostgresServer(port, stop, start, programs)
        finally:
            stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Return a server that the tests of this process share."""
    with running_postgres() as server:
        yield server


def _programs() -> Path | None:
    found = shutil.which("initdb")
    if found is not None and shutil.which("pg_ctl") is not None:
        return Path(found).parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return debian[-1].parent if debian else None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
