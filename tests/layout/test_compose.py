"""docker-compose.yml, the Dockerfile that it builds, and what they take from the repository. No engine is needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest

from featurestore.definitions import Project
from featurestore.registry import Registry, load_repository
from featurestore.serving.settings import DEFAULT_PORT
from tests.servers import compose
from tests.servers.compose import ROOT

SECRETS = {"POSTGRES_PASSWORD": "a", "REDIS_PASSWORD": "b"}
PACKAGES = ["featurestore", "materialize", "registry", "serving", "streaming", "training"]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return compose.services(SECRETS)


@pytest.fixture(scope="module")
def instructions(services: dict[str, Any]) -> list[tuple[str, str]]:
    return compose.dockerfile(services["api"])


def run(*words: str | Path, **options: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
        **options,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def copied(instructions: list[tuple[str, str]]) -> list[str]:
    """Return what is copied from the repository."""
    sources = [text.split()[:-1] for keyword, text in instructions if keyword == "COPY" and "--from=" not in text]
    return [source.rstrip("/") for group in sources for source in group]


def test_the_file_is_of_the_compose_specification() -> None:
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", compose.FILE)


def test_the_dockerfile_has_no_lint() -> None:
    run(Path(sysconfig.get_path("scripts")) / "hadolint", ROOT / "deploy" / "Dockerfile")


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_come_from_the_environment_and_must_be_there(name: str) -> None:
    for missing in ({}, {name: ""}):
        with pytest.raises(compose.UnsetVariableError, match=name):
            compose.services({other: "x" for other in SECRETS if other != name} | missing)


def test_the_example_of_an_environment_names_every_variable() -> None:
    lines = (ROOT / "deploy" / "example.env").read_text().splitlines()
    named = {line.lstrip("#").partition("=")[0]: not line.startswith("#") for line in lines if "=" in line}
    assert named == compose.variables()
    assert all(line.endswith("=") for line in lines if line.partition("=")[0] in SECRETS)


def test_what_depends_on_another_waits_until_that_is_healthy_or_done(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            assert name in services
            disabled = services[name].get("healthcheck", {}).get("disable", False)
            assert wait["condition"] == ("service_completed_successfully" if disabled else "service_healthy")


def test_ports_are_published_to_this_machine_alone(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"api": [f"127.0.0.1:{DEFAULT_PORT}:{DEFAULT_PORT}"]}


def test_ours_run_as_an_ordinary_user_that_can_write_only_data(
    services: dict[str, Any], instructions: list[tuple[str, str]]
) -> None:
    user = [text for keyword, text in instructions if keyword == "USER"][-1]
    assert user.split(":")[0] not in {"0", "root"}
    for service in (services["api"], services["apply"]):
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert [volume.split(":")[1:] for volume in service["volumes"]] == [["/repository", "ro"], ["/data"]]


def test_the_image_says_which_port_it_answers_on_and_holds_no_secret(instructions: list[tuple[str, str]]) -> None:
    by_keyword = dict(instructions)
    assert by_keyword["EXPOSE"] == str(DEFAULT_PORT)
    assert f":{DEFAULT_PORT}/health/ready" in by_keyword["HEALTHCHECK"]
    assert not any(word in text.upper() for _, text in instructions for word in ("PASSWORD", "SECRET", "TOKEN"))


def test_what_is_copied_is_there_and_not_ignored(instructions: list[tuple[str, str]]) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:].rstrip("/") for line in lines if line.startswith("!")]
    assert "*" in lines
    assert [name for name in copied(instructions) if (ROOT / name).is_dir()] == PACKAGES
    assert sorted(copied(instructions)) == sorted(kept)
    assert all((ROOT / name).exists() for name in kept)


def test_the_image_holds_a_command_line_that_runs(instructions: list[tuple[str, str]], tmp_path: Path) -> None:
    """Builds the wheel from what is copied and nothing else, and installs it where nothing else of ours is."""
    patterns = ["__pycache__", "*.py[cod]"]  # as .dockerignore says
    assert {f"**/{pattern}" for pattern in patterns} <= {
        line.rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines()
    }
    source = tmp_path / "source"
    source.mkdir()
    for name in copied(instructions):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns(*patterns))
        else:
            shutil.copy(ROOT / name, source / name)
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source)
    [wheel] = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--python", python, wheel)
    libraries = Path(sysconfig.get_path("purelib"))
    [site] = (environment / "lib").glob("*/site-packages")
    (site / "libraries.pth").write_text(f"{libraries}\n")

    assert run(environment / "bin" / "featurestore", "--help", cwd=tmp_path).startswith("Usage: featurestore ")
    code = (
        f"import featurestore, importlib\nfor name in {PACKAGES[1:]}: importlib.import_module('featurestore.' + name)\n"
    )
    where = run(python, "-c", code + "print(featurestore.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(site)


def test_the_extras_that_the_image_installs_are_there(instructions: list[tuple[str, str]]) -> None:
    [install] = (text for keyword, text in instructions if keyword == "RUN" and "pip install" in text)
    extras = install.partition('".[')[2].partition("]")[0].split(",")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras == ["pandas", "postgres", "redis", "serve"]
    assert set(extras) <= set(known)


def test_the_definitions_that_are_served_at_first_can_be_applied(tmp_path: Path) -> None:
    definitions = load_repository(ROOT / "deploy" / "repository")
    registry = Registry(tmp_path / "registry.db", "shop")
    assert registry.apply(registry.plan(Project(definitions)), 0) == 1
