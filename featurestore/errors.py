"""Errors of the feature store: one root, one class per kind of mistake, each also a builtin a caller would catch.

A message names the object, the offending value and the fix. The command line prints the message alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FeatureStoreError(Exception):
    """Root of every error raised on purpose by this package."""


class DefinitionError(FeatureStoreError, ValueError):
    """A definition (entity, source, view, service) is wrong in itself or does not fit the others."""


class ConfigError(FeatureStoreError, ValueError):
    """``feature_store.yaml`` is missing, unreadable or holds a wrong value."""


class RepositoryError(FeatureStoreError):
    """A user's repository of definitions could not be loaded."""


class RegistryError(FeatureStoreError):
    """The registry is missing, locked, corrupt or refuses the change."""


class StaleApplyError(RegistryError):
    """Somebody else applied between the plan and this apply; nothing was changed."""


class NotAppliedError(RegistryError, LookupError):
    """The object exists in no applied version of the registry."""


class FeatureNotFoundError(FeatureStoreError, LookupError):
    """A feature reference names a view, service or feature that does not exist."""

    @classmethod
    def with_suggestion(cls, what: str, name: str, known: Iterable[str]) -> FeatureNotFoundError:
        """Build the error for ``name``, suggesting the nearest of ``known``."""
        return cls(f"{what} {name!r} does not exist{suggest(name, known)}")


class SourceError(FeatureStoreError):
    """A source cannot be read, or its content does not match what the definitions say."""


class RowError(FeatureStoreError, ValueError):
    """Rows handed in by a caller (a push, an entity frame) are unusable."""


class EntityFrameError(RowError):
    """An entity frame lacks a column, or a column has an unusable type or value."""


class OfflineStoreError(FeatureStoreError):
    """The offline log cannot be read or written."""


class DatasetError(FeatureStoreError):
    """A saved training set does not exist, cannot be read, or its name is not one."""


class OnlineStoreError(FeatureStoreError):
    """The online store cannot be read or written, or holds a value this version cannot read."""


class NotReadyError(OnlineStoreError):
    """The online store does not hold the state asked for yet."""


class StoreUnavailableError(OnlineStoreError):
    """The online store does not answer; nothing is known of what it holds. Try again."""


class ClockError(FeatureStoreError, ValueError):
    """A reader's clock is too far behind the stored state, or a time cannot be interpreted."""


class MissingExtraError(FeatureStoreError, ImportError):
    """An optional dependency is not installed."""

    @classmethod
    def for_package(cls, package: str, extra: str) -> MissingExtraError:
        """Build the error naming the extra that brings ``package``."""
        return cls(f"this needs the package {package!r}: pip install 'featurestore[{extra}]'")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean ...?'`` or the list of what exists, for the end of an error message."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not options:
        return "; there are none"
    shown = ", ".join(options[:10]) + (", ..." if len(options) > 10 else "")
    return f"; there are: {shown}"
