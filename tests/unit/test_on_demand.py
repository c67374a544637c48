"""On-demand views computed: what a function sees, what becomes of its answers, and of its errors."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from featurestore.definitions import Entity, FeatureView, Field, FileSource, OnDemandFeatureView, RequestSource
from featurestore.definitions.project import decode, encode
from featurestore.errors import DefinitionError
from featurestore.semantics.on_demand import input_types, run
from featurestore.semantics.rows import Result, Status
from featurestore.types import Array, Bool, Float32, Float64, Int64, String, Timestamp, ValueType, Vector

ERROR = Result(None, Status.ERROR)
NULL = Result(None, Status.NULL_VALUE)


def present(value: Any) -> Result:
    return Result(value, Status.PRESENT)


def compute(
    function: Any,
    columns: dict[str, list[Any]],
    types: dict[str, ValueType],
    mode: str = "python",
    **outputs: ValueType,
) -> tuple[dict[str, list[Result]], list[tuple[int, str, str]]]:
    """Run a function over columns; return the results and the problems it reported."""
    view = OnDemandFeatureView(
        "view",
        sources=[RequestSource("ask", schema=tuple(Field(name, dtype) for name, dtype in types.items()))],
        schema=[Field(name, dtype) for name, dtype in outputs.items()],
        function=function,
        mode=mode,
    )
    problems: list[tuple[int, str, str]] = []
    n = len(next(iter(columns.values())))
    assert input_types(view, []) == types
    return run(view, columns, n, types, lambda *problem: problems.append(problem)), problems


def test_the_function_sees_values_as_users_do() -> None:
    seen: list[dict[str, Any]] = []

    def look(row: dict[str, Any]) -> dict[str, Any]:
        seen.append(row)
        return {"ok": True}

    columns: dict[str, list[Any]] = {
        "t": [0, None],
        "ts": [[1_000_000, None], None],
        "v": [[1.0, 2.0], None],
        "s": ["a", None],
    }
    types = {"t": Timestamp, "ts": Array(Timestamp), "v": Vector(2), "s": String}
    results, _ = compute(look, columns, types, ok=Bool)
    assert seen == [
        {
            "t": datetime(1970, 1, 1, tzinfo=UTC),
            "ts": [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), None],
            "v": [1.0, 2.0],
            "s": "a",
        },
        {"t": None, "ts": None, "v": None, "s": None},
    ]
    assert results == {"ok": [present(value=True)] * 2}


def test_what_a_function_does_to_its_argument_stays_there() -> None:
    def spoil(row: dict[str, Any]) -> dict[str, Any]:
        total = sum(row["v"])
        row["v"].append(100.0)
        row["x"] = 0
        return {"total": total + row.get("y", 0)}

    columns: dict[str, list[Any]] = {"v": [[1.0, 2.0]] * 3, "y": [1, 2, 3]}
    results, _ = compute(spoil, columns, {"v": Array(Float64), "y": Int64}, total=Float64)
    assert results["total"] == [present(4.0), present(5.0), present(6.0)]
    assert columns == {"v": [[1.0, 2.0]] * 3, "y": [1, 2, 3]}


def test_answers_become_values_of_the_declared_types() -> None:
    when = datetime(2024, 5, 1, 12)  # noqa: DTZ001  (naive is UTC)

    def answer(row: dict[str, Any]) -> dict[str, Any]:
        return {"t": when, "f": 0.1, "v": np.array([1.0, 2.0]), "i": np.int64(7), "b": np.True_, "more": "ignored"}

    results, problems = compute(answer, {"x": [1]}, {"x": Int64}, t=Timestamp, f=Float32, v=Vector(2), i=Int64, b=Bool)
    assert problems == []
    assert [column[0].value for column in results.values()] == [
        1_714_564_800_000_000,
        0.10000000149011612,
        [1.0, 2.0],
        7,
        True,
    ]
    assert type(results["i"][0].value) is int


def test_each_status() -> None:
    def answer(row: dict[str, Any]) -> Any:
        return {
            1: {"a": 1, "b": None},
            2: {"a": 1},
            3: {"a": "x", "b": "x"},
            4: None,
        }[row["x"]]

    results, problems = compute(answer, {"x": [1, 2, 3, 4, 5]}, {"x": Int64}, a=Int64, b=String)
    assert results == {
        "a": [present(1), present(1), ERROR, ERROR, ERROR],
        "b": [NULL, ERROR, present("x"), ERROR, ERROR],
    }
    assert [(row, feature) for row, feature, _ in problems] == [(1, "b"), (2, "a"), (3, ""), (4, "")]
    texts = [text for _, _, text in problems]
    assert texts[0] == "it returned no 'b'; there are: a"
    assert texts[1] == "'a': 'x' (str) is not a int64"
    assert texts[2] == "it returned None, not a dict with 'a', 'b'"
    assert texts[3].startswith("KeyError: 5 (line ")
    assert texts[3].endswith("of test_on_demand.py)")


def test_nan_is_a_value() -> None:
    results, _ = compute(lambda row: {"z": math.nan}, {"x": [1]}, {"x": Int64}, z=Float64)
    assert results["z"][0].status is Status.PRESENT
    assert math.isnan(results["z"][0].value)


def invert_pandas(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"z": frame["x"].map(lambda x: 12 // x, na_action="ignore").astype("int64[pyarrow]")})


def invert_arrow(table: pa.Table) -> pa.Table:
    return pa.table({"z": pc.divide(pa.scalar(12), table["x"])})


@pytest.mark.parametrize(
    ("function", "mode"), [(invert_pandas, "pandas"), (invert_arrow, "arrow")], ids=["pandas", "arrow"]
)
def test_one_bad_row_of_many_spoils_no_other(function: Any, mode: str) -> None:
    results, problems = compute(function, {"x": [3, 0, 4]}, {"x": Int64}, mode, z=Int64)
    assert results["z"] == [present(4), ERROR, present(3)]
    assert [(row, feature) for row, feature, _ in problems] == [(1, "")]
    assert "zero" in problems[0][2]


@pytest.mark.parametrize("mode", ["pandas", "arrow"])
def test_nulls_and_large_integers_survive_many_rows(mode: str) -> None:
    functions: dict[str, Any] = {
        "pandas": lambda frame: pd.DataFrame({"z": frame["x"] + 1}),
        "arrow": lambda table: pa.table({"z": pc.add(table["x"], 1)}),
    }
    results, _ = compute(functions[mode], {"x": [2**53, None, -1]}, {"x": Int64}, mode, z=Int64)
    assert results["z"] == [present(2**53 + 1), NULL, present(0)]


@pytest.mark.parametrize(
    ("function", "mode", "problem"),
    [
        (lambda frame: frame.iloc[:0], "pandas", "it returned 0 rows for 1; return one for each, in order"),
        (lambda frame: {"z": [1.0]}, "pandas", "it returned a dict; in mode 'pandas' return a DataFrame"),
        (lambda table: table.to_pandas(), "arrow", "it returned a DataFrame; in mode 'arrow' return an Arrow table"),
    ],
    ids=["rows", "dict", "frame"],
)
def test_answers_of_a_wrong_shape(function: Any, mode: str, problem: str) -> None:
    results, problems = compute(function, {"z": [1.0, 2.0]}, {"z": Float64}, mode, out=Float64)
    assert results["out"] == [ERROR, ERROR]
    assert [(row, text.partition(": ")[2].partition(" (line")[0]) for row, _, text in problems] == [
        (0, problem),
        (1, problem),
    ]


def test_a_column_that_is_not_there_is_an_error_in_that_feature_alone() -> None:
    results, problems = compute(
        lambda table: table.rename_columns({"x": "a"}), {"x": [1, 2]}, {"x": Int64}, "arrow", a=Int64, b=Int64
    )
    assert results == {"a": [present(1), present(2)], "b": [ERROR, ERROR]}
    assert [(row, feature) for row, feature, _ in problems] == [(0, "b"), (1, "b")]


def test_a_duplicated_answer_column_is_an_error() -> None:
    results, _ = compute(
        lambda table: pa.table([table["x"], table["x"]], names=["z", "z"]), {"x": [1]}, {"x": Int64}, "arrow", z=Int64
    )
    assert results["z"] == [ERROR]


def test_nanoseconds_are_taken_only_where_nothing_is_lost() -> None:
    def answer(table: pa.Table) -> pa.Table:
        return pa.table({"t": table["n"].cast(pa.timestamp("ns"))})

    results, _ = compute(answer, {"n": [5_000, 5_001]}, {"n": Int64}, "arrow", t=Timestamp)
    assert results["t"] == [present(5), ERROR]


@pytest.mark.parametrize("mode", ["python", "pandas", "arrow"])
def test_no_rows(mode: str) -> None:
    results, _ = compute(lambda rows: rows, {"x": []}, {"x": Int64}, mode, z=Int64)
    assert results == {"z": []}


def test_input_types_follow_projections_and_requests() -> None:
    entity = Entity("driver", value_type=Int64)
    source = FileSource("trips", path="t.csv", timestamp_field="ts")
    view = FeatureView("trip", entities=[entity], schema=[Field("a", String), Field("b", Float32)], source=source)
    ask = RequestSource("ask", schema=(Field("x", Bool),))
    derived = OnDemandFeatureView("d", sources=[view[["b"]], ask], schema=[Field("z", Bool)], function=invert_arrow)
    assert input_types(derived, [view]) == {"x": Bool, "b": Float32}


def test_code_that_is_not_loaded_is_refused_not_turned_into_errors() -> None:
    ask = RequestSource("ask", schema=(Field("x", Int64),))
    view = OnDemandFeatureView("view", sources=[ask], schema=[Field("z", Int64)], function=invert_arrow)
    applied = decode(encode(view))
    assert isinstance(applied, OnDemandFeatureView)
    with pytest.raises(DefinitionError, match="'view': its code is not loaded; open the store with its repo_path"):
        run(applied, {"x": [1]}, 1, {"x": Int64})
