"""Lookups of the SDK in event loops: the values of the blocking call, many at once, and an end in each loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.errors import FeatureNotFoundError, RowError
from featurestore.store import FeatureStore
from tests.unit.serving_bench import NOW, in_loop, open_store

FEATURES = ["newest:km", "newest:city", "recent:km_2h"]


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    store = open_store(tmp_path, online_type=request.param)
    yield store
    store.close()


@in_loop
async def test_many_at_once_give_what_the_blocking_call_gives(store: FeatureStore) -> None:
    asked = [[{"driver": driver} for driver in drivers] for drivers in ([1], [2, 1], [9], [1, 2, 9, 1], [])]
    answers = await asyncio.gather(*[store.get_online_features_async(FEATURES, rows) for rows in asked * 10])
    for rows, answer in zip(asked * 10, answers, strict=True):
        expected = store.get_online_features(FEATURES, rows)
        assert (answer.to_dict(), answer.statuses) == (expected.to_dict(), expected.statuses)
    assert answers[0].to_dict() == {"driver": [1], "km": [12.5], "city": ["Oslo"], "km_2h": [12.5]}
    later = await store.get_online_features_async(FEATURES, [{"driver": 1}], now=NOW + 7 * 3_600_000_000)
    assert later.statuses["km"] == ["OUTSIDE_MAX_AGE"]


@in_loop
async def test_a_request_that_is_wrong_is_refused_and_harms_no_other(store: FeatureStore) -> None:
    good = store.get_online_features_async(FEATURES, [{"driver": 1}], True)
    wrong = store.get_online_features_async(FEATURES, [{"driver": "one"}])
    unknown = store.get_online_features_async(["newest:kn"], [{"driver": 1}])
    answers = await asyncio.gather(good, wrong, unknown, return_exceptions=True)
    assert isinstance(answers[1], RowError)
    assert isinstance(answers[2], FeatureNotFoundError)
    assert not isinstance(answers[0], BaseException)
    assert list(answers[0].to_dict()) == ["driver", "newest__km", "newest__city", "recent__km_2h"]


def test_each_event_loop_has_connections_of_its_own_and_ends_them(store: FeatureStore) -> None:
    async def look_up() -> float:
        answer = await store.get_online_features_async(FEATURES, [{"driver": 1}])
        km: float = answer.to_dict()["km"][0]
        return km

    async def look_up_and_close() -> float:
        km = await look_up()
        await store.aclose()
        return km

    assert [asyncio.run(look_up()), asyncio.run(look_up())] == [12.5, 12.5]
    assert asyncio.run(look_up_and_close()) == 12.5
