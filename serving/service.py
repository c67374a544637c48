"""The parts of a worker, from its start to its end: what is served, what reads, who may, and what is counted."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from featurestore.errors import FeatureStoreError, NotReadyError, StoreUnavailableError
from featurestore.online.contract import AsyncReader, OnlineStore
from featurestore.registry import TokenInfo
from featurestore.serving.access import Access
from featurestore.serving.accesslog import AccessLog
from featurestore.serving.batching import DeadlineError, SharedReader
from featurestore.serving.generation import Generation
from featurestore.serving.health import CHANGING, READY, Health
from featurestore.serving.http import Bodies
from featurestore.serving.lookups import Lookups
from featurestore.serving.metrics import SIZES, Metrics, observe
from featurestore.serving.parts import Store
from featurestore.serving.problems import Problem, problem_of, unavailable
from featurestore.serving.pushes import Pushes
from featurestore.serving.settings import ServeSettings
from featurestore.serving.watch import Look, Watch

LOG = logging.getLogger("featurestore.serving")
_FLUSH_SECONDS = 1.0
_VERIFIERS = 2


class Service:
    """What answers requests about one feature store, in one event loop.

    Parameters
    ----------
    store
        The feature store, with definitions applied. Whoever opened it closes it.
    settings
        How it is run.

    Attributes
    ----------
    closed
        Why no lookup may be answered, whatever the store says; None where there is no such reason.
    """

    def __init__(self, store: Store, settings: ServeSettings) -> None:
        self.settings = settings
        self.store = store
        self.metrics = Metrics(Path(settings.metrics_folder) if settings.metrics_folder else None)
        self.log = AccessLog(with_values=settings.log_values)
        self.closed: Problem | None = None
        self.bodies = Bodies(settings.limit_body)
        self._is_stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._limited = self.metrics.cell("featurestore_rate_limited")
        self._shared = self.metrics.cell("featurestore_read_requests")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open what answering needs, look after it meanwhile, and close it."""
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    async def start(self) -> None:
        """Open what answering needs.

        Raises
        ------
        FeatureStoreError
            Where the registry cannot be read or the code of its definitions cannot be loaded. An online store that
            is away is none of the reasons: lookups are answered 503 until it is there.
        """
        store, settings = self.store, self.settings
        self.generation = await asyncio.to_thread(self._first_generation)
        self._reader = self._open_reader(store.online_store)
        self.lookups = Lookups(
            self.generation, self._reader, store.clock, self.metrics, limit_entities=settings.limit_entities
        )
        self.pushes = Pushes(self.generation, self.metrics)
        self._verifiers = ThreadPoolExecutor(_VERIFIERS, "tokens")
        self.access = Access(
            self._verify,
            self._verifiers,
            seconds=settings.token_seconds,
            required=not settings.no_auth,
            limited=self._count_limited,
        )
        self.watch = Watch(self.generation, settings.poll_seconds, self.metrics, self._take_in)
        await self.watch.take_look()
        await asyncio.to_thread(self.metrics.expose)  # loads what writes them, for which no request should have to wait
        self._tasks |= {asyncio.create_task(self.watch.run()), asyncio.create_task(self._write_down())}

    async def stop(self) -> None:
        """Close what was opened; no request is answered any more."""
        self._is_stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.watch.close()
        self.pushes.close()
        self._verifiers.shutdown(wait=False, cancel_futures=True)
        await self._reader.close()
        self.log.flush()
        self.metrics.flush()

    @property
    def health(self) -> Health:
        """What the last look found."""
        return self.watch.health

    def problems(self) -> list[str]:
        """Return why requests must not be sent here; empty where they may."""
        if self._is_stopping:
            return ["the server shuts down"]
        return self.health.problems(patience=max(10.0, 5 * self.settings.poll_seconds))

    def explain(self, error: BaseException) -> Problem:
        """Return how an error is answered; a bug is logged without its message, which may hold values."""
        if isinstance(error, Problem):
            return error
        if isinstance(error, NotReadyError):
            self.watch.wake()
        if isinstance(error, DeadlineError):
            return Problem(504, str(error))
        if isinstance(error, FeatureStoreError):
            problem = problem_of(error)
            if problem.status == 500:
                LOG.error("a request failed: %s", error)
            return problem
        if isinstance(error, asyncio.CancelledError):
            return unavailable("the server shuts down")
        where = "".join(traceback.format_tb(error.__traceback__))
        LOG.error("a request failed with %s, which is a bug, at\n%s", type(error).__name__, where)
        return Problem(500, "something here is broken; the server's log says where")

    def _first_generation(self) -> Generation:
        return Generation(self.store, self.store.revision)

    def _open_reader(self, store: OnlineStore) -> AsyncReader:
        reader = store.reader(self._look_again)
        if type(store).reader is OnlineStore.reader:
            return reader  # reads at once: there is nothing to gain by waiting for others
        return SharedReader(
            reader,
            seconds=self.settings.limit_seconds,
            observe=lambda requests: observe(self._shared, SIZES, requests),
        )

    async def _look_again(self) -> None:
        """Look at the marks of all views, since the online store was away: it may have come back without its end."""
        if self._is_stopping:
            raise StoreUnavailableError("the server shuts down")
        await self.watch.take_look()
        for view, reason in self.generation.lost.items():
            raise NotReadyError(f"view {view!r} is not served: {reason}")

    def _verify(self, secret: str) -> TokenInfo | None:
        return self.store.registry.tokens.verify(secret, self.store.clock.now())

    def _count_limited(self) -> None:
        self._limited[0] += 1

    def _take_in(self, look: Look) -> None:
        """Serve by what a look found from now on."""
        health = look.health
        self.access.required = look.tokens and not self.settings.no_auth
        self.closed = unavailable(health.store) if health.is_forgetful else None
        if look.generation is not self.generation:
            is_new = look.generation.revision != self.generation.revision
            self.generation = self.lookups.generation = look.generation
            if is_new:
                task = asyncio.get_running_loop().create_task(self.pushes.switch(look.generation))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        worker = str(self.metrics.worker)
        self.metrics.set("featurestore_ready", worker, value=float(not self.problems()))
        self.metrics.set("featurestore_revision", worker, value=health.revision)
        for name, view in health.views.items():
            self.metrics.set("featurestore_view_ready", name, value=float(view.state in {READY, CHANGING}))
        for (name,) in self.metrics.labels("featurestore_view_ready"):
            if name not in health.views:
                self.metrics.remove("featurestore_view_ready", name)

    async def _write_down(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self.bodies.sweep(time.monotonic())
            try:
                self.log.flush()
                self.metrics.flush()
            except OSError as error:
                LOG.error(  # noqa: TRY400  (a full disk needs no traceback)
                    "requests or counts cannot be written down: %s", error
                )
