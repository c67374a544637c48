"""API tokens: who may read, push or administer through the lookup API. Secrets are shown once and stored nowhere."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Row, insert, or_, select, update

from featurestore.errors import RegistryError, suggest
from featurestore.registry.database import ConflictError, Database
from featurestore.registry.schema import TOKENS

SCOPES = ("read", "push", "admin")
"""What a token may do: look features up, push rows, and everything."""
_GREATEST_RATE = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class TokenInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a token; all but its secret. Times are microseconds since the epoch.

    Attributes
    ----------
    id
        Tells it from every other token, revoked ones of the same name included; a part of the secret's text.
    name
        What people call it; one token at a time that is neither revoked nor expired has it.
    scopes
        Some of `SCOPES`, as given.
    rate
        How many requests a second it is good for; None where it has no limit of its own.
    created_at, created_by
        When and by whom it was made.
    expires_at
        From when on it is refused; None where that never comes.
    revoked_at
        When it was revoked; None where it was not.
    """

    id: str
    name: str
    scopes: frozenset[str]
    rate: int | None
    created_at: int
    created_by: str
    expires_at: int | None
    revoked_at: int | None

    def allows(self, scope: str) -> bool:
        """Tell whether the token may do what needs a scope; ``admin`` may do everything."""
        return scope in self.scopes or "admin" in self.scopes

    def state(self, now: int) -> str:
        """Return ``active``, ``expired`` or ``revoked``, as of a time."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class NewToken(msgspec.Struct, frozen=True):
    """A token just made: its secret, which cannot be had again, and what is known of it."""

    secret: str
    info: TokenInfo


class Tokens:
    """The API tokens of one project.

    Parameters
    ----------
    database
        The registry's database.
    project
        Name of the project.
    """

    def __init__(self, database: Database, project: str) -> None:
        self._database = database
        self._project = project

    def create(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        now: int,
        user: str = "",
        rate: int | None = None,
        expires: int | None = None,
    ) -> NewToken:
        """Make a token and return its secret, of which only the SHA-256 is stored.

        Parameters
        ----------
        name
            1 to 128 letters, digits, dots, hyphens and underscores.
        scopes
            At least one of `SCOPES`.
        now
            The time to record, microseconds since the epoch.
        user
            The person or process to record.
        rate
            The greatest number of requests a second, from 1 to a million; by default unlimited.
        expires
            From when on it is refused, microseconds since the epoch, after `now`; by default never.

        Raises
        ------
        RegistryError
            Where a value is wrong, or a token of the name is neither revoked nor expired.
        """
        info = TokenInfo(
            id=secrets.token_hex(6),
            name=name,
            scopes=frozenset(scopes),
            rate=rate,
            created_at=now,
            created_by=user,
            expires_at=expires,
            revoked_at=None,
        )
        _check(info)
        # A plain hash is enough: nobody can try out 256 random bits, as they can a password.
        secret = f"fs_{info.id}_{secrets.token_urlsafe(32)}"
        values = msgspec.structs.asdict(info) | {"scopes": " ".join(sorted(info.scopes))}
        named = (TOKENS.c.project == self._project, TOKENS.c.name_in_use == name)
        try:
            with self._database.write() as connection:
                connection.execute(update(TOKENS).where(*named, TOKENS.c.expires_at <= now).values(name_in_use=None))
                connection.execute(
                    insert(TOKENS).values(**values, project=self._project, name_in_use=name, hash=_hash(secret))
                )
        except ConflictError as error:
            raise RegistryError(
                f"there is a token {name!r} already: choose another name, or end it first with: "
                f"featurestore token revoke {name}"
            ) from error
        return NewToken(secret, info)

    def ls(self) -> list[TokenInfo]:
        """Return every token, oldest first, revoked and expired ones too."""
        mine = select(TOKENS).where(TOKENS.c.project == self._project)
        found = map(_info, self._database.fetch(mine))
        return sorted(found, key=lambda info: (info.created_at, info.name, info.id))

    def revoke(self, name_or_id: str, now: int) -> TokenInfo:
        """End a token for good and return it; one that is revoked already stays as it is.

        Parameters
        ----------
        name_or_id
            The name of a token, the newest where several had it; or its id.
        now
            The time to record, microseconds since the epoch.

        Raises
        ------
        RegistryError
            Where there is no such token.
        """
        info = self._find(name_or_id)
        with self._database.write() as connection:
            connection.execute(
                update(TOKENS)
                .where(TOKENS.c.id == info.id, TOKENS.c.revoked_at.is_(None))
                .values(revoked_at=now, name_in_use=None)
            )
        [row] = self._database.fetch(select(TOKENS).where(TOKENS.c.id == info.id))
        return _info(row)

    def verify(self, secret: str, now: int) -> TokenInfo | None:
        """Return the token that a secret belongs to; None where there is none, or it is revoked or expired.

        Whatever the secret, one row is asked for by its hash: how long that takes tells nothing about stored secrets.
        """
        mine = (TOKENS.c.project == self._project, TOKENS.c.hash == _hash(secret))
        for row in self._database.fetch(select(TOKENS).where(*mine)):
            info = _info(row)
            if info.state(now) == "active":
                return info
        return None

    def any(self) -> bool:
        """Tell whether a token was ever made: from then on access is by token, even when all have been revoked."""
        return bool(self._database.fetch(select(TOKENS.c.id).where(TOKENS.c.project == self._project).limit(1)))

    def _find(self, name_or_id: str) -> TokenInfo:
        meant = or_(TOKENS.c.id == name_or_id, TOKENS.c.name == name_or_id)
        rows = self._database.fetch(select(TOKENS).where(TOKENS.c.project == self._project, meant))
        # An id before a name, and of several with one name the one that still has it, else the newest.
        rows.sort(key=lambda row: (row.id == name_or_id, row.name_in_use is not None, row.created_at))
        if rows:
            return _info(rows[-1])
        if name_or_id.startswith("fs_"):
            raise RegistryError("name the token to revoke by its name or id, not by its secret")
        known = {info.name for info in self.ls()}
        raise RegistryError(f"no token {name_or_id!r}{suggest(name_or_id, known)}")


def _check(info: TokenInfo) -> None:
    if not isinstance(info.name, str) or not _NAME.fullmatch(info.name):
        raise RegistryError(
            f"{info.name!r} is not a token's name; use 1 to 128 letters, digits, dots, hyphens and underscores, "
            "for example checkout-service"
        )
    if info.name.startswith("fs_"):
        raise RegistryError(f"{info.name!r} is not a token's name: what starts with 'fs_' is a secret")
    if not info.scopes:
        raise RegistryError(f"the token {info.name!r} would be good for nothing; give it some of: {', '.join(SCOPES)}")
    for scope in sorted(info.scopes - set(SCOPES)):
        raise RegistryError(f"a token cannot have the scope {scope!r}{suggest(scope, SCOPES)}")
    rate = info.rate
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int) or not 1 <= rate <= _GREATEST_RATE):
        raise RegistryError(
            f"a token cannot have the rate {rate!r}; it is a whole number of requests a second from 1 to 1,000,000"
        )
    if info.expires_at is not None and info.expires_at <= info.created_at:
        raise RegistryError(f"the token {info.name!r} would expire before it is made; give a later time")


def _hash(secret: str) -> str:
    # What comes over the wire may hold any text, and must not fail in another way than what is just unknown.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _info(row: Row[Any]) -> TokenInfo:
    values = {name: getattr(row, name) for name in TokenInfo.__struct_fields__ if name != "scopes"}
    return TokenInfo(**values, scopes=frozenset(row.scopes.split()))
