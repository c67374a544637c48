"""A load of HTTP requests over several connections: as fast as answers come, or at a steady rate."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.child import Stopwatch

_LENGTH = b"content-length:"
_END = b"\r\n\r\n"


class _Connection(asyncio.Protocol):
    """Keeps one request in flight on a connection that stays open."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._received = bytearray()
        self._size: int | None = None
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._load.idle(self)

    def send(self, request: bytes, since: float) -> None:
        """Send a request whose latency counts from a moment."""
        self._sent = since
        self._transport.write(request)  # type: ignore[attr-defined]  # a stream's transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._size is None:
            end = self._received.find(_END)
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            at = head.index(_LENGTH) + len(_LENGTH)
            self._size = end + len(_END) + int(head[at:].split(b"\r\n", 1)[0])
        if len(self._received) >= self._size:
            is_good = self._received[9:12] == b"200"
            self._received.clear()
            self._size = None
            self._load.answered(self, time.perf_counter() - self._sent, is_good=is_good)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        self._load.lost()


class _Load:
    def __init__(self, requests: Sequence[bytes], rate: float | None) -> None:
        self._requests = requests
        self._rate = rate
        self._number = count()
        self._idle: list[_Connection] = []
        self._waiting: list[float] = []
        self._stopped = False
        self.latencies: list[float] = []
        self.failed = 0

    def idle(self, connection: _Connection) -> None:
        if self._stopped:
            return
        if self._rate is None:
            connection.send(self._next(), time.perf_counter())
        elif self._waiting:  # late: the time that the request has waited for a connection counts
            connection.send(self._next(), self._waiting.pop(0))
        else:
            self._idle.append(connection)

    def answered(self, connection: _Connection, seconds: float, *, is_good: bool) -> None:
        if is_good:
            self.latencies.append(seconds)
        else:
            self.failed += 1
        self.idle(connection)

    def lost(self) -> None:
        if not self._stopped:
            self.failed += 1

    def _next(self) -> bytes:
        return self._requests[next(self._number) % len(self._requests)]

    async def pace(self, seconds: float) -> None:
        """Let requests come for some time: of their own accord, or at the rate."""
        if self._rate is None:
            await asyncio.sleep(seconds)
            return
        started = time.perf_counter()
        for number in count():
            due = started + number / self._rate
            if due - started >= seconds:
                return
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            if self._idle:
                self._idle.pop().send(self._next(), due)
            else:
                self._waiting.append(due)

    def stop(self) -> None:
        self._stopped = True


def post(
    *, port: int, path: str, bodies: str, connections: int, seconds: float, rate: float | None = None
) -> Stopwatch:
    """Post bodies in turn and measure.

    Parameters
    ----------
    bodies
        A file that holds a JSON list of texts.
    seconds
        How long; a fifth of that goes before, unmeasured.
    rate
        Requests a second; by default each connection sends the next request once it has the answer.

    Returns
    -------
    Stopwatch
        `seconds` is the median latency. Figures: `rate` (requests a second), `p50`, `p99`, `p999` and `failed`.
    """
    texts: list[str] = json.loads(Path(bodies).read_text(encoding="utf-8"))
    requests = []
    for text in texts:
        body = text.encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return asyncio.run(_post(port, requests, connections, seconds, rate))


async def _post(
    port: int, requests: Sequence[bytes], connections: int, seconds: float, rate: float | None
) -> Stopwatch:
    loop = asyncio.get_running_loop()
    load = _Load(requests, rate)
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(load), "127.0.0.1", port)
    await load.pace(seconds / 5)
    load.latencies.clear()
    with Stopwatch() as watch:
        await load.pace(seconds)
    load.stop()
    latencies = np.array(load.latencies)
    p50, p99, p999 = np.percentile(latencies, (50, 99, 99.9)).tolist()
    watch.figures = {
        "rate": len(latencies) / watch.seconds,
        "p50": p50,
        "p99": p99,
        "p999": p999,
        "failed": float(load.failed),
    }
    watch.seconds = p50
    return watch
