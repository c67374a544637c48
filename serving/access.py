"""Who may do what: bearer tokens, verified by the registry and remembered for some seconds, and their rates."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import NamedTuple

from featurestore.errors import RegistryError
from featurestore.registry import TokenInfo
from featurestore.serving.problems import Problem, unavailable

_MOST_TOKENS = 10_000
_MOST_VERIFIED_AT_ONCE = 64
_REGISTRY_AWAY_SECONDS = 60.0
_CHALLENGE = [(b"www-authenticate", b'Bearer realm="featurestore"')]


class _Known(NamedTuple):
    """What the registry said of a token, when, and until when that is believed (the monotonic clock, seconds)."""

    info: TokenInfo | None
    said: float
    until: float
    bucket: _Bucket | None


class _Bucket:
    """What is left of a token's rate: up to one second's requests, refilled as time passes."""

    __slots__ = ("at", "left", "rate")

    def __init__(self, rate: int, at: float) -> None:
        self.rate = rate
        self.left = float(rate)
        self.at = at

    def take(self, now: float) -> float:
        """Take one request; return 0, or in how many seconds there will be one."""
        self.left = min(float(self.rate), self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left < 1:
            return (1 - self.left) / self.rate
        self.left -= 1
        return 0.0


class Access:
    """Checks the token of each request.

    Rates are kept by each worker for itself, so that N workers together let up to N times a token's rate through.

    Parameters
    ----------
    verify
        Asks the registry about a token; None where it is unknown, revoked or expired. Blocks.
    executor
        Where it is asked.
    seconds
        How long an answer is believed. While the registry is away, a token that was good stays good for a minute more.
    required
        Whether requests need a token.
    limited
        Called when a request is refused because its token's rate is used up.
    monotonic
        Tells passing time in seconds.
    """

    def __init__(
        self,
        verify: Callable[[str], TokenInfo | None],
        executor: Executor,
        *,
        seconds: float,
        required: bool,
        limited: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.required = required
        self._verify = verify
        self._executor = executor
        self._seconds = seconds
        self._limited = limited
        self._monotonic = monotonic
        # Apart, so that no number of made-up tokens pushes a good one out.
        self._good: OrderedDict[bytes, _Known] = OrderedDict()
        self._bad: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Known]] = {}

    def check(self, headers: Iterable[tuple[bytes, bytes]], scope: str) -> Problem | bytes | None:
        """Return what `admit` would come to where that is known already: a problem, or None for a token that may.

        Bytes are the secret of a token that the registry must be asked about; go on with `ask`.
        """
        secret = _bearer(headers)
        if secret is None:
            return Problem(401, "send a token: Authorization: Bearer fs_...", headers=_CHALLENGE)
        digest = hashlib.sha256(secret).digest()
        known = self._good.get(digest) or self._bad.get(digest)
        now = self._monotonic()
        return secret if known is None or known.until <= now else self._judge(known, scope, now)

    def is_free(self, headers: Iterable[tuple[bytes, bytes]], scope: str) -> bool:
        """Return whether the token is known to have a scope, and has no rate; False says nothing."""
        secret = _bearer(headers)
        known = None if secret is None else self._good.get(hashlib.sha256(secret).digest())
        if known is None or known.info is None or known.until <= self._monotonic():
            return False
        return known.bucket is None and known.info.allows(scope)

    async def admit(self, headers: Iterable[tuple[bytes, bytes]], scope: str) -> None:
        """Let a request through, or raise its `Problem`: 401, 403, 429, or 503 where the registry is away."""
        if not self.required:
            return
        found = self.check(headers, scope)
        if isinstance(found, bytes):
            found = await self.ask(found, scope)
        if found is not None:
            raise found

    async def ask(self, secret: bytes, scope: str) -> Problem | None:
        """Return what a token comes to, after asking the registry about it; once for all who ask meanwhile."""
        digest = hashlib.sha256(secret).digest()
        task = self._asking.get(digest)
        if task is None:
            if len(self._asking) >= _MOST_VERIFIED_AT_ONCE:
                return unavailable("too many tokens are being verified; try again")
            task = asyncio.get_running_loop().create_task(self._look_up(digest, secret))
            self._asking[digest] = task
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        try:
            known = await asyncio.shield(task)
        except RegistryError:
            return unavailable("tokens cannot be verified, because the registry does not answer; try again")
        return self._judge(known, scope, self._monotonic())

    async def _look_up(self, digest: bytes, secret: bytes) -> _Known:
        old = self._good.get(digest)
        now = self._monotonic()  # from before it is asked: what is revoked meanwhile is not believed for longer
        try:
            info = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._verify, secret.decode("latin-1")
            )
        except RegistryError:
            if old is None or now > old.said + self._seconds + _REGISTRY_AWAY_SECONDS:
                raise
            known = old._replace(until=self._monotonic() + min(1.0, self._seconds))
        else:
            known = _Known(info, now, now + self._seconds, self._bucket(info, old, now))
        store, other = (self._bad, self._good) if known.info is None else (self._good, self._bad)
        other.pop(digest, None)
        store[digest] = known
        store.move_to_end(digest)
        if len(store) > _MOST_TOKENS:
            store.popitem(last=False)
        return known

    @staticmethod
    def _bucket(info: TokenInfo | None, old: _Known | None, now: float) -> _Bucket | None:
        if info is None or info.rate is None:
            return None
        if old is not None and old.bucket is not None and old.bucket.rate == info.rate:
            return old.bucket
        return _Bucket(info.rate, now)

    def _judge(self, known: _Known, scope: str, now: float) -> Problem | None:
        info = known.info
        if info is None:
            return Problem(401, "the token is not known, or was revoked, or has expired", headers=_CHALLENGE)
        if not info.allows(scope):
            return Problem(
                403, f"the token {info.name!r} lacks the scope {scope!r}; it has: {', '.join(sorted(info.scopes))}"
            )
        if known.bucket is not None and (wait := known.bucket.take(now)):
            self._limited()
            return Problem(429, f"the token {info.name!r} is good for {info.rate} requests a second", retry_after=wait)
        return None


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return None
