"""Loading a user's repository of definitions, and joining its code to what is applied."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore.definitions import Entity, FeatureView, OnDemandFeatureView, Project
from featurestore.errors import RegistryError, RepositoryError
from featurestore.registry import Registry, bind_code, load_repository
from featurestore.types import Int64

Write = Callable[..., Path]

ENTITIES = """\
from featurestore import Entity
from featurestore.types import Int64
driver = Entity('driver', value_type=Int64)
"""
FEATURES = """\
from datetime import timedelta
from entities import driver
from featurestore import Aggregation, FeatureView, Field, FileSource
from featurestore.types import Float64

trips = FileSource("trips", path="trips.parquet", timestamp_field="ts")

def clean(record):
    from helpers import double
    return {**record, "fare": double(record["fare"])}

earnings = FeatureView("earnings", entities=[driver], schema=[Field("fare", Float64)], source=trips, transform=clean)
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_files(folder: str = "repo", **files: str) -> Path:
        root = tmp_path / folder
        for name, text in files.items():
            path = root / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        return root

    return write_files


def test_definitions_of_siblings_and_folders_are_found_once_each(write: Write) -> None:
    root = write(
        features=FEATURES,
        entities=ENTITIES,
        helpers="def double(x):\n    return 2 * x\n",
        more__rider=ENTITIES.replace("driver", "rider") + "from entities import driver\n",
        more__deep__again="from more.rider import rider\nfrom . import local\n",
        more__deep__local="",
    )
    names = [definition.name for definition in load_repository(root)]
    assert names == ["driver", "trips", "earnings", "rider"]


def test_code_has_the_place_of_its_file_in_the_repository(write: Write) -> None:
    root = write(features=FEATURES, entities=ENTITIES, sub__more=FEATURES.replace('"earnings"', '"other"'))
    codes = [view.code.path for view in load_repository(root) if isinstance(view, FeatureView) and view.code]
    assert codes == ["features:clean", "sub.more:clean"]
    assert [view.code.path for view in load_repository(root) if isinstance(view, FeatureView) and view.code] == codes


def test_two_repositories_with_the_same_file_names_do_not_meet(write: Write) -> None:
    roots = [
        write(name, features=FEATURES, entities=ENTITIES, helpers=f"def double(x):\n    return {factor} * x\n")
        for name, factor in (("one", 2), ("two", 20))
    ]
    before = set(sys.modules)
    path = list(sys.path)
    views = [next(d for d in load_repository(root) if isinstance(d, FeatureView)) for root in roots]
    assert {
        name for name in set(sys.modules) - before if name.partition(".")[0] in {"features", "entities", "helpers"}
    } == set()
    assert sys.path == path
    # The sibling is imported when the function runs, long after loading.
    for factor, view in ((2, views[0]), (20, views[1]), (2, views[0])):
        assert view.code is not None
        assert view.code({"fare": 1.0}) == {"fare": factor}
    assert "helpers" not in sys.modules


def test_a_module_of_the_same_name_that_was_loaded_before_stays(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    other = type(sys)("entities")
    monkeypatch.setitem(sys.modules, "entities", other)
    assert load_repository(write(features=FEATURES, entities=ENTITIES))[0].name == "driver"
    assert sys.modules["entities"] is other


def test_a_changed_file_is_read_again_at_once(write: Write) -> None:
    root = write(entities=ENTITIES)
    load_repository(root)
    write(entities=ENTITIES.replace("'driver'", "'drover'"))  # same size, and likely the same second
    assert [definition.name for definition in load_repository(root)] == ["drover"]
    assert not list(root.rglob("__pycache__"))


def test_what_is_no_part_of_the_repository_is_left_out(write: Write) -> None:
    boom = "raise RuntimeError('must not be imported')"
    root = write(
        entities=ENTITIES,
        test_entities=boom,
        conftest=boom,
        setup=boom,
        **{".hidden__a": boom, "venv__b": boom, "__pycache____c": boom, "own__d": boom, "project__e": boom},
    )
    (root / "own" / "pyvenv.cfg").write_text("")
    (root / "project" / "feature_store.yaml").write_text("project: other\n")
    assert [definition.name for definition in load_repository(root)] == ["driver"]


def test_the_main_guard_stays_false(write: Write) -> None:
    assert load_repository(write(entities=ENTITIES + "if __name__ == '__main__':\n    raise SystemExit(1)\n"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"features": "x = 1\n\nprint(1 / 0)\n"}, r"^features\.py, line 3: ZeroDivisionError: division by zero$"),
        ({"features": "def broken(:\n"}, r"^features\.py, line 1: SyntaxError: invalid syntax$"),
        (
            {"features": "import missing_thing\n"},
            r"^features\.py, line 1: ModuleNotFoundError: No module named 'missing_thing'$",
        ),
        (
            {"a": "\nimport z__nope\n", "sub__b": ""},
            r"^a\.py, line 2: ModuleNotFoundError",
        ),
        (
            {"a": "import sub.b\n", "sub__b": "\n\nraise KeyError('k')\n"},
            r"^sub/b\.py, line 3: KeyError: 'k'$",
        ),
        (
            {"features": "from featurestore import Entity\n\nEntity('driver')\n"},
            r"^features\.py, line 3: Entity 'driver': say the type of 'driver'",
        ),
        ({"features": "import sys\nsys.exit(3)\n"}, r"^features\.py, line 2: it ends the program when imported"),
        ({"calendar": ENTITIES}, r"^calendar\.py: 'calendar' is also the name of a package of Python"),
        (
            {"featurestore__x": ENTITIES},
            r"^featurestore/x\.py: 'featurestore' is also the name of a package of the feature store",
        ),
        ({"features": "x = 1\n"}, r"holds no definitions \(looked into: features\.py\); define an Entity"),
        ({}, r"is not a folder; give the folder of feature_store\.yaml"),
    ],
)
def test_a_broken_repository_is_named_with_file_and_line(write: Write, files: dict[str, str], message: str) -> None:
    root = write(**files)
    with pytest.raises(RepositoryError, match=message):
        load_repository(root)
    assert not [name for name in sys.modules if name in {"a", "sub", "features"}]


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="looked into: no Python files"):
        load_repository(tmp_path)


def test_applied_definitions_get_their_code_back(write: Write, tmp_path: Path) -> None:
    root = write(features=FEATURES + ON_DEMAND, entities=ENTITIES, helpers="def double(x):\n    return 2 * x\n")
    registry = Registry(tmp_path / "registry.db", "test")
    registry.apply(registry.plan(Project(load_repository(root))), 0)
    bound = bind_code(registry.load(), load_repository(root))
    transform, function = bound.feature_view("earnings").code, bound.on_demand_views["level"].code
    assert transform is not None
    assert transform({"fare": 2.5}) == {"fare": 5.0}
    assert function({"fare": 2.5}) == {"high": False}
    assert registry.plan(bound).is_empty


ON_DEMAND = """
from featurestore import on_demand_feature_view
from featurestore.types import Bool

@on_demand_feature_view(sources=[earnings], schema=[Field("high", Bool)])
def level(row):
    return {"high": row["fare"] is not None and row["fare"] > 10}
"""


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"features": FEATURES.replace("**record,", "")},
            r"'earnings' \(features:clean\) changed since the last apply",
        ),
        ({"other": FEATURES}, "'earnings' moved from features:clean to other:clean since the last apply"),
        ({}, r"'earnings' is not in the repository \(it was features:clean\)"),
        ({"features": FEATURES.replace(", transform=clean", "")}, "'earnings' is not in the repository"),
    ],
)
def test_code_that_is_not_the_applied_one_is_refused(write: Write, files: dict[str, str], message: str) -> None:
    applied = Project(load_repository(write("before", features=FEATURES, entities=ENTITIES)))
    after = load_repository(write("after", entities=ENTITIES, **files))
    with pytest.raises(RegistryError, match=message + r".*: run featurestore apply$"):
        bind_code(applied, after)


def test_definitions_without_code_need_no_repository() -> None:
    project = Project([Entity("driver", value_type=Int64)])
    assert bind_code(project, []).objects == project.objects


def test_names_in_the_annotations_of_a_loaded_module_resolve(write: Write) -> None:
    root = write(
        features="""\
        from __future__ import annotations
        import dataclasses
        @dataclasses.dataclass
        class Point:
            x: int
        """
        + ENTITIES.replace("\n", "\n        ")
    )
    assert load_repository(root)


def test_on_demand_views_are_loaded(write: Write) -> None:
    root = write(features=FEATURES + ON_DEMAND, entities=ENTITIES)
    (view,) = [d for d in load_repository(root) if isinstance(d, OnDemandFeatureView)]
    assert view.code.path == "features:level"
