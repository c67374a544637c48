"""Leases on lanes: file locks, which the operating system gives back when a process dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featurestore.errors import OfflineStoreError


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of a file, waiting for it; no other thread or process of this machine has it meanwhile.

    Raises
    ------
    OfflineStoreError
        Where the file cannot be made or locked.
    """
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def free_lane(folder: Path, lanes: int) -> Iterator[int]:
    """Hold the lowest lane that is free, or wait for one; yields its number, from 0 to ``lanes - 1``.

    Raises
    ------
    OfflineStoreError
        Where the folder cannot be written.
    """
    for lane in range(lanes):
        descriptor = _open(folder / f"lane-{lane}.lock")
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield lane
            return
        finally:
            os.close(descriptor)
    lane = os.getpid() % lanes
    with exclusive(folder / f"lane-{lane}.lock"):
        yield lane


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OfflineStoreError(f"the lease {path} cannot be taken ({error.strerror}); check the folder") from error
