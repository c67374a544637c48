"""Requests over the network to one `featurestore serve`, right ones and wrong ones; it stays the same good server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.servers.api import (
    FEATURES,
    ApiServer,
    expected,
    lookup,
    make_repository,
    reason,
    running_api,
    values,
    wait_for,
)
from tests.servers.redis import running_redis

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with running_redis() as server:
        yield make_repository(tmp_path_factory.mktemp("requests") / "repository", server.url)


@pytest.fixture(scope="module")
def running(repository: Path) -> Iterator[ApiServer]:
    with running_api(repository, "--access-log") as api:
        yield api


@pytest.fixture
def api(running: ApiServer) -> Iterator[ApiServer]:
    """Return the server, which answers rightly also after the test, has no request left over and met no bug."""
    yield running
    assert values(running.lookup(1, 7)) == expected(1, 7)
    wait_for(lambda: sum(count for name, count in running.metrics().items() if "in_flight" in name) == 1)
    assert "a bug" not in running.err.read_text()


def raw(api: ApiServer, sent: bytes, *, has_more: bool = False) -> bytes:
    """Send bytes as they are, and return all that comes back until the server closes the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as connection:
        with suppress(ConnectionError):  # it has heard enough
            connection.sendall(sent)
        if not has_more:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while True:
            try:
                part = connection.recv(65_536)
            except ConnectionError:
                return received
            if not part:
                return received
            received += part


def head(path: str = "/get-online-features", **headers: Any) -> bytes:
    named = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: api", *named, "", ""]).encode()


def test_features_and_services_are_answered_as_feast_answers_them(api: ApiServer) -> None:
    answer = api.lookup(3, 4, 999)
    assert answer.json()["metadata"] == {"feature_names": ["driver", "km", "city", "km_30d"]}
    assert values(answer)["km"] == [3.75, 5.0, None]
    assert [result["statuses"][2] for result in answer.json()["results"]] == [
        "PRESENT",
        "NOT_FOUND",
        "NOT_FOUND",
        "NULL_VALUE",
    ]
    service = {"feature_service": "activity", "entities": {"driver": [3]}, "full_feature_names": True}
    found = values(api.http.post("/get-online-features", json=service))
    assert found == {"driver": [3], "newest__km": [3.75], "newest__city": ["C3"], "recent__km_30d": [7.5]}


def test_a_pushed_row_is_in_the_next_answer(api: ApiServer) -> None:
    push: dict[str, Any] = {}
    for number in range(1, 6):
        row = {"driver": [800], "ts": [datetime.now(UTC).isoformat()], "km": [float(number)], "city": [f"P{number}"]}
        push = {"push_source_name": "trips", "df": row, "to": "online_and_offline"}
        answer = api.http.post("/push", json=push, headers={"idempotency-key": f"trip {number}"})
        assert answer.json() == {"rows": 1, "rejected": 0, "reasons": [], "repeated": False}
        found = values(api.lookup(800))
        assert (found["km"], found["city"]) == ([float(number)], [f"P{number}"])
        assert found["km_30d"] == [number * (number + 1) / 2]
    again = api.http.post("/push", json=push, headers={"idempotency-key": "trip 5"})
    assert again.json()["repeated"] is True
    assert values(api.lookup(800))["km_30d"] == [15.0]


WRONG: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/get-online-features", lookup(1, features=["newest:kn"]), 404, "there are: city, km"),
    ("POST", "/get-online-features", lookup("one"), 400, "row 0"),
    ("POST", "/get-online-features", lookup(1.5), 400, "row 0"),
    ("POST", "/get-online-features", {"features": FEATURES, "entities": {"rider": [1]}}, 400, "driver"),
    ("POST", "/get-online-features", [], 400, "object"),
    ("POST", "/push", {"push_source_name": "trip", "df": {}}, 404, "trips"),
    ("POST", "/push", {"push_source_name": "trips", "df": {"driver": [1]}}, 400, "ts"),
    ("GET", "/get-online-features", None, 405, "POST"),
    ("GET", "/feature", None, 404, "/docs"),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_request_is_refused_with_a_reason(api: ApiServer, wrong: tuple[str, str, Any, int, str]) -> None:
    method, path, body, status, words = wrong
    assert words in reason(api.http.request(method, path, json=body), status)


def test_bodies_over_the_limit_are_refused_and_never_held(api: ApiServer) -> None:
    before = api.memory()

    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * MEGABYTE

    named = {"content-length": str(100 * MEGABYTE)}
    assert "larger than 5,242,880 bytes" in reason(
        api.http.post("/get-online-features", content=parts(), headers=named), 413
    )
    assert reason(api.http.post("/get-online-features", content=parts()), 413)  # in chunks, which name no length
    assert reason(api.http.post("/push", content=parts(), headers=named), 413)
    assert api.memory() - before < 30 * MEGABYTE


@pytest.mark.parametrize("driver", [1, 10**12])
def test_a_million_entities_are_refused(api: ApiServer, driver: int) -> None:
    words = "1,000,000 entity rows" if driver == 1 else "5,242,880 bytes"
    assert words in reason(api.lookup(*[driver] * 1_000_000), 413)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        head(content_length="ten"),
        head(content_length="-1"),
        b"POST /get-online-features HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"\x00" * 100_000,
    ],
)
def test_garbage_is_answered_with_a_refusal_or_hung_up_on(api: ApiServer, sent: bytes) -> None:
    assert raw(api, sent)[9:12] in {b"400", b"404", b"413", b""}


def test_clients_that_hang_up_leave_nothing_behind(api: ApiServer) -> None:
    body = json.dumps(lookup(*range(40))).encode()
    whole = head(content_length=len(body)) + body
    for end in (5, 60, len(whole) - len(body), len(whole) - 10, len(whole)):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", api.port)) as connection:
                connection.sendall(whole[:end])
    with socket.create_connection(("127.0.0.1", api.port)) as connection:  # requests that nobody reads the answers of
        connection.sendall(whole * 50)


def test_several_requests_sent_at_once_are_answered_in_turn(api: ApiServer) -> None:
    bodies = [json.dumps(lookup(driver)).encode() for driver in range(20)]
    sent = b"".join(head(content_length=len(body)) + body for body in bodies)
    received = raw(api, sent + head("/nope", connection="close", content_length=0), has_more=True)
    answers = [part.split(b"\r\n\r\n", 1)[1] for part in received.split(b"HTTP/1.1 ")[1:]]
    found = [json.loads(answer)["results"][1]["values"] for answer in answers[:-1]]
    assert found == [expected(driver)["km"] for driver in range(20)]


def test_counts_are_those_of_the_requests(api: ApiServer) -> None:
    before = api.metrics()
    service = {"feature_service": "activity", "entities": {"driver": [1, 2, 999]}}
    for _ in range(3):
        assert api.http.post("/get-online-features", json=service).status_code == 200
    api.lookup(1, features=["newest:kn"])
    after = api.metrics()

    def more(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    assert more('featurestore_requests_total{code="200",route="lookup"}') == 3
    assert more('featurestore_requests_total{code="404",route="lookup"}') == 1
    assert more('featurestore_request_seconds_count{route="lookup",service="activity"}') == 3
    assert 0 < more('featurestore_request_seconds_sum{route="lookup",service="activity"}') < 3
    assert more('featurestore_request_seconds_bucket{le="+Inf",route="lookup",service="activity"}') == 3
    assert more('featurestore_entity_rows_total{service="activity"}') == 9
    assert more('featurestore_values_total{status="PRESENT",view="newest"}') == 3 * 2 * 2
    assert more('featurestore_values_total{status="NOT_FOUND",view="newest"}') == 3 * 2
    assert more('featurestore_values_total{status="NULL_VALUE",view="recent"}') == 3
    assert after['featurestore_view_ready{view="newest"}'] == 1
    assert 0 <= after['featurestore_freshness_seconds{view="recent"}'] < 600


def test_lines_about_requests_hold_no_values(api: ApiServer) -> None:
    api.lookup(11)
    api.lookup("Tromsø")
    wait_for(lambda: api.out.read_text().count("POST /get-online-features 400") >= 1)
    written = api.out.read_text() + api.err.read_text()
    assert "POST /get-online-features 200" in written
    for value in ("C11", "13.75", "Troms", "newest", "driver"):
        assert value not in written


def test_what_serves_its_document_and_its_page(api: ApiServer) -> None:
    document = api.http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/get-online-features",
        "/push",
        "/features",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    examples = document["paths"]["/get-online-features"]["post"]["requestBody"]["content"]["application/json"]
    assert examples["examples"]["features"]["value"]["entities"]
    assert "swagger" in api.http.get("/docs").text
