"""What docs/production.md shows is what the project has: commands, options, variables, metrics, files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from featurestore.cli.main import cli
from featurestore.serving.metrics import FAMILIES
from tests.servers import compose
from tests.servers.compose import ROOT

DOCUMENT = (ROOT / "docs" / "production.md").read_text()
SECRETS = {"POSTGRES_PASSWORD": "a", "REDIS_PASSWORD": "b"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """Return the command lines of ours that are shown, in blocks and in the text, without ``featurestore``."""
    lines = [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]
    lines += re.findall(r"`((?:featurestore|docker compose run) [^`]*)`", DOCUMENT)
    ours = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:3] == ["docker", "compose", "run"]:
            ours.append(words[words.index("apply") + 1 :] or ["apply"])
        elif words[0] == "featurestore":
            ours.append(words[1:])
    return ours


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_and_their_options_are_there(words: list[str]) -> None:
    command: click.Command | None = cli
    rest = list(words)
    while isinstance(command, click.Group):
        with click.Context(command) as context:
            command = command.get_command(context, rest.pop(0))
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known


def test_those_are_many() -> None:
    assert len(commands()) >= 8


def test_the_configuration_is_the_one_that_is_served(tmp_path: Path) -> None:
    served = (ROOT / "deploy" / "repository" / "feature_store.yaml").read_text()
    assert yaml.safe_load(blocks("yaml")[0]) == yaml.safe_load(served)


def test_variables_are_those_that_docker_compose_sets() -> None:
    given = compose.services(SECRETS)["api"]["environment"]
    shown = set(re.findall(r"`(FEATURESTORE_\w+)`", DOCUMENT))
    assert shown == {name for name in given if name.startswith("FEATURESTORE_")}
    assert set(given) - shown == {"PGPASSWORD"}


def test_files_and_metrics_are_there() -> None:
    for name in re.findall(r"`?((?:deploy/|docker-)[\w./-]+\w)`?", DOCUMENT):
        assert (ROOT / name).exists(), name
    metrics = set(re.findall(r"`(featurestore_[a-z_]+)`", DOCUMENT))
    assert len(metrics) >= 3
    shown = {f"{name}_total" if family.kind == "counter" else name for name, family in FAMILIES.items()}
    assert metrics <= shown
