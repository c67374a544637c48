"""How a store in Redis knows that it lost nothing: generation marks, and what servers say of evictions.

A part's generation mark is a random value, made up when its filling begins, after everything else under its keys was
removed. A server that comes up empty has none. Where a server evicted keys, the marks are taken away: which keys are
gone cannot be told, so all is filled again.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from redis.exceptions import NoPermissionError, ReadOnlyError

from featurestore.errors import NotReadyError, OnlineStoreError
from featurestore.online.redis_errors import WireError
from featurestore.online.redis_keys import Keys, pattern
from featurestore.online.redis_wire import Reply, Server, pack

_EVERY = 1.0
_COUNT = 2000
_POLICY = b"noeviction"
_NEEDED = {b"maxmemory_policy", b"evicted_keys", b"run_id"}
_SWEEP = b"if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end return redis.call('UNLINK', unpack(KEYS, 2))"


class Request(NamedTuple):
    """A command, and the part whose keys it names."""

    part: int
    command: tuple[bytes | int, ...]


class Transport(Protocol):
    """What carries commands to the servers that hold the parts."""

    address: str

    def run(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Carry requests out and yield their replies in order; errors of single ones are replies too."""

    def servers(self) -> Sequence[Server]:
        """Return the servers that hold parts: of a cluster the primaries."""

    def owners(self) -> Sequence[Server]:
        """Return the server of each part, nothing where they are not known yet."""

    def close(self) -> None:
        """Close all connections."""


class EvictedError(NotReadyError):
    """A server evicted keys; the store has been declared empty."""


class Generations:
    """The generation marks of all parts."""

    def __init__(self, transport: Transport, keys: Keys) -> None:
        self._transport = transport
        self._keys = keys
        self._known: list[bytes] | None = None
        self._lock = threading.Lock()

    def of(self, part: int) -> bytes:
        """Return a part's generation; where a part has none, remove what is left of it and begin one."""
        known = self._known
        if known is None:
            with self._lock:
                known = self._known = self._begin()
        return known[part]

    def renew(self) -> None:
        """Ask for them anew: they were not what was known."""
        self._known = None

    def read(self) -> list[bytes | None]:
        """Return the generation of each part, None where it has none."""
        requests = [Request(part, (b"GET", key)) for part, key in enumerate(self._keys.generations)]
        return [_checked(self._transport, reply) for reply in self._transport.run(requests)]

    def end(self) -> None:
        """Declare all parts empty."""
        for reply in self._transport.run(
            [Request(part, (b"DEL", key)) for part, key in enumerate(self._keys.generations)]
        ):
            _checked(self._transport, reply)

    def _begin(self) -> list[bytes]:
        while True:
            found = self.read()
            missing = [part for part, generation in enumerate(found) if generation is None]
            if not missing:
                return [generation for generation in found if generation is not None]
            self._sweep(set(missing))
            begun = [
                Request(part, (b"SET", self._keys.generations[part], secrets.token_hex(8).encode(), b"NX"))
                for part in missing
            ]
            for reply in self._transport.run(begun):
                _checked(self._transport, reply)

    def _sweep(self, parts: set[int]) -> None:
        """Remove all keys of parts without a generation; none where another process begins one meanwhile."""
        for server in self._transport.servers():
            for names in scan(server, pattern(self._keys.prefix)):
                by_part: dict[int, list[bytes]] = {}
                for name in names:
                    located = self._keys.locate(name)
                    if located is not None and located[0] in parts:
                        by_part.setdefault(located[0], []).append(name)
                requests = [
                    Request(part, (b"EVAL", _SWEEP, 1 + len(gone), self._keys.generations[part], *gone))
                    for part, gone in by_part.items()
                ]
                for reply in self._transport.run(requests):
                    _checked(self._transport, reply)


class Health:
    """Asks the servers, about once a second, whether they may evict keys, and whether they did."""

    def __init__(self, transport: Transport, keys: Keys, generations: Generations) -> None:
        self._transport = transport
        self._keys = keys
        self._generations = generations
        self._lock = threading.Lock()
        self._asked = -_EVERY
        self._problem: NotReadyError | None = None
        self._baselines: dict[bytes, int] = {}

    def check(self) -> None:
        """Raise `NotReadyError` where keys may be gone, `EvictedError` where the store was declared empty for it.

        What was found is told for a second; then it is asked again.
        """
        if self.is_due and self._lock.acquire(blocking=False):
            try:
                self._problem = self._ask()
                self._asked = time.monotonic()
            finally:
                self._lock.release()
        self.recall()

    def recall(self) -> None:
        """Raise what was found when it was last asked."""
        problem = self._problem
        if problem is not None:
            raise type(problem)(*problem.args)

    @property
    def is_due(self) -> bool:
        """Whether the next `check` asks."""
        return time.monotonic() - self._asked >= _EVERY

    def forgive(self) -> None:
        """Let the next `check` ask, whatever the last one found."""
        self._asked = -_EVERY

    def _ask(self) -> NotReadyError | None:
        for server in self._transport.servers():
            told = self._tell(server)
            if not told.keys() >= _NEEDED:
                raise OnlineStoreError(
                    f"the server {server.address} does not say in its INFO whether it evicts keys (maxmemory_policy, "
                    "evicted_keys, run_id), so that it cannot be told from one that lost some: use Redis or Valkey"
                )
            policy = told[b"maxmemory_policy"]
            if policy != _POLICY:
                return NotReadyError(
                    f"the Redis server {server.address} may evict keys (maxmemory-policy {policy.decode()!r}), and a "
                    "missing key would be served as a missing row: CONFIG SET maxmemory-policy noeviction there, or "
                    "choose noeviction where the server is managed, and in its redis.conf"
                )
            if self._evicted(told[b"run_id"], int(told[b"evicted_keys"])):
                return EvictedError(
                    f"the Redis server {server.address} has evicted keys, so that the online store no longer holds all "
                    "that was written: it counts as empty until materialize, stream or serve fill it again"
                )
        return None

    def _tell(self, server: Server) -> dict[bytes, bytes]:
        sections = (b"server", b"memory", b"stats")
        replies = server.exchange(b"".join(pack(b"INFO", section) for section in sections), len(sections))
        lines = b"\r\n".join(_checked(self._transport, reply) for reply in replies).split(b"\r\n")
        return dict(line.split(b":", 1) for line in lines if b":" in line)

    def _evicted(self, run: bytes, count: int) -> bool:
        """Whether a server evicted keys since the store began to be filled; if so, declare the store empty."""
        if self._baselines.get(run) == count:
            return False
        key = self._keys.evictions
        stored = self._one(b"HGET", key, run)
        if stored is None and not (count and any(self._generations.read())):
            stored = count  # of other keys, before the store was filled
            self._one(b"HSETNX", key, run, count)
        if stored is not None and count in {0, int(stored)}:
            if count != int(stored):  # CONFIG RESETSTAT
                self._one(b"HSET", key, run, count)
            self._baselines[run] = count
            return False
        try:
            self._generations.end()
        except WireError as error:
            if isinstance(error.cause, (NoPermissionError, ReadOnlyError)):  # who may only read leaves it to writers
                return True
            raise
        self._one(b"HSET", key, run, count)  # not before that is done
        return True

    def _one(self, *command: bytes | int) -> Any:
        """Return the reply to a command on a key in part 0."""
        (reply,) = self._transport.run([Request(0, command)])
        if isinstance(reply, ReadOnlyError) or (isinstance(reply, NoPermissionError) and command[0] == b"HSETNX"):
            return None
        return _checked(self._transport, reply)


def scan(server: Server, match: bytes) -> Iterator[list[bytes]]:
    """Yield the names of a server's keys that match, some of them twice."""
    cursor = b"0"
    while True:
        reply: Any = server.ask(pack(b"SCAN", cursor, b"MATCH", match, b"COUNT", _COUNT))
        if isinstance(reply, Exception):
            raise WireError(server.address, reply)
        cursor, names = reply
        if names:
            yield names
        if cursor == b"0":
            return


def _checked(transport: Transport, reply: Reply) -> Any:
    if isinstance(reply, Exception):
        raise WireError(transport.address, reply)
    return reply
