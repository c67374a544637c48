"""Requests made from the OpenAPI document: what it allows is answered as it says, what it forbids is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS

from tests.servers.api import ApiServer, expected, make_repository, running_api, values

PATHS = ("/get-online-features", "/push", "/features", "/health/live", "/health/ready", "/metrics")
LEFT_OUT = {
    "positive_data_acceptance",  # a lookup in the document's form may name no feature at all
    "ignored_auth",  # this server has no tokens
    "max_response_time",
    "use_after_free",
    "ensure_resource_availability",
    "object_level_authorization",
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    repository: Path = make_repository(tmp_path_factory.mktemp("document") / "repository", "{type: lmdb}")
    with running_api(repository) as running:
        yield running


@pytest.fixture(scope="module")
def document(api: ApiServer) -> dict[str, Any]:
    found: dict[str, Any] = api.http.get("/openapi.json").json()
    return found


def checks() -> list[Any]:
    """Return what every answer is checked for."""
    return [check for check in CHECKS.get_all() if getattr(check, "__name__", "") not in LEFT_OUT]


def try_out(api: ApiServer, document: dict[str, Any], path: str, mode: GenerationMode, examples: int) -> Counter[int]:
    """Send requests to a path, check each answer, and return how often each status came."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=str(api.http.base_url).rstrip("/"))
    seen: Counter[int] = Counter()
    operation = schema[path]["GET" if path in PATHS[2:] else "POST"]

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Case[Any]) -> None:
        answer = case.call()
        seen[answer.status_code] += 1
        case.validate_response(answer, checks=checks())

    send()
    assert values(api.lookup(1)) == expected(1)
    assert "a bug" not in api.err.read_text()
    return seen


@pytest.mark.parametrize("path", PATHS)
def test_what_the_document_allows_is_answered_as_it_says(api: ApiServer, document: dict[str, Any], path: str) -> None:
    seen = try_out(api, document, path, GenerationMode.POSITIVE, 60 if path in PATHS[:2] else 5)
    assert seen.keys() <= {200, 400, 404}


@pytest.mark.parametrize("path", PATHS[:2])
def test_what_the_document_forbids_is_refused(api: ApiServer, document: dict[str, Any], path: str) -> None:
    seen = try_out(api, document, path, GenerationMode.NEGATIVE, 60)
    assert seen.keys() <= {400, 404, 405, 415}


def test_lookups_of_features_that_exist_are_answered(api: ApiServer, document: dict[str, Any]) -> None:
    narrowed = document | {"components": {**document["components"], "schemas": {**document["components"]["schemas"]}}}
    features = {"type": "array", "items": {"enum": ["newest:km", "newest:city", "recent:km_30d"]}, "maxItems": 3}
    driver = {"type": "array", "items": {"type": ["integer", "string", "null"], "maximum": 60, "minimum": -1}}
    narrowed["components"]["schemas"]["LookupRequest"] = {
        "type": "object",
        "required": ["features", "entities"],
        "properties": {
            "features": features | {"minItems": 1, "uniqueItems": True},
            "entities": {
                "type": "object",
                "required": ["driver"],
                "properties": {"driver": driver},
                "additionalProperties": False,
            },
            "include_receipts": {"type": "boolean"},
            "full_feature_names": {"type": "boolean"},
        },
        "additionalProperties": False,
    }
    seen = try_out(api, narrowed, "/get-online-features", GenerationMode.POSITIVE, 150)
    assert seen[200] > 10
    assert seen.keys() <= {200, 400, 404}
