"""Applying plans: revisions, history, versions, and what is loaded back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from featurestore.definitions import Entity, Project
from featurestore.definitions.project import encode
from featurestore.errors import NotAppliedError, RegistryError, StaleApplyError
from featurestore.registry import Registry
from featurestore.registry.schema import METADATA
from featurestore.types import Int64
from tests.unit import registry_samples as samples

NOW = samples.NOW


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "registry.db"


@pytest.fixture
def location(path: Path) -> str | Path:
    """Return where the registry is; tests that ask for no `path` also run on PostgreSQL."""
    return path


@pytest.fixture
def registry(location: str | Path) -> Iterator[Registry]:
    with closing(Registry(location, "test")) as registry:
        yield registry


def apply(registry: Registry, project: Project, who: str = "") -> int:
    return registry.apply(registry.plan(project), NOW, who)


def specs(project: Project) -> dict[tuple[str, str], bytes]:
    return {key: encode(definition) for key, definition in project.objects.items()}


def test_a_new_registry_is_empty(registry: Registry) -> None:
    assert registry.revision() == 0
    assert registry.load().objects == {}
    assert registry.history() == []
    assert registry.versions("entity", "driver") == []


def test_looking_into_a_registry_creates_nothing(registry: Registry, path: Path) -> None:
    assert (registry.revision(), registry.history(), registry.tokens.ls()) == (0, [], [])
    registry.plan(samples.project())
    assert not path.parent.exists()


def test_applied_definitions_come_back_equal(registry: Registry, location: str | Path) -> None:
    assert apply(registry, samples.project()) == 1
    with closing(Registry(location, "test")) as other:
        again = other.load()
    assert specs(again) == specs(samples.project())
    code = again.feature_view("earnings").code
    assert code is not None
    assert code.function is None
    assert code.text.startswith("def clean(")


def test_definitions_come_back_in_an_order_that_depends_on_no_locale(registry: Registry) -> None:
    apply(registry, Project([Entity(name, value_type=Int64) for name in ("b", "a_b", "ab", "B", "a")]))
    assert [name for _, name in registry.load().objects] == ["B", "a", "a_b", "ab", "b"]


def test_applying_the_same_again_writes_nothing(registry: Registry, path: Path) -> None:
    apply(registry, samples.project())
    before = path.read_bytes()
    assert apply(registry, samples.project()) == 1
    assert path.read_bytes() == before
    assert len(registry.history()) == 1


def test_every_past_state_can_be_loaded(registry: Registry) -> None:
    states = [
        Project(),
        samples.project(),
        samples.project(samples.state_view(ttl=timedelta(days=1))),
        Project([samples.driver]),
        samples.project(),
    ]
    for expected, state in enumerate(states[1:], start=1):
        assert apply(registry, state) == expected
    for revision, state in enumerate(states):
        assert specs(registry.load(revision)) == specs(state)
    with pytest.raises(NotAppliedError, match="project 'test' has no revision 5; the newest is 4"):
        registry.load(5)


def test_versions_are_kept_and_a_return_to_old_content_is_the_old_version(registry: Registry) -> None:
    for ttl in (7, 1, 7):
        apply(registry, samples.project(samples.state_view(ttl=timedelta(days=ttl))))
    versions = registry.versions("feature_view", "profile")
    assert [version.version for version in versions] == [1, 2]
    assert [version.definition for version in versions] == [
        samples.state_view(),
        samples.state_view(ttl=timedelta(days=1)),
    ]
    assert versions[0].created == NOW
    assert registry.load().feature_view("profile").ttl == timedelta(days=7)


def test_history_says_when_who_and_what(registry: Registry) -> None:
    apply(registry, samples.project(), "ann")
    plan = registry.plan(Project([samples.driver]))
    registry.apply(plan, NOW + 1, "bob")
    first, second = registry.history()
    assert (first.revision, first.at, first.who) == (1, NOW, "ann")
    assert (second.revision, second.at, second.who) == (2, NOW + 1, "bob")
    assert second.summary == plan.to_dict()


def test_a_stale_plan_is_refused_and_changes_nothing(registry: Registry) -> None:
    stale_first, stale_empty = registry.plan(samples.project()), registry.plan(Project())
    apply(registry, Project([samples.driver]))
    stale = registry.plan(samples.project())
    apply(registry, samples.project(samples.state_view(description="Mine")))
    before = specs(registry.load())
    for plan in (stale, stale_first, stale_empty):
        with pytest.raises(StaleApplyError, match=r"changed since the plan.*nothing was applied: plan again"):
            registry.apply(plan, NOW)
    assert specs(registry.load()) == before
    assert len(registry.history()) == 2


def test_projects_share_a_registry_and_not_their_definitions(registry: Registry, location: str | Path) -> None:
    apply(registry, samples.project())
    with closing(Registry(location, "other")) as other:
        assert other.revision() == 0
        apply(other, Project([samples.driver]))
        assert len(other.load().objects) == 1
        assert len(registry.load().objects) == 7
        with pytest.raises(RegistryError, match="the plan is for project 'other', this is 'test'"):
            registry.apply(other.plan(Project()), NOW)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_project_is_told_from_any_other_of_its_name(
    registry: Registry, location: str | Path, tmp_path: Path, is_first: bool
) -> None:
    if is_first:
        assert registry.identity() == ""
        registry.identify()
    with closing(Registry(location, "test")) as again, closing(Registry(tmp_path / "r2", "test")) as other:
        assert again.identify() == registry.identify() == registry.identity() != ""
        assert other.identify() != registry.identity()


@pytest.mark.parametrize("form", [str, lambda path: f"sqlite:///{path}"], ids=["path", "url"])
def test_path_and_url_name_the_same_registry(form: Callable[[Path], str], registry: Registry, path: Path) -> None:
    apply(registry, samples.project())
    assert Registry(form(path), "test").revision() == 1


def test_tables_are_valid_for_postgresql() -> None:
    for table in METADATA.sorted_tables:
        dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
        ddl = str(CreateTable(table).compile(dialect=dialect))
        assert "SERIAL" not in ddl
        assert table.name.startswith("featurestore_")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("mystery://host/db", "no such database type; use sqlite or postgresql"),
        ("postgresql+pg8000://me:secret@host/db", "needs the Python package 'pg8000': pip install pg8000"),
        ("://", "neither a path nor a URL"),
    ],
)
def test_an_unusable_url_is_refused_without_its_password(location: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message) as caught:
        Registry(location, "test").revision()
    assert "secret" not in str(caught.value)


def test_a_newer_schema_is_refused(registry: Registry, path: Path) -> None:
    apply(registry, samples.project())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE featurestore_schema SET version = 99")
        connection.commit()
    with pytest.raises(RegistryError, match=r"registry\.db has schema version 99.*upgrade featurestore"):
        Registry(path, "test").revision()


def test_a_definition_of_a_newer_version_is_refused(registry: Registry, path: Path) -> None:
    from featurestore.definitions.project import digest

    apply(registry, Project([samples.driver]))
    spec = '{"type":"hologram","name":"driver"}'
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE featurestore_versions SET spec=?, fingerprint=?", (spec, digest(spec.encode())))
        connection.commit()
    with pytest.raises(RegistryError, match="the entity 'driver' in a form that this featurestore cannot read"):
        registry.load()
