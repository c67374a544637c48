"""The endpoints over ASGI: Feast's shapes, values with statuses, and an honest status code for whatever is wrong."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from featurestore.clock import ManualClock, from_micros
from featurestore.definitions import FeatureView, Field, PushSource
from featurestore.errors import OnlineStoreError, StoreUnavailableError
from featurestore.online.memory import MemoryStore
from featurestore.semantics.windows import HOUR
from featurestore.store import FeatureStore
from featurestore.types import Float64
from tests.unit.serving_bench import (
    NOW,
    SPEED,
    VIEWS,
    columns_of,
    in_loop,
    open_store,
    problem_of,
    serving,
)

DRIVERS = {"features": ["newest:km"], "entities": {"driver": [1, 2]}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    store = open_store(tmp_path, [*VIEWS, SPEED])
    yield store
    store.close()


@in_loop
async def test_a_lookup_is_answered_in_the_order_and_form_of_feast(store: FeatureStore) -> None:
    async with serving(store) as client:
        answer = await client.lookup(
            {"features": ["newest:km", "newest:city", "recent:km_2h"], "entities": {"driver": [2, 9, 1, 1]}}
        )
    body = answer.json()
    assert body["metadata"] == {"feature_names": ["driver", "km", "city", "km_2h"]}
    assert [set(result) >= {"values", "statuses", "event_timestamps"} for result in body["results"]] == [True] * 4
    assert columns_of(answer) == {
        "driver": ([2, 9, 1, 1], ["PRESENT"] * 4),
        "km": ([None, None, 12.5, 12.5], ["OUTSIDE_MAX_AGE", "NOT_FOUND", "PRESENT", "PRESENT"]),
        "city": ([None, None, "Oslo", "Oslo"], ["OUTSIDE_MAX_AGE", "NOT_FOUND", "PRESENT", "PRESENT"]),
        "km_2h": ([None, None, 12.5, 12.5], ["NULL_VALUE", "NULL_VALUE", "PRESENT", "PRESENT"]),
    }
    happened = body["results"][1]["event_timestamps"]
    assert len(happened) == 4
    assert from_micros(NOW - HOUR).isoformat()[:19] == happened[2][:19]


@in_loop
async def test_values_that_json_has_no_words_for_travel_as_text(store: FeatureStore) -> None:
    async with serving(store) as client:
        answer = await client.lookup({"features": ["newest:photo", "newest:paid_at"], "entities": {"driver": [1]}})
    columns = columns_of(answer)
    assert columns["photo"] == (["/w=="], ["PRESENT"])
    assert columns["paid_at"][0][0].startswith(from_micros(NOW - HOUR).isoformat()[:19])


@in_loop
async def test_services_full_names_request_fields_and_receipts(store: FeatureStore) -> None:
    async with serving(store) as client:
        service = {"feature_service": "activity", "entities": {"driver": [1]}, "full_feature_names": True}
        answer = await client.lookup(service | {"include_receipts": True})
        assert list(columns_of(answer)) == ["driver", "newest__km", "newest__city", "recent__km_2h"]
        assert "receipts" in answer.text
        assert "receipts" not in (await client.lookup(service)).text
        asked = {"features": ["speed:km_per"], "entities": {"driver": [1, 1], "hours": [2.0, 0.0]}}
        assert columns_of(await client.lookup(asked))["km_per"] == ([6.25, None], ["PRESENT", "ERROR"])


@in_loop
async def test_the_same_values_as_the_sdk_gives(store: FeatureStore) -> None:
    features = ["newest:km", "newest:city", "recent:km_2h"]
    async with serving(store) as client:
        answer = await client.lookup({"features": features, "entities": {"driver": [1, 2, None]}})
    rows: list[dict[str, int | None]] = [{"driver": 1}, {"driver": 2}, {"driver": None}]
    sdk = store.get_online_features(features, rows)
    assert {name: values for name, (values, _) in columns_of(answer).items()} == sdk.to_dict()
    asynchronous = await store.get_online_features_async(features, rows)
    assert asynchronous.to_dict() == sdk.to_dict()


WRONG: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "truncated"),
    "no UTF-8": (b'{"features": ["\xff"], "entities": {}}', 400, "body"),
    "no object": (b"[]", 400, "Expected `object`"),
    "no entities": ({"features": ["newest:km"]}, 400, "entities"),
    "deep": (b'{"features": ["newest:km"], "entities": {"driver": ' + b"[" * 100_000, 400, "body"),
    "a value alone": ({"features": ["newest:km"], "entities": {"driver": 1}}, 400, "entities"),
    "no features": ({"entities": {"driver": [1]}}, 400, "features"),
    "both": ({"features": ["newest:km"], "feature_service": "activity", "entities": {"driver": [1]}}, 400, "either"),
    "lengths": ({"features": ["newest:km"], "entities": {"driver": [1], "hours": [1.0, 2.0]}}, 400, "lengths"),
    "a missing key": ({"features": ["newest:km"], "entities": {"drivers": [1]}}, 400, "did you mean 'drivers'"),
    "no key at all": ({"features": ["newest:km"], "entities": {}}, 400, "'driver'"),
    "text for a number": ({"features": ["newest:km"], "entities": {"driver": [1, "x"]}}, 400, "row 1"),
    "a bool for a number": ({"features": ["newest:km"], "entities": {"driver": [True]}}, 400, "row 0"),
    "too great a number": ({"features": ["newest:km"], "entities": {"driver": [2**63]}}, 400, "fit"),
    "a far too great number": (b'{"features":["newest:km"],"entities":{"driver":[1e999]}}', 400, ""),
    "an object for a key": ({"features": ["newest:km"], "entities": {"driver": [{}]}}, 400, "row 0"),
    "an unknown feature": ({"features": ["newest:citty"], "entities": {"driver": [1]}}, 404, "did you mean 'city'"),
    "an unknown view": ({"features": ["newset:km"], "entities": {"driver": [1]}}, 404, "did you mean 'newest'"),
    "an unknown service": ({"feature_service": "activities", "entities": {}}, 404, "did you mean 'activity'"),
    "no reference": ({"features": ["km"], "entities": {"driver": [1]}}, 404, "view:feature"),
    "twice": ({"features": ["newest:km", "newest:km"], "entities": {"driver": [1]}}, 400, "more than one"),
    "many features": ({"features": ["newest:km"] * 6000, "entities": {"driver": [1]}}, 400, "6,000"),
}


@pytest.mark.parametrize("name", WRONG)
@in_loop
async def test_a_wrong_lookup_is_refused_with_a_reason(store: FeatureStore, name: str) -> None:
    body, status, words = WRONG[name]
    async with serving(store) as client:
        assert words in problem_of(await client.lookup(body), status)
        columns_of(await client.lookup(DRIVERS))  # nothing is broken for the next one


@in_loop
async def test_limits_on_bodies_and_rows(store: FeatureStore) -> None:
    async with serving(store, limit_body=300, limit_entities=3) as client:
        columns_of(await client.lookup({"features": ["newest:km"], "entities": {"driver": [1, 2, 3]}}))
        rows = await client.lookup({"features": ["newest:km"], "entities": {"driver": [1, 2, 3, 4]}})
        assert "3 is the most" in problem_of(rows, 413)
        large = await client.lookup(b"x" * 301)
        assert "300 bytes" in problem_of(large, 413)

        async def parts() -> Any:
            for _ in range(1000):
                yield b"x" * 100

        streamed = await client.http.post("/get-online-features", content=parts())
        assert "300 bytes" in problem_of(streamed, 413)
        assert problem_of(await client.post("/push", b"x" * 301), 413)
        packed = await client.lookup(b"x", content_encoding="gzip")
        assert "compressed" in problem_of(packed, 415)


@in_loop
async def test_a_body_that_does_not_come_is_not_waited_for(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def parts() -> Any:
        yield b"{"
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()
    async with serving(store) as client:
        for path in ("/get-online-features", "/push"):
            begun.clear()
            request = asyncio.create_task(client.http.post(path, content=parts()))
            await begun.wait()
            client.api.service.bodies.sweep(time.monotonic() + 29)
            await asyncio.sleep(0)
            assert not request.done()
            client.api.service.bodies.sweep(time.monotonic() + 31)
            answer = await request
            assert "30 s" in problem_of(answer, 408)
            assert answer.headers["connection"] == "close"
        columns_of(await client.lookup(DRIVERS))


@in_loop
async def test_paths_and_methods_that_are_not_there(store: FeatureStore) -> None:
    async with serving(store) as client:
        assert "/docs" in problem_of(await client.get("/feature"), 404)
        for path in ("/get-online-features", "/push"):
            answer = await client.get(path)
            problem_of(answer, 405)
            assert answer.headers["allow"] == "POST"
        problem_of(await client.http.delete("/features"), 405)


@in_loop
async def test_pushed_rows_are_served_when_the_push_is_answered(store: FeatureStore) -> None:
    at = from_micros(NOW).isoformat()
    row: dict[str, list[Any]] = {"driver": [7], "ts": [at], "km": [1.5], "city": ["Bergen"]}
    row |= {"photo": ["AA=="], "paid_at": [None]}
    async with serving(store) as client:
        push = {"push_source_name": "trips", "df": row, "to": "online_and_offline", "allow_registry_cache": True}
        first = await client.post("/push", push, idempotency_key="k")
        assert first.json() == {"rows": 1, "rejected": 0, "reasons": [], "repeated": False}
        found = columns_of(await client.lookup({"features": ["newest:km"], "entities": {"driver": [7]}}))
        assert found["km"] == ([1.5], ["PRESENT"])
        assert (await client.post("/push", push | {"idempotency_key": "k"})).json()["repeated"] is True
        partly = {**row, "driver": [7, None]} | {name: row[name] * 2 for name in row if name != "driver"}
        answer = (await client.post("/push", push | {"df": partly})).json()
        assert (answer["rows"], answer["rejected"]) == (2, 1)
        assert "driver" in answer["reasons"][0]


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"push_source_name": "trip"}, 404, "did you mean 'trips'"),
        ({"df": {"driver": [1], "ts": []}}, 400, "lengths"),
        ({"df": {"driver": [1]}}, 400, ""),
        ({"df": [1]}, 400, "df"),
        ({"to": "online"}, 400, "offline log"),
        ({"idempotency_key": "other"}, 400, "header"),
    ],
)
@in_loop
async def test_a_wrong_push_is_refused_with_a_reason(
    store: FeatureStore, change: dict[str, Any], status: int, words: str
) -> None:
    push = {"push_source_name": "trips", "df": {"driver": [1], "ts": [from_micros(NOW).isoformat()], "km": [1.0]}}
    async with serving(store) as client:
        assert words in problem_of(await client.post("/push", push | change, idempotency_key="key"), status)


@in_loop
async def test_what_can_be_asked_for_is_listed(store: FeatureStore) -> None:
    async with serving(store) as client:
        listed = (await client.get("/features")).json()
    (service,) = listed["services"]
    assert service["join_keys"] == {"driver": "int64"}
    assert [(item["name"], item["type"]) for item in service["features"]] == [
        ("km", "float64"),
        ("city", "string"),
        ("km_2h", "float64"),
    ]
    views = {view["name"]: view for view in listed["views"]}
    assert {name: view["kind"] for name, view in views.items()} == {
        "newest": "state",
        "recent": "window",
        "speed": "on_demand",
    }
    assert views["newest"]["ttl_seconds"] == 6 * 3600
    assert views["newest"]["state"] == "ready"
    assert views["newest"]["freshness_seconds"] == pytest.approx(0, abs=0.01)
    assert views["speed"]["request_fields"] == {"hours": "float64"}


@in_loop
async def test_a_ttl_counts_from_the_moment_that_it_is_served(store: FeatureStore) -> None:
    asked = {"features": ["newest:km"], "entities": {"driver": [1]}}
    assert isinstance(store.clock, ManualClock)
    async with serving(store) as client:
        assert columns_of(await client.lookup(asked))["km"] == ([12.5], ["PRESENT"])
        store.clock.set(NOW + 6 * HOUR)
        assert columns_of(await client.lookup(asked))["km"] == ([None], ["OUTSIDE_MAX_AGE"])


FAILURES: dict[str, tuple[Exception, int]] = {
    "away": (StoreUnavailableError("the online store does not answer"), 503),
    "unreadable": (OnlineStoreError("a stored value has format version 9: upgrade this process"), 500),
}


@pytest.mark.parametrize("name", FAILURES)
@in_loop
async def test_a_store_that_fails_is_answered_with_its_reason(
    store: FeatureStore, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, status = FAILURES[name]

    def fail(*_: object) -> None:
        raise error

    async with serving(store) as client:
        with monkeypatch.context() as patched:
            patched.setattr(MemoryStore, "get", fail)
            answer = await client.lookup(DRIVERS)
            assert str(error) in problem_of(answer, status)
            assert ("retry-after" in answer.headers) == (status == 503)
            await client.look()
            if status == 503:
                assert str(error) in (await client.get("/health/ready")).json()["problems"]
        columns_of(await client.lookup(DRIVERS))
        await client.look()
        assert (await client.get("/health/ready")).status_code == 200


@in_loop
async def test_a_bug_is_answered_500_and_logged_without_values(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    suffix = "ret"

    def fail(*_: object) -> None:
        raise ValueError(f"sec{suffix} 12.5")

    monkeypatch.setattr(logging.getLogger("featurestore.serving"), "propagate", True)
    async with serving(store) as client:
        monkeypatch.setattr(MemoryStore, "get", fail)
        message = problem_of(await client.lookup(DRIVERS), 500)
    assert "secret" not in message
    assert "secret" not in caplog.text
    assert "ValueError" in caplog.text
    assert "test_serving_api.py" in caplog.text


@in_loop
async def test_a_worker_takes_no_more_lookups_than_it_is_told_to(store: FeatureStore) -> None:
    async with serving(store, limit_requests=1) as client:
        client.api._lookups = 1
        answer = await client.lookup(DRIVERS)
        assert "in flight" in problem_of(answer, 503)
        assert answer.headers["retry-after"] == "1"
        client.api._lookups = 0
        columns_of(await client.lookup(DRIVERS))
        assert "featurestore_shed_total 1.0" in (await client.get("/metrics")).text


@in_loop
async def test_lookups_are_counted_by_view_status_and_service(store: FeatureStore) -> None:
    async with serving(store) as client:
        await client.lookup({"feature_service": "activity", "entities": {"driver": [1, 2, 9]}})
        await client.lookup({"features": ["newest:kn"], "entities": {"driver": [1]}})
        await client.lookup({"features": ["speed:km_per"], "entities": {"driver": [1], "hours": [0.0]}})
        text = (await client.get("/metrics")).text
    for line in (
        'featurestore_requests_total{code="200",route="lookup"} 2.0',
        'featurestore_requests_total{code="404",route="lookup"} 1.0',
        'featurestore_request_seconds_count{route="lookup",service="activity"} 1.0',
        'featurestore_entity_rows_total{service="activity"} 3.0',
        'featurestore_values_total{status="PRESENT",view="newest"} 3.0',
        'featurestore_values_total{status="OUTSIDE_MAX_AGE",view="newest"} 2.0',
        'featurestore_values_total{status="NOT_FOUND",view="newest"} 2.0',
        'featurestore_values_total{status="NULL_VALUE",view="recent"} 2.0',
        'featurestore_values_total{status="ERROR",view="speed"} 1.0',
        'featurestore_view_ready{view="newest"} 1.0',
    ):
        assert line in text
    assert 'featurestore_freshness_seconds{view="newest"}' in text


@in_loop
async def test_requests_are_written_down_without_values_unless_asked(
    store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for settings, has_values in (({"access_log": True}, False), ({"log_values": True}, True)):
        async with serving(store, **settings) as client:
            await client.lookup({"features": ["newest:city"], "entities": {"driver": [1]}})
            await client.get("/nope%0Aforged")
        written = capsys.readouterr().out
        assert len(written.splitlines()) == 2
        assert "POST /get-online-features 200" in written
        assert r"GET /nope\nforged 404" in written
        assert ("Oslo" in written) is has_values
    async with serving(store) as client:
        await client.lookup({"features": ["newest:city"], "entities": {"driver": [1]}})
    assert capsys.readouterr().out == ""


@in_loop
async def test_features_without_keys_need_none(tmp_path: Path) -> None:
    view = FeatureView("rates", [], [Field("eur", Float64)], PushSource("rates", timestamp_field="ts"))
    store = open_store(tmp_path, [*VIEWS, view])
    store.push("rates", [{"ts": from_micros(NOW), "eur": 1.1}])
    async with serving(store) as client:
        answer = await client.lookup({"features": ["rates:eur"], "entities": {}})
        assert columns_of(answer)["eur"] == ([1.1], ["PRESENT"])
    store.close()
