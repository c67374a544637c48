"""A project to serve, and an API in this process that tests ask over ASGI."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec

import httpx

from featurestore.clock import ManualClock
from featurestore.config import Config
from featurestore.definitions import (
    Aggregation,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    OnDemandFeatureView,
    PushSource,
    RequestSource,
)
from featurestore.registry import TokenInfo
from featurestore.semantics.windows import DAY, HOUR
from featurestore.serving.app import Api
from featurestore.serving.settings import ServeSettings
from featurestore.store import FeatureStore
from featurestore.types import Bytes, Float64, Int64, String, UnixTimestamp

P = ParamSpec("P")

NOW = 300 * DAY + 12 * HOUR
DRIVER = Entity("driver", value_type=Int64)
PUSHED = PushSource("trips", timestamp_field="ts")
SCHEMA = [Field("km", Float64), Field("city", String), Field("photo", Bytes), Field("paid_at", UnixTimestamp)]
NEWEST = FeatureView("newest", [DRIVER], SCHEMA, PUSHED, ttl=timedelta(hours=6))
SUM = Aggregation("km", "sum", timedelta(hours=2), name="km_2h")
RECENT = FeatureView("recent", [DRIVER], SCHEMA, PUSHED, aggregations=[SUM])


def per_hour(row: dict[str, Any]) -> dict[str, Any]:
    return {"km_per": row["km"] / row["hours"]}


SPEED = OnDemandFeatureView(
    "speed",
    sources=[NEWEST[["km"]], RequestSource("asked", schema=[Field("hours", Float64)])],
    schema=[Field("km_per", Float64)],
    function=per_hour,
)
SERVICE = FeatureService("activity", [NEWEST[["km", "city"]], RECENT])
VIEWS: list[Any] = [NEWEST, RECENT, SERVICE]
ROWS: list[dict[str, Any]] = [
    {"driver": 1, "ts": NOW - HOUR, "km": 12.5, "city": "Oslo", "photo": b"\xff", "paid_at": NOW - HOUR},
    {"driver": 2, "ts": NOW - 8 * HOUR, "km": 3.0, "city": None, "photo": None, "paid_at": None},
]


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def open_store(folder: Path, views: list[Any] | None = None, *, online_type: str = "memory") -> FeatureStore:
    """Return a store with some rows pushed an hour and eight hours ago."""
    store = FeatureStore(config=Config(project="p", repo_path=folder, online_type=online_type), clock=ManualClock(NOW))
    store.apply(VIEWS if views is None else views)
    store.push("trips", [{**row, "ts": _iso(row["ts"]), "paid_at": _iso(row["paid_at"])} for row in ROWS])
    return store


def _iso(micros: Any) -> Any:
    from featurestore.clock import from_micros

    return None if micros is None else from_micros(micros)


def make_token(store: FeatureStore, name: str, *scopes: str, rate: int | None = None) -> tuple[str, TokenInfo]:
    """Return the secret of a new token, and what is known of it."""
    made = store.registry.tokens.create(name, scopes, now=store.clock.now(), rate=rate)
    return made.secret, made.info


class Client:
    """Asks an API in this process."""

    def __init__(self, api: Api, client: httpx.AsyncClient) -> None:
        self.api = api
        self.http = client

    async def lookup(self, body: Any, **headers: str) -> httpx.Response:
        return await self.post("/get-online-features", body, **headers)

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, (bytes, str)):
            return await self.http.post(path, content=body, headers=named)
        return await self.http.post(path, json=body, headers=named)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def look(self) -> None:
        """Let the worker take its next look at definitions, stores and tokens now."""
        await self.api.service.watch.take_look()


@asynccontextmanager
async def serving(store: FeatureStore, **settings: Any) -> AsyncIterator[Client]:
    """Serve a store; the worker takes its looks when `Client.look` says so, and no others."""
    api = Api(store, ServeSettings(**{"poll_seconds": 3600.0, **settings}))
    transport = httpx.ASGITransport(api, raise_app_exceptions=True)
    async with api.running(), httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield Client(api, client)


def columns_of(answer: httpx.Response) -> dict[str, tuple[list[Any], list[str]]]:
    """Return values and statuses of an answer, by column."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    names = body["metadata"]["feature_names"]
    return {name: (result["values"], result["statuses"]) for name, result in zip(names, body["results"], strict=True)}


def problem_of(answer: httpx.Response, status: int) -> str:
    """Return the message of an answer that must be an error with this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"type", "message"}
    message: str = error["message"]
    assert message
    assert "Traceback" not in message
    return message
