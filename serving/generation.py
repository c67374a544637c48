"""The definitions of one revision as they are served: its store, and the lookups prepared from it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from featurestore.definitions.resolve import FeatureRequest, resolve
from featurestore.errors import FeatureNotFoundError, NotReadyError
from featurestore.online.lookup import Lookup
from featurestore.serving.parts import Store

MOST_LOOKUPS = 256


class Wanted(NamedTuple):
    """What a request asks for: features one by one, or (where there is none) a service, and how columns are named."""

    features: tuple[str, ...]
    service: str
    full_feature_names: bool


class Prepared(NamedTuple):
    """A lookup made ready.

    Attributes
    ----------
    service
        The service's name; ``-`` where features were named one by one.
    views
        Names of the stored views, in the order in which a response has them.
    derived
        The columns that on-demand views work out, each with its view's name.
    """

    lookup: Lookup
    service: str
    views: tuple[str, ...]
    derived: tuple[tuple[str, str], ...]


class Generation:
    """What is served of one revision. Never changes but for what it prepares and `lost`.

    Parameters
    ----------
    store
        The store with the definitions.
    revision
        Their revision.
    older
        What was served before, where some views' new state is not filled yet.
    waiting
        Names of those views: requests that need one of them are answered by `older`.

    Attributes
    ----------
    lost
        By name the views whose state lacks rows that it had, with the reason: until they are back, requests that need
        one of them are refused. Each look sets it anew.
    """

    def __init__(
        self,
        store: Store,
        revision: int,
        older: Generation | None = None,
        waiting: frozenset[str] = frozenset(),
    ) -> None:
        self.store = store
        self.revision = revision
        self.older = older if waiting else None
        self.waiting = waiting
        self.lost: Mapping[str, str] = {}
        self._lookups: dict[Wanted, Prepared] = {}
        self._lock = threading.Lock()

    def without_waiting(self, filled: frozenset[str]) -> Generation:
        """Return the generation that serves the views that have been filled since; itself where there are none."""
        if self.waiting.isdisjoint(filled):
            return self
        newer = Generation(self.store, self.revision, self.older, self.waiting - filled)
        newer.warm(self)
        return newer

    def prepare(self, wanted: Wanted) -> Prepared:
        """Return the lookup of a request; a few hundred are kept. Safe to call from any thread.

        Raises
        ------
        FeatureNotFoundError
            Where a feature, view or service does not exist.
        DefinitionError
            Where two features would have one column name.
        NotReadyError
            Where the state of a view is one of the `lost`.
        """
        prepared = self._known(wanted)
        if self.lost:
            for view in prepared.views:
                if view in self.lost:
                    raise NotReadyError(f"view {view!r} is not served: {self.lost[view]}")
        return prepared

    def _known(self, wanted: Wanted) -> Prepared:
        prepared = self._lookups.get(wanted)
        if prepared is None:
            prepared = self._prepare(wanted)
            with self._lock:
                if len(self._lookups) >= MOST_LOOKUPS:
                    del self._lookups[next(iter(self._lookups))]
                self._lookups[wanted] = prepared
        return prepared

    def warm(self, other: Generation) -> None:
        """Prepare what another generation has prepared, so that the first requests after a switch need not."""
        with other._lock:
            asked = list(other._lookups)
        for wanted in asked:
            try:
                self._known(wanted)
            except FeatureNotFoundError:  # no longer there: whoever asks next is told
                continue

    def _prepare(self, wanted: Wanted) -> Prepared:
        asked: FeatureRequest = wanted.features or wanted.service
        request = resolve(self.store.project, asked, full_feature_names=wanted.full_feature_names)
        if self.older is not None and any(view.name in self.waiting for view in request.views):
            with suppress(FeatureNotFoundError):  # new features: until they are filled they are not ready
                return self.older._known(wanted)  # noqa: SLF001  (its own class)
        views = {view.name: self.store.online_view(view) for view in request.views}
        derived = {view.name for view in request.on_demand}
        return Prepared(
            Lookup(request, self.store.online_store, views),
            wanted.service if not wanted.features else "-",
            tuple(read.view.name for read in request.reads),
            tuple((column.name, column.view) for column in request.columns if column.view in derived),
        )
