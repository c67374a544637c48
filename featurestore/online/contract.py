"""What an online store must do: hold small values by key, and merge sections conditionally.

A *key group* is everything stored for one entity key of one view: a header and some chunks, each a value that holds
one section per writer (`featurestore.online.framing`). A store needs to understand nothing but that framing.

*Marks* say what the whole store may be trusted with: that a view is filled, up to where a writer's rows are applied,
the cut in force. They are integers in decimal, under keys that begin with a zero byte (`framing.mark_key`), as no other
key does; one that only ever is the same or another, such as a filling's, is text that is no integer. Whoever loses data
loses its marks: a store that is spread over machines keeps a copy of every mark with every part of its data and answers
the least one, or none where a copy is missing or copies differ that are no integers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import NamedTuple, Protocol

from featurestore.errors import OnlineStoreError

NEVER = -1
"""The sequence of a writer of which nothing was applied."""


class MarkMovedError(OnlineStoreError):
    """Marks are not as given: another process moved them, or the store lost data. Read them again."""


class Outcome(Enum):
    """What became of a section write."""

    APPLIED = "applied"
    IGNORED = "ignored"
    """The stored section is as new or newer."""
    REFUSED = "refused"
    """The stored section is older than the write assumes: rows are missing, rebuild the key from the log."""


class SectionWrite(NamedTuple):
    """The new state of one writer's section of one key group.

    Attributes
    ----------
    header
        Key of the group's header.
    expected
        Sequence of the section the write was computed from (`NEVER`: of none); None for a whole section, which
        replaces any older one.
    sequence
        Sequence of the new state.
    payload
        The section's part of the header.
    chunks
        Chunk key to the section's part of the chunk, None to remove that part. Keys not named stay as they are.
    drop
        Writers whose sections of the header and of the named chunks go.
    lifetime
        For how many microseconds from now on the header and the named chunks are needed; then a store may forget
        them, in so far as no other write needs them longer. None: for ever.
    """

    header: bytes
    writer: str
    expected: int | None
    sequence: int
    payload: bytes
    chunks: Mapping[bytes, bytes | None] = {}
    drop: tuple[str, ...] = ()
    lifetime: int | None = None


Given = Mapping[bytes, bytes | None]
"""By mark key, the value that the mark must still have; None: that there must be no such mark."""


class Snapshot(ABC):
    """A consistent view of the store, for one request."""

    @abstractmethod
    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of the keys, None where there is none."""


class AsyncReader(Protocol):
    """Reads for an event loop."""

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of the keys, None where there is none, as of one moment (see `OnlineStore.snapshot`)."""

    async def close(self) -> None:
        """Release what the reader holds open."""


class OnlineStore(ABC):
    """A key-value store with conditional merges. Safe for one writer and many readers, in any processes.

    Delivery: a merge that returned is visible to every later snapshot. After a crash of the machine a store may have
    lost its last merges, but then also the marks that were set after them.
    """

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Open a consistent view for reading; also reads marks.

        A store may be consistent only within one `get`, and where it is spread over machines only within the key
        groups of one entity; it then reads marks after the data that they vouch for.
        """

    def reader(self, connected: Callable[[], Awaitable[None]] | None = None) -> AsyncReader:  # noqa: ARG002
        """Return what an event loop reads with; by default each `get` is a snapshot that is read at once.

        Parameters
        ----------
        connected
            Called whenever a connection to a server was made, before anything is read by it: the server may have lost
            data meanwhile. What it raises, the reads that wait for the connection raise.
        """
        return _DirectReader(self)

    def check(self) -> None:  # noqa: B027  (most stores never forget)
        """Raise `NotReadyError` where the store may have forgotten what was put into it; by default it never does."""

    @abstractmethod
    def merge(
        self, writes: Sequence[SectionWrite], marks: Mapping[bytes, bytes] | None = None, given: Given | None = None
    ) -> list[Outcome]:
        """Apply each write whose condition holds, each atomically, and say what became of it.

        Where none was refused, `marks` are set, not before the writes are visible.

        Raises
        ------
        MarkMovedError
            Where a mark is not as `given`. Writes to the part of the store where it is not are not applied.
        """

    @abstractmethod
    def put(self, marks: Mapping[bytes, bytes | None], given: Given | None = None) -> None:
        """Set or (None) remove marks, atomically together, after everything merged before.

        Raises
        ------
        MarkMovedError
            Where a mark is not as `given`.
        """

    @abstractmethod
    def scan(self, prefix: bytes) -> list[bytes]:
        """Return all keys that start with `prefix`, sorted. For maintenance, not for requests."""

    @abstractmethod
    def delete(self, keys: Sequence[bytes]) -> None:
        """Remove keys, atomically together."""

    @abstractmethod
    def close(self) -> None:
        """Release what the store holds open."""


class _DirectReader:
    """Reads without waiting for anybody: for stores in this process's memory."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._store.snapshot() as snapshot:
            return snapshot.get(keys)

    async def close(self) -> None:
        """Nothing is held open."""
