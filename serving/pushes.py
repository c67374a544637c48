"""``POST /push``: rows of a push source, written in worker threads, one push at a time for each source."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from featurestore.definitions import PushSource
from featurestore.errors import FeatureNotFoundError, FeatureStoreError
from featurestore.serving.generation import Generation
from featurestore.serving.metrics import Metrics
from featurestore.serving.problems import Problem, unavailable
from featurestore.streaming.push import PushResult

LOG = logging.getLogger("featurestore.serving")
_THREADS = 4
_MOST_WAITING = 64


class PushRequest(msgspec.Struct):
    """Rows to push.

    Attributes
    ----------
    push_source_name
        The push source.
    df
        By column the values of all rows: lists of one length. Times are ISO 8601 text, bytes base64 text.
    to
        ``online_and_offline``, or ``offline`` where no view of the source is served online.
    idempotency_key
        Names this push, as the header ``Idempotency-Key`` does: a second one with the key writes nothing twice.
    """

    push_source_name: str
    df: dict[str, list[Any]]
    to: str = "online_and_offline"
    idempotency_key: str | None = None


class PushAnswer(msgspec.Struct):
    """What became of the rows of a push, which are in the log and in the online store now.

    Attributes
    ----------
    rows
        Rows handed in.
    rejected
        How many of them at least one view could not take; they are with the dead letters.
    reasons
        Why, for the first ten.
    repeated
        Whether an earlier push with this idempotency key had written them; then nothing was written now.
    """

    rows: int
    rejected: int
    reasons: tuple[str, ...]
    repeated: bool


class Pushes:
    """Writes what is pushed.

    Parameters
    ----------
    generation
        What is served; set anew at a change of definitions.
    """

    def __init__(self, generation: Generation, metrics: Metrics) -> None:
        self.generation = generation
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(_THREADS, "push")
        self._decode = msgspec.json.Decoder(PushRequest).decode
        self._locks: dict[str, asyncio.Lock] = {}
        self._used: set[str] = set()
        self._waiting = 0

    async def answer(self, body: bytes, header: str | None) -> bytes:
        """Write a push and return the answer, as JSON.

        Parameters
        ----------
        header
            The header ``Idempotency-Key``.
        """
        try:
            request = self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(400, f"the body is not a push: {error}") from error
        key = request.idempotency_key
        if key is not None and header is not None and key != header:
            raise Problem(400, "the idempotency key of the body is not that of the header; give one")
        lengths = {len(column) for column in request.df.values()}
        if len(lengths) > 1:
            raise Problem(400, f"the columns of df have different lengths: {sorted(lengths)}")
        rows = [dict(zip(request.df, values, strict=True)) for values in zip(*request.df.values(), strict=True)]
        name = request.push_source_name
        lock = self._lock(name)
        if self._waiting >= _MOST_WAITING:
            raise unavailable(f"{self._waiting} pushes are waiting; try again")
        self._waiting += 1
        try:
            # Shielded: a client that goes away leaves the push, and its turn, as they are.
            result = await asyncio.shield(self._push(lock, name, rows, request.to, key if header is None else header))
        finally:
            self._waiting -= 1
        self._metrics.add("featurestore_pushed_rows", name, "accepted", value=result.rows - result.rejected)
        self._metrics.add("featurestore_pushed_rows", name, "rejected", value=result.rejected)
        return msgspec.json.encode(PushAnswer(result.rows, result.rejected, result.reasons, result.repeated))

    async def _push(
        self, lock: asyncio.Lock, name: str, rows: list[dict[str, Any]], to: str, key: str | None
    ) -> PushResult:
        async with lock:
            store = self.generation.store  # once it is this push's turn: definitions may have changed
            self._used.add(name)
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, lambda: store.push(name, rows, to, idempotency_key=key)
            )

    async def switch(self, generation: Generation) -> None:
        """Use other definitions from now on.

        What was pushed by the old ones until now is brought to the views that only the new ones have.
        """
        self.generation = generation
        for name in sorted(self._used):
            try:
                await asyncio.shield(self._push(self._lock(name), name, [], "online_and_offline", None))
            except FeatureNotFoundError:
                self._used.discard(name)
            except FeatureStoreError as error:
                LOG.error(  # noqa: TRY400  (an error of ours tells all)
                    "views of the push source %s could not be brought up to date: %s", name, error
                )

    def close(self) -> None:
        """Let go of the threads, once no push is under way."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _lock(self, name: str) -> asyncio.Lock:
        sources = self.generation.store.project.sources
        if not isinstance(sources.get(name), PushSource):
            known = [known for known, source in sources.items() if isinstance(source, PushSource)]
            raise FeatureNotFoundError.with_suggestion("push source", name, known)
        return self._locks.setdefault(name, asyncio.Lock())
