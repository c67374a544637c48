"""The API as one ASGI application: the lookup endpoint by itself, everything else behind FastAPI."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from typing import Any

from featurestore.errors import FeatureStoreError
from featurestore.serving.http import JSON, DisconnectedError, Receive, Scope, Send, respond
from featurestore.serving.metrics import BOUNDS, Cell, observe
from featurestore.serving.parts import Store
from featurestore.serving.problems import Problem, unavailable
from featurestore.serving.routes import LOOKUP_PATH, PATHS, make_routes
from featurestore.serving.service import Service
from featurestore.serving.settings import ServeSettings

_OK = [JSON]
_ONLY_POST = f"{LOOKUP_PATH} takes POST"
_SWITCH_SECONDS = 0.0005
_GONE = 499
"""Counted, never sent: the client went away first."""


class Api:
    """Answers HTTP for one feature store, in one event loop.

    Parameters
    ----------
    store
        The feature store, with definitions applied. Whoever opened it closes it.
    settings
        How it is run.
    """

    def __init__(self, store: Store, settings: ServeSettings | None = None) -> None:
        self.settings = settings or ServeSettings()
        self.service = Service(store, self.settings)
        self._routes = make_routes(self.service)
        self._is_logging = self.settings.access_log or self.settings.log_values
        self._lookups = 0
        self._cells: dict[tuple[str, str, int], tuple[Cell, Cell]] = {}
        metrics = self.service.metrics
        self._in_flight = metrics.cell("featurestore_in_flight", str(metrics.worker))
        self._shed = metrics.cell("featurestore_shed")

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Run what answering needs; for whoever sends no lifespan events."""
        return self.service.running()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (the ASGI interface)."""
        if scope["type"] == "http":
            if scope["path"] == LOOKUP_PATH:
                await self._look_up(scope, receive, send)
            else:
                await self._route(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.service.start()
        except FeatureStoreError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        _settle_down()
        await send({"type": "lifespan.startup.complete"})
        with contextlib.suppress(asyncio.CancelledError):  # a second signal: at once, and still with all written down
            await receive()
        await self.service.stop()
        gc.unfreeze()  # so that the interpreter ends with all let go of
        await send({"type": "lifespan.shutdown.complete"})

    async def _look_up(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        self._in_flight[0] += 1
        status, service, headers, body, answer = 200, "-", _OK, b"", b""
        try:
            try:
                if scope["method"] != "POST":
                    raise Problem(405, _ONLY_POST, headers=[(b"allow", b"POST")])  # noqa: TRY301  (no call on the way of most)
                if self.service.access.required:
                    await self.service.access.admit(scope["headers"], "read")
                body = await self.service.bodies.read(receive, scope["headers"])
                started = time.perf_counter()
                answer, service = await self._answer(body)
            except (Problem, FeatureStoreError) as error:
                status, headers, answer = self._explain(error)
            except DisconnectedError:
                status = _GONE
                return
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  (answered, and if a bug, logged)
                status, headers, answer = self._explain(error)
            await respond(send, status, answer, headers)
        finally:
            self._in_flight[0] -= 1
            self._count(scope, ("lookup", service, status), time.perf_counter() - started, body, answer)

    async def _answer(self, body: bytes) -> tuple[bytes, str]:
        if self.service.closed is not None:
            raise self.service.closed
        if self._lookups >= self.settings.limit_requests:
            self._shed[0] += 1
            raise unavailable(f"{self._lookups} lookups are in flight already; try again")
        self._lookups += 1
        try:
            return await self.service.lookups.answer(body)
        finally:
            self._lookups -= 1

    def _explain(self, error: BaseException) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        problem = self.service.explain(error)
        return problem.status, [JSON, *problem.headers], problem.body()

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = _GONE
        self._in_flight[0] += 1

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._routes(scope, receive, sending)
        finally:
            self._in_flight[0] -= 1
            route = PATHS.get(scope["path"], "other")
            self._count(scope, (route, "-", status), time.perf_counter() - started)

    def _count(
        self, scope: Scope, key: tuple[str, str, int], seconds: float, asked: bytes = b"", answer: bytes = b""
    ) -> None:
        cells = self._cells.get(key)
        if cells is None:
            route, service, status = key
            metrics = self.service.metrics
            cells = self._cells[key] = (
                metrics.cell("featurestore_requests", route, str(status)),
                metrics.cell("featurestore_request_seconds", route, service),
            )
        cells[0][0] += 1
        observe(cells[1], BOUNDS, seconds)
        if self._is_logging:
            client = (scope.get("client") or ("-",))[0]
            self.service.log.add(client, scope["method"], scope["path"], key[2], seconds, asked, answer)


def _settle_down() -> None:
    """Have requests wait for nothing in this process that can be helped.

    A thread that looks at stores or fills them gives the interpreter back after half a millisecond, not after five,
    and what was loaded until now, several hundred thousand objects, is not searched for garbage again and again.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
