"""The catalog of one project: what is applied, what was applied before, and how a plan becomes the next revision."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, and_, func, insert, or_, select, update

from featurestore.definitions.project import Definition, Project, decode, digest
from featurestore.errors import FeatureStoreError, NotAppliedError, RegistryError, StaleApplyError
from featurestore.registry.database import BUSY_SECONDS, ConflictError, Database
from featurestore.registry.plan import Change, Plan, make_plan
from featurestore.registry.progress import Progress
from featurestore.registry.records import Records
from featurestore.registry.schema import APPLIES, IDENTITIES, MEMBERS, PROJECTS, VERSIONS
from featurestore.registry.tokens import Tokens


class Apply(NamedTuple):
    """One entry of the history. `at` is microseconds since the epoch; `summary` is `Plan.to_dict`."""

    revision: int
    at: int
    who: str
    summary: dict[str, object]


class Version(NamedTuple):
    """One immutable version of an object; `created` is microseconds since the epoch."""

    version: int
    fingerprint: str
    created: int
    definition: Definition


class Registry(Progress, Records):
    """The applied definitions of one project, every earlier state of them, and the state of jobs and cuts.

    Opening one touches nothing; a registry is created by its first write.

    Parameters
    ----------
    location
        Path of a SQLite file, or a SQLAlchemy URL.
    project
        Name of the project; one registry holds many.
    busy_seconds
        How long a write waits for another process's write to the same SQLite file.

    Raises
    ------
    RegistryError
        From every method, where the registry is locked, corrupt, unreadable or of a newer version.
    """

    def __init__(self, location: str | Path, project: str, busy_seconds: float = BUSY_SECONDS) -> None:
        super().__init__(Database(location, busy_seconds), project)

    def close(self) -> None:
        """Let go of database connections; the registry may be used again."""
        self._database.close()

    @property
    def tokens(self) -> Tokens:
        """The API tokens of the project."""
        return Tokens(self._database, self.project)

    def identity(self) -> str:
        """Return what tells this project from any other of its name, in another registry; "" where there is nothing."""
        rows = self._database.fetch(select(IDENTITIES.c.identity).where(IDENTITIES.c.project == self.project))
        return str(rows[0].identity) if rows else ""

    def identify(self) -> str:
        """Return `identity`, made up where the project is new."""
        if self.identity() or self.revision():
            return self.identity()
        with suppress(ConflictError), self._database.write() as connection:  # another process may be first
            connection.execute(insert(IDENTITIES).values(project=self.project, identity=secrets.token_hex(8)))
        return self.identity()

    def revision(self) -> int:
        """Return the number of the newest applied state; 0 where nothing was applied yet."""
        rows = self._database.fetch(select(PROJECTS.c.revision).where(PROJECTS.c.name == self.project))
        return int(rows[0].revision) if rows else 0

    def load(self, revision: int | None = None) -> Project:
        """Return the definitions as applied, user code without its callables (see `bind_code`).

        Parameters
        ----------
        revision
            A past state; by default the newest. 0 is the empty project before the first apply.
        """
        newest = self.revision()
        wanted = newest if revision is None else revision
        if not 0 <= wanted <= newest:
            raise NotAppliedError(f"project {self.project!r} has no revision {wanted}; the newest is {newest}")
        member, version = MEMBERS.c, VERSIONS.c
        rows = self._database.fetch(
            select(version.kind, version.name, version.fingerprint, version.spec)
            .join_from(
                MEMBERS,
                VERSIONS,
                and_(
                    member.project == version.project,
                    member.kind == version.kind,
                    member.name == version.name,
                    member.version == version.version,
                ),
            )
            .where(
                member.project == self.project,
                member.since <= wanted,
                or_(member.until.is_(None), member.until > wanted),
            )
        )
        # Sorted here: a database sorts text by its locale.
        rows.sort(key=lambda row: (row.kind, row.name))
        definitions = [self._decode(row.kind, row.name, row.fingerprint, row.spec) for row in rows]
        try:
            return Project(definitions)
        except FeatureStoreError as error:
            raise RegistryError(
                f"{self._database.label} holds definitions that do not fit together: {error}; restore it from a backup"
            ) from error

    def versions(self, kind: str, name: str) -> list[Version]:
        """Return every version that an object ever had, oldest first; none where it never existed."""
        rows = self._database.fetch(
            select(VERSIONS)
            .where(VERSIONS.c.project == self.project, VERSIONS.c.kind == kind, VERSIONS.c.name == name)
            .order_by(VERSIONS.c.version)
        )
        return [
            Version(row.version, row.fingerprint, row.created, self._decode(kind, name, row.fingerprint, row.spec))
            for row in rows
        ]

    def history(self) -> list[Apply]:
        """Return every apply, oldest first."""
        rows = self._database.fetch(
            select(APPLIES).where(APPLIES.c.project == self.project).order_by(APPLIES.c.revision)
        )
        return [Apply(row.revision, row.at, row.who, msgspec.json.decode(row.summary)) for row in rows]

    def plan(self, project: Project) -> Plan:
        """Compare definitions with the applied ones; writes nothing.

        Raises
        ------
        DefinitionError
            Where an on-demand view that would be added or changed fails on sample rows (see `check_on_demand`).
        """
        revision = self.revision()
        return make_plan(self.project, revision, self.load(revision), project)

    def apply(self, plan: Plan, now: int, who: str = "") -> int:
        """Make a plan's definitions the applied ones, all of them or none.

        Parameters
        ----------
        plan
            What `plan` returned. An empty one writes nothing.
        now
            The time to record, microseconds since the epoch.
        who
            The person or process to record.

        Returns
        -------
        int
            The revision that is now the newest.

        Raises
        ------
        StaleApplyError
            Where somebody applied since the plan was made.
        """
        if plan.project != self.project:
            raise RegistryError(f"the plan is for project {plan.project!r}, this is {self.project!r}: plan again")
        if plan.is_empty:
            if self.revision() != plan.base_revision:
                raise self._stale(plan)
            return plan.base_revision
        try:
            with self._database.write() as connection:
                self._advance(connection, plan)
                for change in plan.changes:
                    self._write_change(connection, change, plan.base_revision + 1, now)
                connection.execute(
                    insert(APPLIES).values(
                        project=self.project,
                        revision=plan.base_revision + 1,
                        at=now,
                        who=who,
                        summary=msgspec.json.encode(plan.to_dict()).decode(),
                    )
                )
        except ConflictError as error:  # two first applies at once: both insert the project
            raise self._stale(plan) from error
        return plan.base_revision + 1

    def _advance(self, connection: Connection, plan: Plan) -> None:
        """Move the revision if it is still the plan's: the first statement, so it also takes the write lock."""
        moved = connection.execute(
            update(PROJECTS)
            .where(PROJECTS.c.name == self.project, PROJECTS.c.revision == plan.base_revision)
            .values(revision=plan.base_revision + 1)
        )
        if moved.rowcount == 1:
            return
        if plan.base_revision != 0:
            raise self._stale(plan)
        connection.execute(insert(PROJECTS).values(name=self.project, revision=1))

    def _stale(self, plan: Plan) -> StaleApplyError:
        return StaleApplyError(
            f"project {self.project!r} changed since the plan, which was made at revision {plan.base_revision}; "
            "nothing was applied: plan again, look at it, and apply that"
        )

    def _write_change(self, connection: Connection, change: Change, revision: int, now: int) -> None:
        keys = {"project": self.project, "kind": change.kind, "name": change.name}
        if change.action != "added":
            connection.execute(
                update(MEMBERS)
                .where(*(MEMBERS.c[column] == value for column, value in keys.items()), MEMBERS.c.until.is_(None))
                .values(until=revision)
            )
        if change.spec:
            version = self._version(connection, keys, change.spec, now)
            connection.execute(insert(MEMBERS).values(**keys, since=revision, version=version))

    @staticmethod
    def _version(connection: Connection, keys: dict[str, str], spec: str, now: int) -> int:
        """Return the number of the version with this content, writing it where there is none yet."""
        of_object = [VERSIONS.c[column] == value for column, value in keys.items()]
        content = digest(spec.encode())
        known = connection.execute(
            select(VERSIONS.c.version).where(*of_object, VERSIONS.c.fingerprint == content)
        ).scalar()
        if known is not None:
            return int(known)
        newest = connection.execute(select(func.max(VERSIONS.c.version)).where(*of_object)).scalar() or 0
        connection.execute(
            insert(VERSIONS).values(**keys, version=newest + 1, fingerprint=content, spec=spec, created=now)
        )
        return int(newest) + 1

    def _decode(self, kind: str, name: str, recorded: str, spec: str) -> Definition:
        """Return a stored definition, refusing one whose text is not what was written."""
        if digest(spec.encode()) != recorded:
            raise RegistryError(
                f"{self._database.label} is corrupt: the {kind} {name!r} is not what was applied; "
                "restore it from a backup"
            )
        try:
            return decode(spec)
        except msgspec.MsgspecError as error:
            raise RegistryError(
                f"{self._database.label} holds the {kind} {name!r} in a form that this featurestore cannot read "
                f"({error}): upgrade featurestore"
            ) from error
