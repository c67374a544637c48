"""On-demand views computed: the one implementation that the offline and the online path call."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.definitions.entity import Field
from featurestore.definitions.feature_view import FeatureView
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.errors import DefinitionError, MissingExtraError, RowError, suggest
from featurestore.semantics.rows import Result, Status
from featurestore.types import ValueType, convert, to_python

if TYPE_CHECKING:
    import pyarrow as pa

_ERROR = Result(None, Status.ERROR)
_NULL = Result(None, Status.NULL_VALUE)

OnError = Callable[[int, str, str], None]
"""Called with the row's number, the feature (empty: all of them) and what went wrong."""


def input_types(view: OnDemandFeatureView, views: Iterable[FeatureView]) -> dict[str, ValueType]:
    """Return the names and types of what a view's function is given; ``views`` hold the views that it reads."""
    types = {field.name: field.dtype for field in view.request_fields}
    by_name = {source.name: source for source in views}
    for projection in view.view_inputs:
        known = {field.name: field.dtype for field in by_name[projection.view].features}
        types.update({name: known[name] for name in projection.features})
    return types


def run(
    view: OnDemandFeatureView,
    columns: Mapping[str, Sequence[Any]],
    n: int,
    types: Mapping[str, ValueType],
    on_error: OnError | None = None,
) -> dict[str, list[Result]]:
    """Compute a view's features for ``n`` rows.

    Parameters
    ----------
    view
        The view, with its function loaded.
    columns
        For each input, ``n`` values as the store holds them (timestamps as microseconds). The function sees them as
        users do: timestamps as aware UTC datetimes, null as None (in pandas: NA, in Arrow-backed columns).
    n
        Number of rows.
    types
        The inputs' types (`input_types`).
    on_error
        Told of every value that becomes null because of an error.

    Returns
    -------
    dict
        For each feature, in the order of the view's schema, ``n`` results. A row on which the function raises or
        returns something else than a row has status ``ERROR`` in all its features; a missing value or one of the
        wrong type in that feature alone. None gives ``NULL_VALUE``. Values that are not features are ignored.

    Notes
    -----
    A function of many rows (modes ``"pandas"`` and ``"arrow"``) that raises or returns another number of rows is
    called again for one row at a time, so that one bad row spoils no other.
    """
    if view.code.function is None:
        raise DefinitionError(
            f"OnDemandFeatureView {view.name!r}: its code is not loaded; open the store with its repo_path"
        )
    report = on_error or _ignore
    if view.mode == "python":
        return _run_rows(view, columns, n, types, report)
    import pyarrow as pa

    if view.mode == "pandas":
        _import_pandas()
    table = pa.table({name: pa.array(columns[name], type=dtype.to_arrow()) for name, dtype in types.items()})
    return _run_table(view, table, report)


def _ignore(row: int, feature: str, problem: str) -> None:
    """Tell nobody."""


def _run_rows(
    view: OnDemandFeatureView,
    columns: Mapping[str, Sequence[Any]],
    n: int,
    types: Mapping[str, ValueType],
    report: OnError,
) -> dict[str, list[Result]]:
    results: dict[str, list[Result]] = {field.name: [] for field in view.features}
    inputs = [(name, columns[name], dtype, dtype.is_list or dtype.kind == "timestamp") for name, dtype in types.items()]
    fields = [(field, results[field.name]) for field in view.features]
    for row in range(n):
        # The function gets a dict and lists of its own: what it does to them stays there.
        given = {name: _for_user(values[row], dtype) if copy else values[row] for name, values, dtype, copy in inputs}
        try:
            answer = view.code(given)
        except Exception as error:  # noqa: BLE001  (user code may raise anything; it is reported and has a status)
            report(row, "", describe_error(view, error))
            answer = None
        else:
            if not isinstance(answer, Mapping):
                report(row, "", f"it returned {answer!r:.60}, not a dict with {_names(view)}")
                answer = None
        for field, column in fields:
            column.append(_ERROR if answer is None else _pick(answer, field, row, report))
    return results


def _run_table(view: OnDemandFeatureView, table: pa.Table, report: OnError) -> dict[str, list[Result]]:
    if table.num_rows == 0:
        return {field.name: [] for field in view.features}
    try:
        answer = _call_table(view, table)
    except Exception as error:  # noqa: BLE001  (as above)
        if table.num_rows == 1:
            report(0, "", describe_error(view, error))
            return {field.name: [_ERROR] for field in view.features}
        return _run_one_by_one(view, table, report)
    results = {}
    for field in view.features:
        values = answer.get(field.name)
        results[field.name] = [
            _pick(answer, field, row, report) if values is None else _convert(values[row], field, row, report)
            for row in range(table.num_rows)
        ]
    return results


def _run_one_by_one(view: OnDemandFeatureView, table: pa.Table, report: OnError) -> dict[str, list[Result]]:
    results: dict[str, list[Result]] = {field.name: [] for field in view.features}
    for row in range(table.num_rows):
        one = _run_table(view, table.slice(row, 1), _shifted(report, row))
        for name, values in one.items():
            results[name] += values
    return results


def _shifted(report: OnError, by: int) -> OnError:
    return lambda row, feature, problem: report(row + by, feature, problem)


def _call_table(view: OnDemandFeatureView, table: pa.Table) -> dict[str, list[Any]]:
    """Call a function of many rows and return the features it gave, as Python values."""
    import pyarrow as pa

    answer: Any
    columns: dict[str, Any]
    if view.mode == "arrow":
        answer = view.code(table)
        if not isinstance(answer, (pa.Table, pa.RecordBatch)):
            raise TypeError(f"it returned a {type(answer).__name__}; in mode 'arrow' return an Arrow table")
        columns = {name: answer.column(name) for name in answer.schema.names}
    else:
        pandas = _import_pandas()
        answer = view.code(table.to_pandas(types_mapper=pandas.ArrowDtype))
        if not isinstance(answer, pandas.DataFrame):
            raise TypeError(f"it returned a {type(answer).__name__}; in mode 'pandas' return a DataFrame")
        columns = {str(name): pa.Array.from_pandas(answer[name]) for name in answer.columns}
    if len(answer) != table.num_rows:
        raise ValueError(f"it returned {len(answer)} rows for {table.num_rows}; return one for each, in order")
    wanted = {field.name: field.dtype for field in view.features}
    return {name: _to_list(column, wanted[name]) for name, column in columns.items() if name in wanted}


def _to_list(column: Any, dtype: ValueType) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and dtype.kind == "timestamp":
        column = column.cast(pa.timestamp("us", column.type.tz))
    return list(column.to_pylist())


def _for_user(value: Any, dtype: ValueType) -> Any:
    shown = to_python(value, dtype)
    return list(shown) if isinstance(shown, list) else shown


def _pick(answer: Mapping[str, Any], field: Field, row: int, report: OnError) -> Result:
    if field.name not in answer:
        report(row, field.name, f"it returned no {field.name!r}{suggest(field.name, map(str, answer))}")
        return _ERROR
    return _convert(answer[field.name], field, row, report)


def _convert(value: Any, field: Field, row: int, report: OnError) -> Result:
    if type(value).__module__ == "numpy":  # scalars and arrays, as the Python values they hold
        value = value.tolist()
    try:
        value = convert(value, field.dtype)
    except RowError as error:
        report(row, field.name, f"{field.name!r}: {error}")
        return _ERROR
    return _NULL if value is None else Result(value, Status.PRESENT)


def describe_error(view: OnDemandFeatureView, error: Exception) -> str:
    """Return what a view's function raised, and on which line of its file."""
    filename = getattr(getattr(view.code.function, "__code__", None), "co_filename", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    return f"{type(error).__name__}: {error}" + (f" (line {lines[-1]} of {Path(str(filename)).name})" if lines else "")


def _names(view: OnDemandFeatureView) -> str:
    return ", ".join(repr(field.name) for field in view.features)


def _import_pandas() -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError.for_package("pandas", "pandas") from error
    return pd
