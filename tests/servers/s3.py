"""An S3 server of its own for tests: moto in another process, on a free port."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import pytest
from pyarrow import fs

from tests.servers.missing import missing

KEY, SECRET = "test-key", "test-secret"


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes
    ----------
    endpoint
        Its URL.
    """

    endpoint: str

    @property
    def settings(self) -> dict[str, object]:
        """The settings of a connection to it."""
        return {
            "endpoint": self.endpoint,
            "allow_http": True,
            "region": "eu-west-1",
            "access_key_id": KEY,
            "secret_access_key": SECRET,
        }

    def filesystem(self) -> fs.S3FileSystem:
        """Return a file system of its own, which may make buckets."""
        return fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=self.endpoint,
            region="eu-west-1",
            allow_bucket_creation=True,
        )


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """Start a server, and end it afterwards."""
    if find_spec("moto") is None or find_spec("flask") is None:
        missing("moto is not installed: pip install 'moto[server,s3]'")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = process.stdout
    said: list[str] = []
    rest = threading.Thread(target=output.read)  # or the pipe fills, and the server with it
    try:
        while not said or "Running on http://" not in said[-1]:
            said.append(output.readline())
            if not said[-1]:
                raise RuntimeError("moto ended before it listened: " + "".join(said))
        rest.start()
        yield S3Server(said[-1][said[-1].index("http://") :].split()[0])
    finally:
        process.terminate()
        process.wait()
        if rest.ident is not None:
            rest.join()
        output.close()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """Return a server that the tests of this process share."""
    with running_s3() as server:
        yield server
