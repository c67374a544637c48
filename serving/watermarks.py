"""How far a worker has seen online state to be, so that a store that went back to an earlier state is noticed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from featurestore.offline.duckdb.query import writers
from featurestore.offline.log import RowLog
from featurestore.online.contract import NEVER
from featurestore.online.view import OnlineView
from featurestore.semantics.rows import BATCH_WRITER


class Found(NamedTuple):
    """What a look at the marks found.

    Attributes
    ----------
    filled
        Names of the views that have been filled.
    gone_back
        Names of those among them that were further on at an earlier look: the store lost data.
    """

    filled: frozenset[str]
    gone_back: frozenset[str]


class Watermarks:
    """Remembers the marks of views: they only ever move forward, except where the store loses data.

    Used by one thread, but for `forget`.
    """

    def __init__(self) -> None:
        self._files: dict[str, set[str]] = {}
        self._writers: dict[str, set[str]] = {}
        self._marks: dict[bytes, int | None] = {}
        self._seen: dict[str, dict[bytes, int]] = {}
        self._behind: dict[bytes, int | None] = {}

    def learn(self, log: RowLog) -> None:
        """Learn which writers a log has; of its files those are read that were not there before."""
        files = set(log.files())
        new = files - self._files.get(log.fingerprint, set())
        if new:
            self._writers.setdefault(log.fingerprint, set()).update(writers(log, sorted(new)))
        self._files[log.fingerprint] = files

    def look(self, views: Sequence[tuple[OnlineView, RowLog]]) -> Found:
        """Read the marks of all views, together.

        Raises
        ------
        OnlineStoreError
            Where they cannot be read.
        """
        if not views:
            return Found(frozenset(), frozenset())
        keys = [[online.key("ready"), *self._keys(online, log)] for online, log in views]
        flat = [key for own in keys for key in own]
        with views[0][0].store.snapshot() as snapshot:
            values = snapshot.get(flat)
        self._marks = {key: None if value is None else int(value) for key, value in zip(flat, values, strict=True)}
        filled = [
            (online.view.name, own)
            for (online, _), (ready, *own) in zip(views, keys, strict=True)
            if self._marks[ready] is not None
        ]
        gone_back = [name for name, own in filled if self._is_back(name, own)]
        return Found(frozenset(name for name, _ in filled), frozenset(gone_back))

    def stands_still(self, online: OnlineView, log: RowLog, cut: int | None) -> bool:
        """Whether the store, as of the last look, lacks rows of the log, and has not moved since it did before.

        Parameters
        ----------
        cut
            The cut in force of a lambda view.
        """
        ends = {
            online.key(f"writer:{writer}"): log.sequence(writer)
            for writer in self._writers.get(log.fingerprint, ())
            if writer != BATCH_WRITER or cut is not None or not online.is_lambda
        }
        if cut is not None:
            ends[online.key("cut")] = cut
        return sum(self._stood_still(key, end) for key, end in ends.items() if key in self._marks) > 0  # all are noted

    def forget(self, view: str) -> None:
        """Begin anew with a view that was brought level with its log, whatever that holds."""
        self._seen.pop(view, None)

    def _keys(self, online: OnlineView, log: RowLog) -> list[bytes]:
        names = sorted(self._writers.get(log.fingerprint, ()))
        return [online.key("cut"), *(online.key(f"writer:{name}") for name in names)]

    def _is_back(self, view: str, keys: Sequence[bytes]) -> bool:
        """Return whether marks are not as far as they were; those that are further are remembered."""
        seen = self._seen.setdefault(view, {})
        is_back = False
        for key in keys:
            mark, before = self._marks[key], seen.get(key)
            if before is not None and (mark is None or mark < before):
                is_back = True
            elif mark is not None:
                seen[key] = mark
        return is_back

    def _stood_still(self, key: bytes, end: int) -> bool:
        mark = self._marks[key]
        was_behind, before = key in self._behind, self._behind.pop(key, None)
        if (mark is None and end == NEVER) or (mark is not None and mark >= end):
            return False
        self._behind[key] = mark
        return was_behind and mark == before
