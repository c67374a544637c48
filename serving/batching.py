"""Reads that requests share: while one read is on its way, the keys of the next requests gather for the one after."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from featurestore.errors import FeatureStoreError, StoreUnavailableError
from featurestore.online.contract import AsyncReader

Values = list[bytes | None]
_MARK = b"\x00"
"""The byte that keys of marks begin with, see `featurestore.online.framing.mark_key`."""


class DeadlineError(StoreUnavailableError):
    """The online store did not answer within the time that the request had."""


class _Waiter:
    """A request's read: its keys, the marks after them, until when it waits, and where its values go."""

    __slots__ = ("deadline", "future", "keys", "marks", "size")

    def __init__(
        self, keys: Sequence[bytes], marks: Sequence[bytes], deadline: float, future: asyncio.Future[Values]
    ) -> None:
        self.keys = keys
        self.marks = marks
        self.size = len(keys)
        self.deadline = deadline
        self.future = future


class SharedReader:
    """Joins reads of one event loop, each `get` of the reader below holding the keys of many requests.

    A read begins as soon as fewer than `reads` are on their way, with all that waits by then, so that the load itself
    decides how much is shared. Marks come last in a request's keys; those that requests have in common are read once,
    after all other keys. A read that fails, fails for the requests in it and for no others. A request that is
    cancelled or past its deadline leaves the others' read as it is.

    Parameters
    ----------
    reader
        What reads.
    seconds
        How long a request waits.
    most_keys
        How many keys are read together, except where a single request has more.
    reads
        How many reads may be on their way at the same time.
    observe
        Called with the number of requests that a read answers.
    """

    def __init__(
        self,
        reader: AsyncReader,
        *,
        seconds: float,
        most_keys: int = 20_000,
        reads: int = 1,
        observe: Callable[[int], None] | None = None,
    ) -> None:
        self._reader = reader
        self._seconds = seconds
        self._most_keys = most_keys
        self._reads = reads
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Waiter] = deque()
        self._flying: dict[asyncio.Task[None], list[_Waiter]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False

    async def get(self, keys: Sequence[bytes]) -> Values:
        """Return the values of some keys, marks last, as `AsyncReader.get` does.

        Raises
        ------
        DeadlineError
            Where that takes too long.
        OnlineStoreError
            Where the read fails.
        """
        end = len(keys)
        while end and keys[end - 1][:1] == _MARK:
            end -= 1
        now = self._loop.time()
        future: asyncio.Future[Values] = self._loop.create_future()
        self._queue.append(_Waiter(keys[:end], keys[end:], now + self._seconds, future))
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._expire)
        if not self._scheduled and len(self._flying) < self._reads:
            # Not at once: requests that came in with this one join its read.
            self._scheduled = True
            self._loop.call_soon(self._begin)
        return await future

    async def close(self) -> None:
        """End what is on its way, and the reader."""
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._flying):
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)
        await self._reader.close()

    def _begin(self) -> None:
        self._scheduled = False
        while self._queue and len(self._flying) < self._reads:
            batch = self._take()
            if batch:
                task = self._loop.create_task(self._read(batch))
                self._flying[task] = batch
                task.add_done_callback(self._landed)

    def _take(self) -> list[_Waiter]:
        batch: list[_Waiter] = []
        size = 0
        while self._queue:
            waiter = self._queue[0]
            if batch and size + waiter.size > self._most_keys:
                break
            self._queue.popleft()
            if not waiter.future.done():
                batch.append(waiter)
                size += waiter.size
        return batch

    def _landed(self, task: asyncio.Task[None]) -> None:
        del self._flying[task]
        if not self._scheduled:
            self._begin()

    async def _read(self, batch: list[_Waiter]) -> None:
        try:
            keys: list[bytes] = []
            marks: dict[bytes, int] = {}
            for waiter in batch:
                keys += waiter.keys
                for mark in waiter.marks:
                    marks.setdefault(mark, len(marks))
            size = len(keys)
            keys += marks
            if self._observe is not None:
                self._observe(len(batch))
            values = await self._reader.get(keys)
            at = 0
            for waiter in batch:
                if not waiter.future.done():
                    own = values[at : at + waiter.size]
                    own += [values[size + marks[mark]] for mark in waiter.marks]
                    waiter.future.set_result(own)
                at += waiter.size
        except FeatureStoreError as error:
            _fail(batch, error)
        except asyncio.CancelledError:
            _fail(batch, StoreUnavailableError("the online store was not asked to the end: the server shuts down"))
            raise
        except BaseException as error:
            # Nobody awaits this task: whoever waits for values must hear of whatever went wrong.
            _fail(batch, error)
            if not isinstance(error, Exception):
                raise

    def _expire(self) -> None:
        """Fail what has waited too long; end a read that nobody waits for any more, which makes room for the next."""
        now = self._loop.time()
        self._timer = None
        nearest = None
        for task, batch in list(self._flying.items()):
            if self._late(batch, now):
                task.cancel()
            else:
                nearest = _earlier(nearest, batch)
        self._late(self._queue, now)
        nearest = _earlier(nearest, self._queue)
        if nearest is not None:
            self._timer = self._loop.call_at(max(nearest, now + 0.001), self._expire)

    def _late(self, waiters: Sequence[_Waiter] | deque[_Waiter], now: float) -> bool:
        """Fail those past their deadline; return whether none is left."""
        is_over = True
        for waiter in waiters:
            if waiter.future.done():
                continue
            if waiter.deadline <= now:
                waiter.future.set_exception(
                    DeadlineError(f"the online store did not answer within {self._seconds:g} s; try again")
                )
            else:
                is_over = False
        return is_over


def _earlier(nearest: float | None, waiters: Sequence[_Waiter] | deque[_Waiter]) -> float | None:
    deadlines = [waiter.deadline for waiter in waiters if not waiter.future.done()]
    return min(deadlines if nearest is None else [nearest, *deadlines], default=None)


def _fail(batch: Sequence[_Waiter], error: BaseException) -> None:
    for waiter in batch:
        if not waiter.future.done():
            waiter.future.set_exception(error)
