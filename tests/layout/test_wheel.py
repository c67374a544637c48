"""What is installed is what is in the repository, under the one name `featurestore`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("featurestore", "materialize", "registry", "serving", "streaming", "training")
FILES = ("LICENSE", "README.md", "pyproject.toml")
GENERATED = ("__pycache__", "*.pyc", "*.egg-info", ".*")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[PurePosixPath]:
    """Return the files of the wheel that is built from the source distribution of a clean copy.

    The copy also holds a top-level `tests` and `benchmarks` package, which must not be picked up; and it
    is a copy because setuptools leaves a `build` folder behind, whose stale modules a next wheel would hold.
    """
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns(*GENERATED)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=ignore)
    for file in FILES:
        shutil.copy(ROOT / file, source / file)
    for stray in ("benchmarks", "tests"):
        (source / stray).mkdir()
        (source / stray / "__init__.py").touch()

    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr

    [built] = out.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]


def shipped_files(folder: Path) -> set[PurePosixPath]:
    """Return every file under `folder`, links followed, that a person wrote."""
    found = set()
    for entry in folder.iterdir():
        if any(entry.match(pattern) for pattern in GENERATED):
            continue
        if entry.is_dir():
            found |= shipped_files(entry)
        else:
            found.add(PurePosixPath(entry.relative_to(ROOT).as_posix()))
    return found


def test_nothing_but_the_package_is_at_the_top(wheel: list[PurePosixPath]) -> None:
    tops = {path.parts[0] for path in wheel}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"featurestore"}


def test_the_wheel_holds_the_repository_and_nothing_else(wheel: list[PurePosixPath]) -> None:
    packaged = {path for path in wheel if path.parts[0] == "featurestore"}

    assert packaged == shipped_files(ROOT / "featurestore")


def test_the_siblings_are_in_the_wheel_as_files(wheel: list[PurePosixPath]) -> None:
    for name in FOLDERS[1:]:
        assert PurePosixPath("featurestore", name, "__init__.py") in wheel


def test_the_wheel_is_typed_and_licensed(wheel: list[PurePosixPath]) -> None:
    assert PurePosixPath("featurestore/py.typed") in wheel
    assert [path.name for path in wheel if "licenses" in path.parts] == ["LICENSE"]
