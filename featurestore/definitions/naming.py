"""Checks shared by all definitions: names, tags and durations."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from featurestore.clock import delta_micros
from featurestore.errors import DefinitionError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
RESERVED_COLUMNS = frozenset({"event_timestamp", "arrival", "_writer", "_sequence", "_origin"})


def check_name(kind: str, name: object) -> str:
    """Return ``name`` if it can name a thing of this kind; letters, digits and ``_``, and no ``__`` inside."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(
            f"{kind} name {name!r}: use 1 to 128 letters, digits and underscores, not starting with a digit"
        )
    if "__" in name.strip("_"):
        raise DefinitionError(f"{kind} name {name!r}: '__' separates view and feature in full names; use one '_'")
    return name


def check_column(owner: str, name: object) -> str:
    """Return ``name`` if it can name a column: any text without control characters that is not reserved."""
    if not isinstance(name, str) or not name or len(name) > 128 or not name.isprintable():
        raise DefinitionError(f"{owner}: {name!r} is not a column name; use 1 to 128 printable characters")
    if name in RESERVED_COLUMNS:
        raise DefinitionError(f"{owner}: the column name {name!r} is reserved for the store; rename the column")
    return name


def check_list(owner: str, what: str, value: object, example: str) -> tuple[Any, ...]:
    """Return a list as a tuple; refuse what is no list, such as a single object."""
    if not isinstance(value, (list, tuple)):
        raise DefinitionError(f"{owner}: {what} is a list, not {type(value).__name__}: write {example}")
    return tuple(value)


def check_unique(owner: str, what: str, names: Iterable[str]) -> None:
    """Refuse a name that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DefinitionError(f"{owner}: the {what} {name!r} is there twice; give each its own name")
        seen.add(name)


def check_case(label: str, names: Iterable[str]) -> None:
    """Refuse column names that differ only in case, also from the store's own: SQL engines mix them up."""
    seen = {name: name for name in RESERVED_COLUMNS}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise DefinitionError(f"{label}: the columns {name!r} and {other!r} differ only in case; rename one")


def check_tags(owner: str, tags: object) -> None:
    """Refuse tags that are not a mapping of text to text."""
    if not isinstance(tags, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in tags.items()):
        raise DefinitionError(f"{owner}: tags must map text to text, for example tags={{'team': 'growth'}}")
    check_text(owner, **{"a tag": " ".join([*tags, *tags.values()])})


def check_text(label: str, **texts: object) -> None:
    """Refuse a description, an owner or another attribute that is not text."""
    for name, value in texts.items():
        if not isinstance(value, str):
            raise DefinitionError(f"{label}: {name} must be text, not {type(value).__name__}")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise DefinitionError(f"{label}: {name} holds half a character (a lone surrogate): {value!r:.60}")


def duration(owner: str, name: str, value: object, *, positive: bool) -> None:
    """Refuse a duration that is not a timedelta, is negative or (where asked) zero."""
    if not isinstance(value, timedelta):
        raise DefinitionError(f"{owner}: {name} must be a timedelta, for example timedelta(hours=1), not {value!r}")
    micros = delta_micros(value)
    if micros < 0 or (positive and micros == 0):
        raise DefinitionError(f"{owner}: {name} must be {'positive' if positive else 'zero or more'}, not {value}")
