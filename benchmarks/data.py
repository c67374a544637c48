"""Generated inputs: feature rows and labels as Parquet files, the same for every contestant, made once per shape."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.options import Options, progress

START = 1_704_067_200_000_000  # 2024-01-01T00:00:00Z in microseconds
SPAN = 30 * 86_400_000_000
HOT_KEYS = 1_000
CHUNK = 1_000_000
ROW_GROUP = 250_000
UNKNOWN_KEYS = 0.02
"""Labels have so many more keys than the feature rows, so that some find nothing."""

Generator = np.random.Generator
Columns = dict[str, pa.Array]


@dataclass(frozen=True)
class Shape:
    """How many rows, labels and keys an input has, and what kind of columns."""

    kind: str
    rows: int
    labels: int
    keys: int

    def describe(self) -> str:
        """Return the shape in words, for a case's name."""
        return f"{self.kind}, {self.rows:,} rows x {self.labels:,} labels, {self.keys:,} keys"


@dataclass(frozen=True)
class Inputs:
    """The files of a shape."""

    features: Path
    labels: Path


def make(options: Options, shape: Shape) -> Inputs:
    """Return the files of a shape, after making them where they are not there yet."""
    folder = options.folder / f"{shape.kind}-{shape.rows}-{shape.labels}-{shape.keys}"
    inputs = Inputs(folder / "features.parquet", folder / "labels.parquet")
    if not folder.exists():
        progress(f"making {shape.describe()}")
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        random = np.random.default_rng([shape.rows, shape.labels, shape.keys])
        _write(unfinished / inputs.features.name, _chunks(random, shape))
        pq.write_table(_labels(random, shape), unfinished / inputs.labels.name)
        unfinished.rename(folder)
    return inputs


def _write(path: Path, chunks: Iterator[pa.Table]) -> None:
    first = next(chunks)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first, row_group_size=ROW_GROUP)
        for chunk in chunks:
            writer.write_table(chunk, row_group_size=ROW_GROUP)


def _chunks(random: Generator, shape: Shape) -> Iterator[pa.Table]:
    """Yield feature rows in the order of their times, no two of which are equal, so that every answer is unique."""
    step = SPAN // shape.rows
    for begin in range(0, shape.rows, CHUNK):
        places = np.arange(begin, min(begin + CHUNK, shape.rows))
        columns: Columns = {
            "id": pa.array(_keys(random, shape, places)),
            "ts": _times(START + places * step + random.integers(0, step, len(places))),
        }
        yield pa.table({**columns, **_COLUMNS[shape.kind](random, len(places))})


def _keys(random: Generator, shape: Shape, places: np.ndarray) -> np.ndarray:
    if shape.keys == shape.rows:  # one row for each key
        return random.permutation(places)
    return random.integers(0, shape.keys, len(places))


def _labels(random: Generator, shape: Shape) -> pa.Table:
    keys = random.integers(0, int(shape.keys * (1 + UNKNOWN_KEYS)) + 1, shape.labels)
    times = START + random.integers(0, SPAN, shape.labels)
    return pa.table({"row": np.arange(shape.labels), "id": keys, "event_timestamp": _times(times)})


def _times(micros: np.ndarray) -> pa.Array:
    return pa.array(micros, pa.timestamp("us", "UTC"))


def _pit(random: Generator, count: int) -> Columns:
    """Return a double, an integer that needs all its bits, and a double of which 5 % are null."""
    return {
        "rate": pa.array(_exact(random, count)),
        "trips": pa.array(random.integers(0, 2**62, count)),
        "score": pa.array(random.random(count), mask=random.random(count) < 0.05),
    }


def _windows(random: Generator, count: int) -> Columns:
    """Return an amount whose sums have no rounding in any order, and one in cents, whose sums do."""
    return {"exact": pa.array(_exact(random, count)), "cents": pa.array(random.integers(0, 100_000, count) / 100)}


def _wide(random: Generator, count: int) -> Columns:
    return {name: pa.array(random.random(count)) for name in WIDE}


def _recent(random: Generator, count: int) -> Columns:
    return {"amount": pa.array(random.integers(0, 100_000, count) / 100)}


def _exact(random: Generator, count: int) -> np.ndarray:
    """Return multiples of 2^-20 below 2^10: any sum of fewer than 2^23 of them is a double."""
    return random.integers(0, 2**30, count) / 2**20


WIDE = tuple(f"f{place:02}" for place in range(20))
_COLUMNS: dict[str, Callable[[Generator, int], Columns]] = {
    "pit": _pit,
    "windows": _windows,
    "wide": _wide,
    "recent": _recent,
}
