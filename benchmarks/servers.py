"""The servers of the online benchmarks: a Redis of their own, and HTTP servers with the CPU time that they took."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.options import ROOT
from benchmarks.race import ContestantError

START_SECONDS = 120
_TICKS = os.sysconf("SC_CLK_TCK")


class Server(NamedTuple):
    """A running HTTP server: its port and its process."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Return the CPU time that the server and its workers have taken."""
        return sum(_cpu_seconds(pid) for pid in _family(self.pid))


@contextmanager
def redis_server() -> Iterator[int]:
    """Run a Redis that keeps nothing on disk; give its port."""
    from tests.servers.redis import running_redis

    with running_redis() as server:
        yield server.port


@contextmanager
def http_server(
    command: Sequence[str | Path], path: str, *, env: Mapping[str, str] | None = None, folder: Path = ROOT
) -> Iterator[Server]:
    """Run a server and wait until a path answers; ``{port}`` in the command stands for a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [str(part).format(port=port) for part in command]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            arguments, cwd=folder, env={**os.environ, **(env or {})}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}{path}", log)
            yield Server(port, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: object) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return
            time.sleep(0.1)
        except OSError:
            time.sleep(0.1)
    log.seek(0)  # type: ignore[attr-defined]  # a binary file
    said = log.read().decode(errors="replace").strip().splitlines()  # type: ignore[attr-defined]
    raise ContestantError(f"{process.args!r} does not answer: {said[-1] if said else 'it says nothing'}")


def _family(pid: int) -> Iterator[int]:
    """Yield a process and all processes below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text(encoding="ascii").split():
            yield from _family(int(child))


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:  # it has just ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
