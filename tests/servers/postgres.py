"""A PostgreSQL server of its own for tests: a scratch folder, a free port, nothing left behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.servers.missing import missing

USER, PASSWORD = "featurestore", "a secret: nobody may see it"
_UNPRIVILEGED = "nobody"
_SETTINGS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=16MB", "max_connections=30")


@dataclass(frozen=True)
class PostgresServer:
    """A running server.

    Attributes
    ----------
    port
        Where it listens, on 127.0.0.1.
    """

    port: int

    def url(self, user: str = USER, password: str = PASSWORD) -> str:
        """Return an SQLAlchemy URL of its database."""
        quoted = password.replace(":", "%3A").replace(" ", "%20")
        return f"postgresql://{user}:{quoted}@127.0.0.1:{self.port}/postgres"

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        """Open a connection as the owner that commits each statement."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname="postgres", autocommit=True
        ) as connection:
            yield connection


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server, and end it and remove its folder afterwards."""
    programs = _programs()
    if programs is None:
        missing("PostgreSQL is not installed: apt-get install postgresql, or put initdb and pg_ctl on the PATH")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    # PostgreSQL refuses to run as root.
    user = _UNPRIVILEGED if os.geteuid() == 0 else None
    try:
        (folder / "password").write_text(PASSWORD)
        if user is not None:
            shutil.chown(folder, user)
            shutil.chown(folder / "password", user)

        def call(program: str, *arguments: str) -> None:
            command = [str(programs / program), *arguments]
            done = subprocess.run(
                command,
                user=user,
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
        security = ["--auth=scram-sha-256", f"--username={USER}", f"--pwfile={folder / 'password'}"]
        call("initdb", "--pgdata", data, "--encoding=UTF8", "--no-sync", *security)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= "
        options += " ".join(f"-c {setting}" for setting in _SETTINGS)
        call("pg_ctl", "start", "--pgdata", data, "--wait", "--log", str(folder / "log"), "--options", options)
        try:
            yield PostgresServer(port)
        finally:
            call("pg_ctl", "stop", "--pgdata", data, "--wait", "--mode=immediate")
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
