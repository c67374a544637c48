"""Reads a source for one job, chunk by chunk, into the job's folder; what is there already is not read again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from featurestore.errors import SourceError
from featurestore.materialize.folder import DoneChunk, JobFolder
from featurestore.materialize.letters import RejectedFile
from featurestore.materialize.rows import RowReader
from featurestore.materialize.spool import RowSpool, new_file
from featurestore.semantics.windows import DAY, floor_to

MOST_CHUNKS = 64
_FEW_ROWS, _MANY_ROWS = 1_000_000, 4_000_000


class Parts:
    """A range cut into at most `MOST_CHUNKS` parts of whole UTC days, of which a chunk covers one or more.

    Where chunks turn out small, the next one covers twice as many parts, where they turn out large, half as many: few
    rows are not read in dozens of passes, nor many in one. The bounds follow from what was read, so a job that is
    gone on with has the same.

    Parameters
    ----------
    start, end
        The range in microseconds, half-open.
    prunes
        Whether the source can leave out what lies outside of a part. Where it cannot, it is read once, as one chunk.
    """

    def __init__(self, start: int, end: int, *, prunes: bool) -> None:
        self._start, self._end = start, end
        self._first = floor_to(start, DAY)
        parts = MOST_CHUNKS if prunes else 1
        self._size = -(-(end - self._first) // (parts * DAY)) * DAY
        self.count = self.until(end)

    def until(self, time: int) -> int:
        """Return how many parts end at or before a bound of a chunk."""
        return -(-(time - self._first) // self._size)

    def next(self, done: Sequence[DoneChunk]) -> tuple[int, int] | None:
        """Return the bounds of the chunk after those that have been read; None after the last."""
        start = done[-1].end if done else self._start
        if start >= self._end:
            return None
        parts = 1
        for chunk in done:
            if chunk.rows < _FEW_ROWS:
                parts *= 2
            elif chunk.rows > _MANY_ROWS:
                parts = max(1, parts // 2)
        begun = (start - self._first) // self._size
        return start, min(self._first + (begun + parts) * self._size, self._end)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The reading of one job.

    Attributes
    ----------
    folder, spool
        Where the job's rows go, and how.
    parts
        Its range.
    open_rows
        Gives a new reader of the source's rows.
    tell
        Called with the chunks read and the rows of the one that is being read, as rows come.
    hook
        Called with ``chunk:<n>`` once the n-th chunk, from 1, has been read.
    """

    folder: JobFolder
    spool: RowSpool
    parts: Parts
    open_rows: Callable[[], RowReader]
    tell: Callable[[Sequence[DoneChunk], int], None]
    hook: Callable[[str], None]

    def finish(self) -> list[DoneChunk]:
        """Read what has not been read yet; return all chunks.

        Raises
        ------
        SourceError
            Where the source cannot be read to its end.
        LeaseLostError
            Where another process goes on with the job.
        """
        chunks = self._whole()
        while (bounds := self.parts.next(chunks)) is not None:
            chunks.append(self._read(chunks, *bounds))
            self.tell(chunks, 0)
            self.hook(f"chunk:{len(chunks)}")
        return chunks

    def _read(self, before: Sequence[DoneChunk], start: int, end: int) -> DoneChunk:
        reader = self.open_rows()
        count = 0
        with self.folder.new(f"chunk-{len(before):05d}") as path:
            path.mkdir()
            with (
                new_file(path / "rows.parquet", self.spool.schema) as writer,
                RejectedFile(path / "rejected.parquet") as rejected,
            ):
                for table in reader.tables(start, end, timeless=not before):
                    rejected.take(reader.rejected)
                    if table.num_rows:
                        writer.write_table(self.spool.unranked(table))
                        count += table.num_rows
                        self.tell(before, count)
                rejected.take(reader.rejected)
            chunk = DoneChunk(start=start, end=end, rows=count, rejected=rejected.count, dropped=reader.dropped)
            path.joinpath("chunk.json").write_bytes(msgspec.json.encode(chunk))
        return chunk

    def _whole(self) -> list[DoneChunk]:
        """Return the chunks that were read before, up to the first that is damaged."""
        whole: list[DoneChunk] = []
        for number, chunk in enumerate(self.folder.chunks()):
            if count_rows(self.folder.chunk_path(number, "rows.parquet")) != chunk.rows:
                break
            whole.append(chunk)
        return whole


def refuse_changed(name: str, before: str | None, after: str | None) -> None:
    """Refuse a source that is another one than it was when the job began to read it."""
    if before != after:
        raise SourceError(
            f"source {name!r} changed while it was read, so what was read may be partly old and partly new; nothing "
            "was changed: run this again once its writer is done"
        )


def count_rows(path: Path) -> int | None:
    """Return the number of rows of a Parquet file; None where it is missing or damaged."""
    try:
        count: int = pq.read_metadata(path).num_rows
    except (OSError, ValueError):  # Arrow's errors are of these
        return None
    return count
