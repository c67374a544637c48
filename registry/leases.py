"""Fenced leases: which process may run jobs on a log, and a rising number that tells who no longer may."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy import Connection, insert, select, update

from featurestore.clock import format_duration
from featurestore.errors import RegistryError
from featurestore.registry.database import ConflictError, Database
from featurestore.registry.schema import LEASES


class LeaseHeldError(RegistryError):
    """Another process holds the lease."""


class LeaseLostError(RegistryError):
    """Another process has taken the lease over; nothing may be written under the old one any more."""

    def __init__(self, log: str) -> None:
        super().__init__(
            f"another process took over the jobs of log {log}, because this one did not renew its lease in time; this "
            "one has stopped and writes nothing more: see that the other has finished, or run the job again"
        )


class Holder(NamedTuple):
    """A process: its host's name, what tells that machine and its process ids from others, its id and its start."""

    host: str
    machine: str
    pid: int
    process: str


_NOBODY = Holder("", "", 0, "")


class Leases:
    """The part of a registry that leases logs. A lease's token is greater than that of every lease before it.

    Whatever is done in the registry under a lease names its token, which is checked in the same transaction.
    """

    def __init__(self, database: Database, project: str) -> None:
        self._database = database
        self.project = project

    def acquire_lease(  # noqa: PLR0917
        self, log: str, what: str, holder: Holder, now: int, expires: int, is_dead: Callable[[Holder], bool]
    ) -> int:
        """Take the lease of a log that nobody holds, and return its token.

        Parameters
        ----------
        log
            Row fingerprint of the log.
        what
            What the log is, for the error.
        holder
            Who takes it.
        now, expires
            The wall clock, and until when the lease is taken, in microseconds since the epoch.
        is_dead
            Tells whether a holder is known to have ended: its lease is free.

        Raises
        ------
        LeaseHeldError
            Where another holds it.
        """
        while True:
            rows = self._database.fetch(select(LEASES).where(LEASES.c.log == log))
            token = rows[0].token if rows else 0
            if rows and rows[0].pid and rows[0].expires > now:
                other = Holder(rows[0].host, rows[0].machine, rows[0].pid, rows[0].process)
                if not is_dead(other):
                    left = format_duration(-(-(rows[0].expires - now) // 1_000_000) * 1_000_000)
                    raise LeaseHeldError(
                        f"another job is writing the log of {what}: process {other.pid} on {other.host}; wait for it "
                        f"to end, then run this again (if it has died without a trace, its lease ends in {left})"
                    )
            values = {**holder._asdict(), "token": token + 1, "expires": expires}
            with suppress(ConflictError), self._database.write() as connection:
                if not rows:
                    connection.execute(insert(LEASES).values(log=log, **values))
                    return token + 1
                seen = (LEASES.c.log == log, LEASES.c.token == token, LEASES.c.expires == rows[0].expires)
                if connection.execute(update(LEASES).where(*seen).values(**values)).rowcount:
                    return token + 1

    def lease_is_held(self, log: str, now: int, is_dead: Callable[[Holder], bool]) -> bool:
        """Return whether a process holds the lease of a log, with the parameters of `acquire_lease`."""
        rows = self._database.fetch(select(LEASES).where(LEASES.c.log == log))
        return any(
            row.pid and row.expires > now and not is_dead(Holder(row.host, row.machine, row.pid, row.process))
            for row in rows
        )

    def renew_lease(self, log: str, token: int, expires: int) -> bool:
        """Hold a lease for longer; return False where another has taken it over."""
        with self._database.write() as connection:
            held = (LEASES.c.log == log, LEASES.c.token == token)
            return bool(connection.execute(update(LEASES).where(*held).values(expires=expires)).rowcount)

    def release_lease(self, log: str, token: int) -> None:
        """Give a lease back, unless another has taken it over."""
        with self._database.write() as connection:
            held = (LEASES.c.log == log, LEASES.c.token == token)
            connection.execute(update(LEASES).where(*held).values(**_NOBODY._asdict(), expires=0))

    @staticmethod
    def _fence(connection: Connection, log: str, token: int | None) -> None:
        """Refuse a transaction under a lease that was lost, and keep it from being lost before the commit."""
        if token is None:
            return
        held = (LEASES.c.log == log, LEASES.c.token == token)
        if not connection.execute(update(LEASES).where(*held).values(token=token)).rowcount:
            raise LeaseLostError(log)
