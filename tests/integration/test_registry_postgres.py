"""The registry on PostgreSQL: the tests that it passes on SQLite, and what only a server can do to it."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

import pytest
from sqlalchemy import insert, update

from featurestore.clock import ManualClock
from featurestore.config import Config
from featurestore.definitions import Project
from featurestore.errors import RegistryError
from featurestore.materialize.job import materialize
from featurestore.registry import Registry
from featurestore.registry.leases import LeaseLostError
from featurestore.registry.schema import CUTS, MIGRATED_FROM, PROJECTS
from featurestore.semantics.rows import Cut
from featurestore.store import FeatureStore
from tests.integration import test_registry_faults as faults
from tests.integration.materialize_bench import FIRST, NOW, Bench, definitions
from tests.servers.postgres import PASSWORD, USER, PostgresServer, running_postgres
from tests.unit import registry_samples as samples
from tests.unit import test_registry_catalog as catalog
from tests.unit import test_registry_leases as leases
from tests.unit import test_registry_migration as migration
from tests.unit import test_registry_progress as progress
from tests.unit import test_registry_tokens as tokens

old = migration.old


def _shared(module: ModuleType) -> dict[str, object]:
    """Return the tests of a module that are about no file."""
    name = module.__name__.rpartition("test_registry_")[2]
    return {
        f"test_{name}_{key.removeprefix('test_')}": value
        for key, value in vars(module).items()
        if key.startswith("test_") and "path" not in inspect.signature(value).parameters
    }


for _module in (catalog, faults, leases, migration, progress, tokens):
    globals().update(_shared(_module))


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def location(postgres: PostgresServer, database: str) -> str:
    """Return the URL of a schema with nothing in it: one is made in a hundredth of the time of a database."""
    schema = f"test_{uuid.uuid4().hex}"
    with postgres.connect(database) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
    return f"{database}?options=-csearch_path%3D{schema}"


@pytest.fixture
def registry(location: str) -> Iterator[Registry]:
    with closing(Registry(location, "test")) as registry:
        yield registry


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """Return a server that tests may stop."""
    with running_postgres() as server:
        yield server


def test_those_are_many() -> None:
    """Guards against an import that silently brings none."""
    assert sum(name.startswith("test_") for name in globals()) > 50


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


def test_jobs_run_under_leases(location: str, tmp_path: Path) -> None:
    views = definitions(stream=True)
    Bench(tmp_path, views).write(FIRST)
    config = Config(project="bench", repo_path=tmp_path, registry=location, online_type="memory")
    with closing(FeatureStore(config=config, clock=ManualClock(NOW))) as store:
        store.apply(views)
        for number in (1, 2):
            (report,) = materialize(store._jobs(), views, 0, NOW)
            assert (report.job, report.rows) == (number, 6)


REPOSITORY = """
from featurestore import Entity
from featurestore.types import Int64

{names} = (Entity(name, value_type=Int64) for name in "{names}".split(", "))
"""


def test_stores_in_different_processes_see_what_each_other_applies(location: str, tmp_path: Path) -> None:
    def command(folder: str, *arguments: str) -> str:
        code = "from featurestore.cli.main import main; main()"
        environment = {**os.environ, "REGISTRY": location}
        words = [sys.executable, "-c", code, "-C", str(tmp_path / folder), *arguments]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout

    def names(folder: str) -> list[str]:
        return [row["name"] for row in json.loads(command(folder, "ls", "--json"))]

    for folder, entities in (("ann", "rider, driver"), ("bob", "rider, city")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "feature_store.yaml").write_text("project: rides\nregistry: ${REGISTRY}\n")
        (tmp_path / folder / "features.py").write_text(REPOSITORY.format(names=entities))
    config = Config(project="rides", repo_path=tmp_path / "ann", registry=location)
    with closing(FeatureStore(config=config)) as here:
        assert here.registry.revision() == 0
        command("ann", "apply")
        assert here.plan().is_empty
        command("bob", "apply")
        assert {(change.action, change.name) for change in here.plan().changes} == {
            ("added", "driver"),
            ("removed", "city"),
        }
        assert here.apply().revision == 3
    assert names("ann") == names("bob") == ["driver", "rider"]


def test_a_restarted_server_is_used_again_by_who_was_idle_meanwhile(own_server: PostgresServer) -> None:
    with closing(Registry(own_server.new_database(), "test")) as registry:
        catalog.apply(registry, samples.project())
        token = registry.tokens.create("app", ["read"], now=NOW)
        own_server.stop()
        own_server.start()
        assert registry.revision() == 1
        assert registry.tokens.verify(token.secret, NOW) == token.info
        assert catalog.apply(registry, Project([samples.driver])) == 2


def test_while_the_server_is_away_that_is_said_and_it_is_used_once_it_is_back(own_server: PostgresServer) -> None:
    with closing(Registry(own_server.new_database(), "test")) as registry:
        catalog.apply(registry, samples.project())
        plan = registry.plan(Project([samples.driver]))
        own_server.stop()
        try:
            for use in (registry.revision, registry.load, registry.tokens.ls, lambda: registry.apply(plan, NOW)):
                with pytest.raises(RegistryError, match="cannot be reached: see that its server runs") as caught:
                    use()
                assert PASSWORD not in str(caught.value)
        finally:
            own_server.start()
        assert registry.revision() == 1
        assert registry.apply(plan, NOW) == 2


def test_a_write_that_a_restart_cuts_off_leaves_nothing(own_server: PostgresServer) -> None:
    with closing(Registry(own_server.new_database(), "test")) as registry:
        catalog.apply(registry, samples.project())
        away = pytest.raises(RegistryError, match="broke the connection off: see that its server runs, and try again")
        with away, registry._database.write() as connection:
            connection.execute(update(PROJECTS).values(revision=99))
            own_server.stop()
            own_server.start()
            connection.execute(insert(CUTS).values(project="test", view="v", rows="r", at=1, arrival=1))
        assert registry.revision() == 1
        assert registry.cuts("v", "r") == []
        assert len(registry.load().objects) == 7


def test_a_write_waits_for_another_only_so_long(registry: Registry, location: str) -> None:
    catalog.apply(registry, samples.project())
    with closing(Registry(location, "test", busy_seconds=0.05)) as other:
        plan = other.plan(Project([samples.driver]))
        with registry._database.write() as connection:
            connection.execute(update(PROJECTS).values(revision=PROJECTS.c.revision))
            assert other.revision() == 1
            with pytest.raises(RegistryError, match="is being written by another process: wait until"):
                other.apply(plan, NOW)
        assert other.apply(plan, NOW) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda url: url.replace(quote(PASSWORD), "guess"), "refused the login: see that user and password"),
        (lambda url: url.replace(f"{USER}:", "nobody:"), "refused the login"),
        (
            lambda url: f"{url.partition('?')[0]}_gone",
            "is not there: create the database and the user that its URL names",
        ),
        (lambda url: "postgresql://u:guess@127.0.0.1:1/db", "cannot be reached: see that its server runs"),
        (lambda url: url.replace("postgresql:", "postgres:"), "no such database type; use sqlite or postgresql"),
    ],
    ids=["password", "user", "database", "port", "scheme"],
)
def test_a_wrong_url_is_explained_without_its_password(location: str, change: object, message: str) -> None:
    assert callable(change)
    url = change(location)
    assert url != location
    with closing(Registry(url, "test")) as registry, pytest.raises(RegistryError, match=message) as caught:
        registry.revision()
    assert "guess" not in str(caught.value)
    assert quote(PASSWORD) not in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_user_who_may_only_read_reads_and_is_told_why_no_more(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    name = url.rpartition("/")[2]
    with closing(Registry(url, "test")) as registry:
        catalog.apply(registry, samples.project())
    with postgres.connect(url) as connection:
        connection.execute(f"CREATE ROLE reader_{name} LOGIN PASSWORD 'reads'".encode())
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{name}".encode())
    reader_url = postgres.url(f"reader_{name}", "reads").removesuffix("postgres") + name
    with closing(Registry(reader_url, "test")) as reader:
        assert len(reader.load().objects) == 7
        with pytest.raises(RegistryError, match="refused this user: grant it"):
            reader.start_job("log", "view", 0, 1, 0, NOW)
    with postgres.connect(url) as connection:
        connection.execute(f"UPDATE featurestore_schema SET version = {MIGRATED_FROM}".encode())
    message = f"version {MIGRATED_FROM} and could not be brought to version .* run featurestore doctor once as a user"
    with closing(Registry(reader_url, "test")) as reader, pytest.raises(RegistryError, match=message):
        reader.load()
