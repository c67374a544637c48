"""What apply tries out on sample rows: functions that look at other rows, at the clock, or that always fail."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from featurestore.definitions import Field, OnDemandFeatureView, RequestSource
from featurestore.errors import DefinitionError
from featurestore.registry.checks import SAMPLE_ROWS, check_on_demand, sample_columns
from featurestore.semantics.on_demand import input_types
from featurestore.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, Timestamp, ValueType, Vector


def check(function: Any, mode: str = "python", dtype: ValueType = Float64, result: ValueType = Float64) -> None:
    source = RequestSource("ask", schema=(Field("x", dtype), Field("y", dtype)))
    view = OnDemandFeatureView("odd", sources=[source], schema=[Field("z", result)], function=function, mode=mode)
    check_on_demand(view, input_types(view, []))


def total(row: dict[str, Any]) -> dict[str, Any]:
    return {"z": row["x"] + row["y"]}


def total_pandas(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"z": frame["x"] + frame["y"]})


def total_arrow(table: pa.Table) -> pa.Table:
    return pa.table({"z": pc.add(table["x"], table["y"])})


@pytest.mark.parametrize(
    ("function", "mode"),
    [(total, "python"), (total_pandas, "pandas"), (total_arrow, "arrow")],
    ids=["python", "pandas", "arrow"],
)
@pytest.mark.parametrize("dtype", [Float64, Float32], ids=str)
def test_pure_functions_pass_though_they_fail_on_some_rows(function: Any, mode: str, dtype: ValueType) -> None:
    check(function, mode, dtype, dtype)


def first_minus_mean_pandas(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"z": frame["x"].fillna(0.0) - len(frame)})


def reversed_arrow(table: pa.Table) -> pa.Table:
    return pa.table({"z": table["x"].combine_chunks()[::-1]})


def running_pandas(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"z": frame["x"].isna().cumsum().astype("float64")})


@pytest.mark.parametrize(
    ("function", "mode"),
    [(first_minus_mean_pandas, "pandas"), (reversed_arrow, "arrow"), (running_pandas, "pandas")],
    ids=["mean", "reversed", "running"],
)
def test_a_function_that_looks_at_other_rows_is_refused(function: Any, mode: str) -> None:
    message = (
        r"OnDemandFeatureView 'odd' .*'z' is .* given 64 rows at once and .* one row at a time .*look at no other row"
    )
    with pytest.raises(DefinitionError, match=message):
        check(function, mode)


def test_a_function_with_memory_is_refused() -> None:
    counter = itertools.count()

    def count_calls(row: dict[str, Any]) -> dict[str, Any]:
        return {"z": float(next(counter))}

    with pytest.raises(DefinitionError, match=r"is called again.*use no clock and no chance"):
        check(count_calls)


def test_a_function_that_depends_on_the_row_before_is_refused() -> None:
    seen: list[Any] = [None]

    def previous(row: dict[str, Any]) -> dict[str, Any]:
        before, seen[0] = seen[0], row["x"]
        return {"z": before}

    with pytest.raises(DefinitionError, match="it must be a pure function of its row"):
        check(previous)


def test_errors_count_as_differences() -> None:
    def fails_alone(frame: pd.DataFrame) -> pd.DataFrame:
        if len(frame) == 1:
            raise RuntimeError("too few")
        return pd.DataFrame({"z": frame["x"]})

    with pytest.raises(
        DefinitionError, match=r"'z' is 1\.5 when given 64 rows at once and an error when the function is given one row"
    ):
        check(fails_alone, "pandas")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda row: {"z": row["zz"]},
            r"'z' has an error on every sample row, on the first: KeyError: 'zz' \(line \d+ of",
        ),
        (lambda row: {"zed": 1.0}, "it returned no 'z'; there are: zed"),
        (lambda row: {"z": "1.0"}, r"'z': '1.0' \(str\) is not a float64"),
        (lambda row: [1.0], r"it returned \[1.0\], not a dict with 'z'"),
    ],
    ids=["raises", "no such output", "wrong type", "no dict"],
)
def test_a_function_that_never_answers_is_refused_with_its_error(function: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        check(function)


def test_a_function_that_answers_only_the_null_row_passes() -> None:
    def only_null(row: dict[str, Any]) -> dict[str, Any]:
        assert row["x"] is None
        return {"z": None}

    check(only_null)


ALL_TYPES = [
    *(Bool, Int32, Int64, Float32, Float64, String, Bytes, Timestamp),
    *(Array(String), Array(Timestamp), Array(Float64), Vector(3), Vector(70, Float64)),
]


@pytest.mark.parametrize("mode", ["python", "pandas", "arrow"])
@pytest.mark.parametrize("dtype", ALL_TYPES, ids=str)
def test_every_type_goes_through_every_mode_unchanged(dtype: ValueType, mode: str) -> None:
    functions: dict[str, Any] = {
        "python": lambda row: {"z": row["x"]},
        "pandas": lambda frame: frame.rename(columns={"x": "z"}),
        "arrow": lambda table: table.rename_columns({"x": "z"}),
    }
    check(functions[mode], mode, dtype, dtype)


def test_sample_rows_start_typical_end_null_and_hold_every_edge() -> None:
    columns = sample_columns({"a": Int64, "b": String, "c": Bool})
    assert [values[0] for values in columns.values()] == [1, "a", True]
    assert [values[-1] for values in columns.values()] == [None, None, None]
    assert {len(values) for values in columns.values()} == {SAMPLE_ROWS}
    assert {2**63 - 1, -(2**63), 2**53 + 1, 0, None} <= set(columns["a"])
    beside_null = {b for a, b in zip(columns["a"], columns["b"], strict=True) if a is None}
    assert len(beside_null) > 3
