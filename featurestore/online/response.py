"""The answer to a lookup: columns as they were read, and the forms that callers want them in, made when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.clock import from_micros
from featurestore.errors import MissingExtraError
from featurestore.online.reading import Lazily, ViewColumns
from featurestore.online.response_json import PLAIN, encode, encode_response
from featurestore.semantics.rows import Result, Status
from featurestore.types import ValueType, to_python

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from featurestore.definitions.resolve import Request
    from featurestore.online.entity_rows import EntityColumns

_NAMES = {status: status.name for status in Status}


class Receipt(NamedTuple):
    """What stands behind a view's values in one row.

    Attributes
    ----------
    fingerprint
        That of the view's definition.
    t
        When the values were evaluated, in microseconds since the epoch.
    sequences
        By writer, the last sequence that was visible for the key (of batch: the job).
    cut
        Of a lambda view the cut in force; else None.
    """

    fingerprint: str
    t: int
    sequences: Mapping[str, int]
    cut: int | None


class Answered(NamedTuple):
    """What a stored view answered, by row of the request.

    Attributes
    ----------
    name
        What the view is called in the request.
    fingerprint
        That of its definition.
    cut
        Of a lambda view the cut in force; else None.
    columns
        Values, statuses, event timestamps and sequences.
    """

    name: str
    fingerprint: str
    cut: int | None
    columns: ViewColumns


class Answer(NamedTuple):
    """The column of one feature.

    Attributes
    ----------
    values
        By row, the value as the store holds it (timestamps as microseconds).
    statuses
        By row, its status. Columns may share one list.
    """

    values: Sequence[Any]
    statuses: Sequence[Status]


class Asked(NamedTuple):
    """One column of all answers to a request.

    Attributes
    ----------
    view, place
        The place of the stored view that it is from, and its place among that view's answers; None where it is of an
        on-demand view.
    feature
        The names of its view and of the feature.
    dtype
        Its type.
    """

    name: str
    view: int | None
    place: int
    feature: tuple[str, str]
    dtype: ValueType


class Run(NamedTuple):
    """Columns that follow one another in a response, and are of one view and in a row there too.

    Attributes
    ----------
    view
        The place of the view; None for a column of an on-demand view, which is by itself.
    start, end
        The places of the first and past the last of the view's answers.
    first
        The place of the first in the response.
    is_plain
        Whether all values are numbers or bools, which JSON shows as the store holds them.
    """

    view: int | None
    start: int
    end: int
    first: int
    is_plain: bool


class Shape:
    """What all answers to a request have in common.

    Attributes
    ----------
    columns
        The features in the order asked for.
    runs
        The same, put together as far as they can be shown together.
    """

    def __init__(self, request: Request, columns: Sequence[Asked]) -> None:
        self.request = request
        self.columns = columns
        self.times = tuple(request.times.items())
        self.keys = [(name, field.dtype) for name, field in request.join_keys.items()]
        self.names = encode([*request.join_keys, *(column.name for column in columns)])
        self.runs: list[Run] = []
        for order, column in enumerate(columns):
            is_plain = column.dtype.kind in PLAIN
            last = self.runs[-1] if self.runs else None
            if (
                last is not None
                and last[0] is not None
                and (last.view, last.end, last.is_plain)
                == (
                    column.view,
                    column.place,
                    is_plain,
                )
            ):
                self.runs[-1] = last._replace(end=last.end + 1)
            else:
                self.runs.append(Run(column.view, column.place, column.place + 1, order, is_plain))


class OnlineResponse:
    """The answer to a lookup: one row for each entity row, in the order asked.

    Attributes
    ----------
    keys
        The join keys, by name, as asked.
    views
        What the stored views answered.
    evaluated_at
        The time each row was evaluated at, in microseconds since the epoch: the reader's clock, or slightly later.
    """

    def __init__(
        self,
        shape: Shape,
        rows: EntityColumns,
        views: Sequence[Answered],
        derived: Mapping[tuple[str, str], Answer],
        evaluated_at: list[int],
    ) -> None:
        self._shape = shape
        self._rows = rows
        self._derived = derived
        self.views = views
        self.evaluated_at = evaluated_at

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self._shape.request

    @property
    def keys(self) -> dict[str, Sequence[Any]]:
        """The join keys, by name, as asked."""
        return {name: self._rows.asked[name] for name, _ in self._shape.keys}

    @cached_property
    def columns(self) -> dict[str, Answer]:
        """The features, by name, in the order asked for."""
        return {column.name: self._answer(column) for column in self._shape.columns}

    def _answer(self, column: Asked) -> Answer:
        if column.view is None:
            return self._derived[column.feature]
        columns = self.views[column.view].columns
        return Answer(columns.values[column.place], columns.statuses[column.place])

    @cached_property
    def results(self) -> dict[str, list[Result]]:
        """Value and status by column name; timestamps are microseconds here, aware UTC datetimes in `to_dict`."""
        return {
            name: list(map(Result, column.values, map(Status, column.statuses)))
            for name, column in self.columns.items()
        }

    @property
    def statuses(self) -> dict[str, list[str]]:
        """The name of every value's status (see `Status`), by column."""
        return {name: [_NAMES[status] for status in column.statuses] for name, column in self.columns.items()}

    @cached_property
    def receipts(self) -> Sequence[Mapping[str, Receipt]]:
        """For each row, by view, the receipt."""
        return Lazily(len(self.evaluated_at), self._receipts)

    def _receipts(self, row: int) -> dict[str, Receipt]:
        t = self.evaluated_at[row]
        return {
            view.name: Receipt(view.fingerprint, t, dict(view.columns.sequences[row]), view.cut) for view in self.views
        }

    @cached_property
    def event_timestamps(self) -> list[dict[str, int | None]]:
        """For each row, by state view, when the row behind its values happened (microseconds), None without one."""
        times = [
            (view.name, view.columns.event_timestamps)
            for view in self.views
            if view.columns.event_timestamps is not None
        ]
        return [{name: column[row] for name, column in times} for row in range(len(self.evaluated_at))]

    def to_dict(self, *, include_event_timestamps: bool = False) -> dict[str, list[Any]]:
        """Return join keys and features by column, as Feast does.

        With `include_event_timestamps` each view's `<view>__event_timestamp` column says when its row happened, and
        `evaluated_at` as of when the row was evaluated.
        """
        views, asked = self.views, self._rows.asked
        answer = {name: list(asked[name]) for name, _ in self._shape.keys}
        for name, view, place, feature, _ in self._shape.columns:
            answer[name] = list(self._derived[feature].values if view is None else views[view].columns.values[place])
        for name, dtype in self._shape.times:
            answer[name] = [to_python(value, dtype) for value in answer[name]]
        if include_event_timestamps:
            for answered in views:
                times = answered.columns.event_timestamps
                if times is not None:
                    answer[f"{answered.name}__event_timestamp"] = [None if t is None else from_micros(t) for t in times]
            answer["evaluated_at"] = [from_micros(t) for t in self.evaluated_at]
        return answer

    def to_json(self, *, receipts: bool = False) -> bytes:
        """Return the answer as Feast's lookup API gives it, in JSON: by column values, statuses and event timestamps.

        Parameters
        ----------
        receipts
            Add to the metadata ``receipts``: for each row ``evaluated_at`` and by view fingerprint, last sequence by
            writer, and cut.

        Notes
        -----
        The join keys come first. Times are ISO 8601 in UTC, bytes base64. As in Feast, numbers that are not finite are
        the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, and the event timestamp is the epoch where there is
        none: of join keys, and where nothing was found. That of a window or an on-demand feature is the time of the
        evaluation.
        """
        return encode_response(self, self._shape, receipts=receipts)

    def typed_keys(self) -> Iterator[tuple[Sequence[Any], ValueType]]:
        """Yield the join keys as the store holds them, with their types."""
        for name, dtype in self._shape.keys:
            yield self._rows.typed[name], dtype

    def columns_of(self, run: Run) -> tuple[Sequence[Sequence[Any]], Sequence[Sequence[Status]]]:
        """Return values and statuses of some columns, as the store holds them."""
        if run.view is None:
            values, statuses = self._answer(self._shape.columns[run.first])
            return [values], [statuses]
        columns = self.views[run.view].columns
        return columns.values[run.start : run.end], columns.statuses[run.start : run.end]

    def to_arrow(self) -> pa.Table:
        """Return join keys and features as an Arrow table of the declared types."""
        import pyarrow as pa

        columns = {name: pa.array(self._rows.typed[name], type=dtype.to_arrow()) for name, dtype in self._shape.keys}
        for column in self._shape.columns:
            columns[column.name] = pa.array(self._answer(column).values, type=column.dtype.to_arrow())
        return pa.table(columns)

    def to_df(self) -> pd.DataFrame:
        """Return join keys and features as a pandas DataFrame.

        Integers and bools with nulls are of pandas' nullable types, so that no integer becomes a float.
        """
        import pyarrow as pa

        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError.for_package("pandas", "pandas") from error
        nullable = {pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        table = self.to_arrow()
        columns = {
            name: table.column(name).to_pandas(types_mapper=nullable.get if table.column(name).null_count else None)
            for name in table.column_names
        }
        return pd.DataFrame(columns)
