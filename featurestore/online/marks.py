"""The marks of one view in one online store: filled or not, the cut in force, how far writers are applied."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from featurestore.online.contract import NEVER, Given, MarkMovedError, OnlineStore
from featurestore.online.framing import mark_key


class ViewMarks:
    """Reads and moves a view's marks.

    Parameters
    ----------
    fingerprint
        That of the view's stored state.
    """

    def __init__(self, store: OnlineStore, fingerprint: bytes) -> None:
        self.store = store
        self.fingerprint = fingerprint

    def key(self, name: str) -> bytes:
        """Return the store's key of a mark."""
        return mark_key(self.fingerprint, name)

    def _mark(self, name: str) -> int | None:
        value = self._values([self.key(name)])[self.key(name)]
        return None if value is None else int(value)

    def _values(self, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
        keys = list(keys)
        with self.store.snapshot() as snapshot:
            return dict(zip(keys, snapshot.get(keys), strict=True))

    def advance(self, name: str, value: int, given: Given | None = None) -> None:
        """Move a mark to a value unless it is there or beyond; never back, whoever else moves it."""
        key = self.key(name)
        while True:
            stored = self._values([key, *(given or {})])
            known = stored[key]
            if known is not None and int(known) >= value:
                return
            try:
                self.store.put({key: b"%d" % value}, {**(given or {}), key: known})
            except MarkMovedError:
                if any(self._values(given or {})[mark] != held for mark, held in (given or {}).items()):
                    raise
            else:
                return

    def ready(self) -> bool:
        """Whether the state has been filled, so that a missing key means that there are no rows."""
        return self._mark("ready") is not None

    def mark_ready(self, given: Given | None = None) -> None:
        """Say that the state has been filled.

        Raises
        ------
        MarkMovedError
            Where marks are not as given.
        """
        self.store.put({self.key("ready"): b"1"}, given)

    def begin_filling(self) -> Given:
        """Leave a mark that stands for the data written from now on; return it, to be given to all that writes it.

        A store that loses data loses the mark too, and a later filling replaces it.
        """
        mark = b"#%b" % secrets.token_hex(8).encode()  # no integer: of two of them none is the least
        self.store.put({self.key("filling"): mark})
        return {self.key("filling"): mark}

    def cut(self) -> int | None:
        """Return the cut in force of a lambda view; None before the first job."""
        return self._mark("cut")

    def set_cut(self, cut: int, given: Given | None = None) -> None:
        """Move the cut, after a job has written every key. It never moves back."""
        self.advance("cut", cut, given)

    def watermark(self, writer: str) -> int:
        """Return the sequence up to which all the writer's logged rows are applied; `NEVER` where none are."""
        mark = self._mark(f"writer:{writer}")
        return NEVER if mark is None else mark

    def at(self, writer: str, watermark: int) -> Given:
        """Return the condition that a writer's watermark has not moved from where it was read."""
        return {self.key(f"writer:{writer}"): None if watermark == NEVER else b"%d" % watermark}
