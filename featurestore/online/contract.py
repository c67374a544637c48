"""What an online store must do: hold small values by key, and merge sections conditionally.

A *key group* is everything stored for one entity key of one view: a header and some chunks, each a value that holds
one section per writer (`featurestore.online.framing`). A store needs to understand nothing but that framing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import NamedTuple

NEVER = -1
"""The sequence of a writer of which nothing was applied."""


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
    """

    header: bytes
    writer: str
    expected: int | None
    sequence: int
    payload: bytes
    chunks: Mapping[bytes, bytes | None] = {}
    drop: tuple[str, ...] = ()


class Snapshot(ABC):
    """A consistent view of the store, for one request."""

    @abstractmethod
    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of the keys, None where there is none."""


class OnlineStore(ABC):
    """A key-value store with conditional merges. Safe for one writer and many readers, in any processes.

    Delivery: a merge that returned is visible to every later snapshot. After a crash of the machine a store may have
    lost its last merges, but then also the marks that were set after them.
    """

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Open a consistent view for reading; also reads marks."""

    @abstractmethod
    def merge(self, writes: Sequence[SectionWrite], marks: Mapping[bytes, bytes] | None = None) -> list[Outcome]:
        """Apply each write whose condition holds, each atomically, and say what became of it.

        Where none was refused, `marks` are set, not before the writes are visible.
        """

    @abstractmethod
    def put(self, marks: Mapping[bytes, bytes | None]) -> None:
        """Set or (None) remove marks, atomically together, after everything merged before."""

    @abstractmethod
    def scan(self, prefix: bytes) -> list[bytes]:
        """Return all keys that start with `prefix`, sorted. For maintenance, not for requests."""

    @abstractmethod
    def delete(self, keys: Sequence[bytes]) -> None:
        """Remove keys, atomically together."""

    @abstractmethod
    def close(self) -> None:
        """Release what the store holds open."""
