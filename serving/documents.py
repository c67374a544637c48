"""What the OpenAPI document says: descriptions, examples, and schemas taken from the types that are decoded."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from featurestore.serving.health import ViewHealth
from featurestore.serving.lookups import LookupRequest
from featurestore.serving.problems import KINDS
from featurestore.serving.pushes import PushAnswer, PushRequest

RELEASE = version("featurestore")
DESCRIPTION = (
    "Features of entities as of now, with the same values that training gets for this moment. Requests and answers "
    "have the form of Feast's feature server."
)
_REF = "#/components/schemas/{name}"


class ErrorDetail(msgspec.Struct):
    """What went wrong: a fixed word, and a sentence for people."""

    type: str
    message: str


class Error(msgspec.Struct):
    """The answer to a request that could not be answered."""

    error: ErrorDetail


class Metadata(msgspec.Struct):
    """The names of the columns, join keys first."""

    feature_names: list[str]


class Column(msgspec.Struct):
    """One column of the answer: by row the value, its status, and when its row happened."""

    values: list[Any]
    statuses: list[str]
    event_timestamps: list[str | None] = []


class LookupAnswer(msgspec.Struct):
    """Values by column, in the order of `metadata.feature_names`; rows in the order asked for."""

    metadata: Metadata
    results: list[Column]


class Readiness(msgspec.Struct):
    """Whether requests may be sent here, and what stands in the way."""

    status: str
    problems: list[str]
    warnings: dict[str, str]
    revision: int
    views: dict[str, ViewHealth]


class Listed(msgspec.Struct):
    """A feature service or view."""

    name: str
    description: str
    features: list[dict[str, str]]
    join_keys: dict[str, str]
    request_fields: dict[str, str]


class Listing(msgspec.Struct):
    """What can be asked for."""

    project: str
    revision: int
    services: list[Listed]
    views: list[Listed]


class Alive(msgspec.Struct):
    """The process answers."""

    status: str


_TYPES = (Error, LookupRequest, LookupAnswer, PushRequest, PushAnswer, Readiness, Listing, Alive)


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}


def _json(kind: type, description: str, example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": _ref(kind)}
    if example is not None:
        content["example"] = example
    return {"description": description, "content": {"application/json": content}}


def _refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    responses: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        kind, meaning = KINDS[code]
        example = {"error": {"type": kind, "message": meaning}}
        responses[code] = _json(Error, meaning, example)
        if code in {429, 503}:
            responses[code]["headers"] = {
                "Retry-After": {"description": "Seconds to wait before trying again.", "schema": {"type": "integer"}}
            }
    return responses


def _body(kind: type, examples: dict[str, tuple[str, Any]]) -> dict[str, Any]:
    shown = {name: {"summary": summary, "value": value} for name, (summary, value) in examples.items()}
    return {"required": True, "content": {"application/json": {"schema": _ref(kind), "examples": shown}}}


_TOKEN: list[dict[str, list[str]]] = [{"bearer": []}, {}]

LOOKUP: dict[str, Any] = {
    "summary": "Look features up for one entity or many",
    "description": (
        "Rows come back in the order asked for; an unknown key is answered by nulls with the status `NOT_FOUND`, and a "
        "value that is too old for its view's ttl by null with `OUTSIDE_MAX_AGE`. Times are ISO 8601 text, bytes "
        "base64 text, and numbers that are not finite `NaN`, `Infinity` and `-Infinity` as text. Scope: `read`."
    ),
    "tags": ["lookup"],
    "responses": {
        200: _json(
            LookupAnswer,
            "Values by column.",
            {
                "metadata": {"feature_names": ["driver_id", "conv_rate"]},
                "results": [
                    {
                        "values": [1001, 1002],
                        "statuses": ["PRESENT", "PRESENT"],
                        "event_timestamps": ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"],
                    },
                    {
                        "values": [0.52, None],
                        "statuses": ["PRESENT", "NOT_FOUND"],
                        "event_timestamps": ["2026-05-01T12:00:00Z", "1970-01-01T00:00:00Z"],
                    },
                ],
            },
        ),
        **_refusals(400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503, 504),
    },
    "openapi_extra": {
        "security": _TOKEN,
        "requestBody": _body(
            LookupRequest,
            {
                "features": (
                    "Features of two drivers",
                    {"features": ["driver_stats:conv_rate"], "entities": {"driver_id": [1001, 1002]}},
                ),
                "service": (
                    "A feature service, with what stands behind each value",
                    {
                        "feature_service": "driver_activity",
                        "entities": {"driver_id": [1001]},
                        "include_receipts": True,
                    },
                ),
            },
        ),
    },
}
PUSH: dict[str, Any] = {
    "summary": "Push rows",
    "description": (
        "When it answers, the log and the online store hold the rows. Without an idempotency key, a push that is tried "
        "again after a failure may write its rows twice. Scope: `push`."
    ),
    "tags": ["push"],
    "responses": {
        200: _json(
            PushAnswer, "What became of the rows.", {"rows": 1, "rejected": 0, "reasons": [], "repeated": False}
        ),
        **_refusals(400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503),
    },
    "openapi_extra": {
        "security": _TOKEN,
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "Names this push; a second one with the key writes nothing twice.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 1024},
            }
        ],
        "requestBody": _body(
            PushRequest,
            {
                "row": (
                    "One row",
                    {
                        "push_source_name": "driver_events",
                        "df": {"driver_id": [1001], "event_timestamp": ["2026-05-01T12:00:00Z"], "conv_rate": [0.52]},
                    },
                )
            },
        ),
    },
}
FEATURES: dict[str, Any] = {
    "summary": "List services, views and features",
    "description": "With types, join keys, the state of each view and how fresh it is. Scope: `read`.",
    "tags": ["lookup"],
    "responses": {200: _json(Listing, "What can be asked for."), **_refusals(401, 403, 405, 429, 500, 503)},
    "openapi_extra": {"security": _TOKEN},
}
LIVE: dict[str, Any] = {
    "summary": "Whether the process answers",
    "tags": ["operations"],
    "responses": {200: _json(Alive, "It does."), **_refusals(405)},
}
READY: dict[str, Any] = {
    "summary": "Whether requests may be sent here",
    "description": "503 while the online store is away, or what it lost is not filled again, and in shutdown.",
    "tags": ["operations"],
    "responses": {
        200: _json(Readiness, "They may."),
        503: _json(Readiness, "They must not; `problems` says why."),
        **_refusals(405),
    },
}
METRICS: dict[str, Any] = {
    "summary": "Counts for Prometheus",
    "description": "Summed over the workers of this server. Scope: `read`.",
    "tags": ["operations"],
    "responses": {
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **_refusals(401, 403, 405, 429, 500, 503),
    },
    "openapi_extra": {"security": _TOKEN},
}


def openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
        parts = document.setdefault("components", {})
        parts["schemas"] = {**schemas}
        parts["securitySchemes"] = {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "A token of `featurestore token create`. Not needed where there are no tokens.",
            }
        }
        app.openapi_schema = document
    return app.openapi_schema
