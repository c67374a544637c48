"""The rows that a caller asks for, as columns of the values that the store holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.definitions import Field
from featurestore.errors import RowError, suggest
from featurestore.types import convert

if TYPE_CHECKING:
    import pandas as pd

    EntityRows = Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]] | pd.DataFrame

_INTEGERS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


class EntityColumns(NamedTuple):
    """What was asked for, by column.

    Attributes
    ----------
    n
        Number of rows.
    asked
        The values as the caller gave them, by field.
    typed
        The values as the store holds them, by field; None for null.
    """

    n: int
    asked: dict[str, Sequence[Any]]
    typed: dict[str, Sequence[Any]]


class EntityRowReader:
    """Turns entity rows into columns of the fields that a request needs: its join keys and request fields."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = [(field, field.name, _test_for(field)) for field in fields]

    def read(self, rows: EntityRows) -> EntityColumns:
        """Return the columns.

        Raises
        ------
        RowError
            Where a row lacks a field, or one has a wrong type; the message says which row it is.
        """
        n, asked = self._columns(rows)
        typed = {}
        for _, name, is_exact in self._fields:
            column = asked[name]
            if not is_exact(column):
                return EntityColumns(n, asked, self._convert(n, asked))
            typed[name] = column
        return EntityColumns(n, asked, typed)

    def _columns(self, rows: EntityRows) -> tuple[int, dict[str, Sequence[Any]]]:
        if type(rows) is list and set(map(type, rows)) <= {dict}:
            try:
                return len(rows), {name: [row[name] for row in rows] for _, name, _ in self._fields}
            except KeyError:
                return self._of_rows(rows)
        if isinstance(rows, Mapping):
            lengths = {len(column) for column in rows.values()}
            if len(lengths) > 1:
                raise RowError(f"the entity columns have different lengths: {sorted(lengths)}")
            n = max(lengths, default=0)
            if n and not all(name in rows for _, name, _ in self._fields):
                self._refuse_lack(0, rows)
            return n, {name: list(rows[name]) if n else [] for _, name, _ in self._fields}
        if isinstance(rows, (list, tuple)) and all(isinstance(row, Mapping) for row in rows):
            return self._of_rows(rows)
        frame: Any = rows
        if hasattr(frame, "itertuples"):  # a pandas DataFrame
            names = list(frame.columns)
            return self._of_rows(
                [dict(zip(names, row, strict=True)) for row in frame.itertuples(index=False, name=None)]
            )
        raise RowError(
            f"entity_rows is a {type(rows).__name__}: give a list of dicts, [{{'driver_id': 1}}], a dict of columns or "
            "a pandas DataFrame"
        )

    def _of_rows(self, rows: Sequence[Mapping[str, Any]]) -> tuple[int, dict[str, Sequence[Any]]]:
        for place, row in enumerate(rows):
            self._convert_row(place, row)  # the first row that is wrong is told, whatever is wrong about it
        return len(rows), {name: [row[name] for row in rows] for _, name, _ in self._fields}

    def _convert(self, n: int, asked: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        rows = [self._convert_row(place, {name: column[place] for name, column in asked.items()}) for place in range(n)]
        return {name: [row[name] for row in rows] for _, name, _ in self._fields}

    def _convert_row(self, place: int, row: Mapping[str, Any]) -> dict[str, Any]:
        converted = {}
        for field, name, _ in self._fields:
            if name not in row:
                self._refuse_lack(place, row)
            value = row[name]
            if type(value).__module__ == "numpy":
                value = value.item()
            try:
                converted[name] = convert(value, field.dtype)
            except RowError as error:
                raise RowError(f"entity row {place}, {name!r}: {error}") from error
        return converted

    def _refuse_lack(self, place: int, row: Mapping[str, Any]) -> None:
        for _, name, _ in self._fields:
            if name not in row:
                raise RowError(f"entity row {place} lacks {name!r}{suggest(name, row)}")


def _test_for(field: Field) -> Callable[[Sequence[Any]], bool]:
    """Return a quick test that all values of a column are as the store holds them; False says nothing."""
    kind = field.dtype.kind
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]

        def are_integers(column: Sequence[Any]) -> bool:
            for value in column:  # noqa: SIM110  (a generator would take twice as long)
                if type(value) is not int or not low <= value <= high:
                    return False
            return True

        return are_integers
    if kind == "string":
        return lambda column: set(map(type, column)) <= {str} and "".join(column).isascii()
    exact = {"bytes": bytes, "bool": bool}.get(kind)
    if exact is not None:
        return lambda column: set(map(type, column)) <= {exact}
    return lambda column: not column
