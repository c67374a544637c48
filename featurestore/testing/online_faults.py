"""A store that fails as scripted: errors, torn batches, lost answers, latency; for tests of what writes or reads.

A script is data: by operation, what happens to its first call, its second, and so on; calls beyond it go well.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from featurestore.errors import StoreUnavailableError
from featurestore.online.contract import AsyncReader, Given, OnlineStore, Outcome, SectionWrite, Snapshot


class Fault(NamedTuple):
    """What happens to one call.

    Attributes
    ----------
    seconds
        It takes so much longer.
    fails
        It raises `StoreUnavailableError`.
    done
        How much of it is done before it fails: of a merge so many writes, the first ones, and of it and of any other
        write, where None, everything, marks included, so that only the answer is lost.
    """

    seconds: float = 0.0
    fails: bool = True
    done: int | None = 0


DOWN = Fault()
"""Nothing is done."""

ANSWER_LOST = Fault(done=None)
"""All is done."""


def torn(writes: int) -> Fault:
    """Return the fault that only the first writes of a merge are applied, and no marks set."""
    return Fault(done=writes)


def slow(seconds: float) -> Fault:
    """Return the fault that a call goes well, but takes long."""
    return Fault(seconds, fails=False)


class FaultyStore(OnlineStore):
    """A store over another one, whose calls fail by a script.

    Parameters
    ----------
    store
        Where the data is.
    script
        By operation (``get``, ``merge``, ``put``, ``scan``, ``delete``, ``check``) the faults of its calls in turn;
        None for a call that goes well.
    sleep
        What spends time; tests that have a clock of their own give it here.

    Attributes
    ----------
    calls
        How often each operation was called.
    """

    def __init__(
        self,
        store: OnlineStore,
        script: Mapping[str, Sequence[Fault | None]] | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.store = store
        self.calls: Counter[str] = Counter()
        self._script = {name: list(faults) for name, faults in (script or {}).items()}
        self._sleep = sleep

    def _next(self, operation: str) -> Fault | None:
        """Return what happens to a call of an operation, its delay spent."""
        faults = self._script.get(operation, [])
        place = self.calls[operation]
        self.calls[operation] += 1
        fault = faults[place] if place < len(faults) else None
        if fault is not None and fault.seconds:
            self._sleep(fault.seconds)
        return fault if fault is not None and fault.fails else None

    def _fail(self, operation: str) -> StoreUnavailableError:
        return StoreUnavailableError(f"call {self.calls[operation]} of {operation!r} fails, as the test has it")

    def _do(self, operation: str, work: Callable[[], object]) -> None:
        fault = self._next(operation)
        if fault is None or fault.done is None:
            work()
        if fault is not None:
            raise self._fail(operation)

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Open a snapshot of the store below, each `get` of which may fail."""
        with self.store.snapshot() as snapshot:
            yield _FaultySnapshot(self, snapshot)

    def merge(
        self, writes: Sequence[SectionWrite], marks: Mapping[bytes, bytes] | None = None, given: Given | None = None
    ) -> list[Outcome]:
        """Merge, or a part of it."""
        fault = self._next("merge")
        if fault is None:
            return self.store.merge(writes, marks, given)
        if fault.done is None:
            self.store.merge(writes, marks, given)
        elif fault.done:
            self.store.merge(writes[: fault.done], None, given)
        raise self._fail("merge")

    def put(self, marks: Mapping[bytes, bytes | None], given: Given | None = None) -> None:
        """Set and remove marks, or not."""
        self._do("put", lambda: self.store.put(marks, given))

    def delete(self, keys: Sequence[bytes]) -> None:
        """Remove keys, or not."""
        self._do("delete", lambda: self.store.delete(keys))

    def check(self) -> None:
        """Check the store below."""
        self._do("check", self.store.check)

    def scan(self, prefix: bytes) -> list[bytes]:
        """Return the keys of the store below."""
        if self._next("scan") is not None:
            raise self._fail("scan")
        return self.store.scan(prefix)

    def reader(self, connected: Callable[[], Awaitable[None]] | None = None) -> AsyncReader:
        """Return a reader of the store below, each `get` of which may fail."""
        return _FaultyReader(self, self.store.reader(connected))

    def close(self) -> None:
        """Close the store below."""
        self.store.close()

    def before_get(self) -> None:
        """Do what the script says of the next `get`."""
        self._do("get", lambda: None)


class _FaultySnapshot(Snapshot):
    def __init__(self, store: FaultyStore, snapshot: Snapshot) -> None:
        self._store = store
        self._snapshot = snapshot

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._store.before_get()
        return self._snapshot.get(keys)


class _FaultyReader:
    def __init__(self, store: FaultyStore, reader: AsyncReader) -> None:
        self._store = store
        self._reader = reader

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._store.before_get()
        return await self._reader.get(keys)

    async def close(self) -> None:
        await self._reader.close()
