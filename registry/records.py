"""What the registry keeps for maintenance: which keys were erased, and which jobs still need old versions."""

from __future__ import annotations

import msgspec
from sqlalchemy import BigInteger, Column, Integer, String, Table, Text, insert, select

from featurestore.registry.database import ConflictError, Database
from featurestore.registry.schema import JOBS, METADATA, VERSIONS

ERASURES = Table(
    "featurestore_erasures",  # one row per log and erased key; the key itself stands nowhere
    METADATA,
    Column("id", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("log", String, nullable=False),
    Column("views", Text, nullable=False),
    Column("join_keys", Text, nullable=False),
    Column("key_hash", String, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("dead_letters", BigInteger, nullable=False),
    Column("dataset_rows", BigInteger, nullable=False),
    Column("online_keys", Integer, nullable=False),
    Column("sequences", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was erased from a log and from all that was made of it.

    Attributes
    ----------
    id
        Tells one erasure from another; the same for a command that was run again after a crash.
    log
        Row fingerprint of the log.
    views
        The views of the log, by name, of whatever revision.
    join_keys
        The join keys that were given.
    key_hash
        SHA-256 of the project's name and the join keys' names and values, in hex.
    rows, dead_letters, dataset_rows
        How many rows the newest version of the log held, how many dead letters and rows of saved sets went.
    online_keys
        How many keys of online views got a tombstone.
    sequences
        By writer, the sequence up to which nothing of the key exists any more; of batch, the job.
    at
        When, in microseconds since the epoch.
    """

    id: str
    log: str
    views: tuple[str, ...]
    join_keys: tuple[str, ...]
    key_hash: str
    rows: int
    dead_letters: int
    dataset_rows: int
    online_keys: int
    sequences: dict[str, int]
    at: int


class Records:
    """The part of a registry that maintenance writes and reads."""

    _database: Database
    project: str

    def record_erasure(self, erasure: Erasure) -> None:
        """Record an erasure; one that is recorded already stays as it is."""
        values = msgspec.structs.asdict(erasure)
        encoded = {name: msgspec.json.encode(values[name]).decode() for name in ("views", "join_keys", "sequences")}
        try:
            with self._database.write() as connection:
                connection.execute(insert(ERASURES).values(**{**values, **encoded}, project=self.project))
        except ConflictError:  # the command was run again
            return

    def erasures(self) -> list[Erasure]:
        """Return what was erased in this project, oldest first."""
        rows = self._database.fetch(
            select(ERASURES).where(ERASURES.c.project == self.project).order_by(ERASURES.c.at, ERASURES.c.id)
        )
        listed = {"views": tuple[str, ...], "join_keys": tuple[str, ...], "sequences": dict[str, int]}
        return [
            Erasure(
                **{name: getattr(row, name) for name in Erasure.__struct_fields__ if name not in listed},
                **{name: msgspec.json.decode(getattr(row, name), type=kind) for name, kind in listed.items()},
            )
            for row in rows
        ]

    def names_ever(self, kind: str) -> list[str]:
        """Return the names of all objects of a kind that any revision of this project held."""
        mine = (VERSIONS.c.project == self.project, VERSIONS.c.kind == kind)
        return [row.name for row in self._database.fetch(select(VERSIONS.c.name).where(*mine).distinct())]

    def open_job_versions(self, log: str) -> list[int]:
        """Return the versions of a log that jobs which have not ended, of whatever project, started from."""
        rows = self._database.fetch(
            select(JOBS.c.base_version).where(JOBS.c.log == log, JOBS.c.state.in_(["started", "logged"]))
        )
        return [int(row.base_version) for row in rows]
