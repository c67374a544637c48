"""The versioned catalog of definitions, in SQL: plan, diff, apply, history and lineage."""

from __future__ import annotations

if not __name__.startswith("featurestore."):
    raise ImportError(
        "'registry' is a part of the feature store, not a top-level package: import 'featurestore.registry' instead",
        name="registry",
    )

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.registry.catalog import Apply, Registry, Version
    from featurestore.registry.plan import Change, Difference, Plan
    from featurestore.registry.progress import Job
    from featurestore.registry.repository import bind_code, load_repository
    from featurestore.registry.tokens import NewToken, TokenInfo, Tokens

__all__ = [
    "Apply",
    "Change",
    "Difference",
    "Job",
    "NewToken",
    "Plan",
    "Registry",
    "TokenInfo",
    "Tokens",
    "Version",
    "bind_code",
    "load_repository",
]

_HOMES = {
    "Apply": "catalog",
    "Change": "plan",
    "Difference": "plan",
    "Job": "progress",
    "NewToken": "tokens",
    "Plan": "plan",
    "Registry": "catalog",
    "TokenInfo": "tokens",
    "Tokens": "tokens",
    "Version": "catalog",
    "bind_code": "repository",
    "load_repository": "repository",
}


def __getattr__(name: str) -> Any:
    """Load a name from its home on first use: reading a repository needs no SQL."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
