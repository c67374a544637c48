"""The endpoints that FastAPI routes, and the OpenAPI document of all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from featurestore.serving import documents
from featurestore.serving.http import DisconnectedError
from featurestore.serving.listing import listing
from featurestore.serving.problems import Problem
from featurestore.serving.service import Service

LOOKUP_PATH = "/get-online-features"
PATHS = {
    LOOKUP_PATH: "lookup",
    "/push": "push",
    "/features": "features",
    "/health/live": "live",
    "/health/ready": "ready",
    "/metrics": "metrics",
    "/docs": "docs",
    "/openapi.json": "docs",
}
"""By path, what it is called in metrics; every other is ``other``."""
_METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"


def make_routes(service: Service) -> FastAPI:
    """Return the application that answers everything but lookups, which come past it."""
    app = FastAPI(
        title="Feature store: online lookups",
        version=documents.RELEASE,
        description=documents.DESCRIPTION,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    endpoints = _Endpoints(service)
    for path, method, endpoint, scope, about in (
        (LOOKUP_PATH, "POST", endpoints.get_online_features, "", documents.LOOKUP),
        ("/push", "POST", endpoints.push, "push", documents.PUSH),
        ("/features", "GET", endpoints.features, "read", documents.FEATURES),
        ("/health/live", "GET", endpoints.live, "", documents.LIVE),
        ("/health/ready", "GET", endpoints.ready, "", documents.READY),
        ("/metrics", "GET", endpoints.metrics, "read", documents.METRICS),
    ):
        app.add_api_route(path, _guarded(service, endpoint, scope), methods=[method], **about)
    app.add_exception_handler(HTTPException, _not_routed)
    app.openapi = lambda: documents.openapi(app)  # type: ignore[method-assign]  # as FastAPI's documentation says
    return app


Work = Callable[[Request], Awaitable[Response]]


def _guarded(service: Service, endpoint: Work, scope: str) -> Work:
    """Return an endpoint that asks for a token of a scope ("": none), and answers whatever goes wrong."""

    async def answer(request: Request) -> Response:
        try:
            if scope:
                await service.access.admit(request.scope["headers"], scope)
            return await endpoint(request)
        except DisconnectedError:
            return Response(status_code=400)  # nobody is there to read it
        except Exception as error:  # noqa: BLE001  (answered, and if a bug, logged)
            return _refusal(service.explain(error))

    answer.__name__ = endpoint.__name__
    answer.__doc__ = endpoint.__doc__
    return answer


def _refusal(problem: Problem) -> Response:
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(problem.body(), problem.status, headers, "application/json")


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (what it is registered for)
    path = request.url.path
    if error.status_code == 405:
        allowed = dict(error.headers or {})
        headers = [(name.lower().encode(), value.encode()) for name, value in allowed.items()]
        return _refusal(Problem(405, f"{path} does not take {request.method}", headers=headers))
    return _refusal(Problem(404, f"there is nothing at {path}; see /docs"))


class _Endpoints:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def get_online_features(self, request: Request) -> Response:
        """Answer a lookup: here for the document alone, since the application answers it before it is routed."""
        body = await self._body(request)
        answer, _ = await self._service.lookups.answer(body)
        return _json(answer)

    async def push(self, request: Request) -> Response:
        """Write pushed rows."""
        body = await self._body(request)
        return _json(await self._service.pushes.answer(body, request.headers.get("idempotency-key")))

    async def features(self, _: Request) -> Response:
        """List what can be asked for."""
        metrics = self._service.metrics
        name = "featurestore_freshness_seconds"
        freshness = {labels[0]: metrics.cell(name, *labels)[0] for labels in metrics.labels(name)}
        return _json(msgspec.json.encode(listing(self._service.generation, self._service.health, freshness)))

    async def live(self, _: Request) -> Response:
        """Say that the process answers."""
        return _json(b'{"status":"live"}')

    async def ready(self, _: Request) -> Response:
        """Say whether requests may be sent here, and if not, why."""
        problems, health = self._service.problems(), self._service.health
        parts = {"online_store": health.store, "registry": health.registry, "definitions": health.definitions}
        answer = {
            "status": "unavailable" if problems else "ready",
            "problems": problems,
            "warnings": {part: said for part, said in parts.items() if said and part != "online_store"},
            "revision": health.revision,
            "views": health.views,
        }
        return _json(msgspec.json.encode(answer), 503 if problems else 200)

    async def metrics(self, _: Request) -> Response:
        """Return counts in Prometheus' text format."""
        return Response(self._service.metrics.expose(), media_type=_METRICS_TYPE)

    async def _body(self, request: Request) -> bytes:
        return await self._service.bodies.read(request.receive, request.scope["headers"])


def _json(body: bytes, status: int = 200) -> Response:
    headers = {"retry-after": "1"} if status == 503 else None
    return Response(body, status, headers, "application/json")
