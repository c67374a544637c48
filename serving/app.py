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
from featurestore.serving.problems import Headers, Problem, unavailable
from featurestore.serving.routes import LOOKUP_PATH, PATHS, make_routes
from featurestore.serving.service import Service
from featurestore.serving.settings import ServeSettings

Client = tuple[str, int] | None
Answer = tuple[int, Headers, bytes]
"""Status, headers but for those of the body, and the body: JSON."""

_NONE: Headers = []
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
        client = scope.get("client")
        try:
            if scope["method"] != "POST":
                raise Problem(405, _ONLY_POST, headers=[(b"allow", b"POST")])  # noqa: TRY301  (no call on the way of most)
            if self.service.access.required:
                await self.service.access.admit(scope["headers"], "read")
            body = await self.service.bodies.read(receive, scope["headers"])
        except DisconnectedError:
            self._count("lookup", "-", _GONE, None, client, scope["method"])
            return
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  (answered, and if a bug, logged)
            status, headers, answer = self.refuse(error, client, scope["method"])
        else:
            status, headers, answer = await self.answer_lookup(body, client)
        await respond(send, status, answer, [JSON, *headers])

    def is_admitted(self, headers: Headers) -> bool:
        """Return whether a lookup with these headers may be answered; False where that is to be found out."""
        access = self.service.access
        return not access.required or access.is_free(headers, "read")

    def count_gone(self, client: Client) -> None:
        """Count a lookup whose client went away before it was whole."""
        self._count("lookup", "-", _GONE, None, client, "POST")

    async def answer_lookup(self, body: bytes, client: Client) -> Answer:
        """Answer a lookup that is admitted; whatever goes wrong is an answer too."""
        started = time.perf_counter()
        self._in_flight[0] += 1
        status, service, headers = 200, "-", _NONE
        try:
            answer, service = await self._look_up_values(body)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  (answered, and if a bug, logged)
            problem = self.service.explain(error)
            status, headers, answer = problem.status, problem.headers, problem.body()
        self._in_flight[0] -= 1
        self._count("lookup", service, status, time.perf_counter() - started, client, "POST", asked=body, answer=answer)
        return status, headers, answer

    def refuse(self, error: BaseException, client: Client, method: str = "POST") -> Answer:
        """Return the answer to a lookup that was refused before it was read."""
        problem = self.service.explain(error)
        self._count("lookup", "-", problem.status, None, client, method)
        return problem.status, problem.headers, problem.body()

    async def _look_up_values(self, body: bytes) -> tuple[bytes, str]:
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
            self._count(
                route,
                "-",
                status,
                time.perf_counter() - started,
                scope.get("client"),
                scope["method"],
                path=scope["path"],
            )

    def _count(  # noqa: PLR0917
        self,
        route: str,
        service: str,
        status: int,
        seconds: float | None,
        client: Client,
        method: str,
        *,
        path: str = LOOKUP_PATH,
        asked: bytes = b"",
        answer: bytes = b"",
    ) -> None:
        cells = self._cells.get((route, service, status))
        if cells is None:
            metrics = self.service.metrics
            cells = self._cells[route, service, status] = (
                metrics.cell("featurestore_requests", route, str(status)),
                metrics.cell("featurestore_request_seconds", route, service),
            )
        cells[0][0] += 1
        if seconds is not None:  # what was refused at the door says nothing of how long lookups take
            observe(cells[1], BOUNDS, seconds)
        if self._is_logging:
            self.service.log.add((client or ("-",))[0], method, path, status, seconds or 0.0, asked, answer)


def _settle_down() -> None:
    """Have requests wait for nothing in this process that can be helped.

    A thread that looks at stores or fills them gives the interpreter back after half a millisecond, not after five,
    and what was loaded until now, several hundred thousand objects, is not searched for garbage again and again.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
