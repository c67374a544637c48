"""A long load on one API worker while Redis is killed and comes back empty: no wrong answer, no leak, no restart.

Every answer is compared byte by byte with that of the same request at the start, whose values are the input's. While
Redis is away, and until it is filled again, only 503 and 504 may be answered instead.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks import load, serve
from benchmarks.data import Shape, make
from benchmarks.options import Options, progress
from benchmarks.race import Contestant, finish
from benchmarks.report import Row
from benchmarks.servers import Server, http_server
from tests.servers.redis import RedisServer, running_redis

ENTITIES = 10
SHARE = 0.7
TICK = 0.01
AWAY_SECONDS = 2.0
EVERY_SECONDS = 60.0
MOST_SECONDS_TO_RECOVER = 30.0
MOST_GROWTH = 32 << 20
"""How much memory may come on top between the first refill and the end."""
_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


@dataclass
class Seen:
    """What came back, and what was seen of the server."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: int = 0
    busy: int = 0
    recovered: list[float] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)
    last_good: float = 0.0
    is_disturbed: bool = False

    def answered(self, status: int, body: bytes, expected: bytes) -> None:
        """Judge an answer."""
        self.statuses[status] += 1
        if status == 200:
            self.last_good = time.perf_counter()
            if body != expected and len(self.wrong) < 20:
                self.wrong.append(f"{body[:200]!r} instead of {expected[:200]!r}")
        elif (status not in {503, 504} or not self.is_disturbed) and len(self.wrong) < 20:
            self.wrong.append(f"{status}: {body[:200]!r}")


class _Client(asyncio.Protocol):
    """A connection with at most one request on its way."""

    def __init__(self, seen: Seen, idle: list[_Client]) -> None:
        self._seen = seen
        self._idle = idle
        self._received = bytearray()
        self._expected = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # a stream's
        self._idle.append(self)

    def send(self, request: bytes, expected: bytes) -> None:
        """Send a request, with the answer that is right."""
        self._expected = expected
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_END)
        if end < 0:
            return
        at = self._received.find(_LENGTH) + len(_LENGTH)
        size = int(self._received[at : self._received.index(b"\r", at)])
        body = bytes(self._received[end + len(_END) :])
        if len(body) >= size:
            self._seen.answered(int(self._received[9:12]), body, self._expected)
            self._received.clear()
            self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        self._seen.lost += 1
        if self in self._idle:
            self._idle.remove(self)


def run(options: Options) -> list[Row]:
    """Measure the greatest rate, then load at 70 % of it, with a restart of Redis about once a minute."""
    inputs = make(options, Shape("wide", rows=serve.KEYS, labels=1, keys=serve.KEYS))
    table = pq.read_table(inputs.features)
    values = dict(zip(table["id"].to_pylist(), table["f00"].to_pylist(), strict=True))
    with options.workspace() as folder, running_redis() as redis:
        project = folder / "ours"
        arguments = {"features": inputs.features, "redis": redis.port, "project": project, "kind": "wide"}
        finish("fill ours", Contestant("benchmarks.ours:load", arguments))
        served = "import sys; from featurestore.cli.main import main; sys.exit(main())"
        with http_server(
            [sys.executable, "-c", served, "-C", project, "serve", "--port", "{port}"], "/health/ready"
        ) as server:
            bodies = serve.write_bodies(folder, ENTITIES)
            figures = load.post(
                port=server.port, path=serve.PATH, bodies=str(bodies), connections=serve.CONNECTIONS, seconds=5.0
            ).figures
            rate = figures["rate"] * SHARE
            progress(f"{figures['rate']:,.0f} requests/s at most; {rate:,.0f} for {options.minutes:g} minutes")
            requests = _requests(server, bodies, values)
            seen = asyncio.run(_soak(server, redis, requests, rate, options.minutes * 60))
    return _rows(seen, rate, options.minutes)


def _requests(server: Server, bodies: Path, values: Mapping[int, float]) -> list[tuple[bytes, bytes]]:
    """Return requests with their right answers, once the values of these have been compared with the input."""
    made = []
    for text in json.loads(bodies.read_text(encoding="utf-8")):
        body = text.encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{server.port}{serve.PATH}", body)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            right: bytes = answer.read()
        found = json.loads(right)
        column = found["results"][found["metadata"]["feature_names"].index("f00")]
        expected = [values[key] for key in json.loads(body)["entities"]["id"]]
        if column["values"] != expected:
            raise AssertionError(f"{column['values'][:3]} instead of {expected[:3]}")
        head = f"POST {serve.PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        made.append((head.encode() + body, right))
    return made


async def _soak(
    server: Server, redis: RedisServer, requests: Sequence[tuple[bytes, bytes]], rate: float, seconds: float
) -> Seen:
    seen = Seen()
    until = time.perf_counter() + seconds
    disturbing = asyncio.create_task(_disturb(redis, seen, until))
    watching = asyncio.create_task(_watch(server, seen))
    await _pace(server, seen, requests, rate, until)
    await disturbing
    watching.cancel()
    return seen


async def _pace(server: Server, seen: Seen, requests: Sequence[tuple[bytes, bytes]], rate: float, until: float) -> None:
    loop = asyncio.get_running_loop()
    idle: list[_Client] = []
    clients = [
        (await loop.create_connection(lambda: _Client(seen, idle), "127.0.0.1", server.port))[1]
        for _ in range(serve.CONNECTIONS)
    ]
    begun, sent = time.perf_counter(), 0
    while (now := time.perf_counter()) < until:
        due = int((now - begun) * rate)
        while sent < due:
            if idle:
                idle.pop(0).send(*requests[sent % len(requests)])
            else:
                seen.busy += 1
            sent += 1
        await asyncio.sleep(TICK)
    while len(idle) < len(clients) - seen.lost:  # noqa: ASYNC110  (clients come back one by one)
        await asyncio.sleep(TICK)
    lost, seen.lost = seen.lost, 0
    for client in clients:
        client.transport.abort()
    await asyncio.sleep(0)
    seen.lost = lost


async def _disturb(redis: RedisServer, seen: Seen, until: float) -> None:
    """Kill Redis about once a minute, start it empty, and see how long it takes until lookups are answered again."""
    wait = min(EVERY_SECONDS, (until - time.perf_counter()) / 4)
    while time.perf_counter() + wait + MOST_SECONDS_TO_RECOVER / 4 < until:
        await asyncio.sleep(wait)
        seen.is_disturbed = True
        await asyncio.to_thread(redis.stop)
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(redis.start)
        started = time.perf_counter()
        latest = started + MOST_SECONDS_TO_RECOVER
        while seen.last_good < started and time.perf_counter() < latest:  # noqa: ASYNC110  (an answer is no event)
            await asyncio.sleep(TICK)
        seen.recovered.append(time.perf_counter() - started)
        await asyncio.sleep(1)  # the answers of requests that came before
        seen.is_disturbed = False


async def _watch(server: Server, seen: Seen) -> None:
    """Note the server's memory and its open files every second."""
    while True:
        seen.memory.append(_held(server.pid))
        await asyncio.sleep(1)


def _held(pid: int) -> tuple[int, int]:
    """Return how much memory a process holds, and how many open files."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    resident = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS:"))
    return resident, sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _rows(seen: Seen, rate: float, minutes: float) -> list[Row]:
    """Return what must hold: right answers, recovery, and memory that stays where it was after the first refill."""
    settled = seen.memory[len(seen.memory) // 2 :] if len(seen.recovered) < 2 else seen.memory[len(seen.memory) // 3 :]
    third = max(1, len(settled) // 3)
    first = max(resident for resident, _ in settled[:third])
    last = max(resident for resident, _ in settled[-third:])
    counts = ", ".join(f"{status}: {count:,}" for status, count in sorted(seen.statuses.items()))
    answered = (
        f"answers by status: {counts}; wrong: {len(seen.wrong)}; connections lost: {seen.lost}; not sent because all "
        f"{serve.CONNECTIONS} connections were waiting: {seen.busy:,}"
    )
    held = (
        f"resident memory {seen.memory[0][0] / 1e6:.0f} MB at the start, {first / 1e6:.0f} MB after a refill, "
        f"{last / 1e6:.0f} MB at the end; open files {settled[0][1]} and {settled[-1][1]}"
    )
    notes = (answered, held, *seen.wrong)
    case = (
        f"soak, {minutes:g} minutes at {rate:,.0f} requests/s of {ENTITIES} entities, Redis killed "
        f"{len(seen.recovered)} times"
    )
    agree = not seen.wrong and not seen.lost and seen.statuses[200] > 0
    return [
        Row(f"{case}: memory growth", max(0, last - first), None, None, MOST_GROWTH, agree, "B", notes),
        Row(
            f"{case}: longest time until lookups were answered again",
            max(seen.recovered, default=0.0),
            None,
            None,
            MOST_SECONDS_TO_RECOVER,
            agree and bool(seen.recovered),
        ),
    ]
