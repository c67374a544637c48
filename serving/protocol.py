"""HTTP under uvicorn with a short way for lookups: from a parsed request to one write, without ASGI in between.

Parsing, keep-alive, pipelining and shutdown stay uvicorn's. A lookup takes the short way where its body is plain, has a
known length within the limit, and nothing else of its connection is in flight; all else goes the common way.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from featurestore.serving.app import Api
from featurestore.serving.http import BODY_SECONDS, late_body
from featurestore.serving.problems import Headers
from featurestore.serving.routes import LOOKUP_PATH

_PATH = LOOKUP_PATH.encode()
_UNUSUAL = {b"content-encoding", b"expect", b"transfer-encoding", b"upgrade"}
_MOST_HEAD = 64 << 10
_JSON = b"content-type: application/json\r\ncontent-length: %d\r\n"


class _Exchange:
    """A lookup on its way: what uvicorn's protocol knows of the request in flight."""

    __slots__ = ("body", "disconnected", "keep_alive", "response_complete", "timer")

    def __init__(self, *, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self.body: list[bytes] | None = []
        self.timer: asyncio.TimerHandle | None = None

    @property
    def message_event(self) -> _Exchange:
        """What is told that the client went away: nobody waits for more of this request."""
        return self

    def set(self) -> None:
        """Let go of what was sent: nobody waits for an answer."""
        self.body = None
        if self.timer is not None:
            self.timer.cancel()


class LookupProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._api = self.app if isinstance(self.app, Api) else None
        self._exchange: _Exchange | None = None
        self._head = 0
        self._in_head = True
        self._steps = 0

    def data_received(self, data: bytes) -> None:
        """Parse; headers must be few, and what has begun by then must be whole in time."""
        steps = self._steps
        super().data_received(data)
        if self._in_head:
            self._head = self._head + len(data) if self._steps == steps else 0
            if self._head > _MOST_HEAD and not self.transport.is_closing():
                self.send_400_response("The headers are larger than 64 KB.")
                return
        exchange = self._exchange
        if exchange is not None and exchange.timer is None:
            exchange.timer = self.loop.call_later(BODY_SECONDS, self._give_up, exchange)

    def on_message_begin(self) -> None:
        """Begin a request; what only the common way needs is made there."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a request that will never be whole."""
        if self._exchange is not None and self._api is not None:
            self._api.count_gone(self.client)
        self._exchange = None
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """Choose the way."""
        self._in_head = False
        self._steps += 1
        if self._is_simple_lookup():
            self.cycle = self._exchange = _Exchange(keep_alive=self.parser.should_keep_alive())  # type: ignore[assignment]
            return
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers += headers  # the list is the scope's
        super().on_headers_complete()

    def _is_simple_lookup(self) -> bool:
        if self._api is None or self.url != _PATH or (self.cycle is not None and not self.cycle.response_complete):
            return False
        size = b""
        for name, value in self.headers:
            if name == b"content-length":
                size = value
            elif name in _UNUSUAL:
                return False
        return (
            size.isdigit()
            and len(size) < 10
            and int(size) <= self._api.settings.limit_body
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self._api.is_admitted(self.headers)
        )

    def on_body(self, body: bytes) -> None:
        """Take in some of a body."""
        if self._exchange is None:
            super().on_body(body)
        elif self._exchange.body is not None:
            self._exchange.body.append(body)

    def on_message_complete(self) -> None:
        """Answer a request that is whole."""
        self._in_head = True
        self._steps += 1
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            super().on_message_complete()
            return
        if exchange.timer is not None:
            exchange.timer.cancel()
        if exchange.body is not None:
            task = self.loop.create_task(self._answer(exchange, b"".join(exchange.body)))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    async def _answer(self, exchange: _Exchange, body: bytes) -> None:
        assert self._api is not None  # noqa: S101  (else there is no exchange)
        status, more, answer = await self._api.answer_lookup(body, self.client)
        if self.flow.write_paused and not exchange.disconnected:
            await self.flow.drain()
        self._respond(exchange, status, more, answer)

    def _respond(self, exchange: _Exchange, status: int, headers: Headers, answer: bytes) -> None:
        if exchange.disconnected:
            return
        head, is_told = [STATUS_LINE[status]], False
        for name, value in (*self.server_state.default_headers, *headers):
            head += (name, b": ", value, b"\r\n")
            if name == b"connection":  # and that says: close
                exchange.keep_alive = False
                is_told = True
        if not (exchange.keep_alive or is_told):
            head.append(b"connection: close\r\n")
        self.transport.write(b"".join((*head, _JSON % len(answer), b"\r\n", answer)))
        exchange.response_complete = True
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _give_up(self, exchange: _Exchange) -> None:
        """Answer a request whose body does not come."""
        exchange.body = self._exchange = None
        assert self._api is not None  # noqa: S101  (else there is no exchange)
        self._respond(exchange, *self._api.refuse(late_body(), self.client))
