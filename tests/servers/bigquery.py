"""A BigQuery emulator of its own for tests: local-bigquery in another process, REST and Storage API on free ports."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers.missing import missing
from tests.servers.ports import end, free_port, wait_until_listening

if TYPE_CHECKING:
    from google.cloud import bigquery as google

PROJECT = "tests"
_REQUIREMENTS = Path(__file__).with_name("bigquery_requirements.txt")
_ENVIRONMENT = Path(__file__).parents[2] / ".venv-bigquery"
_PYTHON = "3.13"


@dataclass(frozen=True)
class BigQuery:
    """A running emulator.

    Attributes
    ----------
    port, storage_port
        Where REST and the Storage API listen, on 127.0.0.1.
    """

    port: int
    storage_port: int

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a connection to it that uses REST."""
        return {"project": PROJECT, "endpoint": f"http://127.0.0.1:{self.port}", "timeout": 20}

    @property
    def storage_settings(self) -> dict[str, Any]:
        """The settings of a connection to it that uses the Storage API too."""
        return {**self.settings, "storage_endpoint": f"http://127.0.0.1:{self.storage_port}"}

    @contextmanager
    def connect(self) -> Iterator[google.Client]:
        """Open a client of its own, which may make datasets and tables."""
        from google.api_core.client_options import ClientOptions
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.bigquery import Client

        options = ClientOptions(api_endpoint=f"http://127.0.0.1:{self.port}")
        with Client(project=PROJECT, credentials=AnonymousCredentials(), client_options=options) as client:
            yield client


@contextmanager
def running_bigquery() -> Iterator[BigQuery]:
    """Start an emulator, and end it and remove its folder afterwards."""
    if find_spec("google") is None or find_spec("google.cloud.bigquery") is None:
        missing("google-cloud-bigquery is not installed: pip install 'featurestore[bigquery]'")
    python = _environment()
    folder = Path(tempfile.mkdtemp(prefix="bigquery-"))
    server = BigQuery(free_port(), free_port())
    ports = ["--port", str(server.port), "--grpc-port", str(server.storage_port)]
    options = ["--host", "127.0.0.1", *ports, "--project", PROJECT, "--data-dir", str(folder / "data")]
    command = [str(python), str(Path(__file__).with_name("bigquery_emulator.py")), str(folder), *options]
    try:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until_listening(process, server.port)
            yield server
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{(folder / 'log').read_text()[-4000:]}") from None
        finally:
            end(process)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def bigquery() -> Iterator[BigQuery]:
    """Return an emulator that the tests of this process share."""
    with running_bigquery() as server:
        yield server


def _environment() -> Path:
    """Return the Python of the emulator's environment, made on first use and whenever the requirements change."""
    python, stamp = _ENVIRONMENT / "bin" / "python", _ENVIRONMENT / ".requirements"
    with _REQUIREMENTS.open() as lock:  # against another process of the same test run
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == _REQUIREMENTS.read_text():
            return python
        base = _python()
        if base is None:
            missing(
                f"Python {_PYTHON} is not installed, and the BigQuery emulator runs on it: put python{_PYTHON} on PATH"
            )
        subprocess.run([base, "-m", "venv", "--clear", str(_ENVIRONMENT)], check=True)
        what = ["--quiet", "--requirement", str(_REQUIREMENTS)]
        uv = [sys.executable, "-m", "uv", "pip", "install", "--python", str(python), *what]
        if subprocess.run(uv, check=False).returncode:  # as in the Makefile: pip may know an index that uv does not
            subprocess.run([str(python), "-m", "pip", "install", *what], check=True)
        stamp.write_text(_REQUIREMENTS.read_text())
    return python


def _python() -> str | None:
    """Return an interpreter that starts; what pyenv puts on the path may not, and what it has installed may."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [
        shutil.which(f"python{_PYTHON}"),
        *sorted(versions.glob(f"{_PYTHON}.*/bin/python{_PYTHON}")),
        sys.executable,
    ]
    check = f"import sys, venv; sys.exit(sys.version_info[:2] != {tuple(map(int, _PYTHON.split('.')))})"
    for candidate in found:
        if candidate and not subprocess.run([str(candidate), "-c", check], capture_output=True, check=False).returncode:
            return str(candidate)
    return None
