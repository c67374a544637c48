"""The records that a job rejects: beside its rows while it reads, then among the dead letters of the log, once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.materialize.text import Rejected
from featurestore.offline.deadletters import DEAD_LETTER_SCHEMA, DeadLetters
from featurestore.semantics.rows import BATCH_WRITER, RANK_BITS

_SCHEMA = pa.schema([("payload", pa.binary()), ("reason", pa.string()), ("detail", pa.string())])
_AT_ONCE = 20_000


class RejectedFile:
    """Writes rejected records to a file; there is none where nothing was rejected."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[Rejected] = []

    def take(self, rejected: list[Rejected]) -> None:
        """Take records out of a list."""
        self.count += len(rejected)
        self._pending += rejected
        rejected.clear()
        if len(self._pending) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, _SCHEMA)
        columns = [list(column) for column in zip(*self._pending, strict=True)]
        self._writer.write_table(pa.table(columns, schema=_SCHEMA))
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            if self._writer is not None:
                self._writer.close()


def read_rejected(files: Iterable[Path]) -> Iterator[list[Rejected]]:
    """Yield the records of some files, in order, some thousands at a time."""
    for path in files:
        if path.exists():
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_AT_ONCE):
                    columns = [column.to_pylist() for column in batch.columns]
                    yield [Rejected(*record) for record in zip(*columns, strict=True)]


def add_letters(letters: DeadLetters, files: Sequence[Path], job: int, now: int, *, source: str, views: str) -> None:
    """Put a job's rejected records among the dead letters of its log, but for those that earlier jobs put there.

    A record is told by its payload and what is wrong with it; one that the source holds twice is there twice.

    Parameters
    ----------
    letters
        The dead letters.
    files
        Where the records are.
    job
        The job's number; its letters have the positions ``job << 38 | place``.
    now
        When they arrived, in microseconds.
    source, views
        Names for people.
    """
    known: Counter[bytes] | None = None
    first = job << RANK_BITS
    for records in read_rejected(files):
        if known is None:
            known = _known(letters, first)
        fresh = []
        for place, record in enumerate(records):
            digest = _digest(record)
            if known[digest]:
                known[digest] -= 1
            else:
                fresh.append((first + place, record))
        first += len(records)
        columns = [
            [source] * len(fresh),
            [BATCH_WRITER] * len(fresh),
            [position for position, _ in fresh],
            [now] * len(fresh),
            [record.payload for _, record in fresh],
            [record.reason for _, record in fresh],
            [record.detail for _, record in fresh],
            [views] * len(fresh),
        ]
        table = pa.table(dict(zip(DEAD_LETTER_SCHEMA.names, columns, strict=True)), schema=DEAD_LETTER_SCHEMA)
        letters.append(table, {BATCH_WRITER: first - 1})


def _known(letters: DeadLetters, before: int) -> Counter[bytes]:
    """Count the letters of earlier jobs."""
    known: Counter[bytes] = Counter()
    for batch in letters.read().to_batches(_AT_ONCE):
        names = ("writer", "sequence", "payload", "reason", "detail")
        for writer, sequence, *record in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
            if writer == BATCH_WRITER and sequence < before:
                known[_digest(Rejected(*record))] += 1
    return known


def _digest(record: Rejected) -> bytes:
    text = f"{len(record.payload)} {record.reason} {record.detail} "
    return hashlib.blake2b(text.encode() + record.payload, digest_size=16).digest()
