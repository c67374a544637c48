"""Leases, and jobs under them, in a registry on PostgreSQL."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from featurestore.clock import ManualClock
from featurestore.config import Config
from featurestore.materialize.job import materialize
from featurestore.registry import Registry
from featurestore.registry.leases import LeaseLostError
from featurestore.semantics.rows import Cut
from featurestore.store import FeatureStore
from tests.integration.materialize_bench import FIRST, NOW, Bench, definitions
from tests.servers.postgres import PostgresServer
from tests.unit import test_registry_leases as leases

test_held = leases.test_a_lease_that_is_held_is_refused_naming_its_holder
test_free = leases.test_a_lease_is_free_once_given_back_run_out_or_its_holder_dead
test_renewed = leases.test_a_renewed_lease_holds_for_longer
test_former_holder = leases.test_a_former_holder_can_neither_renew_nor_give_back_nor_write
test_many_at_once = leases.test_of_many_at_once_one_gets_it


@pytest.fixture
def location(postgres: PostgresServer) -> str:
    name = f"registry_{uuid.uuid4().hex}"
    with postgres.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return postgres.url().replace("postgresql://", "postgresql+psycopg://").removesuffix("postgres") + name


@pytest.fixture
def registry(location: str) -> Iterator[Registry]:
    with closing(Registry(location, "test")) as registry:
        yield registry


def test_a_lease_cannot_be_lost_within_a_transaction(registry: Registry) -> None:
    """Whoever takes over waits for a write under the old lease to be committed, or the write fails."""
    old = leases.take(registry, leases.HERE)
    taken: list[int] = []
    with registry._database.write() as connection:
        registry._fence(connection, "log", old)
        taker = threading.Thread(
            target=lambda: taken.append(leases.take(registry, leases.THERE, dead=(leases.HERE,))), daemon=True
        )
        taker.start()
        taker.join(0.2)
        assert taken == []
    taker.join(10)
    assert taken == [old + 1]
    with pytest.raises(LeaseLostError):
        registry.record_cut("view", "log", Cut(1, 1), token=old)


def test_jobs_run_under_it(location: str, tmp_path: Path) -> None:
    views = definitions(stream=True)
    Bench(tmp_path, views).write(FIRST)
    config = Config(project="bench", repo_path=tmp_path, registry=location, online_type="memory")
    with closing(FeatureStore(config=config, clock=ManualClock(NOW))) as store:
        store.apply(views)
        for number in (1, 2):
            (report,) = materialize(store._jobs(), views, 0, NOW)
            assert (report.job, report.rows) == (number, 6)
