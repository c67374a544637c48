"""What an erasure set out to do, on disk until it is done, so that running it again finishes it after a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from featurestore.errors import OfflineStoreError
from featurestore.training.files import sync


class Intent(msgspec.Struct, kw_only=True):
    """What there was of a key in a log before anything was erased.

    Attributes
    ----------
    id
        Names the erasure in the registry.
    keys
        Whole join keys, in the order of the log's key names, that the given ones stand for.
    rows
        Rows in the newest version.
    through
        By writer of any of its rows, also in older versions, the greatest sequence.
    origins
        Positions of the dead letters that became rows of the key.
    letters
        By writer, the sequences of the dead letters about the key.
    dataset_rows
        Rows that have been taken out of saved sets so far.
    """

    id: str
    keys: list[tuple[Any, ...]] = []
    rows: int = 0
    through: dict[str, int] = {}
    origins: list[bytes] = []
    letters: dict[str, list[int]] = {}
    dataset_rows: int = 0


class IntentFile:
    """Keeps an intent, whole or not at all; it names the key in clear and goes when the erasure is done."""

    def __init__(self, root: Path, log: str, key_hash: str) -> None:
        self.path = root / "erasing" / f"{log}-{key_hash[:32]}"

    def load(self) -> Intent | None:
        """Return what a run that was cut off left, or None."""
        try:
            return msgspec.msgpack.decode(self.path.read_bytes(), type=Intent)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise OfflineStoreError(f"{self.path}, an erasure that was cut off, cannot be read: {error}") from error

    def save(self, intent: Intent) -> None:
        """Write an intent down, durably."""
        new = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(msgspec.msgpack.encode(intent))
            sync(new)
            new.replace(self.path)
            sync(self.path.parent)
        except OSError as error:
            raise OfflineStoreError(f"{self.path} cannot be written, which an erasure needs: {error}") from error

    def remove(self) -> None:
        """Forget an erasure that is done."""
        self.path.unlink(missing_ok=True)
