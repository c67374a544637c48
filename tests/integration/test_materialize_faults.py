"""A source that changes or breaks while it is read, a full disk: a clear error, and everything is as it was."""

from __future__ import annotations

import multiprocessing
import random
import resource
import signal
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from featurestore.errors import FeatureStoreError, OfflineStoreError, SourceError
from featurestore.materialize.folder import DoneChunk
from featurestore.materialize.job import materialize
from featurestore.materialize.reading import MOST_CHUNKS, Parts
from featurestore.materialize.rows import RowReader
from featurestore.offline.deadletters import DeadLetters
from featurestore.semantics.windows import DAY, HOUR
from tests.integration.materialize_bench import FIRST, NOW, SECOND, Bench, SourceRow
from tests.integration.test_materialize_crashes import outcome, prepared, run

BAD: list[SourceRow] = [
    (None, 10 * DAY, 1.0, "no key"),
    (None, 10 * DAY, 1.0, "no key"),
    (1, None, 1.0, "no time"),
    (None, 30 * DAY, 1.0, "no key either"),
]


def assert_untouched(bench: Bench, before: Any, error: type[FeatureStoreError], message: str) -> None:
    with pytest.raises(error, match=message):
        run(bench)
    assert outcome(bench) == before
    assert bench.states() == ["done", "failed"]
    assert list((bench.folder / "data" / "offline" / "spool").rglob("*.*")) == []


def interrupted(monkeypatch: pytest.MonkeyPatch, chunk: int, what: Any) -> None:
    """Do something once in the middle of a chunk, counted from 0."""
    tables, read = RowReader.tables, []

    def broken(self: RowReader, start: int, end: int, *, timeless: bool = True) -> Iterator[pa.Table]:
        read.append(start)
        yield from tables(self, start, end, timeless=timeless)
        if len(read) == chunk + 1:
            what()

    monkeypatch.setattr(RowReader, "tables", broken)


def raise_source_error() -> None:
    raise SourceError("SqlSource 'trips': the connection was lost after 7 rows")


@pytest.mark.parametrize("chunk", [0, 3, 5])
def test_a_query_that_fails_half_way_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    bench = prepared(tmp_path, stream=False)
    before = outcome(bench)
    with monkeypatch.context() as patch:
        interrupted(patch, chunk, raise_source_error)
        assert_untouched(bench, before, SourceError, "the connection was lost after 7 rows")
    assert run(bench)[0].rows == len(SECOND)


@pytest.mark.parametrize("chunk", [0, 3, 5])
def test_a_file_rewritten_between_chunks_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    bench = prepared(tmp_path, stream=False)
    before = outcome(bench)
    with monkeypatch.context() as patch:
        interrupted(patch, chunk, lambda: bench.write(FIRST))
        message = "ource 'trips'.* changed while it was read"
        assert_untouched(bench, before, SourceError, message)
    assert run(bench)[0].rows == len(FIRST)


def run_on_a_full_disk(folder: Path, limit: int, told: Any) -> None:
    """Run a job where no file may grow beyond a limit: the system refuses the write as it does on a full disk."""
    bench = Bench(folder)
    bench.clock.set(NOW)
    bench.write([(n % 5, n, n * 0.1, random.Random(n).randbytes(200).hex()) for n in range(4_000)])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        materialize(bench.context(), bench.views, 0, NOW)
    except FeatureStoreError as error:
        told.put((type(error), str(error)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    rows = bench.rows()
    materialize(bench.context(), bench.views, 0, NOW)
    told.put((len(rows), bench.states(), len(bench.rows())))


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    told = processes.Queue()
    process = processes.Process(target=run_on_a_full_disk, args=(tmp_path, 400_000, told))
    process.start()
    kind, message = told.get(timeout=100)
    assert (kind, told.get(timeout=100)) == (OfflineStoreError, (0, ["failed", "done"], 4_000))
    assert "cannot be written" in message
    assert "nothing was changed" in message
    process.join(60)


def letters(bench: Bench) -> list[str]:
    store = DeadLetters(bench.folder / "data" / "offline", bench.log.fingerprint)
    return sorted(msgspec.json.decode(letter["payload"])["note"] for letter in store.read().to_pylist())


def test_rejected_records_are_letters_once_however_often_their_range_is_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write([*FIRST, *BAD])
    for end in (20 * DAY, NOW, NOW):
        (report,) = materialize(bench.context(), bench.views, 0, end)
        assert report.rejected == (3 if end < NOW else 4)
    assert letters(bench) == ["no key", "no key", "no key either", "no time"]
    bench.write([*FIRST, BAD[0], *BAD])
    materialize(bench.context(), bench.views, 0, NOW)
    assert letters(bench) == ["no key", "no key", "no key", "no key either", "no time"]


# How a range is cut


def chunks_of(parts: Parts, rows_a_day: int) -> list[tuple[int, int]]:
    done: list[DoneChunk] = []
    while (bounds := parts.next(done)) is not None:
        start, end = bounds
        rows = rows_a_day * (end - start) // DAY
        done.append(DoneChunk(start=start, end=end, rows=rows, rejected=0, dropped=0))
    return [(chunk.start, chunk.end) for chunk in done]


@pytest.mark.parametrize("rows_a_day", [0, 1_000, 1_000_000, 50_000_000])
@pytest.mark.parametrize(("start", "end"), [(0, 640 * DAY), (HOUR, 2 * HOUR), (-5 * HOUR, 1000 * DAY + HOUR), (3, 4)])
def test_chunks_cover_a_range_without_gaps_in_whole_days(start: int, end: int, rows_a_day: int) -> None:
    parts = Parts(start, end, prunes=True)
    chunks = chunks_of(parts, rows_a_day)
    assert (chunks[0][0], chunks[-1][1]) == (start, end)
    assert all(one[1] == other[0] and one[1] % DAY == 0 for one, other in pairwise(chunks))
    assert len(chunks) <= parts.count <= MOST_CHUNKS + 1
    until: Sequence[int] = [parts.until(last) for _, last in chunks]
    assert list(until) == sorted(set(until))
    assert until[-1] == parts.count


def test_few_rows_are_read_in_few_chunks_and_many_in_many() -> None:
    assert len(chunks_of(Parts(0, 640 * DAY, prunes=True), 100)) == 7
    assert len(chunks_of(Parts(0, 640 * DAY, prunes=True), 200_000)) == 64
    assert len(chunks_of(Parts(0, 640 * DAY, prunes=False), 10**9)) == 1
