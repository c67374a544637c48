"""API tokens: shown once, stored as a hash, and refused once revoked or expired."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from featurestore.errors import RegistryError
from featurestore.registry import Registry
from featurestore.registry.schema import TOKENS
from featurestore.registry.tokens import NewToken

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND


@pytest.fixture
def location(tmp_path: Path) -> str | Path:
    return tmp_path / "registry.db"


@pytest.fixture
def registry(location: str | Path) -> Iterator[Registry]:
    with closing(Registry(location, "test")) as registry:
        yield registry


def create(registry: Registry, name: str = "app", *scopes: str, **options: Any) -> NewToken:
    return registry.tokens.create(name, scopes or ("read",), **{"now": NOW, **options})


def test_a_secret_leads_to_what_is_known_of_its_token(registry: Registry, location: str | Path) -> None:
    token = create(registry, "app", "read", "push", user="ann", rate=100, expires=NOW + SECOND)
    assert re.fullmatch(rf"fs_{token.info.id}_[A-Za-z0-9_-]{{43}}", token.secret)
    with closing(Registry(location, "test")) as other:
        info = other.tokens.verify(token.secret, NOW)
    assert info == token.info
    assert (info.name, info.scopes, info.rate) == ("app", frozenset({"read", "push"}), 100)
    assert (info.created_at, info.created_by, info.expires_at, info.revoked_at) == (NOW, "ann", NOW + SECOND, None)


def test_neither_a_secret_nor_its_random_part_is_stored_or_listed(registry: Registry) -> None:
    token = create(registry, rate=None)
    random = token.secret.removeprefix(f"fs_{token.info.id}_")
    [row] = registry._database.fetch(select(TOKENS))
    for shown in (repr(tuple(row)), repr(registry.tokens.ls()), msgspec.json.encode(registry.tokens.ls()).decode()):
        assert random not in shown
        assert token.info.id in shown


def test_every_secret_is_another(registry: Registry) -> None:
    made = [create(registry, f"app-{number}") for number in range(20)]
    assert len({token.secret for token in made}) == len({token.info.id for token in made}) == 20
    assert [info.name for info in registry.tokens.ls()] == sorted(token.info.name for token in made)


def test_scopes_allow_what_they_name_and_admin_all(registry: Registry) -> None:
    reader, pusher, admin = (create(registry, scope, scope).info for scope in ("read", "push", "admin"))
    allowed = {
        info.name: [scope for scope in ("read", "push", "admin") if info.allows(scope)]
        for info in (reader, pusher, admin)
    }
    assert allowed == {"read": ["read"], "push": ["push"], "admin": ["read", "push", "admin"]}


@pytest.mark.parametrize(
    "change",
    [
        lambda secret: "",
        lambda secret: "fs_",
        lambda secret: secret[:-1],
        lambda secret: secret + "A",
        lambda secret: secret.upper(),
        lambda secret: secret[3:],
        lambda secret: f" {secret}",
        lambda secret: secret.rpartition("_")[0] + "_" + "A" * 43,
        lambda secret: "\x00",
        lambda secret: "\udcff",
        lambda secret: "fs_" + "x" * 1_000_000,
        lambda secret: "' OR 1=1 --",
    ],
)
def test_any_other_text_is_no_secret(registry: Registry, change: Any) -> None:
    token = create(registry)
    assert registry.tokens.verify(change(token.secret), NOW) is None


def test_the_hash_is_no_secret(registry: Registry) -> None:
    create(registry)
    [row] = registry._database.fetch(select(TOKENS.c.hash))
    assert registry.tokens.verify(row.hash, NOW) is None


def test_a_token_ends_when_it_expires(registry: Registry) -> None:
    token = create(registry, expires=NOW + SECOND)
    assert registry.tokens.verify(token.secret, NOW + SECOND - 1) == token.info
    assert registry.tokens.verify(token.secret, NOW + SECOND) is None
    assert [info.state(NOW + SECOND) for info in registry.tokens.ls()] == ["expired"]


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_revoked_token_is_refused_for_good(registry: Registry, by: str) -> None:
    token, other = create(registry), create(registry, "other")
    revoked = registry.tokens.revoke(getattr(token.info, by), NOW + 1)
    assert (revoked.id, revoked.revoked_at, revoked.state(NOW + 1)) == (token.info.id, NOW + 1, "revoked")
    assert registry.tokens.verify(token.secret, NOW + 1) is None
    assert registry.tokens.verify(token.secret, NOW) is None
    assert registry.tokens.verify(other.secret, NOW + 1) == other.info
    assert registry.tokens.revoke(token.info.id, NOW + 9).revoked_at == NOW + 1


def test_a_name_is_free_again_once_its_token_is_revoked_or_expired(registry: Registry) -> None:
    first = create(registry)
    with pytest.raises(RegistryError, match="there is a token 'app' already: choose another name, or end it first"):
        create(registry)
    registry.tokens.revoke("app", NOW)
    second = create(registry, expires=NOW + SECOND)
    third = create(registry, now=NOW + SECOND)
    states = {info.id: info.state(NOW + SECOND) for info in registry.tokens.ls()}
    assert states == {first.info.id: "revoked", second.info.id: "expired", third.info.id: "active"}
    assert registry.tokens.revoke("app", NOW + 2 * SECOND).id == third.info.id
    assert registry.tokens.verify(first.secret, NOW) is None


def test_of_many_that_take_a_name_at_once_one_gets_it(registry: Registry) -> None:
    registry.revision()
    outcomes: list[str] = []
    start = threading.Barrier(6)

    def work() -> None:
        start.wait()
        try:
            outcomes.append(create(registry).info.name)
        except RegistryError as error:
            outcomes.append(str(error).partition(":")[0])

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["app", *["there is a token 'app' already"] * 5]
    assert len(registry.tokens.ls()) == 1


def test_access_stays_by_token_when_all_have_been_revoked(registry: Registry) -> None:
    assert not registry.tokens.any()
    create(registry)
    registry.tokens.revoke("app", NOW)
    assert registry.tokens.any()


def test_tokens_of_one_project_open_no_other(registry: Registry, location: str | Path) -> None:
    token = create(registry)
    with closing(Registry(location, "other")) as other:
        assert other.tokens.verify(token.secret, NOW) is None
        assert not other.tokens.any()
        assert other.tokens.ls() == []
        with pytest.raises(RegistryError, match="no token 'app'"):
            other.tokens.revoke("app", NOW)
        create(other)
    assert registry.tokens.verify(token.secret, NOW) == token.info


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "'' is not a token's name; use 1 to 128 letters"),
        ({"name": "my app"}, "'my app' is not a token's name"),
        ({"name": "fs_x"}, "'fs_x' is not a token's name: what starts with 'fs_' is a secret"),
        ({"scopes": []}, "the token 'app' would be good for nothing; give it some of: read, push, admin"),
        ({"scopes": ["raed"]}, "a token cannot have the scope 'raed'; did you mean 'read'"),
        ({"rate": 0}, "a token cannot have the rate 0; it is a whole number of requests a second from 1 to"),
        ({"rate": 1.5}, "a token cannot have the rate 1.5"),
        ({"expires": NOW}, "the token 'app' would expire before it is made"),
    ],
)
def test_a_wrong_token_is_refused_and_not_made(registry: Registry, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        registry.tokens.create(**{"name": "app", "scopes": ["read"], "now": NOW, **options})
    assert registry.tokens.ls() == []


def test_revoking_what_is_not_there_names_the_nearest_and_repeats_no_secret(registry: Registry) -> None:
    token = create(registry, "checkout")
    with pytest.raises(RegistryError, match="no token 'checkot'; did you mean 'checkout'"):
        registry.tokens.revoke("checkot", NOW)
    with pytest.raises(RegistryError, match="by its name or id, not by its secret") as caught:
        registry.tokens.revoke(token.secret, NOW)
    assert token.secret not in str(caught.value)
    assert registry.tokens.verify(token.secret, NOW) == token.info
