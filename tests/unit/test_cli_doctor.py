"""``doctor`` on real projects: each thing that can be wrong is found, named, and comes with a fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from featurestore.cli.main import run


@pytest.fixture
def project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Return the sample project, applied."""
    assert run(["init", str(tmp_path)]) == 0
    assert run(["-C", str(tmp_path), "apply"]) == 0
    capsys.readouterr()
    return tmp_path


def findings(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    code = run(["-C", str(folder), "doctor", "--json"])
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    assert code == (0 if report["ok"] else 1)
    return {check["name"]: check for check in report["checks"]}


def wrong(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: check for name, check in found.items() if not check["ok"]}


def test_an_applied_project_lacks_only_its_rows(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(project, capsys)

    assert {"configuration", "registry", "definitions", "applied", "online store"} <= set(found)
    assert {"source profiles", "source order_history", "offline log of customer_orders"} <= set(found)
    assert set(wrong(found)) == {"online state of customer_orders", "online state of customer_profile"}
    assert all("featurestore materialize" in check["fix"] for check in wrong(found).values())


def test_people_read_what_is_wrong_and_the_fix(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-C", str(project), "doctor"]) == 1

    text = capsys.readouterr().out
    assert "ok    applied: all definitions, as revision 1\n" in text
    assert "FAIL  online state of customer_orders: not filled yet\n      fix: load rows" in text
    assert text.endswith(" checks passed.\n")


def test_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["init", str(tmp_path)])
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))

    found = findings(tmp_path, capsys)

    assert "added" in found["applied"]["detail"]
    assert "featurestore apply" in found["applied"]["fix"]
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts] == before


def test_definitions_that_are_not_applied(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = project / "features.py"
    features.write_text(features.read_text().replace("timedelta(days=1)", "timedelta(days=2)"))

    assert "2 changed" in wrong(findings(project, capsys))["applied"]["detail"]


def test_a_broken_configuration_ends_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "feature_store.yaml").write_text("projct: x\n")

    found = findings(project, capsys)

    assert list(found) == ["configuration"]
    assert "did you mean 'project'?" in found["configuration"]["detail"]


def test_a_file_that_raises_on_import(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "more.py").write_text("import nothing_like_this\n")

    found = findings(project, capsys)

    assert "more.py" in found["definitions"]["detail"]
    assert found["registry"]["ok"]
    assert found["online store"]["ok"]


@pytest.mark.parametrize(
    ("source", "text", "told"),
    [
        ("order_history", None, "there is no file"),
        ("order_history", "customer_id,ordered_at,amnt\n1,2024-05-01,2.5\n", "did you mean 'amnt'?"),
        ("profiles", "customer_id,country,credit_limit\n1,DE,2.5\n", "'updated_at'"),
    ],
)
def test_sources_that_are_not_what_the_definitions_say(
    project: Path, source: str, text: str | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / {"order_history": "data/orders.csv", "profiles": "data/profiles.csv"}[source]
    path.unlink()
    if text is not None:
        path.write_text(text)

    found = findings(project, capsys)

    assert told in found[f"source {source}"]["detail"]
    assert len([name for name in wrong(found) if name.startswith("source ")]) == 1


def test_a_corrupt_registry_is_named_and_the_rest_still_looked_at(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "data/registry.db").write_bytes(b"not a database, and longer than a header" * 100)

    found = findings(project, capsys)

    assert "registry.db" in found["registry"]["detail"]
    assert found["definitions"]["ok"]
    assert found["source profiles"]["ok"]


def test_a_corrupt_online_store(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "data/online/data.mdb").write_bytes(b"nonsense" * 4096)

    found = findings(project, capsys)

    assert "data/online" in wrong(found)["online store"]["detail"]
    assert found["offline log of customer_orders"]["ok"]
