"""Faults of a real registry file: crashes, rivals, locks, damage. What was applied stays, messages name the fix."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select

from featurestore.definitions import Entity, Project
from featurestore.definitions.project import encode
from featurestore.errors import RegistryError, StaleApplyError
from featurestore.registry import Registry
from featurestore.registry.schema import METADATA
from featurestore.semantics.rows import Cut
from featurestore.types import Int64
from tests.unit import registry_samples as samples

NOW = samples.NOW
SPAWN = multiprocessing.get_context("spawn")


Location = str | Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
def location(path: Path) -> Location:
    """Return where the registry is; tests that ask for no `path` also run on PostgreSQL."""
    return path


def apply(location: Location, project: Project) -> int:
    with closing(Registry(location, "test")) as registry:
        return registry.apply(registry.plan(project), NOW)


def state(location: Location) -> tuple[int, dict[tuple[str, str], bytes], int]:
    """Return all that a reader sees: revision, definitions, length of the history."""
    with closing(Registry(location, "test")) as registry:
        specs = {key: encode(definition) for key, definition in registry.load().objects.items()}
        return registry.revision(), specs, len(registry.history())


def rows(location: Location) -> dict[str, int]:
    """Return how many rows each table really holds."""
    with closing(Registry(location, "test")) as registry:
        fetch = registry._database.fetch
        return {table.name: fetch(select(func.count()).select_from(table))[0][0] for table in METADATA.sorted_tables}


@contextmanager
def after_statements(count: int, do: Callable[[], None]) -> Iterator[None]:
    """Do something after the given number of SQL statements that write."""
    left = count

    def hook(*arguments: Any) -> None:
        nonlocal left
        if arguments[2].startswith(("INSERT", "UPDATE")):
            left -= 1
            if left == 0:
                do()

    event.listen(Engine, "after_cursor_execute", hook)
    try:
        yield
    finally:
        event.remove(Engine, "after_cursor_execute", hook)


def fail() -> None:
    raise KeyboardInterrupt


CHANGED = samples.project(samples.state_view(description="Changed"), samples.window_view(description="Changed"))
# The revision; for each of two views the old member, the new version and the new member; the history.
STATEMENTS = 8


@pytest.mark.parametrize("statements", range(1, STATEMENTS + 1))
def test_an_apply_that_breaks_off_leaves_nothing_behind(location: Location, statements: int) -> None:
    apply(location, samples.project())
    before, rows_before = state(location), rows(location)
    with after_statements(statements, fail), pytest.raises(KeyboardInterrupt):
        apply(location, CHANGED)
    assert state(location) == before
    assert rows(location) == rows_before
    assert apply(location, CHANGED) == 2


def test_those_are_all_the_statements_of_an_apply(location: Location) -> None:
    apply(location, samples.project())
    with after_statements(STATEMENTS + 1, fail):
        assert apply(location, CHANGED) == 2


def _apply_and_die(location: Location, statements: int) -> None:
    with after_statements(statements, lambda: os._exit(9)):
        apply(location, CHANGED)


@pytest.mark.parametrize("statements", [1, 5, STATEMENTS])
def test_a_process_that_dies_while_applying_leaves_nothing_behind(location: Location, statements: int) -> None:
    apply(location, samples.project())
    before = state(location)
    process = SPAWN.Process(target=_apply_and_die, args=(location, statements))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert state(location) == before
    assert apply(location, CHANGED) == 2


def test_a_first_apply_that_breaks_off_leaves_an_empty_registry(location: Location) -> None:
    with after_statements(4, fail), pytest.raises(KeyboardInterrupt):
        apply(location, samples.project())
    assert state(location) == (0, {}, 0)
    assert apply(location, samples.project()) == 1


def test_creating_a_registry_that_breaks_off_leaves_no_file(path: Path) -> None:
    with after_statements(1, fail), pytest.raises(KeyboardInterrupt):
        apply(path, samples.project())
    assert list(path.parent.iterdir()) == []


def _race(location: Location, name: str, barrier: Barrier, outcomes: Any) -> None:
    with closing(Registry(location, "test")) as registry:
        plan = registry.plan(Project([Entity(name, value_type=Int64)]))
        barrier.wait(60)
        try:
            outcomes.put((name, registry.apply(plan, NOW, name)))
        except StaleApplyError:
            outcomes.put((name, None))


@pytest.mark.parametrize("existing", [False, True], ids=["first apply", "later apply"])
def test_of_processes_that_apply_at_once_exactly_one_wins(location: Location, existing: bool) -> None:
    base = apply(location, Project([samples.driver])) if existing else 0
    barrier, outcomes = SPAWN.Barrier(3), SPAWN.Queue()
    names = ["a", "b", "c"]
    processes = [SPAWN.Process(target=_race, args=(location, name, barrier, outcomes)) for name in names]
    for process in processes:
        process.start()
    results = dict(outcomes.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    winners = [name for name, revision in results.items() if revision is not None]
    assert len(winners) == 1
    assert results[winners[0]] == base + 1
    with closing(Registry(location, "test")) as registry:
        assert list(registry.load().objects) == [("entity", winners[0])]
        assert [entry.who for entry in registry.history()][base:] == winners
    if isinstance(location, Path):
        assert [file.name for file in location.parent.iterdir()] == ["registry.db"]


def _start_jobs(location: Location, barrier: Barrier, outcomes: Any) -> None:
    with closing(Registry(location, "test")) as registry:
        barrier.wait(60)
        outcomes.put([registry.start_job("log", "view", 0, 1, 0, NOW) for _ in range(10)])


def test_processes_that_start_jobs_at_once_get_different_numbers(location: Location) -> None:
    barrier, outcomes = SPAWN.Barrier(3), SPAWN.Queue()
    processes = [SPAWN.Process(target=_start_jobs, args=(location, barrier, outcomes)) for _ in range(3)]
    for process in processes:
        process.start()
    numbers = [number for _ in processes for number in outcomes.get(timeout=60)]
    for process in processes:
        process.join(60)
    assert sorted(numbers) == list(range(1, 31))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold another process's lock on a registry."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


WRITES: dict[str, Callable[[Registry], object]] = {
    "apply": lambda registry: registry.apply(registry.plan(Project()), NOW),
    "start_job": lambda registry: registry.start_job("log", "view", 0, 1, 0, NOW),
    "update_job": lambda registry: registry.update_job("log", 1, "done"),
    "record_cut": lambda registry: registry.record_cut("view", "rows", Cut(1, 1)),
}
READS: dict[str, Callable[[Registry], object]] = {
    "revision": lambda registry: registry.revision(),
    "load": lambda registry: registry.load(),
    "history": lambda registry: registry.history(),
    "jobs": lambda registry: registry.jobs("log"),
    "cuts": lambda registry: registry.cuts("view", "rows"),
    "versions": lambda registry: registry.versions("entity", "driver"),
}


@pytest.mark.parametrize("use", [*WRITES, *READS])
def test_a_locked_registry_is_named_and_unharmed(path: Path, use: str) -> None:
    apply(path, samples.project())
    before = path.read_bytes()
    registry = Registry(path, "test", busy_seconds=0.05)
    with locked(path), pytest.raises(RegistryError, match=r"registry\.db is locked by another process: wait until"):
        (WRITES | READS)[use](registry)
    assert path.read_bytes() == before
    assert registry.revision() == 1


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no registry\n" * 500)


def truncate(to: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, to)


def scribble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)


def change_one_byte_of_a_definition(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"driver_id"', b'"driver_ix"'))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "garbage": (garbage, "is corrupt"),
    "empty": (truncate(0), "is an empty file, so it was truncated"),
    "within the header": (truncate(50), "is corrupt"),
    "within the first page": (truncate(1000), "is corrupt"),
    "after the first page": (truncate(4096), "is corrupt"),
    "in the middle": (truncate(20_000), "is corrupt"),
    "scribbled over": (scribble, "is corrupt"),
    "one byte": (change_one_byte_of_a_definition, "is corrupt: the (entity|feature_view) '[a-z]+' is not what was"),
}


@pytest.mark.parametrize("use", ["load", "apply"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_registry_is_named_and_left_as_it_is(path: Path, damage: str, use: str) -> None:
    apply(path, samples.project())
    harm, message = DAMAGE[damage]
    harm(path)
    before = path.read_bytes()
    with pytest.raises(RegistryError, match=message) as caught:
        (WRITES | READS)[use](Registry(path, "test"))
    assert str(path) in str(caught.value)
    assert "restore it from a backup" in str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["registry.db"]


def test_a_database_of_something_else_is_refused_and_unharmed(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER)")
    before = path.read_bytes()
    for use in (WRITES["apply"], READS["load"]):
        with pytest.raises(RegistryError, match=r"a database of something else \(it holds customers\): give the"):
            use(Registry(path, "test"))
    assert path.read_bytes() == before


def test_a_folder_in_the_place_of_the_file(path: Path) -> None:
    path.mkdir()
    with pytest.raises(RegistryError, match=r"registry\.db cannot be opened: see that it is a file"):
        Registry(path, "test").load()


def test_a_file_in_the_place_of_the_folder(path: Path) -> None:
    path.write_text("")
    with pytest.raises(RegistryError, match=r"cannot be (created|read)"):
        apply(path / "registry.db", samples.project())


def test_a_registry_that_vanished_is_not_made_anew_by_an_open_reader(path: Path) -> None:
    apply(path, samples.project())
    registry = Registry(path, "test")
    registry.revision()
    path.unlink()
    with pytest.raises(RegistryError, match="cannot be opened: see that it is a file, that it still exists"):
        registry.load()
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every file")
def test_a_registry_without_write_permission(path: Path) -> None:
    apply(path, samples.project())
    path.chmod(0o400)
    with pytest.raises(RegistryError, match="cannot be written: give this user write permission"):
        apply(path, CHANGED)
