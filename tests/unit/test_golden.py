"""The reference answers every committed golden vector with the very bits that were committed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from featurestore.definitions import FUNCTIONS
from featurestore.semantics.rows import Status
from featurestore.testing import golden
from featurestore.testing.generate import random_cases

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_answers_are_the_committed_bits(path: Path) -> None:
    assert golden.differences(path) == []


def test_every_function_and_status_is_pinned() -> None:
    functions, statuses = set(), set()
    for case in (case for path in FILES for case in golden.read_cases(path)):
        functions |= {parts["function"] for parts in case["view"].get("features", {}).values()}
        statuses |= {status for query in case["queries"] for status, _ in query["expect"].values()}
    assert functions == set(FUNCTIONS)
    assert statuses == {status.name for status in Status} - {"ERROR"}


def test_a_changed_bit_is_found_and_writing_restores_it(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    shutil.copy(FOLDER / "state.json", path)
    committed = path.read_text(encoding="utf-8")
    path.write_text(committed.replace('["PRESENT", {"f": "0x1.999', '["PRESENT", {"f": "0x1.998', 1), encoding="utf-8")
    assert len(golden.differences(path)) == 1
    assert golden.main([str(tmp_path)]) == 1
    assert golden.main([str(tmp_path), "--write"]) == 0
    assert path.read_text(encoding="utf-8") == committed


def test_true_is_not_one(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    committed = (FOLDER / "state.json").read_text(encoding="utf-8")
    path.write_text(committed.replace('"flag": ["PRESENT", true]', '"flag": ["PRESENT", 1]', 1), encoding="utf-8")
    assert len(golden.differences(path)) == 1


def test_views_rows_and_values_survive_the_file() -> None:
    for case in random_cases(3, 100):
        written = json.loads(json.dumps(golden.from_case("c", case)))
        view = golden.to_view(written["view"])
        assert (view.features, view.columns, view.ttl) == (case.view.features, case.view.columns, case.view.ttl)
        assert [a.window for a in view.aggregations] == [a.window for a in case.view.aggregations]
        assert (view.is_lambda, view.join_keys) == (case.view.is_lambda, case.view.join_keys)
        assert repr([golden.to_row(row) for row in written["rows"]]) == repr(case.rows)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(golden.GoldenError, match=r"broken\.json"):
        golden.read_cases(path)
    assert golden.main([str(tmp_path / "nothing")]) == 2
