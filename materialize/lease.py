"""One job at a time on a log, on any number of machines: a lease in the registry, kept up while a job runs."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from featurestore.errors import RegistryError
from featurestore.registry.catalog import Registry
from featurestore.registry.leases import Holder, LeaseLostError

LEASE_MICROS = 60_000_000
"""How long a lease holds unless it is renewed, which happens three times as often."""
_PROC = Path("/proc")
_START_FIELD = 18  # of /proc/<pid>/stat, after the state that follows the name in brackets


class Lease:
    """The right to run jobs on a log, while it lasts.

    Attributes
    ----------
    token
        Greater than that of every holder before; registry writes name it.
    """

    def __init__(self, registry: Registry, log: str, token: int, wall: Callable[[], int]) -> None:
        self.token = token
        self._registry = registry
        self._log = log
        self._wall = wall

    def renew(self) -> bool:
        """Hold it for longer; return False where another has taken it over."""
        return self._registry.renew_lease(self._log, self.token, self._wall() + LEASE_MICROS)

    def check(self) -> None:
        """Go on only while it is held.

        Raises
        ------
        LeaseLostError
            Where another process has taken it over.
        """
        if not self.renew():
            raise LeaseLostError(self._log)


@contextmanager
def leased(registry: Registry, log: str, what: str, wall: Callable[[], int]) -> Iterator[Lease]:
    """Hold the lease of a log, and renew it in the background.

    Parameters
    ----------
    registry
        The registry, whose jobs and cuts the lease guards.
    log
        The log's row fingerprint.
    what
        The views of the log, for the error.
    wall
        The wall clock in microseconds since the epoch; those of machines that share a registry should agree to within
        some seconds. A lease that is taken over too early costs the job, and never a wrong row.

    Raises
    ------
    LeaseHeldError
        Where another process, or another thread, holds it.
    """
    now = wall()
    token = registry.acquire_lease(log, what, this_process(), now, now + LEASE_MICROS, has_ended)
    lease = Lease(registry, log, token, wall)
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(lease, stop), name=f"lease of {log}", daemon=True)
    heart.start()
    try:
        yield lease
    finally:
        stop.set()
        heart.join()
        registry.release_lease(log, token)


def _beat(lease: Lease, stop: threading.Event) -> None:
    while not stop.wait(LEASE_MICROS / 3e6):
        with suppress(RegistryError):  # the registry is away: the job finds out when it next needs it
            if not lease.renew():
                return


def this_process() -> Holder:
    """Return what identifies this process."""
    return Holder(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()) or "")


def has_ended(holder: Holder) -> bool:
    """Return whether a process is known to have ended; of another machine, or another container, nothing is known."""
    if holder.machine != _machine():
        return False
    started = _started(holder.pid)
    if started is not None:
        return started != holder.process
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, and is another user's
        pass
    return False


@cache
def _machine() -> str:
    """Return what tells apart the machines, boots and containers in which a process id means something."""
    try:
        boot = _PROC.joinpath("sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {_PROC.joinpath('self/ns/pid').readlink()}"
    except OSError:
        return f"{uuid.getnode():x}"


def _started(pid: int) -> str | None:
    """Return when a process started, in the kernel's count: empty where it has ended, None where it is not known."""
    try:
        stat = _PROC.joinpath(str(pid), "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[_START_FIELD]
