"""Whole sections: what a job, a fill or a rebuild writes, from all rows of each key and writer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.errors import OnlineStoreError
from featurestore.online.contract import Given, SectionWrite
from featurestore.online.framing import BATCH_OF_CUT, Section, cut_of, is_batch_of_cut, parse
from featurestore.online.rows import OnlineRow
from featurestore.online.sections import WindowSection
from featurestore.online.state_writes import StateWriter
from featurestore.semantics.rows import BATCH_WRITER
from featurestore.types import python_values

if TYPE_CHECKING:
    from featurestore.online.view import OnlineView

Key = tuple[Any, ...]
_KEYS_AT_ONCE = 10_000


class Rewriter:
    """Writes whole sections of a view.

    Parameters
    ----------
    through
        By writer, the sequence that the state stands for: for a stream the log's last, for batch the job.
    cut
        The cut for which batch sections of a lambda view are computed.
    given
        Marks that must stay as they are meanwhile.
    at_once
        How many sections are written together.
    """

    def __init__(
        self, view: OnlineView, through: Mapping[str, int], cut: int | None, given: Given | None, at_once: int
    ) -> None:
        self._view = view
        self._through = through
        self._cut = cut
        self._given = dict(given or {})
        self._at_once = at_once

    def run(self, batches: Iterable[pa.RecordBatch], keys: pa.Table | None) -> int:
        """Write the sections of rows ordered by (join keys, writer, sequence), then move the watermarks.

        Parameters
        ----------
        keys
            Join keys whose batch section is written even where no row of theirs is left.

        Returns
        -------
        int
            How many sections were written.
        """
        batch = self._through.get(BATCH_WRITER)
        seen = None if keys is None or batch is None else _SeenKeys(self._view.key_names)
        if seen is not None:
            batches = seen.watch(batches)
        count = self._write(self._sections(batches))
        if seen is not None and keys is not None and batch is not None:
            gone = (self.whole(key, [], BATCH_WRITER, batch) for key in seen.others(keys))
            count += self._write([write] for write in gone)
        for writer, last in self._through.items():
            self._view.advance(f"writer:{writer}", last, self._given)
            self._given.pop(self._view.key(f"writer:{writer}"), None)
        return count

    def _write(self, found: Iterable[Sequence[SectionWrite]]) -> int:
        """Merge writes, one portion in a thread while the next is made; so no more than two are held."""
        count = 0
        waiting: list[SectionWrite] = []
        with ThreadPoolExecutor(1, "merge") as executor:
            merging: Future[int] | None = None
            for writes in found:
                waiting += writes
                while len(waiting) >= self._at_once:
                    part, waiting = waiting[: self._at_once], waiting[self._at_once :]
                    count += merging.result() if merging is not None else 0
                    merging = executor.submit(self._merge, part)
            count += merging.result() if merging is not None else 0
        return count + self._merge(waiting)

    def _merge(self, writes: Sequence[SectionWrite]) -> int:
        if writes:
            self._view.store.merge(self.completed(writes), None, self._given)
        return len(writes)

    def _sections(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Sequence[SectionWrite]]:
        """Yield the writes for rows, not yet completed by what is stored."""
        if self._view.layout is None:
            yield from StateWriter(self._view, self._name, self._through).writes(batches)
            return
        for key, writer, rows in grouped_rows(self._view, batches):
            yield [self.whole(key, rows, writer, self.sequence(writer, rows[-1].sequence))]

    def sequence(self, writer: str, last: int) -> int:
        """Return the sequence of a section whose last row has some sequence."""
        return self._through[writer] if writer == BATCH_WRITER else last

    def whole(self, key: Key, rows: list[OnlineRow], writer: str, sequence: int) -> SectionWrite:
        """Return the write of a whole section, not yet completed by what is stored."""
        view = self._view
        state = view.new_section(writer)
        return view.write(view.entity(key), state, rows, self._name(writer), expected=None, sequence=sequence)

    def _name(self, writer: str) -> str:
        """Return the name that a writer's section is stored under."""
        if writer != BATCH_WRITER or not self._view.is_lambda:
            return writer
        if self._cut is None:
            raise OnlineStoreError(f"batch sections of the lambda view {self._view.view.name!r} need a cut")
        return f"{BATCH_OF_CUT}{self._cut}"

    def completed(self, writes: Sequence[SectionWrite]) -> list[SectionWrite]:
        """Return writes with what they remove of that which is stored: chunks, and sections that nobody reads."""
        view = self._view
        if view.layout is None and not view.is_lambda:
            return list(writes)
        with view.store.snapshot() as snapshot:
            *headers, mark = snapshot.get([*(write.header for write in writes), view.key("cut")])
        in_force = None if mark is None else int(mark)
        return [
            write if header is None else self._completed(write, parse(header), in_force)
            for write, header in zip(writes, headers, strict=True)
        ]

    def _completed(self, write: SectionWrite, sections: Sequence[Section], in_force: int | None) -> SectionWrite:
        drop = self._superseded(sections, in_force) if is_batch_of_cut(write.writer) else ()
        chunks = dict(write.chunks)
        entity = write.header[len(self._view.header(b"")) :]
        for section in sections:
            if section.writer == write.writer or section.writer in drop:
                for chunk in self._chunk_keys(entity, section):
                    chunks.setdefault(chunk, None)
        return write._replace(chunks=chunks, drop=drop)

    def _superseded(self, sections: Sequence[Section], in_force: int | None) -> tuple[str, ...]:
        """Return the batch sections of cuts that no reader uses once there is one for this cut.

        The newest one at or before the cut in force stays: readers use it until the cut moves.
        """
        cuts = sorted(cut_of(section.writer) for section in sections if is_batch_of_cut(section.writer))
        used = max((cut for cut in cuts if in_force is not None and cut <= in_force), default=None)
        if used is not None and self._cut is not None and in_force is not None and used <= self._cut <= in_force:
            used = self._cut
        return tuple(f"{BATCH_OF_CUT}{cut}" for cut in cuts if cut not in {used, self._cut})

    def _chunk_keys(self, entity: bytes, section: Section) -> Iterator[bytes]:
        state = self._view.decode(section)
        if isinstance(state, WindowSection):
            for level, starts in enumerate(state.chunks):
                for start in starts:
                    yield self._view.chunk(entity, level, start)


class _SeenKeys:
    """Which keys rows were seen of, kept as columns: there may be millions."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._parts: list[pa.Table] = []

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield batches, and remember the keys of their rows."""
        for batch in batches:
            if batch.num_rows:
                keys = pa.Table.from_batches([batch]).select(self._names)
                self._parts.append(keys.group_by(self._names).aggregate([]) if self._names else keys)
            yield batch

    def others(self, keys: pa.Table) -> Iterator[Key]:
        """Yield those of some keys that were not seen."""
        if not self._names:
            yield from [()] * min(1, keys.num_rows) if not self._parts else []
            return
        keys = keys.select(self._names)
        if self._parts:
            keys = keys.join(pa.concat_tables(self._parts), keys=self._names, join_type="left anti")
        for batch in keys.to_batches(max_chunksize=_KEYS_AT_ONCE):
            yield from zip(*map(python_values, batch.columns), strict=True)


def grouped_rows(view: OnlineView, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[Key, str, list[OnlineRow]]]:
    """Yield key, writer and rows of batches ordered by them."""

    def flat() -> Iterator[tuple[Key, str, OnlineRow]]:
        for batch in batches:
            writers = batch.column("_writer").to_pylist()
            for writer, (key, row) in zip(writers, view.rows(batch), strict=True):
                yield key, writer, row

    for (key, writer), items in groupby(flat(), key=lambda item: item[:2]):
        yield key, writer, [row for _, _, row in items]
