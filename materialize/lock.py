"""One job at a time on a log: a lock that a dying process gives up."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featurestore.errors import OfflineStoreError


@contextmanager
def job_lock(root: Path, fingerprint: str, what: str) -> Iterator[None]:
    """Hold the right to run jobs on a log.

    Parameters
    ----------
    root
        The offline store's folder.
    fingerprint
        The log's row fingerprint.
    what
        The views of the log, for the error.

    Raises
    ------
    OfflineStoreError
        Where another process on this machine holds it, or the folder cannot be written.
    """
    path = root / "locks" / f"{fingerprint}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise OfflineStoreError(f"{path} cannot be written, which a job on {what} needs: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OfflineStoreError(
                f"another job is writing the log of {what}; wait for it to end, then run this again ({path})"
            ) from error
        yield
