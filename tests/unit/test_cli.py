"""The command line as a whole: instant help, exit codes, and errors without tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from featurestore import __version__
from featurestore.cli.main import COMMANDS, LazyGroup, cli, run
from featurestore.cli.settings import Settings
from featurestore.errors import RegistryError

HEAVY = {"deltalake", "duckdb", "lmdb", "numpy", "pandas", "polars", "pyarrow", "rich", "sqlalchemy", "yaml"}


def failing(error: BaseException) -> Settings:
    def open_with(repo: Path) -> Any:
        raise error

    return Settings(open_with=open_with)


def run_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from featurestore.cli.main import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"]])
def test_help_loads_nothing_heavy_and_no_command(arguments: list[str]) -> None:
    code = (
        "import json, sys\nfrom featurestore.cli.main import run\n"
        f"run({arguments!r})\nprint(json.dumps(list(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    loaded = set(json.loads(result.stdout.splitlines()[-1]))
    assert loaded & HEAVY == set()
    assert {name for name in loaded if name.startswith("featurestore.cli.")} == {
        "featurestore.cli.main",
        "featurestore.cli.settings",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_with_the_help_that_the_list_shows(name: str) -> None:
    assert isinstance(cli, LazyGroup)
    command = cli.get_command(click.Context(cli), name)

    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(limit=200) == COMMANDS[name][1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0

    assert capsys.readouterr().out.startswith(f"Usage: featurestore {name} ")


def test_help_lists_the_commands_and_version_prints_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = capsys.readouterr().out
    assert run(["--version"]) == 0

    assert all(f"  {name} " in listed for name in COMMANDS)
    assert capsys.readouterr().out == f"featurestore {__version__}\n"


def test_an_unknown_command_suggests_one_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["aply"]) == 2

    assert "no command 'aply'; did you mean 'apply'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ls", "--nonsense"], "--nonsense"),
        (["materialize", "2024-01-01"], "END"),
        (["materialize", "yesterday", "2024-01-01"], "'yesterday' is not a time"),
        (["materialize", "2024-01-02", "2024-01-01"], "START must be before END"),
        (["verify", "--sample", "0"], "--sample"),
        (["init", "--key", "id"], "--from FILE"),
        (["init", "--from", "a.csv"], "--key COLUMN"),
        (["lookup", "--features", "v:f"], "--entity"),
        (["stream", "--source", "kafka"], "kafka"),
    ],
)
def test_wrong_usage_exits_2_and_says_what(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments, failing(AssertionError("no store is opened for a wrong command line"))) == 2

    assert told in capsys.readouterr().err


def test_our_errors_are_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan"], failing(RegistryError("data/registry.db is locked; wait for the other apply"))) == 1

    captured = capsys.readouterr()
    assert captured.err == "error: data/registry.db is locked; wait for the other apply\n"
    assert captured.out == ""


def test_a_bug_is_one_line_that_asks_for_a_report_and_exits_70(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEATURESTORE_DEBUG", raising=False)

    assert run(["plan"], failing(KeyError("bits"))) == 70

    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "KeyError: 'bits'" in told
    assert "report" in told
    assert "FEATURESTORE_DEBUG=1" in told


def test_a_bug_shows_its_traceback_where_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURESTORE_DEBUG", "1")

    assert run(["plan"], failing(KeyError("bits"))) == 70

    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interruption_exits_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan"], failing(KeyboardInterrupt())) == 130

    assert capsys.readouterr().err.strip() == "interrupted"


def test_the_repository_is_the_one_named(tmp_path: Path) -> None:
    opened: list[Path] = []

    def open_with(repo: Path) -> Any:
        opened.append(repo)
        raise RegistryError("far enough")

    run(["-C", str(tmp_path), "plan"], Settings(open_with=open_with))
    run(["plan"], Settings(open_with=open_with))

    assert opened == [tmp_path, Path()]


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    source = f"{sys.executable} -c 'from featurestore.cli.main import main; main()' --help"
    command = ["bash", "-c", f"{source} | true; echo ${{PIPESTATUS[0]}}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert result.stderr == ""
    assert result.stdout.strip() in {"0", "1"}


@pytest.mark.parametrize("command", ["plan", "apply", "ls", "doctor"])
def test_without_a_project_every_command_says_how_to_make_one(tmp_path: Path, command: str) -> None:
    result = run_process(command, cwd=tmp_path)

    assert result.returncode == 1
    assert "featurestore init" in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_demo_of_an_unknown_example_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "flihts"]) == 1

    assert "there is no example 'flihts'" in capsys.readouterr().err


def test_the_demo_hands_its_options_over_and_returns_the_examples_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import featurestore.cli.demo

    calls: list[tuple[Any, ...]] = []

    class Example:
        @staticmethod
        def main(*arguments: Any) -> int:
            calls.append(arguments)
            return 1

    find: Callable[[str], Any] = lambda name: Example  # noqa: E731
    monkeypatch.setattr(featurestore.cli.demo, "load_example", find)

    assert run(["demo", "flights", "--json", "--inject-bug", "--keep", str(tmp_path)]) == 1
    assert calls == [(True, True, tmp_path, None)]
