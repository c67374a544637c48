"""The online store in Redis or Valkey, one server or a cluster.

Headers, chunks and marks are strings. Sections are merged by a script on the server, so that a write depends on what
is stored at the moment that it is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Concatenate, ParamSpec, Self, TypeVar, cast

from redis.exceptions import NoScriptError

from featurestore.errors import StoreUnavailableError
from featurestore.online.contract import (
    AsyncReader,
    Given,
    MarkMovedError,
    OnlineStore,
    Outcome,
    SectionWrite,
    Snapshot,
)
from featurestore.online.redis_errors import WireError, translate
from featurestore.online.redis_health import EvictedError, Generations, Health, Request, Transport, scan
from featurestore.online.redis_keys import Keys, answer, assemble, is_mark, pattern
from featurestore.online.redis_merge import Call, calls, outcomes_of
from featurestore.online.redis_settings import RedisSettings
from featurestore.online.redis_wire import Reply, Server, pack

_ROUNDS = 5
_FEW_WRITES = 100
P = ParamSpec("P")
T = TypeVar("T")


class OneServer:
    """Carries commands to a server that holds everything."""

    def __init__(self, settings: RedisSettings) -> None:
        self.server = Server(settings)
        self.address = self.server.address

    def run(self, requests: Iterable[Request]) -> Iterator[Reply]:
        return self.server.stream(pack(*request.command) for request in requests)

    def servers(self) -> Sequence[Server]:
        return [self.server]

    def owners(self) -> Sequence[Server]:
        return [self.server]

    def close(self) -> None:
        self.server.close()


def _told(method: Callable[Concatenate[RedisStore, P], T]) -> Callable[Concatenate[RedisStore, P], T]:
    """Let a method raise errors of ours instead of the client's."""

    @wraps(method)
    def call(self: RedisStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except WireError as error:
            raise translate(error, self.settings.timeout) from error.cause

    return cast("Callable[Concatenate[RedisStore, P], T]", call)


class _RedisSnapshot(Snapshot):
    """Reads as they are asked for: each `get` is one round trip, and consistent in itself."""

    __slots__ = ("_store",)

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._store.read(keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class RedisStore(OnlineStore):
    """A Redis or Valkey server, or a cluster of them.

    Threads may share it, and a process that forks may go on using it.

    Parameters
    ----------
    settings
        How to reach it. Nothing is connected before it is needed.

    Attributes
    ----------
    keys
        The names of its keys.
    health
        What is known of its servers' evictions.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = settings
        self.keys = Keys(settings.key_prefix.encode(), 256 if settings.cluster else 1)
        self._transport: Transport
        if settings.cluster:
            from featurestore.online.redis_cluster import ClusterServers

            self._transport = ClusterServers(settings, self.keys)
        else:
            self._transport = OneServer(settings)
            self._server = self._transport.server
            self._generation = self.keys.generations[0]
        self._generations = Generations(self._transport, self.keys)
        self.health = Health(self._transport, self.keys, self._generations)

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        return _RedisSnapshot(self)

    @_told
    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of keys, in one round trip (of a cluster: one to each server, at the same time)."""
        if not keys:
            return []
        if self.settings.cluster:
            portions, marks = self.keys.portions(keys)
            generations = self.keys.generations
            replies = self._transport.run(
                Request(portion.part, (b"MGET", *portion.keys, generations[portion.part])) for portion in portions
            )
            return assemble(len(keys), portions, marks, [self.values(reply) for reply in replies])
        prefix = self.keys.prefix
        return self.values(self._server.ask(pack(b"MGET", *[prefix + key for key in keys], self._generation)))

    def values(self, reply: Reply) -> list[bytes | None]:
        """Return what a read of a part gave; nothing where the part has no generation mark."""
        if isinstance(reply, Exception):
            raise WireError(self._transport.address, reply)
        values: list[bytes | None] = reply
        if values.pop() is None:
            return [None] * len(values)
        return values

    def owners(self) -> Sequence[Server]:
        """Return of a cluster the server of each part, nothing where they are not known yet."""
        return self._transport.owners()

    @_told
    def check(self) -> None:
        self.health.check()

    def _admit(self) -> None:
        """Raise where the store must not be written; what was evicted is written again, so that does not matter."""
        try:
            self.health.check()
        except EvictedError:
            self.health.forgive()

    @_told
    def merge(
        self, writes: Sequence[SectionWrite], marks: Mapping[bytes, bytes] | None = None, given: Given | None = None
    ) -> list[Outcome]:
        self._admit()
        outcomes: list[Outcome | None] = [None] * len(writes)
        made: Iterable[Call] = calls(writes, self.keys, given, outcomes)
        if self.keys.parts == 1 and len(writes) <= _FEW_WRITES:
            listed = list(made)
            if len(listed) <= 1:
                made, marks = self._with_marks(listed, marks, given), None
            else:
                made = listed
        for call, reply in self._run(made, given):
            for place, outcome in zip(call.places, outcomes_of(reply), strict=True):
                outcomes[place] = outcome
        if marks and Outcome.REFUSED not in outcomes:
            self._set(marks, given)
        return [outcome for outcome in outcomes if outcome is not None]

    def _with_marks(self, made: list[Call], marks: Given | None, given: Given | None) -> list[Call]:
        """Let the only call set the marks too, which saves a round trip."""
        if not made:
            return [Call(0, given, marks)] if marks or given else []
        (only,) = made
        only.marks = marks or {}
        return made

    @_told
    def put(self, marks: Mapping[bytes, bytes | None], given: Given | None = None) -> None:
        self._admit()
        self._set(marks, given)

    def _set(self, marks: Given, given: Given | None) -> None:
        """Set and remove marks in every part, and other keys in their own."""
        copied = {key: value for key, value in marks.items() if is_mark(key) or self.keys.parts == 1}
        own: dict[int, dict[bytes, bytes | None]] = {}
        for key, value in marks.items():
            if key not in copied:
                own.setdefault(self.keys.part(key), {})[key] = value
        parts = range(self.keys.parts) if copied or given else own
        made = [Call(part, given, {**copied, **own.get(part, {})}) for part in parts]
        if given and self.keys.parts > 1:  # before any part is written: else two could move a mark half-way each
            self._settle(made, given, {})
        for _ in self._run(made, given):
            pass

    def _run(self, made: Iterable[Call], given: Given | None) -> Iterator[tuple[Call, bytes]]:
        """Make calls and yield what they answer; those that met a server without the script, or another generation
        than was known, are made again.
        """
        held: dict[int, Given] = {}
        for _ in range(_ROUNDS):
            sent: list[Call] = []
            again: list[Call] = []
            moved: list[Call] = []
            for place, reply in enumerate(self._transport.run(self._requests(made, sent))):
                call = sent[place]
                if isinstance(reply, NoScriptError):
                    call.carries_script = True
                    again.append(call)
                elif isinstance(reply, Exception):
                    raise WireError(self._transport.address, reply)
                elif reply == b"G":
                    self._generations.renew()
                    again.append(call)
                elif reply == b"M":
                    moved.append(call)
                else:
                    held[call.part] = call.given
                    yield call, reply
            if moved:
                self._settle(moved, given or {}, held)
            made = again + moved
            if not made:
                return
        raise StoreUnavailableError(f"the Redis server {self._transport.address} keeps losing what is put into it")

    def _requests(self, made: Iterable[Call], sent: list[Call]) -> Iterator[Request]:
        for call in made:
            sent.append(call)
            yield Request(call.part, call.command(self.keys, self._generations.of(call.part)))

    def _settle(self, made: Sequence[Call], given: Given, held: Mapping[int, Given]) -> None:
        """Let calls depend on what each part's copies of the given marks are, the marks being as given.

        Copies differ where a process ended while it moved them; the answer is then still the least one.

        Parameters
        ----------
        held
            By part what its copies were when it was written; by now the same write may have moved them.

        Raises
        ------
        MarkMovedError
            Where the marks are not as given.
        """
        copies = self._copies(list(given))
        for place, (key, value) in enumerate(given.items()):
            found = [held[part][key] if part in held else own[place] for part, own in enumerate(copies)]
            if answer(found) != value:
                raise MarkMovedError(f"mark {key!r} of the online store is no longer {value!r}")
        for call in made:
            call.given = dict(zip(given, copies[call.part], strict=True))

    def _copies(self, marks: Sequence[bytes]) -> list[list[bytes | None]]:
        """Return by part its copies of marks."""
        keys = self.keys
        requests = [
            Request(part, (b"MGET", *[keys.prefixes[part] + mark for mark in marks], keys.generations[part]))
            for part in range(keys.parts)
        ]
        return [self.values(reply) for reply in self._transport.run(requests)]

    @_told
    def scan(self, prefix: bytes) -> list[bytes]:
        keys = self.keys
        valid = [generation is not None for generation in self._generations.read()]
        found: set[bytes] = set()
        begin = keys.prefix if keys.parts == 1 else b"%b{" % keys.prefix
        match = pattern(begin + prefix) if keys.parts == 1 else pattern(begin)[:-1] + b"??}" + pattern(prefix)
        for server in self._transport.servers():
            for names in scan(server, match):
                located = [keys.locate(name) for name in names]
                found.update(key for part, key in filter(None, located) if valid[part])
        return sorted(found)

    def delete(self, keys: Sequence[bytes]) -> None:
        self.put(dict.fromkeys(keys))

    def reader(self, connected: Callable[[], Awaitable[None]] | None = None) -> AsyncReader:
        from featurestore.online.redis_reader import RedisReader

        return RedisReader(self, connected)

    def close(self) -> None:
        self._transport.close()
