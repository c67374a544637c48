"""The servers of a cluster: which one has which part, and what to do when that changes.

A server that no longer has a slot says who has (MOVED); one that is handing a slot over says where to ask for keys that
have gone already (ASK), and of keys of which only some have gone it says to try again. All of that is followed, for as
long as an answer may take.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from redis.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004  (the client's)
    MovedError,
    ReadOnlyError,
    TryAgainError,
)

from featurestore.online.redis_errors import WireError
from featurestore.online.redis_health import Request
from featurestore.online.redis_keys import Keys
from featurestore.online.redis_settings import RedisSettings
from featurestore.online.redis_wire import Reply, Server, pack

_MOST_BYTES = 1 << 20
_PAUSE = 0.02
_PASSING = (BusyLoadingError, ClusterDownError, ReadOnlyError, TryAgainError)


class ClusterServers:
    """Carries commands to the primaries of a cluster, to all at the same time."""

    def __init__(self, settings: RedisSettings, keys: Keys) -> None:
        self.address = settings.address
        self._settings = settings
        self._keys = keys
        self._members: dict[str, Server] = {}
        self._owners: list[Server] = []
        self._lock = threading.Lock()

    def servers(self) -> Sequence[Server]:
        return list(dict.fromkeys(self._owners or self._discover()))

    def owners(self) -> Sequence[Server]:
        """Return the server of each part as far as known; nothing before the first request."""
        return self._owners

    def close(self) -> None:
        for server in self._members.values():
            server.close()

    def run(self, requests: Iterable[Request]) -> Iterator[Reply]:
        asked = list(requests)
        replies: list[Reply] = [None] * len(asked)
        targets: dict[int, Server] = {}
        waiting: Sequence[int] = range(len(asked))
        deadline = time.monotonic() + self._settings.timeout
        while waiting:
            again: list[int] = []
            problem: WireError | None = None
            for place, reply in self._send(asked, waiting, targets):
                targets.pop(place, None)
                if isinstance(reply, AskError) and not isinstance(reply, MovedError):
                    targets[place] = self._member(reply.host, reply.port)
                elif isinstance(reply, MovedError):
                    self._owners = []
                elif isinstance(reply, TryAgainError) and asked[place].command[0] == b"MGET":
                    replies[place] = self._collect(asked[place], deadline)
                    continue
                elif isinstance(reply, (WireError, *_PASSING)):
                    problem = reply if isinstance(reply, WireError) else WireError(self.address, reply)
                    self._owners = []
                else:
                    replies[place] = reply
                    continue
                again.append(place)
            waiting = again
            if problem is not None:
                if time.monotonic() > deadline:
                    raise problem from problem.cause
                time.sleep(_PAUSE)
        yield from replies

    def _send(
        self, requests: Sequence[Request], places: Sequence[int], targets: dict[int, Server]
    ) -> Iterator[tuple[int, Reply]]:
        """Send requests to whoever has their parts, or to their targets, and yield what they answer."""
        owners = self._owners or self._discover()
        queues: dict[Server, list[int]] = {}
        for place in places:
            queues.setdefault(targets.get(place) or owners[requests[place].part], []).append(place)
        while queues:
            begun: list[tuple[Server, list[int], AbstractConnection]] = []
            for server, queue in list(queues.items()):
                sent, packed = self._portion(requests, queue, targets)
                del queue[: len(sent)]
                if not queue:
                    del queues[server]
                try:
                    begun.append((server, sent, server.begin(packed)))
                except WireError as error:
                    yield from ((place, _lasting(error)) for place in sent)
            for server, sent, connection in begun:
                try:
                    replies = server.finish(connection, sum(1 + (place in targets) for place in sent))
                except WireError as error:
                    yield from ((place, _lasting(error)) for place in sent)
                    continue
                answers = iter(replies)
                for place in sent:
                    if place in targets:
                        next(answers)  # of ASKING
                    yield place, next(answers)

    @staticmethod
    def _portion(
        requests: Sequence[Request], queue: Sequence[int], targets: dict[int, Server]
    ) -> tuple[list[int], bytes]:
        """Return what to send at once: not so much that a server waits for us to read while we wait for it."""
        sent, parts, size = [], [], 0
        for place in queue:
            if place in targets:
                parts.append(pack(b"ASKING"))
            parts.append(pack(*requests[place].command))
            sent.append(place)
            size += len(parts[-1])
            if size > _MOST_BYTES:
                break
        return sent, b"".join(parts)

    def _collect(self, request: Request, deadline: float) -> list[Any]:
        """Read keys one by one, of which only some have been handed over, until two times in a row give the same."""
        single = [Request(request.part, (b"GET", key)) for key in request.command[1:]]
        before: list[Any] | None = None
        while True:
            values = list(self.run(single))
            if values == before:
                return values
            if before is not None and time.monotonic() > deadline:
                raise WireError(self.address, TryAgainError("keys change while their slot moves"))
            before = values

    def _member(self, host: str, port: int) -> Server:
        with self._lock:
            address = f"{host}:{port}"
            if address not in self._members:
                self._members[address] = Server(self._settings, host, port)
            return self._members[address]

    def _discover(self) -> list[Server]:
        """Ask the servers that are known, one after the other, who has what."""
        seed = self._member(self._settings.host, self._settings.port)
        problem: WireError | None = None
        for server in dict.fromkeys([seed, *self._members.values()]):
            try:
                reply = server.ask(pack(b"CLUSTER", b"SLOTS"))
            except WireError as error:
                problem = _lasting(error)
                continue
            if isinstance(reply, Exception):
                raise WireError(server.address, reply)
            owners = self._assign(server, reply)
            if None not in owners:
                self._owners = [owner for owner in owners if owner is not None]
                return self._owners
            problem = WireError(server.address, ClusterDownError("not all slots are served"))
        assert problem is not None  # noqa: S101  (there is at least one server)
        raise problem

    def _assign(self, told_by: Server, ranges: Sequence[Any]) -> list[Server | None]:
        """Return the server of each part as CLUSTER SLOTS has it."""
        owners: list[Server | None] = [None] * self._keys.parts
        for start, stop, (host, port, *_), *_ in ranges:
            name = host.decode() if host else told_by.host  # a server may not know its own name
            owner = self._member(name, port)
            for part, slot in enumerate(self._keys.slots):
                if start <= slot <= stop:
                    owners[part] = owner
        return owners


def _lasting(error: WireError) -> WireError:
    """Return an error that may pass, such as a server that is gone until another takes its place; raise any other."""
    if isinstance(error.cause, ConnectionError) and not isinstance(error.cause, AuthenticationError):
        return error
    raise error
