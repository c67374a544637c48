"""Rows by their position: which of them are beyond what their writers have reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class Positions:
    """The two columns of a table that hold a row's position.

    Attributes
    ----------
    writer
        The column of the writer.
    sequence
        The column of the sequence among the writer's rows, from 0.
    """

    writer: str
    sequence: str

    def beyond(self, rows: pa.Table, known: Mapping[str, int]) -> pa.Table:
        """Return the rows beyond the known sequences, each position once; every writer must be known."""
        if not rows.num_rows:
            return rows
        writers = pa.array(list(known), pa.string())
        sequences = pa.array(list(known.values()), pa.int64())
        bounds = sequences.take(pc.index_in(rows[self.writer], writers))
        fresh = rows.filter(pc.greater(rows[self.sequence], bounds))
        if len(known) == 1 and _ascending(fresh[self.sequence]):
            return fresh
        position = [self.writer, self.sequence]
        numbered = fresh.select(position).append_column("n", pa.array(range(fresh.num_rows)))
        first = numbered.group_by(position).aggregate([("n", "min")])["n_min"]
        return fresh if len(first) == fresh.num_rows else fresh.take(first.sort())

    def problem(self, rows: pa.Table, through: Mapping[str, int]) -> str | None:
        """Return why rows do not fit the sequences they are said to reach, or None where they do."""
        if not rows.num_rows:
            return None
        if len(through) == 1:
            ((writer, last),) = through.items()
            names, sequences = rows[self.writer], rows[self.sequence]
            extreme = pc.min_max(sequences).as_py()
            if pc.all(pc.equal(names, writer)).as_py() and extreme["min"] >= 0 and extreme["max"] <= last:
                return None
        extremes = rows.group_by(self.writer).aggregate([(self.sequence, "max"), (self.sequence, "min")])
        for row in extremes.to_pylist():
            writer, high, low = row[self.writer], row[f"{self.sequence}_max"], row[f"{self.sequence}_min"]
            if writer not in through or high is None or high > through[writer] or low < 0:
                return (
                    f"rows of writer {writer!r} with sequences {low} to {high} do not fit the position "
                    f"{through.get(writer)} they were handed in with"
                )
        return None


def _ascending(sequences: pa.ChunkedArray) -> bool:
    """Return whether each sequence is greater than the one before, so that none is there twice."""
    numbers = sequences.to_numpy()
    return bool((numbers[1:] > numbers[:-1]).all())
