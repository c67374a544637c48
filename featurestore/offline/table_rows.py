"""Rows of logs that are at hand as one Arrow table: what an engine gives a worker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.offline.kernels import Bools, Ints
from featurestore.offline.keys import KeyNumbers, integers_of
from featurestore.offline.plan import Scan
from featurestore.offline.rows import POSITION, Found
from featurestore.offline.wanted import Wanted
from featurestore.semantics.rows import BATCH_WRITER


class TableRows:
    """Reads rows of one log from a table with the log's columns, in any order."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows.combine_chunks()
        self._time: Ints = _array(self._rows, "event_timestamp").cast(pa.int64()).to_numpy()

    def limit(self, scan: Scan) -> int:  # noqa: ARG002  (a table of one log)
        """Return how many rows there are."""
        return len(self._time)

    def read(self, scan: Scan, keys: KeyNumbers, wanted: Wanted, *, positions: bool) -> Found:
        """Return the rows that a scan reads; see `RowSource`."""
        names = [key.name for key in scan.view.join_keys]
        numbers = self._numbers(keys, names) if names else np.zeros(len(self._time), dtype=np.int64)
        kept = np.flatnonzero(self._kept(scan))
        columns = dict.fromkeys(["event_timestamp", *scan.columns, *(POSITION if positions else ())])
        rows = pa.RecordBatch.from_pydict({name: _array(self._rows, name).take(pa.array(kept)) for name in columns})
        return Found([wanted.group(rows, numbers[kept])], scan.schema(positions=positions))

    def _kept(self, scan: Scan) -> Bools:
        """Return which rows the scan's conditions let through."""
        kept = np.ones(len(self._time), dtype=bool)
        if scan.start is not None:
            kept &= self._time >= scan.start
        if scan.end is not None:
            kept &= self._time < scan.end
        if scan.view.is_lambda:
            batch = pc.equal(_array(self._rows, "_writer"), BATCH_WRITER).to_numpy(zero_copy_only=False)
            kept &= ~batch if scan.cut is None else np.where(batch, self._time < scan.cut, self._time >= scan.cut)
        return kept

    def _numbers(self, keys: KeyNumbers, names: Sequence[str]) -> Ints:
        if keys.base is not None:
            values = integers_of(_array(self._rows, names[0]))
            assert values is not None  # noqa: S101  (a base is only of integer keys)
            return keys.numbers(values)
        ours = np.zeros(len(self._time), dtype=np.int64)
        theirs = np.zeros(keys.distinct.num_rows, dtype=np.int64)
        known = np.ones(len(self._time), dtype=bool)
        for name in keys.distinct.column_names:
            values = pc.unique(_array(keys.distinct, name))
            found = pc.index_in(_array(self._rows, name).cast(values.type), values)
            known &= found.is_valid().to_numpy(zero_copy_only=False)
            ours = ours * len(values) + found.fill_null(0).to_numpy()
            theirs = theirs * len(values) + pc.index_in(_array(keys.distinct, name), values).to_numpy()
            pair = pc.unique(pa.array(theirs))  # keeps the numbers small, however many columns
            ours_place = pc.index_in(pa.array(ours), pair)
            known &= ours_place.is_valid().to_numpy(zero_copy_only=False)
            ours = ours_place.fill_null(0).to_numpy().astype(np.int64)
            theirs = pc.index_in(pa.array(theirs), pair).to_numpy().astype(np.int64)
        place = np.zeros(int(theirs.max(initial=-1)) + 1, dtype=np.int64)
        place[theirs] = np.arange(len(theirs))
        return np.where(known, place[ours] if len(place) else -1, -1)


def _array(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()
