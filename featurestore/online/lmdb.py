"""The embedded online store: LMDB, a memory-mapped file that many processes read while one writes.

A commit flushes the data but not the page that makes it current (``metasync=False``): after a power cut the store is
intact and may have lost its last commits, whose rows the log still holds and whose watermarks went with them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import lmdb

from featurestore.errors import OnlineStoreError
from featurestore.online.contract import Given, MarkMovedError, OnlineStore, Outcome, SectionWrite, Snapshot
from featurestore.online.framing import decide, splice, stored_sequence

if TYPE_CHECKING:
    from lmdb import Environment, Transaction

_FIRST_SIZE = 256 << 20
T = TypeVar("T")


class _LmdbSnapshot(Snapshot):
    """A read transaction. A plain class, since generator context managers cost more than the reading does."""

    __slots__ = ("_get", "_store", "_transaction")

    def __init__(self, store: LmdbStore) -> None:
        self._store = store

    def __enter__(self) -> Self:
        self._transaction = self._store.begin()
        self._get = self._transaction.get
        return self

    def __exit__(self, *_: object) -> None:
        self._transaction.abort()
        self._store.readers.leave()

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        get = self._get
        return [get(key) for key in keys]  # type: ignore[misc]  # bytes: the transaction has no buffers

    def scan(self, prefix: bytes) -> list[bytes]:
        """Return all keys that start with `prefix`."""
        keys = []
        cursor = self._transaction.cursor()
        found = cursor.set_range(prefix)
        while found:
            key = bytes(cursor.key())
            if not key.startswith(prefix):
                break
            keys.append(key)
            found = cursor.next()
        return keys


class _Readers:
    """The threads of this process that read; who maps the file anew waits for them, and they for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._threads: dict[int, int] = {}
        self._excluded = False

    def enter(self) -> None:
        """Begin to read, once nobody maps the file anew."""
        me = threading.get_ident()
        with self._changed:
            while self._excluded and me not in self._threads:
                self._changed.wait()
            self._threads[me] = self._threads.get(me, 0) + 1

    def leave(self) -> None:
        """End reading."""
        me = threading.get_ident()
        with self._changed:
            self._threads[me] -= 1
            if not self._threads[me]:
                del self._threads[me]
                if self._excluded:
                    self._changed.notify_all()

    @contextmanager
    def excluded(self) -> Iterator[None]:
        with self._changed:
            if threading.get_ident() in self._threads:
                raise OnlineStoreError("the online store must grow, but its writer has a snapshot open: close it first")
            self._excluded = True
            while self._threads:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._excluded = False
                self._changed.notify_all()


class LmdbStore(OnlineStore):
    """An LMDB environment in a folder.

    Parameters
    ----------
    path
        The folder; made if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self.readers = _Readers()
        self._environment = self._open()

    def _open(self) -> Environment:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            existing = self.path / "data.mdb"
            size = max(_FIRST_SIZE, existing.stat().st_size if existing.exists() else 0)
            return lmdb.open(str(self.path), map_size=size, metasync=False, max_readers=1024, max_spare_txns=16)
        except (lmdb.Error, OSError) as error:
            raise OnlineStoreError(
                f"the online store {self.path} cannot be opened ({error}); if the file is damaged remove the folder: "
                "the next materialize or stream refills it from the offline log"
            ) from error

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        return _LmdbSnapshot(self)

    def begin(self) -> Transaction:
        """Begin a read transaction; whoever aborts it must have `readers` left."""
        while True:
            self.readers.enter()
            try:
                return self._environment.begin()
            except lmdb.MapResizedError:  # another process has grown the map
                self.readers.leave()
                with self._lock:
                    self._resize(0)
            except lmdb.Error as error:
                self.readers.leave()
                raise OnlineStoreError(f"the online store {self.path} cannot be read: {error}") from error

    def _resize(self, size: int) -> None:
        """Map the file with a size (0: the file's own), while nobody in this process reads: it would end reads."""
        with self.readers.excluded():
            self._environment.set_mapsize(size)

    def merge(
        self, writes: Sequence[SectionWrite], marks: Mapping[bytes, bytes] | None = None, given: Given | None = None
    ) -> list[Outcome]:
        def work(transaction: Transaction) -> list[Outcome]:
            _require(transaction, given)
            outcomes = []
            for write in writes:
                outcome = decide(stored_sequence(_get(transaction, write.header), write.writer), write)
                if outcome is Outcome.APPLIED:
                    for key, payload in ((write.header, write.payload), *write.chunks.items()):
                        _set(transaction, key, splice(_get(transaction, key), write, payload))
                outcomes.append(outcome)
            if Outcome.REFUSED not in outcomes:
                for key, value in (marks or {}).items():
                    transaction.put(key, value)
            return outcomes

        return self._write(work)

    def put(self, marks: Mapping[bytes, bytes | None], given: Given | None = None) -> None:
        def work(transaction: Transaction) -> None:
            _require(transaction, given)
            for key, value in marks.items():
                _set(transaction, key, value)

        self._write(work)

    def scan(self, prefix: bytes) -> list[bytes]:
        with _LmdbSnapshot(self) as snapshot:
            return snapshot.scan(prefix)

    def delete(self, keys: Sequence[bytes]) -> None:
        self.put(dict.fromkeys(keys))

    def close(self) -> None:
        self._environment.close()

    def _write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a write transaction; where the map is full, grow it and run it again."""
        with self._lock:
            while True:
                try:
                    with self._environment.begin(write=True) as transaction:
                        return work(transaction)
                except lmdb.MapFullError:
                    self._resize(self._environment.info()["map_size"] * 2)
                except lmdb.MapResizedError:
                    self._resize(0)
                except lmdb.Error as error:
                    raise OnlineStoreError(f"the online store {self.path} cannot be written: {error}") from error


def _get(transaction: Transaction, key: bytes) -> bytes | None:
    value: bytes | None = transaction.get(key)  # type: ignore[assignment]  # the transaction has no buffers
    return value


def _require(transaction: Transaction, given: Given | None) -> None:
    for key, value in (given or {}).items():
        if _get(transaction, key) != value:
            raise MarkMovedError(f"mark {key!r} of the online store is no longer {value!r}")


def _set(transaction: Transaction, key: bytes, value: bytes | None) -> None:
    if value is None:
        transaction.delete(key)
    else:
        transaction.put(key, value)
