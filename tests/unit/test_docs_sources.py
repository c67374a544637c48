"""The code of docs/sources.md works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from featurestore.cli.main import run
from featurestore.config import load_config
from featurestore.definitions import BatchSource

DOCUMENT = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


def test_definitions_and_connections_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defined: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, defined)  # noqa: S102
    (tmp_path / "feature_store.yaml").write_text(blocks("yaml")[0])
    config = load_config(tmp_path)
    for variable in re.findall(r"\$\{(\w+_\w+)\}", DOCUMENT):
        monkeypatch.setenv(variable, "x")
    sources = [value for value in defined.values() if isinstance(value, BatchSource)]
    assert {source.connection for source in sources} == {"", *config.connections}
    assert all(config.connection(source.connection) for source in sources if source.connection)


def test_commands_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    for line in blocks("console")[0].splitlines():
        words = shlex.split(line.removeprefix("$ featurestore "))
        assert run([*words, "--help"]) == 0
        assert f"featurestore {words[0]} {words[1]}" in capsys.readouterr().out
