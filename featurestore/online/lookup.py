"""Online lookups: all views and entities of a request read together, each row at one stated time."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.definitions.project import feature_fingerprint
from featurestore.definitions.resolve import Column, Read, Request
from featurestore.errors import NotReadyError
from featurestore.online.contract import AsyncReader, OnlineStore
from featurestore.online.entity_rows import EntityColumns, EntityRowReader
from featurestore.online.framing import mark_key
from featurestore.online.reader import StateReading
from featurestore.online.reading import Reading, Times, ViewColumns
from featurestore.online.response import Answer, Answered, Asked, OnlineResponse, Receipt, Shape
from featurestore.online.windows import WindowReading
from featurestore.semantics.on_demand import run as run_on_demand

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurestore.online.entity_rows import EntityRows
    from featurestore.online.view import OnlineView

__all__ = ["Lookup", "OnlineResponse", "Receipt", "Steps"]

Steps = Generator[Sequence[bytes], list[bytes | None], "OnlineResponse"]
"""Yields keys to read together, is sent their values, and returns the response."""

_Maybe = OnlineResponse | None
Loading = Generator[Sequence[bytes], list[bytes | None], bool]


class _Use(NamedTuple):
    """One use of a stored view in a request.

    Attributes
    ----------
    names
        For each join key of the view, in order, the field of the entity rows that holds it.
    features
        The places, among the view's features, of those that are needed.
    cut
        The place of its cut among the marks; None where it has none.
    """

    name: str
    view: OnlineView
    fingerprint: str
    names: tuple[str, ...]
    features: tuple[int, ...]
    cut: int | None


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
        self._rows = EntityRowReader([*request.join_keys.values(), *request.request_fields.values()])
        ready = {views[view.name].fingerprint: view.name for view in request.views}
        cuts = [views[view.name].fingerprint for view in request.views if view.is_lambda]
        self._ready = list(ready.values())
        self._marks = [mark_key(view, "ready") for view in ready] + [mark_key(view, "cut") for view in cuts]
        self._uses = []
        self._places: dict[tuple[str, str], tuple[int, int]] = {}
        for place, read in enumerate(request.reads):
            view = views[read.view.name]
            cut = len(ready) + cuts.index(view.fingerprint) if read.view.is_lambda else None
            features = _needed(request, read)
            names = [field.name for field in read.view.features]
            self._places.update({(read.name, names[feature]): (place, order) for order, feature in enumerate(features)})
            keys = tuple(field.name for field in read.keys)
            self._uses.append(_Use(read.name, view, feature_fingerprint(read.view), keys, features, cut))
        self._is_plain = len(self._uses) == 1 and self._uses[0].cut is None and self._uses[0].view.layout is None
        self._shape = Shape(request, [self._asked(column) for column in request.columns])

    def _asked(self, column: Column) -> Asked:
        feature = column.view, column.feature
        view, place = self._places.get(feature, (None, 0))
        return Asked(column.name, view, place, feature, column.field.dtype)

    def answer(self, entity_rows: EntityRows, now: int) -> OnlineResponse:
        """Look the request up for each entity row, as of the reader's clock `now` (microseconds since the epoch).

        Raises
        ------
        RowError
            Where a row lacks a join key or request field, or one has a wrong type. A null key matches nothing.
        NotReadyError
            Where a view's online state has never been filled, or the store may have forgotten some of it.
        ClockError
            Where `now` is so far behind the rows of a window view that what it needs is no longer kept.
        """
        self._store.check()
        steps = self.steps(entity_rows, now)
        with self._store.snapshot() as snapshot:
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
        rows = self._rows.read(entity_rows)
        if self._is_plain:
            response = yield from self._plain(rows, now)
            if response is not None:
                return response
        while True:
            work = _Work(self._uses, self._marks, self._ready, rows, now)
            if (yield from work.load()) and (yield from work.settle()):
                break  # else a cut moved between two steps: what they read does not belong together
        views = work.evaluate()
        derived = self._on_demand([view.columns for view in views], rows) if self.request.on_demand else {}
        return OnlineResponse(self._shape, rows, views, derived, work.times)

    def _plain(self, rows: EntityColumns, now: int) -> Generator[Sequence[bytes], list[bytes | None], _Maybe]:
        """Answer from one state view, as most lookups are; nothing where rows are newer than the reader's clock."""
        use = self._uses[0]
        times = [now] * rows.n
        entities, places = _entities(use, rows)
        reading = StateReading(use.view, entities, use.features)
        keys = reading.keys(Times(places, times, now))
        *values, mark = yield [*keys, *self._marks]
        if mark is None:
            _require(self._ready, [mark])
        reading.load(keys, values, None)
        if not reading.settled(now):
            return None
        columns = reading.evaluate(Times(places, times, now))
        views = [Answered(use.name, use.fingerprint, None, columns)]
        derived = self._on_demand([columns], rows) if self.request.on_demand else {}
        return OnlineResponse(self._shape, rows, views, derived, times)

    def _on_demand(self, answers: Sequence[ViewColumns], rows: EntityColumns) -> dict[tuple[str, str], Answer]:
        derived = {}
        for view in self.request.on_demand:
            inputs: dict[str, Sequence[Any]] = {}
            for projection in view.view_inputs:
                for feature in projection.features:
                    place, order = self._places[projection.view, feature]
                    inputs[feature] = answers[place].values[order]
            for field in view.request_fields:
                inputs[field.name] = rows.typed[field.name]
            results = run_on_demand(view, inputs, rows.n, self.request.inputs[view.name])
            for name, column in results.items():
                values, statuses = [result[0] for result in column], [result[1] for result in column]
                derived[view.name, name] = Answer(values, statuses)
        return derived


def _needed(request: Request, read: Read) -> tuple[int, ...]:
    """Return the places of the features that a use of a view must give: those asked for and on-demand inputs."""
    wanted = [column.feature for column in request.columns if column.view == read.name]
    for view in request.on_demand:
        for projection in view.view_inputs:
            if projection.view == read.name:
                wanted += projection.features
    places = {field.name: place for place, field in enumerate(read.view.features)}
    return tuple(places[name] for name in dict.fromkeys(wanted))


def _entities(use: _Use, rows: EntityColumns) -> tuple[list[bytes | None], Sequence[int]]:
    """Return the distinct entity keys that a view is read for, and the place of each row's among them."""
    entities = use.view.entity_keys.columns([rows.typed[name] for name in use.names], rows.n)
    if rows.n > 1:
        distinct = dict.fromkeys(entities)
        if len(distinct) < rows.n:
            known = {entity: place for place, entity in enumerate(distinct)}
            return list(distinct), [known[entity] for entity in entities]
    return entities, range(rows.n)


def _require(views: Sequence[str], marks: Sequence[bytes | None]) -> None:
    """Raise where the mark is missing that a view has been filled."""
    for view, mark in zip(views, marks, strict=False):
        if mark is None:
            raise NotReadyError(
                f"the online store holds no state of view {view!r} yet; run featurestore materialize, or stream or "
                "push rows to it"
            )


class _Work:
    """What one answer reads: for each use of a view a reading, and each row's place in it.

    Attributes
    ----------
    times
        The time that each row is evaluated at: the reader's clock `now`, or later.
    """

    def __init__(
        self, uses: Sequence[_Use], marks: Sequence[bytes], ready: Sequence[str], rows: EntityColumns, now: int
    ) -> None:
        self._uses = uses
        self._marks = marks
        self._ready = ready
        self._now = now
        self._read_marks: list[bytes | None] | None = None
        self._readings: list[Reading] = []
        self._times: list[Times] = []
        self.times = [now] * rows.n
        for use in uses:
            entities, places = _entities(use, rows)
            self._readings.append(open_reading(use.view, entities, use.features))
            self._times.append(Times(places, self.times, now))

    def load(self) -> Loading:
        """Read what the readings need for each row's time; return False where a cut moved since the last time."""
        while True:
            keys: list[bytes] = []
            wanted = []
            for reading, times in zip(self._readings, self._times, strict=True):
                named = reading.keys(times)
                wanted.append(named)
                keys += named
            if self._read_marks is not None and not keys:
                return True
            keys += self._marks
            read = (yield keys) if keys else []
            marks = read[len(read) - len(self._marks) :]
            if None in marks:
                _require(self._ready, marks)
            if self._read_marks is not None and marks != self._read_marks:
                return False
            self._read_marks = marks
            start = 0
            for use, reading, named in zip(self._uses, self._readings, wanted, strict=True):
                reading.load(named, read[start : start + len(named)], self._cut(use))
                start += len(named)

    def settle(self) -> Loading:
        """Move each row's time until all its views count whole there, with what they need loaded for it.

        Returns False where a cut moved meanwhile.
        """
        if all(reading.settled(self._now) for reading in self._readings):
            return True
        moved = [False] * len(self.times)
        while True:
            later = list(self.times)
            for reading, times in zip(self._readings, self._times, strict=True):
                for row, (place, t) in enumerate(times):
                    later[row] = max(later[row], reading.move(place, t, moved=moved[row]))
            if later == self.times:
                return True
            moved = [after > self._now for after in later]
            self.times = later
            self._times = [Times(times.places, later) for times in self._times]
            if not (yield from self.load()):
                return False

    def evaluate(self) -> list[Answered]:
        """Return what each view answers at each row's time."""
        return [
            Answered(use.name, use.fingerprint, self._cut(use), reading.evaluate(times))
            for use, reading, times in zip(self._uses, self._readings, self._times, strict=True)
        ]

    def _cut(self, use: _Use) -> int | None:
        if use.cut is None or self._read_marks is None:
            return None
        cut = self._read_marks[use.cut]
        return None if cut is None else int(cut)


def open_reading(view: OnlineView, entities: Sequence[bytes | None], features: tuple[int, ...]) -> Reading:
    """Return what reads a view's state for some entity keys."""
    return StateReading(view, entities, features) if view.layout is None else WindowReading(view, entities, features)
