"""The little of ASGI that the API speaks itself: bodies within a limit, headers, and whole answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from featurestore.serving.problems import Headers, Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = 30.0
"""How long a body may take; what others send slowly must not be held for ever."""
_DISCARD_SECONDS = 5.0
JSON = (b"content-type", b"application/json")


class DisconnectedError(Exception):
    """The client went away before its request was whole; nobody waits for an answer."""


class Bodies:
    """Reads requests' bodies, and gives up on those that never come whole.

    A timer for each request would cost more than all else here, so `sweep` is called every so often.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._since: dict[asyncio.Task[Any] | None, float] = {}
        self._late: set[asyncio.Task[Any]] = set()

    async def read(self, receive: Receive, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return a request's body; no more of it than the limit is ever held.

        Raises
        ------
        Problem
            Where it is larger, compressed, or not there in time.
        DisconnectedError
            Where the client goes away first.
        """
        for name, value in headers:
            if name == b"content-length":
                if not value.isdigit() or len(value) > 18 or int(value) > self._limit:
                    await _discard(receive)
                    raise too_large(self._limit)
            elif name == b"content-encoding" and value.lower() != b"identity":
                raise Problem(415, "the body is compressed; send it plain")
        task = asyncio.current_task()
        self._since[task] = time.monotonic()
        try:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            body: bytes = message.get("body", b"")
            if message.get("more_body", False):
                body = await _read_on(receive, body, self._limit)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            self._late.discard(task)
            task.uncancel()
            raise late_body() from None
        finally:
            del self._since[task]
        if len(body) > self._limit:
            raise too_large(self._limit)
        return body

    def sweep(self, now: float) -> None:
        """Give up on bodies that are late by the monotonic clock."""
        for task, since in list(self._since.items()):
            if task is not None and now - since > BODY_SECONDS and task not in self._late:
                self._late.add(task)
                task.cancel()


async def _read_on(receive: Receive, begun: bytes, limit: int) -> bytes:
    """Return a body of which only the beginning is there; no more than is over the limit."""
    parts, size, has_more = [begun], len(begun), True
    while has_more:
        if size > limit:
            await _discard(receive)
            raise too_large(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        has_more = message.get("more_body", False)
    return b"".join(parts)


async def _discard(receive: Receive) -> None:
    """Read on for a while: a client whose connection is closed while it still sends may never see the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while (message := await receive()).get("more_body", False):
                pass
            if message["type"] == "http.disconnect":
                raise DisconnectedError


def late_body() -> Problem:
    """Return the problem of a body that took too long."""
    return Problem(
        408, f"the body was not whole after {BODY_SECONDS:g} s; try again", headers=[(b"connection", b"close")]
    )


def too_large(limit: int) -> Problem:
    """Return the problem of a body over the limit; the connection is closed, since not all of it may have been read."""
    return Problem(
        413,
        f"the body is larger than {limit:,} bytes; split the request, or raise --limit-body",
        headers=[(b"connection", b"close")],
    )


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a whole answer; `headers` are sent as they are, beside the length."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})
