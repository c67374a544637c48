"""``source`` on the sample project: what is listed, checked and shown, and what is said when it is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from featurestore.cli.main import run


@pytest.fixture
def project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Make the sample project, and return the start of commands in it; nothing is applied."""
    assert run(["init", str(tmp_path)]) == 0
    capsys.readouterr()
    return ["-C", str(tmp_path), "source"]


def test_sources_are_listed_with_who_reads_them(project: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*project, "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", "order_history", "orders", "profiles"]
    assert lines[1].split("  ")[-1].strip() == "customer_orders"
    assert run([*project, "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[2]["views"] == ["customer_profile"]


def test_each_source_is_checked_in_a_line(project: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*project, "check"]) == 0
    assert [line.split(";")[0] for line in capsys.readouterr().out.splitlines()] == [
        "ok    order_history: data/orders.csv: 600 rows sampled",
        "ok    orders: rows are handed to it",
        "ok    profiles: data/profiles.csv: 30 rows sampled",
    ]
    assert run([*project, "check", "profiles"]) == 0
    assert capsys.readouterr().out.endswith("; customer_id, country, credit_limit, updated_at as declared\n")


def test_what_a_view_needs_and_is_not_there_fails_the_check(
    project: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(project[1]) / "data" / "orders.csv"
    path.write_text("customer_id,ordered_at,amnt\n1,2024-05-01,2.5\n")
    assert run([*project, "check"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1
    assert failed[0].endswith("has no column 'amount'; did you mean 'amnt'?")
    path.write_text("customer_id,ordered_at,amount\n1,2024-05-01,much\n2,2024-05-01,1\n")
    assert run([*project, "check", "order_history"]) == 0
    assert "2 rows sampled, 1 of them unusable" in capsys.readouterr().out
    path.write_text("customer_id,ordered_at,amount\n1,2024-05-01,much\n")
    assert run([*project, "check", "order_history", "--json"]) == 1
    [finding] = json.loads(capsys.readouterr().out)
    assert (finding["ok"], finding["rows"], finding["unusable"]) == (False, 1, 1)
    assert "of its first 1 row none can be used: column 'amount': 'much' is not a float64" in finding["error"]


def test_columns_and_rows_are_shown(project: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*project, "schema", "order_history"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["column", "type", "stored", "as"],
        ["customer_id", "int64", "int64"],
        ["ordered_at", "timestamp", "timestamp[s,", "tz=UTC]"],
        ["amount", "float64", "double"],
    ]
    assert run([*project, "sample", "order_history", "--n", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [list(row) for row in rows] == [["customer_id", "ordered_at", "amount"]] * 2
    assert run([*project, "sample", "order_history"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    (Path(project[1]) / "data" / "orders.csv").write_text("customer_id,ordered_at,amount\n")
    assert run([*project, "sample", "order_history"]) == 0
    assert capsys.readouterr().out == "order_history has no rows; its columns are: customer_id, ordered_at, amount\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["schema", "order_histroy"], "source 'order_histroy' does not exist; did you mean 'order_history'?"),
        (["check", "nothing"], "source 'nothing' does not exist; there are: order_history, orders, profiles"),
        (["sample", "orders"], "'orders' is a PushSource: it has no table to look into"),
    ],
)
def test_sources_that_there_are_not(
    project: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*project, *arguments]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
