"""What an apply tries out: that an on-demand view means the same for many rows at once as for one at a time."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any
from zlib import crc32

from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.errors import DefinitionError
from featurestore.semantics.on_demand import run
from featurestore.semantics.rows import Result, Status
from featurestore.types import ValueType

SAMPLE_ROWS = 64
_IN_ORDER = 16

# A typical value first: the first sample row consists of these. The rest aims at edges.
_SAMPLES: dict[str, list[Any]] = {
    "bool": [True, False, None],
    "int32": [1, 0, -1, 7, 2**31 - 1, -(2**31), None],
    "int64": [1, 0, -1, 7, 1000, 2**53 + 1, 2**63 - 1, -(2**63), None],
    "float32": [1.5, 0.0, -0.0, 1.0, 0.10000000149011612, -2.5, 2.0**127, float("nan"), float("inf"), None],
    "float64": [1.5, 0.0, -0.0, 1.0, 0.1, 0.7, -2.5, 1e-11, 1e300, 5e-324, float("nan"), float("-inf"), None],
    "string": ["a", "1", "", "Zürich", "0.5", "2024-05-01", "2024-05-01T12:00:00Z", "12:30", "{}", None],
    "bytes": [b"a", b"", b"\x00\xff", None],
    "timestamp": [1_714_564_800_000_000, 0, -1, 1_709_251_199_999_999, None],
}


def check_on_demand(view: OnDemandFeatureView, types: Mapping[str, ValueType]) -> None:
    """Try a view's function on sample rows built from its inputs' types, nulls and edge values among them.

    Parameters
    ----------
    view
        The view, with its function loaded.
    types
        The inputs' types (`featurestore.semantics.on_demand.input_types`).

    Raises
    ------
    DefinitionError
        Where the function gives other bits or other errors for all rows at once than for each alone, or when called
        again; or where a feature has an error on every sample row.
    """
    label = f"OnDemandFeatureView {view.name!r} ({view.code.path})"
    columns = sample_columns(types)
    problems: dict[str, dict[int, str]] = {}

    def on_error(row: int, feature: str, problem: str) -> None:
        problems.setdefault(feature, {})[row] = problem

    together = run(view, columns, SAMPLE_ROWS, types, on_error)
    _refuse_hopeless(label, together, problems)
    again = run(view, columns, SAMPLE_ROWS, types)
    _refuse_difference(label, columns, together, again, when="is called again", fix="use no clock and no chance")
    alone: dict[str, list[Result]] = {name: [Result(None, Status.ERROR)] * SAMPLE_ROWS for name in together}
    for row in reversed(range(SAMPLE_ROWS)):
        one = run(view, {name: values[row : row + 1] for name, values in columns.items()}, 1, types)
        for name, results in one.items():
            alone[name][row] = results[0]
    _refuse_difference(label, columns, together, alone, when="is given one row at a time", fix="look at no other row")


def sample_columns(types: Mapping[str, ValueType]) -> dict[str, list[Any]]:
    """Return `SAMPLE_ROWS` values for each input, as the store holds them.

    The first row is typical in all inputs, the last is null in all; between them each input meets each of its edge
    values, next to different values of the others. The rows are the same on every machine.
    """
    columns = {}
    for position, (name, dtype) in enumerate(types.items()):
        values = _values(dtype)
        mixed = (crc32(f"{position}:{row}".encode()) for row in range(_IN_ORDER, SAMPLE_ROWS - 1))
        columns[name] = [*(values[pick % len(values)] for pick in (*range(_IN_ORDER), *mixed)), None]
    return columns


def _values(dtype: ValueType) -> list[Any]:
    if not dtype.is_list:
        return _SAMPLES[dtype.kind]
    items = _SAMPLES[dtype.item]
    if dtype.kind == "array":
        return [[items[0]], [], items, [items[1], None], None]
    present = [item for item in items if item is not None]
    return [[present[(start + i) % len(present)] for i in range(dtype.length)] for start in range(4)] + [None]


def _refuse_hopeless(
    label: str, results: Mapping[str, list[Result]], problems: Mapping[str, Mapping[int, str]]
) -> None:
    for name, column in results.items():
        if all(result.status is Status.ERROR for result in column):
            text = problems.get("", {}).get(0) or problems.get(name, {}).get(0, "")
            raise DefinitionError(
                f"{label}: {name!r} has an error on every sample row, on the first: {text}; "
                "return None where there is no answer"
            )


def _refuse_difference(
    label: str,
    columns: Mapping[str, list[Any]],
    expected: Mapping[str, list[Result]],
    found: Mapping[str, list[Result]],
    *,
    when: str,
    fix: str,
) -> None:
    for name, column in expected.items():
        for row, (one, other) in enumerate(zip(column, found[name], strict=True)):
            if bits(one) != bits(other):
                inputs = ", ".join(f"{key}={values[row]!r}" for key, values in columns.items())
                raise DefinitionError(
                    f"{label}: {name!r} is {_show(one)} when given {SAMPLE_ROWS} rows at once and {_show(other)} when "
                    f"the function {when} (for {inputs}); it must be a pure function of its row: {fix}"
                )


def bits(result: Result) -> Any:
    """Return a result in a form that is equal exactly where value and status are equal to the bit."""
    return _bits(result.value), int(result.status)


def _bits(value: Any) -> Any:
    if isinstance(value, float):
        return struct.pack("<d", value)
    return [_bits(item) for item in value] if isinstance(value, list) else (type(value), value)


def _show(result: Result) -> str:
    return "an error" if result.status is Status.ERROR else repr(result.value)
