"""One view's state in one online store: incremental and whole writes, marks, and what a reader needs to decode it.

Rows come as Arrow tables in the schema of the row log. The order of things is the caller's: the log first, then
this, then the source's position.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa

from featurestore.definitions import FeatureView
from featurestore.errors import OnlineStoreError
from featurestore.online.contract import NEVER, Given, MarkMovedError, OnlineStore, Outcome, SectionWrite
from featurestore.online.framing import (
    Section,
    chunk_key,
    entity_key,
    header_key,
    mark_key,
    parse,
    shorten,
)
from featurestore.online.layout import WindowLayout, state_fingerprint
from featurestore.online.sections import OnlineRow, StateSection, WindowSection, chunk_payloads, whole_key
from featurestore.semantics.rows import BATCH_WRITER

_BATCH_OF_CUT = BATCH_WRITER + "@"
_WRITES_AT_ONCE = 2000


class BehindLogError(OnlineStoreError):
    """The online store lacks rows before the ones to apply; replay the log from `watermark` on first."""

    def __init__(self, view: str, writer: str, watermark: int) -> None:
        super().__init__(f"online state of view {view!r} ends at sequence {watermark} of writer {writer!r}")
        self.watermark = watermark


class RebuildError(OnlineStoreError):
    """Some keys' stored sections are not the ones the rows continue; rebuild them from the log."""

    def __init__(self, view: str, writer: str, keys: list[tuple[Any, ...]]) -> None:
        super().__init__(f"{len(keys)} keys of view {view!r} must be rebuilt for writer {writer!r}")
        self.keys = keys


class KeyRows(NamedTuple):
    """The rows of one key, in the order of their sequence."""

    key: tuple[Any, ...]
    rows: list[OnlineRow]


class OnlineView:
    """The stored state of a view.

    Parameters
    ----------
    max_clock_skew
        How far a reader's clock may be behind the greatest arrival, in microseconds.

    Attributes
    ----------
    feature_places
        Of a state view, the place of each feature among a stored row's values.
    """

    def __init__(self, store: OnlineStore, project: str, view: FeatureView, max_clock_skew: int) -> None:
        self.store = store
        self.view = view
        self.skew = max_clock_skew
        self.fingerprint = state_fingerprint(project, view, max_clock_skew)
        self.layout = WindowLayout(view, max_clock_skew) if view.is_window else None
        self._key_names = [key.name for key in view.join_keys]
        self._key_types = [key.dtype for key in view.join_keys]
        places = {field.name: place for place, field in enumerate(view.columns)}
        self.feature_places = [] if view.is_window else [places[field.name] for field in view.schema]
        self.ttl = view.ttl_micros
        self.is_lambda = view.is_lambda

    @property
    def horizon(self) -> int | None:
        """How far before its greatest arrival a section needs rows, in microseconds; None: all rows.

        A state view needs its newest row however old it is.
        """
        return self.layout.horizon if self.layout else None

    # Marks

    def _key(self, name: str) -> bytes:
        return mark_key(self.fingerprint, name)

    def _mark(self, name: str) -> int | None:
        value = self._values([self._key(name)])[self._key(name)]
        return None if value is None else int(value)

    def _values(self, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
        keys = list(keys)
        with self.store.snapshot() as snapshot:
            return dict(zip(keys, snapshot.get(keys), strict=True))

    def _advance(self, name: str, value: int, given: Given | None = None) -> None:
        """Move a mark to a value unless it is there or beyond; never back, whoever else moves it."""
        key = self._key(name)
        while True:
            stored = self._values([key, *(given or {})])
            known = stored[key]
            if known is not None and int(known) >= value:
                return
            try:
                self.store.put({key: b"%d" % value}, {**(given or {}), key: known})
            except MarkMovedError:
                if any(self._values(given or {})[mark] != held for mark, held in (given or {}).items()):
                    raise
            else:
                return

    def ready(self) -> bool:
        """Whether the state has been filled, so that a missing key means that there are no rows."""
        return self._mark("ready") is not None

    def mark_ready(self, given: Given | None = None) -> None:
        """Say that the state has been filled.

        Raises
        ------
        MarkMovedError
            Where marks are not as given.
        """
        self.store.put({self._key("ready"): b"1"}, given)

    def begin_filling(self) -> Given:
        """Leave a mark that stands for the data written from now on; return it, to be given to all that writes it.

        A store that loses data loses the mark too, and a later filling replaces it.
        """
        mark = b"%d" % secrets.randbits(62)
        self.store.put({self._key("filling"): mark})
        return {self._key("filling"): mark}

    def cut(self) -> int | None:
        """Return the cut in force of a lambda view; None before the first job."""
        return self._mark("cut")

    def set_cut(self, cut: int, given: Given | None = None) -> None:
        """Move the cut, after a job has written every key. It never moves back."""
        self._advance("cut", cut, given)

    def watermark(self, writer: str) -> int:
        """Return the sequence up to which all the writer's logged rows are applied; `NEVER` where none are."""
        mark = self._mark(f"writer:{writer}")
        return NEVER if mark is None else mark

    def at(self, writer: str, watermark: int) -> Given:
        """Return the condition that a writer's watermark has not moved from where it was read."""
        return {self._key(f"writer:{writer}"): None if watermark == NEVER else b"%d" % watermark}

    # Writes

    def apply(self, rows: pa.Table, writer: str, after: int, through: int) -> None:
        """Apply one writer's logged rows with ``after < _sequence <= through``, given in that order.

        Raises
        ------
        BehindLogError
            Where the store has not seen all rows up to `after`.
        RebuildError
            Where a key's section does not continue into these rows; the other keys are applied, the watermark is not
            moved. Rebuild the keys with `rewrite`, then call again.
        """
        while True:
            watermark = self.watermark(writer)
            if watermark >= through:
                return
            if watermark < after:
                raise BehindLogError(self.view.name, writer, watermark)
            try:
                refused = self._apply(rows, writer, watermark, through)
            except MarkMovedError:
                continue
            if refused:
                raise RebuildError(self.view.name, writer, refused)
            return

    def _apply(self, rows: pa.Table, writer: str, watermark: int, through: int) -> list[tuple[Any, ...]]:
        """Apply rows while the watermark is as it was; return the keys that were refused."""
        grouped: dict[tuple[Any, ...], list[OnlineRow]] = defaultdict(list)
        for key, row in self._rows(rows):
            grouped[key].append(row)
        refused: list[tuple[Any, ...]] = []
        groups = [KeyRows(key, key_rows) for key, key_rows in grouped.items()]
        mark = self._key(f"writer:{writer}")
        given = self.at(writer, watermark)
        for start in range(0, max(1, len(groups)), _WRITES_AT_ONCE):
            is_last = start + _WRITES_AT_ONCE >= len(groups) and not refused
            part = groups[start : start + _WRITES_AT_ONCE]
            refused += self._apply_keys(part, writer, {mark: b"%d" % through} if is_last else {}, given)
        return refused

    def _apply_keys(
        self, groups: Sequence[KeyRows], writer: str, marks: Mapping[bytes, bytes], given: Given
    ) -> list[tuple[Any, ...]]:
        """Apply the rows of some keys, and set marks where all went well; return the keys that were refused."""
        entities = [self.entity(group.key) for group in groups]
        with self.store.snapshot() as snapshot:
            headers = snapshot.get([self.header(entity) for entity in entities])
            stored = [self._section_of(value, writer) for value in headers]
            plans = [self._continue(group, section, writer) for group, section in zip(groups, stored, strict=True)]
            wanted = [
                (place, level, chunk)
                for place, (state, rows) in enumerate(plans)
                if rows and isinstance(state, WindowSection)
                for level, chunk in state.touched(rows)
            ]
            values = snapshot.get([self.chunk(entities[place], level, chunk) for place, level, chunk in wanted])
        for (place, level, _), value in zip(wanted, values, strict=True):
            section = self._section_of(value, writer)
            state = plans[place][0]
            if section is not None and isinstance(state, WindowSection):
                state.load(level, section.payload)
        writes, places = [], []
        for place, (state, rows) in enumerate(plans):
            if rows:
                section = stored[place]
                expected = NEVER if section is None else section.sequence
                writes.append(
                    self._write(entities[place], state, rows, writer, expected=expected, sequence=rows[-1].sequence)
                )
                places.append(place)
        outcomes = self.store.merge(writes, marks, given)
        refused = zip(places, outcomes, strict=True)
        return [groups[place].key for place, outcome in refused if outcome is Outcome.REFUSED]

    def _continue(
        self, group: KeyRows, section: Section | None, writer: str
    ) -> tuple[StateSection | WindowSection, list[OnlineRow]]:
        """Return the stored state and those rows that it has not seen."""
        if section is None:
            return self._new_section(writer), group.rows
        if whole_key(section.payload) not in {None, self.whole(group.key)}:
            raise OnlineStoreError(f"two keys of view {self.view.name!r} share a shortened key: {group.key!r}")
        return self._decode(section), [row for row in group.rows if row.sequence > section.sequence]

    def rewrite(
        self,
        batches: Iterable[pa.RecordBatch],
        through: Mapping[str, int],
        cut: int | None = None,
        keys: pa.Table | None = None,
        given: Given | None = None,
    ) -> int:
        """Write whole sections from rows ordered by (join keys, writer, sequence); return how many.

        Parameters
        ----------
        batches
            All rows, within the horizon, of each key and writer that occurs in them.
        through
            By writer, the sequence that the state stands for: for a stream the log's last, for batch the job.
        cut
            The cut for which batch sections of a lambda view are computed (rows before it).
        keys
            Join keys whose batch section is written even where no row of theirs is left.
        given
            Marks that must stay as they are meanwhile.

        Raises
        ------
        MarkMovedError
            Where they did not, because the store lost data or another process wrote the same: look again what is
            to be done.
        """
        given = dict(given or {})
        count = 0
        pending: list[SectionWrite] = []
        seen: set[tuple[Any, ...]] = set()
        for key, writer, rows in self._groups(batches):
            seen.add(key)
            sequence = through[writer] if writer == BATCH_WRITER else rows[-1].sequence
            pending.append(self._whole(key, rows, writer, sequence, cut))
            if len(pending) >= _WRITES_AT_ONCE:
                count += self._flush(pending, given)
        if keys is not None and BATCH_WRITER in through:
            gone = (key for key in self._keys(keys) if key not in seen)
            pending += [self._whole(key, [], BATCH_WRITER, through[BATCH_WRITER], cut) for key in gone]
        count += self._flush(pending, given)
        for writer, last in through.items():
            self._advance(f"writer:{writer}", last, given)
            given.pop(self._key(f"writer:{writer}"), None)
        return count

    def erase(
        self, key: tuple[Any, ...], batches: Iterable[pa.RecordBatch], through: Mapping[str, int], cut: int | None
    ) -> bool:
        """Replace all that is stored of a key by what its rows in the log now give: after an erasure, nothing.

        Each writer gets a section at its sequence. An empty one is a tombstone: what was made of rows up to it is
        ignored from then on, and later rows continue it.

        Parameters
        ----------
        batches
            The rows of the key that the log still holds.
        through
            By writer, the sequence up to which the log was read; of batch, the last job.
        cut
            The cut in force of a lambda view; without one it gets no batch section.

        Returns
        -------
        bool
            False where another process wrote the key meanwhile: read the log and call again.
        """
        rows = {writer: found for _, writer, found in self._groups(batches)}
        entity = self.entity(key)
        header, chunks = self.header(entity), self._chunks(entity)
        with self.store.snapshot() as snapshot:
            (value,) = snapshot.get([header])
        if value is None and not chunks and not self.ready():
            return True  # this state was never filled
        self.store.delete([header, *chunks])
        writers = [name for name in through if name != BATCH_WRITER or not self.is_lambda or cut is not None]
        writes = [self._whole(key, rows.get(name, []), name, through[name], cut) for name in writers]
        is_mine = all(outcome is Outcome.APPLIED for outcome in self.store.merge(writes))
        made = {(chunk, write.writer, payload) for write in writes for chunk, payload in write.chunks.items()}
        with self.store.snapshot() as snapshot:
            found = self._chunks(entity)
            stored = dict(zip(found, snapshot.get(found), strict=True))
        return is_mine and not any(
            section.sequence <= through.get(section.writer, NEVER)
            and (chunk, section.writer, section.payload) not in made
            for chunk, value in stored.items()
            for section in (parse(value) if value is not None else ())
        )

    def _chunks(self, entity: bytes) -> list[bytes]:
        """Return the keys of all stored chunks of an entity, also of those that no header names."""
        if self.layout is None:
            return []
        start = chunk_key(self.fingerprint, shorten(entity), 0, 0)[:-9]
        return [key for key in self.store.scan(start) if len(key) == len(start) + 9]

    def _flush(self, writes: list[SectionWrite], given: Given) -> int:
        count = len(writes)
        self.store.merge(writes, None, given)
        writes.clear()
        return count

    def _whole(
        self, key: tuple[Any, ...], rows: list[OnlineRow], writer: str, sequence: int, cut: int | None
    ) -> SectionWrite:
        entity = self.entity(key)
        name = writer
        if writer == BATCH_WRITER and self.is_lambda:
            if cut is None:
                raise OnlineStoreError(f"batch sections of the lambda view {self.view.name!r} need a cut")
            name = f"{_BATCH_OF_CUT}{cut}"
        with self.store.snapshot() as snapshot:
            (header,) = snapshot.get([self.header(entity)])
        sections = [] if header is None else parse(header)
        drop = self._superseded(sections, cut) if name != writer else ()
        state = self._new_section(writer)
        write = self._write(entity, state, rows, name, expected=None, sequence=sequence)
        chunks = dict(write.chunks)
        for section in sections:
            if section.writer == name or section.writer in drop:
                for key_of_chunk in self._chunk_keys(entity, section):
                    chunks.setdefault(key_of_chunk, None)
        return write._replace(chunks=chunks, drop=drop)

    def _superseded(self, sections: Sequence[Section], cut: int | None) -> tuple[str, ...]:
        """Return the batch sections of cuts that no reader uses once there is one for `cut`.

        The newest one at or before the cut in force stays: readers use it until the cut moves.
        """
        in_force = self.cut()
        cuts = sorted(cut_of(section.writer) for section in sections if section.writer.startswith(_BATCH_OF_CUT))
        used = max((c for c in cuts if in_force is not None and c <= in_force), default=None)
        if used is not None and cut is not None and in_force is not None and used <= cut <= in_force:
            used = cut
        return tuple(f"{_BATCH_OF_CUT}{c}" for c in cuts if c not in {used, cut})

    def _chunk_keys(self, entity: bytes, section: Section) -> Iterator[bytes]:
        state = self._decode(section)
        if isinstance(state, WindowSection):
            for level, starts in enumerate(state.chunks):
                for start in starts:
                    yield self.chunk(entity, level, start)

    def _write(
        self,
        entity: bytes,
        state: StateSection | WindowSection,
        rows: list[OnlineRow],
        writer: str,
        *,
        expected: int | None,
        sequence: int,
    ) -> SectionWrite:
        chunks: dict[bytes, bytes | None] = {}
        if rows and isinstance(state, WindowSection):
            changed, dropped = state.add(rows)
            for (level, chunk), payload in chunk_payloads(state, changed).items():
                chunks[self.chunk(entity, level, chunk)] = payload
            chunks.update((self.chunk(entity, level, chunk), None) for level, chunk in dropped)
        elif rows:
            state.add(rows)
        whole = entity if shorten(entity) != entity else None
        return SectionWrite(self.header(entity), writer, expected, sequence, state.encode(whole), chunks)

    # Decoding

    def _new_section(self, writer: str) -> StateSection | WindowSection:
        if self.layout is None:
            return StateSection()
        return WindowSection(self.layout, writer, fold=self.folds(writer))

    def folds(self, writer: str) -> bool:
        """Whether a writer's old tiles go into bases: not so for the stream side of a lambda view."""
        return not self.is_lambda or writer.startswith(BATCH_WRITER)

    def _decode(self, section: Section) -> StateSection | WindowSection:
        if self.layout is None:
            return StateSection.decode(section.payload)
        writer = BATCH_WRITER if section.writer.startswith(_BATCH_OF_CUT) else section.writer
        return WindowSection.decode(self.layout, writer, section.payload, fold=self.folds(writer))

    @staticmethod
    def _section_of(value: bytes | None, writer: str) -> Section | None:
        if value is None:
            return None
        return next((section for section in parse(value) if section.writer == writer), None)

    # Keys

    def whole(self, key: Sequence[Any]) -> bytes | None:
        """Return the whole entity key where the stored one is shortened, else None."""
        entity = entity_key(key, self._key_types)
        return entity if shorten(entity) != entity else None

    def entity(self, key: Sequence[Any]) -> bytes:
        """Return the entity key of join key values in the view's order."""
        return entity_key(key, self._key_types)

    def header(self, entity: bytes) -> bytes:
        """Return the key of the header of an entity key."""
        return header_key(self.fingerprint, shorten(entity))

    def chunk(self, entity: bytes, level: int, start: int) -> bytes:
        """Return the key of the chunk of a level that starts at `start`."""
        assert self.layout is not None  # noqa: S101  (only window views have chunks)
        return chunk_key(self.fingerprint, shorten(entity), level, start // self.layout.spans[level])

    # Arrow

    def _rows(self, table: pa.Table | pa.RecordBatch) -> Iterator[tuple[tuple[Any, ...], OnlineRow]]:
        """Yield key and row for each row of a table in the log's schema."""
        names = [field.name for field in self.view.columns]
        if self.layout is not None:  # an aggregation may be over a join key
            names += self._key_names
        keys = [_pylist(table.column(name)) for name in self._key_names]
        values = [_pylist(table.column(name)) for name in names]
        order = [_pylist(table.column(name)) for name in ("event_timestamp", "arrival", "_sequence")]
        for place in range(table.num_rows):
            row = OnlineRow(order[0][place], order[1][place], order[2][place], [column[place] for column in values])
            yield tuple(column[place] for column in keys), row

    def _groups(self, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[tuple[Any, ...], str, list[OnlineRow]]]:
        def flat() -> Iterator[tuple[tuple[Any, ...], str, OnlineRow]]:
            for batch in batches:
                writers = batch.column("_writer").to_pylist()
                for writer, (key, row) in zip(writers, self._rows(batch), strict=True):
                    yield key, writer, row

        for (key, writer), items in groupby(flat(), key=lambda item: item[:2]):
            yield key, writer, [row for _, _, row in items]

    def _keys(self, table: pa.Table) -> Iterator[tuple[Any, ...]]:
        columns = [_pylist(table.column(name)) for name in self._key_names]
        yield from zip(*columns, strict=True) if columns else iter([()] * min(1, table.num_rows))


def cut_of(writer: str) -> int:
    """Return the cut that a batch section of a lambda view is for."""
    return int(writer.removeprefix(_BATCH_OF_CUT))


def is_batch_of_cut(writer: str) -> bool:
    """Whether a section's writer is the batch side of a lambda view, as of some cut."""
    return writer.startswith(_BATCH_OF_CUT)


def _pylist(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """Return a column as the store's Python values: timestamps as integers."""
    dtype = column.type
    if pa.types.is_timestamp(dtype):
        column = column.cast(pa.int64())
    elif pa.types.is_list(dtype) and pa.types.is_timestamp(dtype.value_type):
        column = column.cast(pa.list_(pa.int64()))
    result: list[Any] = column.to_pylist()
    return result
