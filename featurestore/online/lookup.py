"""Online lookups: all views and entities of a request from one consistent snapshot, each row at one stated time."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.clock import from_micros
from featurestore.definitions import Field
from featurestore.definitions.project import feature_fingerprint
from featurestore.definitions.resolve import Request
from featurestore.errors import MissingExtraError, NotReadyError, RowError, suggest
from featurestore.online.contract import AsyncReader, OnlineStore
from featurestore.online.framing import mark_key
from featurestore.online.reader import Reading, StateReading, ViewAnswer, WindowReading
from featurestore.online.view import OnlineView
from featurestore.semantics.on_demand import input_types
from featurestore.semantics.on_demand import run as run_on_demand
from featurestore.semantics.rows import Result, Status
from featurestore.types import convert, to_python

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    EntityRows = Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]] | pd.DataFrame


Steps = Generator[Sequence[bytes], list[bytes | None], "OnlineResponse"]
"""Yields keys to read together, is sent their values, and returns the response."""


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
    sequences: dict[str, int]
    cut: int | None


class OnlineResponse:
    """The answer to a lookup: one row for each entity row, in the order asked.

    Attributes
    ----------
    keys
        The join keys, by name, as asked.
    results
        Value and status by column name. Timestamps are microseconds here, aware UTC datetimes in `to_dict`.
    evaluated_at
        The time each row was evaluated at, in microseconds since the epoch: the reader's clock, or slightly later.
    receipts
        For each row, by view, the receipt.
    event_timestamps
        For each row, by state view, when the row behind its values happened (microseconds), None where there is none.
    """

    def __init__(
        self,
        request: Request,
        keys: dict[str, list[Any]],
        results: dict[str, Sequence[Result]],
        *,
        evaluated_at: list[int],
        receipts: list[dict[str, Receipt]],
        event_timestamps: list[dict[str, int | None]],
    ) -> None:
        self.request = request
        self.keys = keys
        self.results = results
        self.evaluated_at = evaluated_at
        self.receipts = receipts
        self.event_timestamps = event_timestamps

    @property
    def statuses(self) -> dict[str, list[str]]:
        """The name of every value's status (see `Status`), by column."""
        return {name: [Status(result.status).name for result in column] for name, column in self.results.items()}

    def to_dict(self, *, include_event_timestamps: bool = False) -> dict[str, list[Any]]:
        """Return join keys and features by column, as Feast does.

        With `include_event_timestamps` each view's `<view>__event_timestamp` column says when its row happened, and
        `evaluated_at` as of when the row was evaluated.
        """
        answer = dict(self.keys)
        # Row by row, then turned: a request has many columns and few rows.
        rows = [[result[0] for result in row] for row in zip(*self.results.values(), strict=True)]
        columns = map(list, zip(*rows, strict=True)) if rows else ([] for _ in self.results)
        answer.update(zip(self.results, columns, strict=True))
        for name, dtype in self.request.times.items():
            answer[name] = [to_python(value, dtype) for value in answer[name]]
        if include_event_timestamps:
            for view in {name for row in self.event_timestamps for name in row}:
                times = [row.get(view) for row in self.event_timestamps]
                answer[f"{view}__event_timestamp"] = [None if t is None else from_micros(t) for t in times]
            answer["evaluated_at"] = [from_micros(t) for t in self.evaluated_at]
        return answer

    def to_arrow(self) -> pa.Table:
        """Return join keys and features as an Arrow table of the declared types."""
        import pyarrow as pa

        fields = [*self.request.join_keys.values()]
        columns = {field.name: pa.array(self.keys[field.name], type=field.dtype.to_arrow()) for field in fields}
        answer = self.to_dict()
        for column in self.request.columns:
            columns[column.name] = pa.array(answer[column.name], type=column.field.dtype.to_arrow())
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


class Lookup:
    """A request prepared once and answered many times.

    Parameters
    ----------
    views
        The stored state of each view that the request reads, by name.
    """

    def __init__(self, request: Request, store: OnlineStore, views: Mapping[str, OnlineView]) -> None:
        self.request = request
        self._store = store
        self._views = [views[read.view.name] for read in request.reads]
        self._keys = [[field.name for field in read.keys] for read in request.reads]
        self._fingerprints = {read.name: feature_fingerprint(read.view) for read in request.reads}
        self._marks = [mark_key(view.fingerprint, name) for view in self._views for name in ("ready", "cut")]
        self._input_types = {view.name: input_types(view, request.views) for view in request.on_demand}
        self._names = [read.name for read in request.reads]
        self._state_views = [place for place, read in enumerate(request.reads) if not read.view.is_window]
        self._fields = [*request.join_keys.values(), *request.request_fields.values()]
        places = {
            (read.name, field.name): (place, position)
            for place, read in enumerate(request.reads)
            for position, field in enumerate(read.view.features)
        }
        self._places = places
        flat = {feature: place for place, feature in enumerate(places)}
        self._width = len(flat)
        self._columns = [
            (column.name, flat.get((column.view, column.feature)), (column.view, column.feature))
            for column in request.columns
        ]

    def answer(self, entity_rows: EntityRows, now: int) -> OnlineResponse:
        """Look the request up for each entity row, as of the reader's clock `now` (microseconds since the epoch).

        Raises
        ------
        RowError
            Where a row lacks a join key or request field, or one has a wrong type. A null key matches nothing.
        NotReadyError
            Where a view's online state has never been filled.
        ClockError
            Where `now` is so far behind the rows of a window view that what it needs is no longer kept.
        """
        with self._store.snapshot() as snapshot:
            steps = self.steps(entity_rows, now)
            values: list[bytes | None] | None = None
            while True:
                try:
                    values = snapshot.get(next(steps) if values is None else steps.send(values))
                except StopIteration as done:
                    response: OnlineResponse = done.value
                    return response

    async def answer_async(self, entity_rows: EntityRows, now: int, reader: AsyncReader) -> OnlineResponse:
        """Look the request up as `answer` does, reading by an event loop's reader."""
        steps = self.steps(entity_rows, now)
        values: list[bytes | None] | None = None
        while True:
            try:
                values = await reader.get(next(steps) if values is None else steps.send(values))
            except StopIteration as done:
                response: OnlineResponse = done.value
                return response

    def steps(self, entity_rows: EntityRows, now: int) -> Steps:
        """Look the request up without reading: yield keys to read, be sent their values, return the response.

        All keys of a step are read at once, marks last; there is a second step only where it cannot be helped.
        """
        rows = _as_rows(entity_rows)
        typed = [{field.name: _typed(field, row, place) for field in self._fields} for place, row in enumerate(rows)]
        found: list[list[ViewAnswer]] = []
        times: list[int] = []
        readings, cuts = yield from self._open(typed)
        for row in readings:
            t = yield from _settle(row, now)
            found.append([reading.evaluate(t) for reading in row])
            times.append(t)
        derived = self._on_demand(found, typed) if self.request.on_demand else {}
        flat = [[result for answer in answers for result in answer.results] for answers in found]
        columns = list(zip(*flat, strict=True)) if flat else [()] * self._width
        results: dict[str, Sequence[Result]] = {
            name: derived[feature] if place is None else columns[place] for name, place, feature in self._columns
        }
        return OnlineResponse(
            self.request,
            {key: [row[key] for row in rows] for key in self.request.join_keys},
            results,
            evaluated_at=times,
            receipts=[self._receipts(t, answers, cuts) for t, answers in zip(times, found, strict=True)],
            event_timestamps=[
                {self._names[place]: answers[place].event_timestamp for place in self._state_views} for answers in found
            ],
        )

    def _receipts(self, t: int, answers: list[ViewAnswer], cuts: list[int | None]) -> dict[str, Receipt]:
        return {
            name: Receipt(self._fingerprints[name], t, answer.sequences, cut)
            for name, answer, cut in zip(self._names, answers, cuts, strict=True)
        }

    def _open(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> Generator[Sequence[bytes], list[bytes | None], tuple[list[list[Reading]], list[int | None]]]:
        """Return the readings of each row, and each view's cut in force, all from one read."""
        uses = list(zip(self._views, self._keys, strict=True))
        entities = [[self._entity(view, names, row) for view, names in uses] for row in rows]
        places = range(len(self._views))
        distinct = list(dict.fromkeys((place, line[place]) for line in entities for place in places))
        headers = [self._views[place].header(entity) for place, entity in distinct if entity is not None]
        read = yield [*headers, *self._marks]
        values = iter(read[len(headers) :] + read[: len(headers)])
        marks = [(next(values), next(values)) for _ in self._views]
        for view, (ready, _) in zip(self._views, marks, strict=True):
            if ready is None:
                raise NotReadyError(
                    f"the online store holds no state of view {view.view.name!r} yet; run featurestore materialize, "
                    "or stream or push rows to it"
                )
        cuts = [None if cut is None else int(cut) for _, cut in marks]
        found: dict[tuple[int, bytes | None], Reading] = {}
        for place, entity in distinct:
            view = self._views[place]
            kind = WindowReading if view.layout else StateReading
            found[place, entity] = kind(view, None if entity is None else next(values), cuts[place], entity)
        return [[found[place, line[place]] for place in places] for line in entities], cuts

    @staticmethod
    def _entity(view: OnlineView, names: Sequence[str], row: Mapping[str, Any]) -> bytes | None:
        key = [row[name] for name in names]
        return None if None in key else view.entity(key)

    def _on_demand(
        self, found: list[list[ViewAnswer]], rows: Sequence[Mapping[str, Any]]
    ) -> dict[tuple[str, str], list[Result]]:
        results = {}
        for view in self.request.on_demand:
            inputs: dict[str, list[Any]] = {}
            for projection in view.view_inputs:
                for feature in projection.features:
                    place, position = self._places[projection.view, feature]
                    inputs[feature] = [answers[place].results[position].value for answers in found]
            for field in view.request_fields:
                inputs[field.name] = [row[field.name] for row in rows]
            answers = run_on_demand(view, inputs, len(rows), self.request.inputs[view.name])
            results.update({(view.name, name): column for name, column in answers.items()})
        return results


def _settle(readings: Sequence[Reading], now: int) -> Generator[Sequence[bytes], list[bytes | None], int]:
    """Return the time at which all of a row's views are evaluated, with their chunks loaded for it."""
    t, moved = now, False
    while True:
        for reading in readings:
            if type(reading) is WindowReading:
                keys = reading.chunks(t)
                reading.load(dict(zip(keys, (yield keys), strict=True)))
        settled = max((reading.move(t, moved=moved) for reading in readings), default=t)
        if settled == t:
            return t
        t, moved = settled, True


def _as_rows(rows: EntityRows) -> Sequence[Mapping[str, Any]]:
    if isinstance(rows, Mapping):
        lengths = {len(column) for column in rows.values()}
        if len(lengths) > 1:
            raise RowError(f"the entity columns have different lengths: {sorted(lengths)}")
        return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    if isinstance(rows, (list, tuple)) and all(isinstance(row, Mapping) for row in rows):
        return rows
    frame: Any = rows
    if hasattr(frame, "itertuples"):  # a pandas DataFrame
        return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False, name=None)]
    raise RowError(
        f"entity_rows is a {type(rows).__name__}: give a list of dicts, [{{'driver_id': 1}}], a dict of columns or a "
        "pandas DataFrame"
    )


def _typed(field: Field, row: Mapping[str, Any], place: int) -> Any:
    if field.name not in row:
        raise RowError(f"entity row {place} lacks {field.name!r}{suggest(field.name, row)}")
    value = row[field.name]
    if type(value).__module__ == "numpy":
        value = value.item()
    try:
        return convert(value, field.dtype)
    except RowError as error:
        raise RowError(f"entity row {place}, {field.name!r}: {error}") from error
