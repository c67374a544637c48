"""Whole sections of state views from Arrow columns: the newest row of each key and writer, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.online.contract import SectionWrite
from featurestore.online.framing import MAX_ENTITY
from featurestore.online.state import ARRIVAL, FLAG_BITS, LATE, NARROW, NEWEST, NULLS, WIDE, Packed
from featurestore.online.state_arrays import fields_of
from featurestore.semantics.rows import BATCH_WRITER
from featurestore.types import python_values

if TYPE_CHECKING:
    from featurestore.online.view import OnlineView

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_LEAST = np.iinfo(np.int64).min
_ROWS_AT_ONCE = 20_000
_NO_CHUNKS: Mapping[bytes, bytes | None] = {}
_encode = msgspec.msgpack.Encoder().encode


class _Newest(NamedTuple):
    """The newest rows of some keys and writers, of which none has pending rows; by section.

    Attributes
    ----------
    rows
        The rows, in the log's schema.
    greatest
        The section's greatest arrival.
    sequences
        The section's sequence.
    """

    rows: pa.Table
    event_timestamps: Ints
    arrivals: Ints
    greatest: Ints
    sequences: Ints


class StateWriter:
    """Makes whole sections of a state view.

    Parameters
    ----------
    name_of
        From a writer to the name that its section is stored under.
    through
        By writer, the sequence that the state stands for; used for batch, a stream's section ends with its last row.
    """

    def __init__(self, view: OnlineView, name_of: Callable[[str], str], through: Mapping[str, int]) -> None:
        self._view = view
        self._codec = view.codec
        self._name_of = name_of
        self._through = through
        self._lifetime = None if view.ttl is None else 2 * view.ttl + view.skew

    def writes(self, batches: Iterable[pa.RecordBatch]) -> Iterator[list[SectionWrite]]:
        """Yield the writes for rows ordered by (join keys, writer, sequence)."""
        for table, starts in self._groups(batches):
            yield from self._table(table, starts)

    def _groups(self, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.Table, Ints]]:
        """Yield tables of whole groups, one group being the rows of one key and writer, and where each begins."""
        names = [*self._view.key_names, "_writer"]
        waiting: list[pa.RecordBatch] = []
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                part = batch.slice(start, _ROWS_AT_ONCE)
                starts = _starts(part, names, waiting[-1] if waiting else None)
                if not len(starts):  # all of it goes on with the group before
                    waiting.append(part)
                    continue
                yield from self._whole([*waiting, part.slice(0, int(starts[-1]))], names)
                waiting = [part.slice(int(starts[-1]))]
        yield from self._whole(waiting, names)

    @staticmethod
    def _whole(parts: Sequence[pa.RecordBatch], names: Sequence[str]) -> Iterator[tuple[pa.Table, Ints]]:
        parts = [part for part in parts if part.num_rows]
        if parts:
            table = pa.Table.from_batches(parts).combine_chunks()
            yield table, _starts(table.to_batches()[0], names, None)

    def _table(self, table: pa.Table, starts: Ints) -> Iterator[list[SectionWrite]]:
        happened, arrived, sequence = (
            _integers(table.column(name)) for name in ("event_timestamp", "arrival", "_sequence")
        )
        sizes = np.diff(np.append(starts, table.num_rows))
        greatest = np.maximum.reduceat(arrived, starts)
        waits = np.logical_or.reduceat(happened > np.repeat(greatest, sizes), starts)
        entities = self._view.entity_keys.arrow(
            [table.column(name).take(pa.array(starts)) for name in self._view.key_names], len(starts)
        )
        if self._view.entity_keys.may_be_long:
            waits |= np.fromiter((len(entity) > MAX_ENTITY for entity in entities), np.bool_, len(entities))
        chosen = np.flatnonzero(~waits)
        newest = _newest(happened, arrived, starts, sizes)[chosen]
        last = sequence[starts + sizes - 1][chosen]
        taken = table.take(pa.array(newest))
        writers = taken.column("_writer").combine_chunks().dictionary_encode()
        ends = self._section_sequences(writers, last)
        found = _Newest(taken, happened[newest], arrived[newest], greatest[chosen], ends)
        yield self._writes(found, [entities[place] for place in chosen.tolist()], writers)
        for group in np.flatnonzero(waits).tolist():
            yield [self._one(table.slice(int(starts[group]), int(sizes[group])))]

    def _section_sequences(self, writers: pa.DictionaryArray, last: Ints) -> Ints:
        """Return the sequences of sections whose last rows have these sequences."""
        names = writers.dictionary.to_pylist()
        if BATCH_WRITER not in names:
            return last
        is_batch = writers.indices.to_numpy(zero_copy_only=False) == names.index(BATCH_WRITER)
        return np.where(is_batch, self._through[BATCH_WRITER], last)

    def _one(self, rows: pa.Table) -> SectionWrite:
        """Return the write of one section with pending rows, or whose key is shortened."""
        view = self._view
        found = [row for _, row in view.rows(rows)]
        writer = rows.column("_writer")[0].as_py()
        key = [python_values(rows.column(name).slice(0, 1))[0] for name in view.key_names]
        sequence = self._through[writer] if writer == BATCH_WRITER else found[-1].sequence
        state = view.new_section(writer)
        return view.write(view.entity(key), state, found, self._name_of(writer), expected=None, sequence=sequence)

    def _writes(self, newest: _Newest, entities: Sequence[bytes], writers: pa.DictionaryArray) -> list[SectionWrite]:
        names = [self._name_of(writer) for writer in writers.dictionary.to_pylist()]
        writes = zip(
            self._view.headers(entities),
            map(names.__getitem__, writers.indices.to_pylist()),
            repeat(None),
            newest.sequences.tolist(),
            self._payloads(newest),
            repeat(_NO_CHUNKS),
            repeat(()),
            repeat(self._lifetime),
            strict=False,  # what repeats has no end
        )
        return list(map(SectionWrite._make, writes))

    def _payloads(self, newest: _Newest) -> list[bytes]:
        """Return the stored form of sections, as `StateCodec.encode` does."""
        n = newest.rows.num_rows
        columns = [newest.rows.column(self._view.view.columns[column.place].name) for column in self._codec.fixed]
        is_null = [_nulls(column) for column in columns]
        numbers = [_numbers(column, packed) for column, packed in zip(columns, self._codec.fixed, strict=True)]
        flags = np.full(n, NEWEST, dtype=np.uint8)
        flags[newest.greatest != newest.arrivals] |= ARRIVAL
        flags[(newest.event_timestamps < -NARROW) | (newest.event_timestamps >= NARROW)] |= WIDE
        flags[newest.arrivals != newest.event_timestamps] |= LATE
        for nulls in is_null:
            if nulls is not None:
                flags[nulls] |= NULLS
        payloads: list[bytes] = [b""] * n
        for kind in np.unique(flags).tolist():
            rows = np.flatnonzero(flags == kind)
            data = self._packed(newest, rows, kind, numbers, is_null)
            size = self._codec.forms[kind].size
            for place, start in zip(rows.tolist(), range(0, len(data), size), strict=True):
                payloads[place] = data[start : start + size]
        if not self._codec.variable:
            return payloads
        fields = [self._view.view.columns[place].name for place in self._codec.variable]
        tails = zip(*(python_values(newest.rows.column(name)) for name in fields), strict=True)
        return [payload + _encode(tail) for payload, tail in zip(payloads, tails, strict=True)]

    def _packed(
        self, newest: _Newest, rows: Ints, flags: int, numbers: Sequence[npt.NDArray[Any]], is_null: Sequence[Any]
    ) -> bytes:
        """Return the parts of fixed width of sections with the same flags."""
        codec = self._codec
        packed = np.zeros(len(rows), dtype=fields_of(codec, flags))
        if flags & WIDE:
            packed["time"] = flags
            packed["event_timestamp"] = newest.event_timestamps[rows]
        else:
            packed["time"] = newest.event_timestamps[rows] << FLAG_BITS | flags
        if flags & ARRIVAL:
            packed["section_arrival"] = newest.greatest[rows]
        if flags & LATE:
            packed["row_arrival"] = newest.arrivals[rows]
        if flags & NULLS:
            none = np.zeros(len(rows), dtype=np.bool_)
            bits = np.stack([none if nulls is None else nulls[rows] for nulls in is_null], axis=1)
            packed["nulls"] = np.packbits(bits, axis=1, bitorder="little")
        order: dict[str, int] = {}
        for place, (column, values) in enumerate(zip(codec.fixed, numbers, strict=True)):
            if column.code == "v":
                packed[f"v{place}"] = values[rows]
            else:
                packed[column.code][:, order.setdefault(column.code, 0)] = values[rows]
                order[column.code] += 1
        return packed.tobytes()


def _starts(batch: pa.RecordBatch, names: Sequence[str], before: pa.RecordBatch | None) -> Ints:
    """Return the rows with which a group begins: where a key or the writer differs from the row before."""
    n = batch.num_rows
    differs = np.zeros(n, dtype=np.bool_)
    if n:
        differs[0] = before is None or any(
            batch.column(name)[0].as_py() != before.column(name)[before.num_rows - 1].as_py() for name in names
        )
    for name in names:
        column = batch.column(name)
        changed = pc.not_equal(column.slice(1), column.slice(0, n - 1))
        differs[1:] |= changed.to_numpy(zero_copy_only=False)
    return np.flatnonzero(differs)


def _newest(happened: Ints, arrived: Ints, starts: Ints, sizes: npt.NDArray[Any]) -> Ints:
    """Return the row of each group with the greatest (event time, arrival, sequence); sequences ascend."""
    if len(starts) == len(happened):
        return np.arange(len(starts))
    counts = happened == np.repeat(np.maximum.reduceat(happened, starts), sizes)
    arrivals = np.where(counts, arrived, _LEAST)
    counts &= arrivals == np.repeat(np.maximum.reduceat(arrivals, starts), sizes)
    found: Ints = np.maximum.reduceat(np.where(counts, np.arange(len(counts)), -1), starts)
    return found


def _integers(column: pa.ChunkedArray) -> Ints:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    values: Ints = column.to_numpy()
    return values


def _nulls(column: pa.ChunkedArray) -> Bools | None:
    """Return which values of a column are null; None where none is."""
    if not column.null_count:
        return None
    nulls: Bools = pc.is_null(column).to_numpy()
    return nulls


def _numbers(column: pa.ChunkedArray, packed: Packed) -> npt.NDArray[Any]:
    """Return a column's values, of vectors as rows; zeros where it is null."""
    if packed.vector is None:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        if column.null_count:
            column = column.fill_null(pa.scalar(0, column.type) if column.type != pa.bool_() else False)
        numbers: npt.NDArray[Any] = column.to_numpy()
        return numbers
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    length = array.type.list_size
    values = array.values.slice(array.offset * length, len(array) * length).to_numpy(zero_copy_only=False)
    values = values.reshape(len(array), length)
    return (
        np.where(pc.is_null(array).to_numpy(zero_copy_only=False)[:, None], 0, values) if array.null_count else values
    )
