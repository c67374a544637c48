"""What a worker does beside answering: it looks for new definitions and at the stores, and refills what was lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from featurestore.definitions import FeatureView
from featurestore.errors import FeatureStoreError, NotReadyError, OfflineStoreError, OnlineStoreError, RegistryError
from featurestore.offline.log import RowLog
from featurestore.online.view import OnlineView
from featurestore.serving.generation import Generation
from featurestore.serving.health import CHANGING, EMPTY, FILLING, READY, Health, ViewHealth
from featurestore.serving.metrics import Metrics
from featurestore.serving.parts import Store
from featurestore.serving.refill import Refill
from featurestore.serving.watermarks import Found, Watermarks

LOG = logging.getLogger("featurestore.serving")
_RETRY_LOOKS = 10
_FRESHNESS_LOOKS = 10
_EMPTY = "nothing was written for it yet: run featurestore materialize, or push or stream rows to it"
_LOST = "the online store holds no state of it"
_GONE_BACK = "the online store lost its last writes, and gets them from the log again"
_CHANGED = "its new definition is not filled yet, and the old one goes on being served"


class Look(NamedTuple):
    """What a look found: the health, what is to be served from now on, and whether tokens are needed."""

    health: Health
    generation: Generation
    tokens: bool


class Watch:
    """Looks, in a thread, every so often.

    Parameters
    ----------
    generation
        What is served first.
    seconds
        Time between looks.
    changed
        Called in the event loop with every look.
    """

    def __init__(
        self, generation: Generation, seconds: float, metrics: Metrics, changed: Callable[[Look], None]
    ) -> None:
        self.health = Health(time.monotonic(), generation.revision)
        self._generation = generation
        self._seconds = seconds
        self._metrics = metrics
        self._changed = changed
        self._executor = ThreadPoolExecutor(1, "watch")
        self._refill = Refill(self._refilled)
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._tokens = False
        self._looks = 0
        self._refused: tuple[int, int] = (0, 0)
        self._problem = ""
        self._was_ready: set[bytes] = set()
        self._watermarks = Watermarks()
        self._lost: dict[str, str] = {}

    async def run(self) -> None:
        """Look every so often, and when woken, until cancelled."""
        while True:
            try:
                # Not wait_for, which in Python 3.11 misses a cancellation that comes together with the event.
                async with asyncio.timeout(self._seconds):
                    await self._wake.wait()
                await asyncio.sleep(min(0.05, self._seconds))  # however often it is woken
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self.take_look()
            except Exception:  # a bug: what was found before counts for a while, then the worker says it is not ready
                LOG.exception("the look at stores and definitions failed")

    async def take_look(self) -> None:
        """Take one look, now, and pass it on."""
        async with self._turn:
            look = await asyncio.get_running_loop().run_in_executor(self._executor, self.look)
            self.health, self._generation = look.health, look.generation
            self._changed(look)

    def wake(self) -> None:
        """Look again soon: a request met a state that the last look does not explain."""
        self._wake.set()

    def close(self) -> None:
        """Begin nothing further."""
        self._refill.stop()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def look(self) -> Look:
        """Take one look; nothing that it meets is raised but what is a bug."""
        generation, registry, definitions = self._generation, "", self._problem
        try:
            self._tokens = generation.store.registry.tokens.any()
            revision = generation.store.registry.revision()
            if revision != generation.revision:
                generation, definitions = self._load(revision)
            else:
                definitions = ""
        except RegistryError as error:
            registry = str(error)
        self._problem = definitions
        is_measuring = self._looks % _FRESHNESS_LOOKS == 0
        if is_measuring:
            self._measure(generation)
        store, is_forgetful, views = self._views(generation, is_measuring=is_measuring)
        filled = frozenset(name for name, view in views.items() if view.state == READY)
        generation = generation.without_waiting(filled)
        generation.lost = self._lost
        self._looks += 1
        health = Health(
            at=time.monotonic(),
            revision=generation.revision,
            store=store,
            is_forgetful=is_forgetful,
            registry=registry,
            definitions=definitions,
            views=views,
        )
        return Look(health, generation, self._tokens)

    # Definitions

    def _load(self, revision: int) -> tuple[Generation, str]:
        """Return what to serve of a new revision: it, or (where it cannot be loaded) still the old, and why."""
        old = self._generation
        if self._refused[0] == revision and self._looks < self._refused[1]:
            return old, self._problem
        try:
            store = old.store.at_revision(revision)
            filled = self._watermarks.look(_parts(store, _served(store.project.feature_views))).filled
            served = {name for name, view in self.health.views.items() if view.state == READY} | old.waiting
            new = Generation(store, revision, old, frozenset(served & set(store.project.feature_views)) - filled)
            new.warm(old)
        except FeatureStoreError as error:
            self._refused = revision, self._looks + _RETRY_LOOKS
            self._metrics.add("featurestore_reloads", "failed")
            LOG.error(  # noqa: TRY400  (an error of ours tells all)
                "revision %d cannot be served, revision %d still is: %s", revision, old.revision, error
            )
            return old, f"revision {revision} cannot be loaded: {error}"
        self._metrics.add("featurestore_reloads", "switched")
        LOG.warning("serving revision %d", revision)
        return new, ""

    # Stores

    def _views(self, generation: Generation, *, is_measuring: bool) -> tuple[str, bool, dict[str, ViewHealth]]:
        """Return what is wrong with the online store, whether it forgets, and the state of each view.

        What is missing begins to be filled.
        """
        store = generation.store
        views = _served(store.project.feature_views)
        forgot = ""
        try:
            parts = _parts(store, views)
            try:
                store.online_store.check()
            except NotReadyError as error:
                forgot = str(error)
            found = self._watermarks.look(parts)
        except OnlineStoreError as error:
            known = {view.name: self.health.views.get(view.name, ViewHealth(EMPTY, _EMPTY)) for view in views}
            return str(error), False, known
        states = {online.view.name: self._state(generation, online, found, is_there=not forgot) for online, _ in parts}
        self._lost = {
            name: states[name].reason for name in found.gone_back if not forgot and states[name].state == FILLING
        }
        late = self._standing_still(store, parts) if is_measuring else ()
        todo = [
            view
            for view in views
            if view.name in late
            or (states[view.name].state != READY and (states[view.name].reason != _EMPTY or view.batch_source is None))
        ]
        if todo:
            self._refill.start(store, todo)
        return forgot, bool(forgot), states

    def _state(self, generation: Generation, online: OnlineView, found: Found, *, is_there: bool) -> ViewHealth:
        view = online.view
        if not is_there or view.name not in found.filled:
            return self._missing(generation, view, online)
        self._was_ready.add(online.fingerprint)
        if view.name not in found.gone_back:
            return ViewHealth(READY)
        reason = self._refill.reasons.get(view.name)
        return ViewHealth(FILLING, f"{_GONE_BACK}: {reason}" if reason else _GONE_BACK)

    def _standing_still(self, store: Store, parts: Sequence[tuple[OnlineView, RowLog]]) -> set[str]:
        """Return the names of views that lack rows of their logs which no writer seems to be about to bring.

        They are served meanwhile: only who saw them further on can tell a store that lost data from a slow writer.
        """
        late = set()
        for online, log in parts:
            try:
                cuts = store.cuts(online.view)
                if self._watermarks.stands_still(online, log, cuts[-1].at if cuts else None):
                    late.add(online.view.name)
            except (OfflineStoreError, RegistryError):  # what cannot be read now is compared the next time
                continue
        return late

    def _missing(self, generation: Generation, view: FeatureView, online: OnlineView) -> ViewHealth:
        reason = self._refill.reasons.get(view.name, "")
        if view.name in generation.waiting:
            return ViewHealth(CHANGING, reason or _CHANGED)
        if online.fingerprint in self._was_ready:
            return ViewHealth(FILLING, reason or _LOST)
        try:
            is_empty = not generation.store.log(view).exists()
        except OfflineStoreError as error:
            return ViewHealth(FILLING, f"{_LOST}, and its log cannot be read: {error}")
        if is_empty or reason == "a job is writing it":
            return ViewHealth(EMPTY, reason or _EMPTY)
        return ViewHealth(FILLING, reason or _LOST)

    def _refilled(self, view: str, outcome: str) -> None:
        if outcome == "filled":
            self._watermarks.forget(view)
        if outcome != "waiting":
            self._metrics.add("featurestore_refills", view, outcome)

    def _measure(self, generation: Generation) -> None:
        """Read of the logs how new they are, and whose rows they hold."""
        views = _served(generation.store.project.feature_views)
        for (name,) in self._metrics.labels("featurestore_freshness_seconds"):
            if name not in {view.name for view in views}:
                self._metrics.remove("featurestore_freshness_seconds", name)
        now = generation.store.clock.now()
        for view in views:
            log = generation.store.log(view)
            try:
                self._watermarks.learn(log)
                arrival = log.newest_arrival()
            except OfflineStoreError:  # what cannot be read has no freshness; retrieval says what is wrong
                continue
            if arrival is not None:
                age = max(0.0, (now - arrival) / 1e6)
                self._metrics.set("featurestore_freshness_seconds", view.name, value=age)


def _served(views: dict[str, FeatureView]) -> list[FeatureView]:
    return [view for view in views.values() if view.online]


def _parts(store: Store, views: Sequence[FeatureView]) -> list[tuple[OnlineView, RowLog]]:
    return [(store.online_view(view), store.log(view)) for view in views]
