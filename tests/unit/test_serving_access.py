"""Tokens: who gets in, how long the registry is believed, rates, and an address that strangers can reach."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from featurestore.errors import ConfigError, RegistryError
from featurestore.registry import TokenInfo
from featurestore.serving.access import Access
from featurestore.serving.problems import Problem
from featurestore.serving.server import check_address
from featurestore.serving.settings import ServeSettings
from featurestore.store import FeatureStore
from tests.unit.serving_bench import columns_of, in_loop, make_token, open_store, problem_of, serving

GOOD = "fs_a"
DRIVERS = {"features": ["newest:km"], "entities": {"driver": [1]}}
READER = TokenInfo(
    id="1", name="reader", scopes=frozenset({"read"}), rate=None,
    created_at=0, created_by="", expires_at=None, revoked_at=None,
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    store = open_store(tmp_path)
    yield store
    store.close()


class Bench:
    """An `Access` with a registry and a clock that a test sets."""

    def __init__(self, *, rate: int | None = None) -> None:
        self.now = 0.0
        self.asked: list[str] = []
        self.tokens: dict[str, TokenInfo] = {"fs_a": READER if rate is None else _with_rate(rate)}
        self.is_away = False
        self.limited = 0
        self.executor = ThreadPoolExecutor(1)
        self.access = Access(
            self.verify, self.executor, seconds=5, required=True, limited=self._limit, monotonic=lambda: self.now
        )

    def verify(self, secret: str) -> TokenInfo | None:
        self.asked.append(secret)
        if self.is_away:
            raise RegistryError("away")
        return self.tokens.get(secret)

    def _limit(self) -> None:
        self.limited += 1

    async def status(self, secret: str = GOOD, scope: str = "read", *, scheme: str = "Bearer") -> int:
        try:
            await self.access.admit([(b"authorization", f"{scheme} {secret}".encode())], scope)
        except Problem as problem:
            return problem.status
        return 200


def _with_rate(rate: int) -> TokenInfo:
    return TokenInfo(**{name: getattr(READER, name) for name in READER.__struct_fields__} | {"rate": rate})


@in_loop
async def test_the_registry_is_asked_once_in_a_while_and_a_revocation_counts_from_then_on() -> None:
    bench = Bench()
    assert [await bench.status() for _ in range(3)] == [200] * 3
    assert bench.asked == ["fs_a"]
    bench.tokens.clear()
    bench.now = 4.9
    assert await bench.status() == 200
    bench.now = 5.0
    assert await bench.status() == 401
    bench.tokens["fs_a"] = READER
    assert await bench.status() == 401
    bench.now = 10.0
    assert await bench.status() == 200
    assert len(bench.asked) == 3


@in_loop
async def test_what_is_no_token_is_refused_without_asking() -> None:
    bench = Bench()
    assert await bench.status(scheme="Basic") == 401
    with pytest.raises(Problem) as caught:
        await bench.access.admit([], "read")
    assert (b"www-authenticate", b'Bearer realm="featurestore"') in caught.value.headers
    assert bench.asked == []
    assert await bench.status("fs_\N{PILE OF POO}") == 401
    assert await bench.status(scheme="bearer") == 200


@in_loop
async def test_scopes() -> None:
    bench = Bench()
    assert await bench.status(scope="push") == 403
    bench.tokens["fs_b"] = TokenInfo(
        **{name: getattr(READER, name) for name in READER.__struct_fields__} | {"scopes": frozenset({"admin"})}
    )
    assert [await bench.status("fs_b", scope) for scope in ("read", "push", "admin")] == [200] * 3


@in_loop
async def test_a_rate_lets_a_second_of_requests_through_at_once_and_then_as_time_passes() -> None:
    bench = Bench(rate=2)
    assert [await bench.status() for _ in range(3)] == [200, 200, 429]
    with pytest.raises(Problem) as caught:
        await bench.access.admit([(b"authorization", b"Bearer fs_a")], "read")
    assert (b"retry-after", b"1") in caught.value.headers
    assert bench.limited == 2
    bench.now = 0.5
    assert [await bench.status(), await bench.status()] == [200, 429]
    bench.now = 5.0  # the registry is asked again, which is no way around the rate
    assert [await bench.status() for _ in range(3)] == [200, 200, 429]
    assert len(bench.asked) == 2


@in_loop
async def test_a_token_that_was_good_stays_good_for_a_minute_while_the_registry_is_away() -> None:
    bench = Bench()
    assert await bench.status() == 200
    bench.is_away = True
    bench.now = 60.0
    assert [await bench.status(), await bench.status()] == [200, 200]
    assert len(bench.asked) == 2
    assert await bench.status("fs_new") == 503
    bench.now = 66.0
    assert await bench.status() == 503
    bench.is_away = False
    assert await bench.status() == 200


@in_loop
async def test_no_number_of_made_up_tokens_pushes_a_good_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.serving.access._MOST_TOKENS", 3)
    bench = Bench()
    assert await bench.status() == 200
    assert {await bench.status(f"fs_{number}") for number in range(10)} == {401}
    assert await bench.status() == 200
    assert bench.asked.count("fs_a") == 1
    assert len(bench.access._bad) == 3


@in_loop
async def test_without_tokens_all_is_open_and_from_the_first_one_on_nothing_is(store: FeatureStore) -> None:
    async with serving(store, token_seconds=0.0) as client:
        columns_of(await client.lookup(DRIVERS))
        secret, info = make_token(store, "shop", "read")
        await client.look()
        answer = await client.lookup(DRIVERS)
        assert "Authorization: Bearer" in problem_of(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        mine = {"authorization": f"Bearer {secret}"}
        columns_of(await client.lookup(DRIVERS, **mine))
        for path in ("/features", "/metrics"):
            problem_of(await client.get(path), 401)
            assert (await client.get(path, **mine)).status_code == 200
        problem_of(await client.post("/push", {}), 401)
        assert "'push'" in problem_of(await client.post("/push", {}, **mine), 403)
        for path in ("/health/live", "/health/ready", "/openapi.json", "/docs"):
            assert (await client.get(path)).status_code == 200
        store.registry.tokens.revoke("shop", store.clock.now())
        await client.look()
        problem_of(await client.lookup(DRIVERS, **mine), 401)
        problem_of(await client.lookup(DRIVERS), 401)  # revoking the last one opens nothing
        assert info.name == "shop"


@in_loop
async def test_a_rate_is_answered_429_and_counted(store: FeatureStore) -> None:
    secret, _ = make_token(store, "shop", "read", rate=1)
    mine = {"authorization": f"Bearer {secret}"}
    async with serving(store) as client:
        columns_of(await client.lookup(DRIVERS, **mine))
        answer = await client.lookup(DRIVERS, **mine)
        assert "1 requests a second" in problem_of(answer, 429)
        assert answer.headers["retry-after"] == "1"
        admin, _ = make_token(store, "ops", "admin")
        text = (await client.get("/metrics", authorization=f"Bearer {admin}")).text
        assert "featurestore_rate_limited_total 1.0" in text


@pytest.mark.parametrize(
    ("host", "is_open"),
    [
        *((host, True) for host in ("127.0.0.1", "localhost", "127.8.8.8", "::1")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "api.example.com", "")),  # noqa: S104
    ],
)
def test_strangers_are_not_answered_without_tokens_unless_that_is_said(host: str, is_open: bool) -> None:
    settings = ServeSettings(host=host)
    if is_open:
        check_address(settings, lambda: False)
    else:
        with pytest.raises(ConfigError, match="token create"):
            check_address(settings, lambda: False)
    check_address(settings, lambda: True)
    check_address(ServeSettings(host=host, no_auth=True), lambda: False)
