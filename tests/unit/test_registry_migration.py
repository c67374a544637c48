"""Registries of earlier versions: brought up to date where that loses nothing, else refused with what to do."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from featurestore.errors import RegistryError
from featurestore.registry import Registry
from featurestore.registry.schema import IDENTITIES, MIGRATED_FROM, SCHEMA_VERSION, TOKENS
from tests.unit import registry_samples as samples

NOW = samples.NOW


@pytest.fixture
def location(tmp_path: Path) -> str | Path:
    return tmp_path / "registry.db"


@pytest.fixture
def old(location: str | Path) -> str | Path:
    """Return the location of a registry of the oldest version that is migrated, with something in it."""
    with closing(Registry(location, "test")) as registry:
        registry.apply(registry.plan(samples.project()), NOW)
        registry.start_job("log", "view", 0, 1, 0, NOW)
        dropped = [f"DROP TABLE {table.name}" for table in (TOKENS, IDENTITIES)]
        execute(registry, *dropped, f"UPDATE featurestore_schema SET version = {MIGRATED_FROM}")
    return location


def execute(registry: Registry, *statements: str) -> None:
    with registry._database.write() as connection:
        for statement in statements:
            connection.execute(text(statement))


def version(registry: Registry) -> int:
    return int(registry._database.fetch(text("SELECT version FROM featurestore_schema"))[0][0])


def test_an_earlier_registry_keeps_what_it_holds_and_gains_what_it_lacks(old: str | Path) -> None:
    with closing(Registry(old, "test")) as registry:
        assert registry.revision() == 1
        assert len(registry.load().objects) == 7
        assert [job.number for job in registry.jobs("log")] == [1]
        token = registry.tokens.create("app", ["read"], now=NOW)
        assert registry.tokens.verify(token.secret, NOW) == token.info
        assert registry.identify() == "", "what is stored online under its name stays its own"
        assert version(registry) == SCHEMA_VERSION


def test_of_many_that_open_it_at_once_all_can_use_it(old: str | Path) -> None:
    found: list[int] = []
    start = threading.Barrier(6)

    def work() -> None:
        with closing(Registry(old, "test")) as registry:
            start.wait()
            registry.tokens.ls()
            found.append(version(registry))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [SCHEMA_VERSION] * 6


def test_a_registry_from_before_that_is_refused_with_what_to_do(old: str | Path) -> None:
    with closing(Registry(old, "test")) as registry:
        registry.revision()
        execute(registry, "UPDATE featurestore_schema SET version = 1")
    message = f"has schema version 1, .* reads version {SCHEMA_VERSION}: delete it, then apply and materialize again"
    with closing(Registry(old, "test")) as registry, pytest.raises(RegistryError, match=message):
        registry.revision()
