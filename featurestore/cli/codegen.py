"""Python source text from expressions, laid out as ``ruff format`` lays it out.

A call or list that fits its line stays on it; otherwise each item gets a line and a trailing comma.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH = 88
_STEP = 4


@dataclass(frozen=True, slots=True)
class Group:
    """Items in brackets: a call, list or dict.

    Attributes
    ----------
    opening, closing
        What stands around the items, such as ``Field(`` and ``)``.
    items
        Source text or nested groups; a text beginning with ``#`` is a comment on its own line.
    open
        Whether each item gets its own line even where all fit on one.
    """

    opening: str
    items: Sequence[str | Group]
    closing: str
    open: bool = False


def call(name: str, *items: str | Group, spread: bool = False) -> Group:
    """Return a call of ``name``."""
    return Group(f"{name}(", items, ")", spread)


def keyword_list(name: str, items: Iterable[str | Group], *, spread: bool = False) -> Group:
    """Return a keyword argument that is a list."""
    return Group(f"{name}=[", tuple(items), "]", spread)


def import_from(module: str, names: Iterable[str]) -> str | Group:
    """Return the import of some names, which take a line each where one line does not hold them."""
    listed = tuple(names)
    flat = f"from {module} import {', '.join(listed)}"
    return flat if len(flat) <= WIDTH else Group(f"from {module} import (", listed, ")", open=True)


def render(item: str | Group, prefix: str = "", indent: int = 0, suffix: str = "") -> str:
    """Return the source text of an item on lines of its own, ``prefix`` before and ``suffix`` after it."""
    margin = " " * indent
    flat = _flat(item)
    line = f"{margin}{prefix}{flat}{suffix}"
    if isinstance(item, str) or (flat is not None and len(line) <= WIDTH) or not item.items:
        return line
    lines = [f"{margin}{prefix}{item.opening}"]
    for part in item.items:
        is_comment = isinstance(part, str) and part.startswith("#")
        lines.append(render(part, indent=indent + _STEP, suffix="" if is_comment else ","))
    return "\n".join([*lines, f"{margin}{item.closing}{suffix}"])


def _flat(item: str | Group) -> str | None:
    """Return an item on one line, or None where it must not be."""
    if isinstance(item, str):
        return item
    parts = [_flat(part) for part in item.items]
    if item.open or any(part is None or part.startswith("#") for part in parts):
        return None
    return item.opening + ", ".join(part for part in parts if part is not None) + item.closing


def quote(text: str) -> str:
    """Return ``text`` as a string literal, in double quotes unless that takes more escapes."""
    double = json.dumps(text, ensure_ascii=False)
    if text.count('"') <= text.count("'"):
        return double
    return "'" + double[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"


def identifier(text: str, fallback: str) -> str:
    """Return ``text`` as a lower-case name of ASCII letters, digits and single underscores."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()[:60].rstrip("_")
    if not name:
        return fallback
    return f"{fallback}_{name}" if name[0].isdigit() else name


def unique(name: str, taken: Iterable[str], ending: str = "") -> str:
    """Return a name that is neither taken nor a Python keyword, by appending ``ending`` and then numbers."""
    used = set(taken)
    candidate, number = name, 1
    while candidate in used or keyword.iskeyword(candidate):
        candidate = f"{name}{ending}" if number == 1 and ending else f"{name}_{number + 1}"
        number += 1
    return candidate
