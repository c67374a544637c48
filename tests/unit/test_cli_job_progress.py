"""What is printed while jobs run."""

from __future__ import annotations

import io
import sys

import pytest

from featurestore.cli.job_progress import job_progress
from featurestore.cli.output import Progress


def run(report: Progress | None) -> None:
    assert report is not None
    report("city: started", 0, None)
    report("city: reading 1,000 rows", 1000, None)
    report("city: read 120,000 rows", 3, 12)
    report("city: read 120,000 rows", 12, 12)
    report("city: logged", 0, None)
    report("city: online city", 0, None)
    report("city: done", 0, None)


def test_in_a_pipe_each_step_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with job_progress(quiet=False) as report:
        run(report)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "city: started",
        "city: read 120,000 rows (3 of 12 parts)",
        "city: read 120,000 rows (12 of 12 parts)",
        "city: logged",
        "city: online city",
        "city: done",
    ]


def test_on_a_terminal_there_is_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with job_progress(quiet=False) as report:
        run(report)
    last = terminal.getvalue().rpartition("city: done")[2]
    assert "━" in last
    assert "city: started" not in last


def test_quiet_is_quiet() -> None:
    with job_progress(quiet=True) as report:
        assert report is None
