"""An online store in a dictionary: for tests, and for trying things in one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from featurestore.online.contract import Given, MarkMovedError, OnlineStore, Outcome, SectionWrite, Snapshot
from featurestore.online.framing import decide, splice, stored_sequence


class MemoryStore(OnlineStore, Snapshot):
    """Everything in one dictionary, under one lock. Snapshots are only as consistent as single reads."""

    def __init__(self) -> None:
        self._data: dict[bytes, bytes] = {}
        self._lock = threading.RLock()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        with self._lock:
            yield self

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._data.get(key) for key in keys]

    def merge(
        self, writes: Sequence[SectionWrite], marks: Mapping[bytes, bytes] | None = None, given: Given | None = None
    ) -> list[Outcome]:
        outcomes = []
        with self._lock:
            self._require(given)
            for write in writes:
                outcome = decide(stored_sequence(self._data.get(write.header), write.writer), write)
                if outcome is Outcome.APPLIED:
                    for key, payload in ((write.header, write.payload), *write.chunks.items()):
                        self._set(key, splice(self._data.get(key), write, payload))
                outcomes.append(outcome)
            if Outcome.REFUSED not in outcomes:
                self._data.update(marks or {})
        return outcomes

    def put(self, marks: Mapping[bytes, bytes | None], given: Given | None = None) -> None:
        with self._lock:
            self._require(given)
            for key, value in marks.items():
                self._set(key, value)

    def scan(self, prefix: bytes) -> list[bytes]:
        with self._lock:
            return sorted(key for key in self._data if key.startswith(prefix))

    def delete(self, keys: Sequence[bytes]) -> None:
        self.put(dict.fromkeys(keys))

    def close(self) -> None:
        """Nothing is held open."""

    def _require(self, given: Given | None) -> None:
        for key, value in (given or {}).items():
            if self._data.get(key) != value:
                raise MarkMovedError(f"mark {key!r} of the online store is no longer {value!r}")

    def _set(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self._data.pop(key, None)
        else:
            self._data[key] = value
