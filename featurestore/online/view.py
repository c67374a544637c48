"""One view's state in one online store: incremental and whole writes, marks, and what a reader needs to decode it.

Rows come as Arrow tables in the schema of the row log. The order of things is the caller's: the log first, then
this, then the source's position.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa

from featurestore.definitions import FeatureView
from featurestore.errors import OnlineStoreError
from featurestore.online.contract import NEVER, Given, MarkMovedError, OnlineStore, Outcome, SectionWrite
from featurestore.online.entity_keys import EntityKeys
from featurestore.online.framing import BATCH_OF_CUT, Section, chunk_key, header_key, parse, shorten
from featurestore.online.layout import WindowLayout, state_fingerprint
from featurestore.online.marks import ViewMarks
from featurestore.online.pick import Pick
from featurestore.online.rewrite import Rewriter, grouped_rows
from featurestore.online.rows import OnlineRow
from featurestore.online.sections import WindowSection, chunk_payloads, whole_key
from featurestore.online.state import StateCodec, StateSection
from featurestore.semantics.rows import BATCH_WRITER
from featurestore.types import python_values

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


class OnlineView(ViewMarks):
    """The stored state of a view.

    Parameters
    ----------
    max_clock_skew
        How far a reader's clock may be behind the greatest arrival, in microseconds.

    Attributes
    ----------
    layout
        Of a window view, how its state is laid out.
    key_names
        The names of the view's join keys, in order.
    """

    def __init__(self, store: OnlineStore, project: str, view: FeatureView, max_clock_skew: int) -> None:
        super().__init__(store, state_fingerprint(project, view, max_clock_skew))
        self.view = view
        self.skew = max_clock_skew
        self.layout = WindowLayout(view, max_clock_skew) if view.is_window else None
        self.key_names = [key.name for key in view.join_keys]
        self.entity_keys = EntityKeys([key.dtype for key in view.join_keys])
        self.ttl = view.ttl_micros
        self.is_lambda = view.is_lambda
        self._header = header_key(self.fingerprint, b"")
        self._picks: dict[tuple[int, ...], Pick] = {}

    @cached_property
    def codec(self) -> StateCodec:
        """The stored form of a state view's sections."""
        return StateCodec(self.view.columns)

    def pick(self, features: tuple[int, ...]) -> Pick:
        """Return what takes some features, given by their places among the view's, out of a stored row."""
        pick = self._picks.get(features)
        if pick is None:
            places = {field.name: place for place, field in enumerate(self.view.columns)}
            fields = self.view.schema
            pick = self._picks[features] = Pick(self.codec, [places[fields[feature].name] for feature in features])
        return pick

    @property
    def horizon(self) -> int | None:
        """How far before its greatest arrival a section needs rows, in microseconds; None: all rows.

        A state view needs its newest row however old it is.
        """
        return self.layout.horizon if self.layout else None

    def lifetime(self, section: StateSection | WindowSection) -> int | None:
        """Return for how long after its write a section may be needed, in microseconds; None: for ever."""
        if isinstance(section, WindowSection):
            return section.lifetime
        if self.ttl is None:
            return None
        latest = section.pending[-1].event_timestamp if section.pending else section.arrival
        ahead = 0 if latest is None or section.arrival is None else latest - section.arrival
        return 2 * self.ttl + self.skew + max(0, ahead)

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
        for key, row in self.rows(rows):
            grouped[key].append(row)
        refused: list[tuple[Any, ...]] = []
        groups = [KeyRows(key, key_rows) for key, key_rows in grouped.items()]
        mark = self.key(f"writer:{writer}")
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
                    self.write(entities[place], state, rows, writer, expected=expected, sequence=rows[-1].sequence)
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
            return self.new_section(writer), group.rows
        if self.stored_key(section) not in {None, self.whole(group.key)}:
            raise OnlineStoreError(f"two keys of view {self.view.name!r} share a shortened key: {group.key!r}")
        return self.decode(section), [row for row in group.rows if row.sequence > section.sequence]

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
        return Rewriter(self, through, cut, given, _WRITES_AT_ONCE).run(batches, keys)

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
        rows = {writer: found for _, writer, found in grouped_rows(self, batches)}
        entity = self.entity(key)
        header, chunks = self.header(entity), self._chunks(entity)
        with self.store.snapshot() as snapshot:
            (value,) = snapshot.get([header])
        if value is None and not chunks and not self.ready():
            return True  # this state was never filled
        self.store.delete([header, *chunks])
        writers = [name for name in through if name != BATCH_WRITER or not self.is_lambda or cut is not None]
        rewriter = Rewriter(self, through, cut, None, _WRITES_AT_ONCE)
        writes = rewriter.completed([rewriter.whole(key, rows.get(name, []), name, through[name]) for name in writers])
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

    def write(
        self,
        entity: bytes,
        state: StateSection | WindowSection,
        rows: list[OnlineRow],
        writer: str,
        *,
        expected: int | None,
        sequence: int,
    ) -> SectionWrite:
        """Return the write that takes rows into a section."""
        chunks: dict[bytes, bytes | None] = {}
        whole = entity if shorten(entity) != entity else None
        if isinstance(state, StateSection):
            if rows:
                state.add(rows)
            payload = self.codec.encode(state, whole)
        else:
            if rows:
                changed, dropped = state.add(rows)
                for (level, chunk), part in chunk_payloads(state, changed).items():
                    chunks[self.chunk(entity, level, chunk)] = part
                chunks.update((self.chunk(entity, level, chunk), None) for level, chunk in dropped)
            payload = state.encode(whole)
        lifetime = self.lifetime(state)
        return SectionWrite(self.header(entity), writer, expected, sequence, payload, chunks, (), lifetime)

    # Decoding

    def new_section(self, writer: str) -> StateSection | WindowSection:
        """Return a writer's section without rows."""
        if self.layout is None:
            return StateSection()
        return WindowSection(self.layout, writer, fold=self.folds(writer))

    def folds(self, writer: str) -> bool:
        """Whether a writer's old tiles go into bases: not so for the stream side of a lambda view."""
        return not self.is_lambda or writer.startswith(BATCH_WRITER)

    def decode(self, section: Section) -> StateSection | WindowSection:
        """Return what a stored section of a header holds."""
        if self.layout is None:
            return self.codec.decode(section.payload, section.sequence)
        writer = BATCH_WRITER if section.writer.startswith(BATCH_OF_CUT) else section.writer
        return WindowSection.decode(self.layout, writer, section.payload, fold=self.folds(writer))

    def stored_key(self, section: Section) -> bytes | None:
        """Return the whole entity key that a section of a header holds where the stored one is shortened."""
        return self.codec.whole_key(section.payload) if self.layout is None else whole_key(section.payload)

    @staticmethod
    def _section_of(value: bytes | None, writer: str) -> Section | None:
        if value is None:
            return None
        return next((section for section in parse(value) if section.writer == writer), None)

    # Keys

    def whole(self, key: Sequence[Any]) -> bytes | None:
        """Return the whole entity key where the stored one is shortened, else None."""
        entity = self.entity(key)
        return entity if shorten(entity) != entity else None

    def entity(self, key: Sequence[Any]) -> bytes:
        """Return the entity key of join key values in the view's order."""
        return self.entity_keys.one(key)

    def header(self, entity: bytes) -> bytes:
        """Return the key of the header of an entity key."""
        return self._header + shorten(entity)

    def headers(self, entities: Iterable[bytes | None]) -> list[bytes]:
        """Return the keys of the headers of entity keys, those that are None left out."""
        start = self._header
        if self.entity_keys.may_be_long:
            return [start + shorten(entity) for entity in entities if entity is not None]
        return [start + entity for entity in entities if entity is not None]

    def chunk(self, entity: bytes, level: int, start: int) -> bytes:
        """Return the key of the chunk of a level that starts at `start`."""
        assert self.layout is not None  # noqa: S101  (only window views have chunks)
        return chunk_key(self.fingerprint, shorten(entity), level, start // self.layout.spans[level])

    # Arrow

    def rows(self, table: pa.Table | pa.RecordBatch) -> Iterator[tuple[tuple[Any, ...], OnlineRow]]:
        """Yield key and row for each row of a table in the log's schema."""
        names = [field.name for field in self.view.columns]
        if self.layout is not None:  # an aggregation may be over a join key
            names += self.key_names
        keys = [python_values(table.column(name)) for name in self.key_names]
        values = [python_values(table.column(name)) for name in names]
        order = [python_values(table.column(name)) for name in ("event_timestamp", "arrival", "_sequence")]
        for place in range(table.num_rows):
            row = OnlineRow(order[0][place], order[1][place], order[2][place], [column[place] for column in values])
            yield tuple(column[place] for column in keys), row
