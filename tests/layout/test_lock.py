"""The lock file pins what pyproject.toml asks for, from whatever index its reader uses."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def pins() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def asked_for() -> list[Requirement]:
    """Return every requirement of the project, its extras included, except the project itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = sum(project["optional-dependencies"].values(), project["dependencies"])
    return [found for found in map(Requirement, lines) if found.name != project["name"]]


def test_every_line_pins_one_version_and_no_place(pins: list[Requirement]) -> None:
    for pin in pins:
        assert [part.operator for part in pin.specifier] == ["=="], pin
        assert pin.url is None


@pytest.mark.parametrize("python", PYTHONS)
def test_the_pins_satisfy_the_project(pins: list[Requirement], python: str) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_python_implementation": "CPython",
    }
    versions = defaultdict(list)
    for pin in pins:
        if pin.marker is None or pin.marker.evaluate(environment):
            versions[canonicalize_name(pin.name)].append(next(iter(pin.specifier)).version)

    for requirement in asked_for():
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        found = versions[canonicalize_name(requirement.name)]
        assert len(found) == 1, requirement
        assert requirement.specifier.contains(found[0]), (requirement, found)
