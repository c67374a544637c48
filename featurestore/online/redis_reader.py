"""Reads for an event loop: one connection to each server, on which commands follow each other without waiting.

Anything out of the ordinary, such as a part that has moved, is left to the store's own reads, in a thread.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import hiredis
from redis import exceptions as theirs

from featurestore.errors import FeatureStoreError, NotReadyError
from featurestore.online.redis_errors import WireError, translate
from featurestore.online.redis_keys import assemble
from featurestore.online.redis_settings import RedisSettings
from featurestore.online.redis_wire import Reply, Server, pack

if TYPE_CHECKING:
    from featurestore.online.redis import RedisStore

_ERRORS: dict[str, type[Exception]] = {
    "LOADING": theirs.BusyLoadingError,
    "NOAUTH": theirs.AuthenticationError,
    "NOPERM": theirs.NoPermissionError,
    "WRONGPASS": theirs.AuthenticationError,
}


def _error_of(text: str) -> Exception:
    code, _, message = text.partition(" ")
    return _ERRORS[code](message) if code in _ERRORS else theirs.ResponseError(text)


class _Link(asyncio.Protocol):
    """A connection. Replies come in the order of the commands."""

    def __init__(self) -> None:
        self._replies = hiredis.Reader(replyError=_error_of, notEnoughData=self)
        self._waiting: deque[tuple[int, asyncio.Future[list[Reply]]]] = deque()
        self._answered: list[Reply] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's

    def data_received(self, data: bytes) -> None:
        replies, waiting = self._replies, self._waiting
        replies.feed(data)
        while waiting:
            reply = replies.gets()
            if reply is self:
                return
            self._answered.append(reply)
            if len(self._answered) == waiting[0][0]:
                _, future = waiting.popleft()
                if not future.done():
                    future.set_result(self._answered)
                self._answered = []

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(theirs.ConnectionError(str(exc) if exc else "the connection was closed"))

    def send(self, packed: bytes, count: int) -> asyncio.Future[list[Reply]]:
        """Send `count` commands; the future gives their replies, errors as values."""
        future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        if self._transport is None:
            future.set_exception(theirs.ConnectionError("the connection was closed"))
            return future
        self._waiting.append((count, future))
        self._transport.write(packed)
        return future

    def close(self) -> None:
        """End it; whoever waits for a reply gets none."""
        if self._transport is not None:
            self._transport.abort()
        self._fail(theirs.ConnectionError("the connection was closed"))

    def _fail(self, error: Exception) -> None:
        self._transport = None
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None


class AsyncServer:
    """One server. A read that finds its connection closed is sent again, once, over a new one.

    Parameters
    ----------
    settings
        How to connect.
    host, port
        The server.
    connected
        Called with every new connection, before anything is read by it.
    """

    def __init__(
        self, settings: RedisSettings, host: str, port: int, connected: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._settings = settings
        self._place = (host, port)
        self._connected = connected
        self._context: ssl.SSLContext | None = None
        self._link: _Link | None = None
        self._lock = asyncio.Lock()

    async def ask(self, packed: bytes, count: int = 1) -> list[Reply]:
        """Send `count` commands and return their replies; errors of the server's are values.

        Raises
        ------
        WireError
            Where there is none in time.
        """
        try:
            return await self._ask(packed, count)
        except theirs.AuthenticationError as error:
            raise WireError(self._address, error) from error
        except theirs.ConnectionError:
            pass
        try:
            return await self._ask(packed, count)
        except theirs.ConnectionError as error:
            raise WireError(self._address, error) from error

    async def _ask(self, packed: bytes, count: int) -> list[Reply]:
        link = self._link
        if link is None or not link.is_open:
            link = await self._connect()
        future = link.send(packed, count)
        late = asyncio.get_running_loop().call_later(self._settings.timeout, _give_up, link, future)
        try:
            return await future
        except TimeoutError as error:
            raise WireError(self._address, error) from error
        finally:
            late.cancel()

    @property
    def _address(self) -> str:
        return "{}:{}".format(*self._place)

    async def _connect(self) -> _Link:
        async with self._lock:
            if self._link is not None and self._link.is_open:
                return self._link
            link: _Link | None = None
            try:
                async with asyncio.timeout(self._settings.timeout):
                    if self._settings.tls and self._context is None:
                        self._context = self._settings.ssl_context()
                    host, port = self._place
                    _, link = await asyncio.get_running_loop().create_connection(_Link, host, port, ssl=self._context)
                    for packed in _greeting(self._settings):
                        (reply,) = await link.send(packed, 1)
                        if isinstance(reply, Exception):
                            raise WireError(self._address, reply)
            except TimeoutError as error:
                raise WireError(self._address, error) from error
            except OSError as error:
                raise theirs.ConnectionError(str(error)) from error
            else:
                if self._connected is not None:
                    try:
                        await self._connected()
                    except FeatureStoreError:
                        self._link = link  # those who ask from now on know as much
                        raise
                self._link = link
                return link
            finally:
                if link is not None and self._link is not link:
                    link.close()

    def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            self._link.close()


class RedisReader:
    """Reads from a store's servers; belongs to the event loop that it is first used in.

    It also sees to it that servers are asked, about once a second, whether they evict: the first time before it reads,
    then while it goes on.

    Parameters
    ----------
    connected
        Called with every new connection to a server, before anything is read by it.
    """

    def __init__(self, store: RedisStore, connected: Callable[[], Awaitable[None]] | None = None) -> None:
        self._store = store
        self._settings = store.settings
        self._keys = store.keys
        self._servers: dict[str, AsyncServer] = {}
        self._connected = connected
        self._looking: asyncio.Future[None] | None = None
        self._alone = None if store.settings.cluster else (store.settings.host, store.settings.port)

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        await self._look()
        if self._alone is None:
            return await self._get_from_cluster(keys)
        prefix = self._keys.prefix
        packed = pack(b"MGET", *[prefix + key for key in keys], self._keys.generations[0])
        try:
            (reply,) = await self._server(*self._alone).ask(packed)
            return self._store.values(reply)
        except WireError as error:
            raise translate(error, self._settings.timeout) from error.cause

    async def _look(self) -> None:
        """Raise `NotReadyError` where the servers may have forgotten something."""
        health, looking = self._store.health, self._looking
        if looking is None:
            await asyncio.to_thread(self._store.check)
            self._looking = asyncio.get_running_loop().create_future()
            self._looking.set_result(None)
        elif looking.done() and health.is_due:
            self._looking = asyncio.get_running_loop().run_in_executor(None, self._store.check)
            self._looking.add_done_callback(_forget)
        health.recall()

    async def _get_from_cluster(self, keys: Sequence[bytes]) -> list[bytes | None]:
        owners = self._store.owners()
        if not owners:
            return await asyncio.to_thread(self._store.read, keys)
        portions, marks = self._keys.portions(keys)
        batches: dict[Server, list[int]] = {}
        for place, portion in enumerate(portions):
            batches.setdefault(owners[portion.part], []).append(place)
        generations = self._keys.generations
        asked = []
        for owner, places in batches.items():
            mine = [portions[place] for place in places]
            packed = b"".join([pack(b"MGET", *portion.keys, generations[portion.part]) for portion in mine])
            asked.append(self._server(owner.host, owner.port).ask(packed, len(mine)))
        replies: list[Any] = [None] * len(portions)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for places, answer in zip(batches.values(), answers, strict=True):
            if isinstance(answer, NotReadyError):
                raise answer
            if isinstance(answer, BaseException) or any(isinstance(reply, Exception) for reply in answer):
                return await asyncio.to_thread(self._store.read, keys)
            for place, reply in zip(places, answer, strict=True):
                replies[place] = self._store.values(reply)
        return assemble(len(keys), portions, marks, replies)

    def _server(self, host: str, port: int) -> AsyncServer:
        address = f"{host}:{port}"
        server = self._servers.get(address)
        if server is None:
            server = self._servers[address] = AsyncServer(self._settings, host, port, self._connected)
        return server

    async def close(self) -> None:
        for server in self._servers.values():
            server.close()
        await asyncio.sleep(0)  # let the event loop close the sockets


def _greeting(settings: RedisSettings) -> list[bytes]:
    """Return what a connection begins with."""
    commands = []
    if settings.username or settings.password:
        user = [settings.username.encode()] if settings.username else []
        commands.append(pack(b"AUTH", *user, (settings.password or "").encode()))
    if settings.db:
        commands.append(pack(b"SELECT", settings.db))
    return commands


def _forget(looking: asyncio.Future[None]) -> None:
    """Take note of what a look failed with: the next read tells it, or fails likewise."""
    if not looking.cancelled():
        looking.exception()


def _give_up(link: _Link, future: asyncio.Future[list[Reply]]) -> None:
    """End a connection that does not answer in time: its replies could no longer be told apart."""
    if not future.done():
        future.set_exception(TimeoutError())
    link.close()
