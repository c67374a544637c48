"""Reading state views: which rows count, how far ``t`` must move, and values by column.

A reader's ``t`` is its clock or, if later, one microsecond past the newest row that is not pending. So of each section
its newest row always counts, and which row answers depends on ``t`` only where rows are pending.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore.errors import OnlineStoreError
from featurestore.online.contract import NEVER
from featurestore.online.framing import VERSION, Section, cut_of, is_batch_of_cut, parse
from featurestore.online.pick import Values
from featurestore.online.reading import Lazily, Times, ViewColumns
from featurestore.online.state import EXTRAS, NEWEST
from featurestore.online.state_arrays import Block
from featurestore.semantics.rows import BATCH_WRITER, Status

if TYPE_CHECKING:
    from featurestore.online.view import OnlineView

_LONGEST_KEY = 400
_BLOCK_ROWS = 24
"""From how many stored rows on an array is quicker than row by row."""

_PRESENT, _NULL = Status.PRESENT, Status.NULL_VALUE
_NOT_FOUND, _OUTSIDE = Status.NOT_FOUND, Status.OUTSIDE_MAX_AGE
_NO_TAIL: tuple[Any, ...] = ()
_decode = msgspec.msgpack.Decoder().decode

Rank = tuple[int, int, bytes, int]
"""What orders the rows of a key."""


class StateReading:
    """What is stored of some entity keys of a state view: a `Reading` of one step.

    Parameters
    ----------
    entities
        The entity keys, each once; None for a key with a null.
    features
        The places, among the view's features, of those asked for.
    """

    def __init__(self, view: OnlineView, entities: Sequence[bytes | None], features: tuple[int, ...]) -> None:
        self._view = view
        self._codec = view.codec
        self._pick = view.pick(features)
        self._entities = entities
        self._cut: int | None = None
        self._stored: Sequence[bytes | None] | None = None
        self._latest: int | None = None
        self._newest: Sequence[int | None] = ()
        self._rows: Sequence[Values | int | None] = ()
        self._pending: dict[int, list[tuple[Rank, Values]]] = {}
        self._nullable = False
        self._block: Block | None = None

    def keys(self, times: Times) -> list[bytes]:  # noqa: ARG002  (a row is stored whole)
        """Return the keys of all headers, once."""
        return self._view.headers(self._entities) if self._stored is None else []

    def load(self, keys: Sequence[bytes], values: Sequence[bytes | None], cut: int | None) -> None:
        """Take in the headers.

        Raises
        ------
        OnlineStoreError
            Where what is stored is damaged, or of a newer version.
        """
        if self._stored is not None:
            return
        self._cut = cut
        if len(keys) < len(self._entities):
            found = iter(values)
            values = [None if entity is None else next(found) for entity in self._entities]
        self._stored = values
        try:
            if len(keys) < _BLOCK_ROWS or not self._take_block(values):
                self._take_rows(values)
        except (struct.error, IndexError, UnicodeDecodeError, msgspec.MsgspecError) as error:
            raise OnlineStoreError(
                f"stored state of view {self._view.view.name!r} is damaged ({error}): fill it anew"
            ) from error

    def _take_block(self, values: Sequence[bytes | None]) -> bool:
        """Take values in as one array; return False, with nothing done, where they are not of one form."""
        if self._view.is_lambda:
            return False
        present = [value for value in values if value is not None]
        block = Block.of(self._codec, present) if len(present) >= _BLOCK_ROWS else None
        if block is None:
            return False
        self._block = block
        times = block.event_timestamps
        self._latest = max(times)
        if len(present) == len(values):
            self._newest, self._rows = times, range(len(values))
            return True
        at = iter(range(len(present)))
        rows = [None if value is None else next(at) for value in values]
        self._newest, self._rows = [None if row is None else times[row] for row in rows], rows
        return True

    def _take_rows(self, values: Sequence[bytes | None]) -> None:
        """Take values in one by one: most hold one section, whose newest row answers."""
        is_plain = not self._view.is_lambda
        forms, row_of = self._codec.forms, self._pick.row
        newest: list[int | None] = []
        rows: list[Values | None] = []
        for place, value in enumerate(values):
            time: int | None = None
            row: Values | None = None
            if value is not None:
                start = 15 + (value[1] << 8 | value[2])
                form = forms[value[start]] if is_plain and _is_alone(value, start) else None
                if form is not None and form.flags & (NEWEST | EXTRAS) == NEWEST:
                    fields = form.unpack_from(value, start)
                    time = form.time(fields)
                    row = row_of(form, fields, _decode(value[start + form.size :]) if form.has_tail else _NO_TAIL)
                    if form.is_nullable:
                        self._nullable = True
                else:
                    time, row = self._take_sections(place, self._visible(place, value))
            newest.append(time)
            rows.append(row)
        self._newest, self._rows = newest, rows
        self._latest = max((time for time in newest if time is not None), default=None)

    def _visible(self, place: int, value: bytes) -> list[tuple[str, Section]]:
        """Return the sections that count, by writer: of a lambda view's batch sections that for the cut in force."""
        sections = parse(value)
        entity = self._entities[place]
        if len(entity or b"") > _LONGEST_KEY and any(self._codec.whole_key(s.payload) != entity for s in sections):
            raise OnlineStoreError(f"two keys of view {self._view.view.name!r} share a shortened key")
        if not self._view.is_lambda:
            return [(section.writer, section) for section in sections]
        cuts = [cut_of(section.writer) for section in sections if is_batch_of_cut(section.writer)]
        used = max((cut for cut in cuts if self._cut is not None and cut <= self._cut), default=None)
        return [
            (BATCH_WRITER if is_batch_of_cut(section.writer) else section.writer, section)
            for section in sections
            if not is_batch_of_cut(section.writer) or cut_of(section.writer) == used
        ]

    def _take_sections(self, place: int, sections: Sequence[tuple[str, Section]]) -> tuple[int | None, Values | None]:
        """Return the newest row that counts, with its time, and keep beside it those that are pending."""
        self._nullable = True
        due: list[tuple[Rank, Values]] = []
        pending: list[tuple[Rank, Values]] = []
        for writer, section in sections:
            head = self._codec.head(section.payload)
            name = writer.encode()
            order = self._codec.order(head)
            if order is not None and self._counts(writer, order[0]):
                due.append(((*order, name, NEVER), self._pick.row(*head)))
            for row in self._codec.pending(head):
                if self._counts(writer, row.event_timestamp):
                    values = tuple([row.values[column] for column in self._pick.columns])
                    pending.append(((row.event_timestamp, row.arrival, name, row.sequence), values))
        if pending:
            self._pending[place] = sorted([*due, *pending], key=itemgetter(0), reverse=True)
        if not due:
            return None, None
        rank, best = max(due, key=itemgetter(0))
        return rank[0], best

    def _counts(self, writer: str, event_timestamp: int) -> bool:
        return self._cut is None or writer == BATCH_WRITER or event_timestamp >= self._cut

    def settled(self, t: int) -> bool:
        """Return whether all rows that are not pending happened before `t`."""
        return self._latest is None or self._latest < t

    def move(self, place: int, t: int, *, moved: bool) -> int:  # noqa: ARG002  (the windows' answer depends on it)
        """Return the earliest time from `t` on at which every row that is not pending counts."""
        newest = self._newest[place]
        return t if newest is None or newest < t else newest + 1

    def evaluate(self, times: Times) -> ViewColumns:
        """Return the values of each (place, time)."""
        block, ttl, count = self._block, self._view.ttl, len(self._pick.places)
        sequences = Lazily(len(times), lambda row: self._sequences(times.places[row]))
        if block is not None and self._rows == times.places and times.t is not None:
            happened = block.event_timestamps
            if ttl is None or min(happened) >= times.t - ttl:
                return ViewColumns(
                    block.columns(self._pick, None), [[_PRESENT] * len(times)] * count, happened, sequences
                )
        answers, statuses, stamps = self._judge(times, ttl)
        columns: Sequence[Sequence[Any]]
        if block is not None:
            columns = block.columns(self._pick, [-1 if answer is None else answer for answer in answers])
        else:
            blank = (None,) * count
            rows = [blank if answer is None else answer for answer in answers]
            columns = list(zip(*rows, strict=True)) if rows else [()] * count
        by_feature = [_with_nulls(statuses, column) for column in columns] if self._nullable else [statuses] * count
        return ViewColumns(columns, by_feature, stamps, sequences)

    def _judge(self, times: Times, ttl: int | None) -> tuple[list[Any], list[Status], list[int | None]]:
        """Return for each (place, time) its row (None: no values), its status, and when the row happened."""
        newest, rows, pending = self._newest, self._rows, self._pending
        answers: list[Any] = []
        statuses: list[Status] = []
        stamps: list[int | None] = []
        for place, t in times:
            time, row = self._due(place, t) if place in pending else (newest[place], rows[place])
            if time is None or (ttl is not None and time < t - 2 * ttl):
                time, row, status = None, None, _NOT_FOUND
            elif ttl is not None and time < t - ttl:
                row, status = None, _OUTSIDE
            else:
                status = _PRESENT
            answers.append(row)
            statuses.append(status)
            stamps.append(time)
        return answers, statuses, stamps

    def _due(self, place: int, t: int) -> tuple[int | None, Values | None]:
        """Return the newest row by `t`, with its time, of a key with pending rows."""
        for rank, values in self._pending[place]:
            if rank[0] <= t:
                return rank[0], values
        return None, None

    def _sequences(self, place: int) -> dict[str, int]:
        """Return the last visible sequence by writer."""
        if self._block is not None:
            row: Any = self._rows[place]  # of a block its place
            return {} if row is None else {self._block.writer: self._block.sequence(row)}
        value = self._stored[place] if self._stored is not None else None
        return {} if value is None else {writer: section.sequence for writer, section in self._visible(place, value)}


def _is_alone(value: bytes, start: int) -> bool:
    """Whether a value is of this release's format and holds one section, whose payload begins at `start`."""
    return value[0] == VERSION and int.from_bytes(value[start - 4 : start], "big") == len(value) - start


def _with_nulls(statuses: list[Status], column: Sequence[Any]) -> list[Status]:
    """Return the statuses of a column, of which some values may be null."""
    if None not in column:
        return statuses
    return [
        _NULL if value is None and status is _PRESENT else status
        for value, status in zip(column, statuses, strict=True)
    ]
