"""What an expert would write by hand: a handler that reads values from Redis, sharing each MGET between requests.

It answers with values alone, without statuses, event times, checks of types, limits or metrics.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import redis.asyncio

from benchmarks.data import WIDE

KEY = "bare:%d"

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_decode = msgspec.msgpack.Decoder(list[float]).decode
_encode = msgspec.json.Encoder().encode
_NOBODY = b'{"entities": {"id": [0]}}'
_HEADERS = [(b"content-type", b"application/json")]


class Request(msgspec.Struct):
    """The part of a request that matters."""

    entities: dict[str, list[int]]


_request = msgspec.json.Decoder(Request).decode


class SharedReads:
    """Joins the keys of requests that come while a read is on its way into the next one."""

    def __init__(self) -> None:
        self._client = redis.asyncio.Redis(port=int(os.environ["BARE_REDIS_PORT"]))
        self._waiting: list[tuple[Sequence[str], asyncio.Future[list[bytes | None]]]] = []
        self._reading = False

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of some keys."""
        future: asyncio.Future[list[bytes | None]] = asyncio.get_running_loop().create_future()
        self._waiting.append((keys, future))
        if not self._reading:
            self._reading = True
            await self._read()
        return await future

    async def _read(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting, []
            values = await self._client.mget([key for keys, _ in asked for key in keys])
            at = 0
            for keys, future in asked:
                future.set_result(values[at : at + len(keys)])
                at += len(keys)
        self._reading = False


_reads: SharedReads | None = None


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer any request with the features of the ids that it names."""
    global _reads  # noqa: PLW0603  (an event loop is needed to make it)
    if scope["type"] != "http":
        return
    if _reads is None:
        _reads = SharedReads()
    body = (await receive())["body"]
    ids = _request(body or _NOBODY).entities["id"]
    values = await _reads.get([KEY % key for key in ids])
    rows = [_decode(value) for value in values if value is not None]
    results = [{"values": column} for column in zip(*rows, strict=True)]
    answer = _encode({"metadata": {"feature_names": WIDE}, "results": results})
    length = (b"content-length", b"%d" % len(answer))
    await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, length]})
    await send({"type": "http.response.body", "body": answer})
