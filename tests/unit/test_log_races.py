"""Appends and jobs that meet each other, are replayed or are cut off lose nothing and double nothing."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake import write_deltalake as write
from deltalake.exceptions import CommitFailedError
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.definitions import Entity, FeatureView, Field, PushSource
from featurestore.errors import OfflineStoreError
from featurestore.offline.log import RowLog
from featurestore.types import Float64, Int64

VIEW = FeatureView(
    "trips",
    entities=[Entity("driver", value_type=Int64)],
    schema=[Field("x", Float64)],
    source=PushSource("p", timestamp_field="ts"),
)
SCHEMA = RowLog(Path("unused"), VIEW).schema


def rows(writer: str, sequences: range | list[int], at: int = 0) -> pa.Table:
    count = len(sequences)
    times = pa.array([at] * count, pa.timestamp("us", "UTC"))
    columns = [[1] * count, times, times, [writer] * count, list(sequences), [None] * count, [0.0] * count]
    return pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)


def positions(log: RowLog) -> list[tuple[str, int]]:
    return [
        pair
        for batch in log.sorted_rows()
        for pair in zip(batch["_writer"].to_pylist(), batch["_sequence"].to_pylist(), strict=True)
    ]


@contextmanager
def at_commit(*actions: Callable[[], object], after: Callable[[], object] | None = None) -> Iterator[None]:
    """Run the actions, one for each of the next commits, between a commit's snapshot and the commit itself."""
    pending = list(actions)
    closing = [after] if after else []

    def scripted(*args: Any, **kwargs: Any) -> None:
        if pending:
            pending.pop(0)()
        write(*args, **kwargs)
        if closing:
            closing.pop()()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.offline.journal.write_deltalake", scripted)
        yield
    assert not pending


Delivery = tuple[str, int, int]
deliveries = st.tuples(st.sampled_from("ab"), st.integers(0, 12), st.integers(0, 6))


@settings(max_examples=60, deadline=None)
@given(script=st.lists(st.tuples(st.integers(0, 2), deliveries, st.none() | deliveries), min_size=1, max_size=6))
def test_any_interleaving_of_deliveries_appends_each_position_once(
    script: list[tuple[int, Delivery, Delivery | None]],
) -> None:
    """Each step delivers through one of three handles; it may be overtaken by a delivery through a fourth."""
    with tempfile.TemporaryDirectory() as folder:
        handles = [RowLog(Path(folder), VIEW) for _ in range(4)]
        reached: dict[str, int] = {}
        expected: list[tuple[str, int]] = []

        def deliver(handle: int, delivery: Delivery) -> list[int]:
            writer, first, count = delivery
            through = {writer: first + count}
            done = handles[handle].append(rows(writer, range(first, first + count + 1)), through)
            return list(done["_sequence"].to_pylist())

        def model(delivery: Delivery) -> list[int]:
            writer, first, count = delivery
            new = [n for n in range(first, first + count + 1) if n > reached.get(writer, -1)]
            reached[writer] = max(reached.get(writer, -1), first + count)
            expected.extend((writer, n) for n in new)
            return new

        for handle, delivery, overtaking in script:
            if overtaking is None or not _would_commit(delivery, reached):
                assert deliver(handle, delivery) == model(delivery)
                continue
            seen: list[list[int]] = []
            with at_commit(lambda given=overtaking, out=seen: out.append(deliver(3, given))):  # type: ignore[misc]
                done = deliver(handle, delivery)
            assert seen == [model(overtaking)]
            assert done == model(delivery)

        assert positions(RowLog(Path(folder), VIEW)) == sorted(expected)


def _would_commit(delivery: Delivery, reached: dict[str, int]) -> bool:
    return delivery[1] + delivery[2] > reached.get(delivery[0], -1)


@pytest.mark.parametrize("shared", [True, False])
def test_threads_delivering_the_same_rows_append_them_once(tmp_path: Path, shared: bool) -> None:
    one = RowLog(tmp_path, VIEW)
    failures: list[BaseException] = []
    appended: list[int] = []

    def work(step: int) -> None:
        log = one if shared else RowLog(tmp_path, VIEW)
        try:
            for first in range(0, 30, step):
                part = range(first, min(first + step, 30))
                appended.extend(log.append(rows("s", part), {"s": part[-1]})["_sequence"].to_pylist())
        except OfflineStoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(step,)) for step in (3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert positions(one) == [("s", n) for n in range(30)]
    assert sorted(appended) == list(range(30))


def test_a_commit_that_went_through_but_was_reported_lost_is_not_repeated(tmp_path: Path) -> None:
    log = RowLog(tmp_path, VIEW)
    log.append(rows("s", [0]), {"s": 0})

    def lose_the_answer() -> None:
        raise CommitFailedError("the connection was lost")

    with at_commit(after=lose_the_answer):
        assert log.append(rows("s", [0, 1]), {"s": 1}).num_rows == 0
    assert positions(log) == [("s", 0), ("s", 1)]


def test_a_commit_that_fails_with_nobody_else_there_is_an_error(tmp_path: Path) -> None:
    log = RowLog(tmp_path, VIEW)

    def refuse() -> None:
        raise CommitFailedError("disk full")

    with at_commit(refuse), pytest.raises(OfflineStoreError, match=r"cannot write the log of view 'trips'.*disk full"):
        log.append(rows("s", [0]), {"s": 0})
    assert log.append(rows("s", [0]), {"s": 0}).num_rows == 1


def test_two_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    log, other = RowLog(tmp_path, VIEW), RowLog(tmp_path, VIEW)
    with at_commit(lambda: other.append(rows("b", [0]), {"b": 0})):
        assert log.append(rows("a", [0]), {"a": 0}).num_rows == 1
    assert positions(log) == [("a", 0), ("b", 0)]


def test_a_job_overtaken_by_a_stream_keeps_its_rows(tmp_path: Path) -> None:
    log, other = RowLog(tmp_path, VIEW), RowLog(tmp_path, VIEW)
    log.replace(rows("batch", [1 << 38], at=5), 0, 10, 1)
    with at_commit(lambda: other.append(rows("s", [0, 1], at=5), {"s": 1})):
        log.replace(rows("batch", [2 << 38], at=6), 0, 10, 2)
    assert positions(log) == [("batch", 2 << 38), ("s", 0), ("s", 1)]
    assert log.sequence("s") == 1


def test_a_job_overtaken_by_an_earlier_one_replaces_it(tmp_path: Path) -> None:
    log, other = RowLog(tmp_path, VIEW), RowLog(tmp_path, VIEW)
    with at_commit(lambda: other.replace(rows("batch", [1 << 38], at=5), 0, 10, 1)):
        log.replace(rows("batch", [2 << 38], at=6), 0, 10, 2)
    assert positions(log) == [("batch", 2 << 38)]


def test_a_job_overtaken_by_a_later_one_is_refused(tmp_path: Path) -> None:
    log, other = RowLog(tmp_path, VIEW), RowLog(tmp_path, VIEW)
    overtaken = pytest.raises(OfflineStoreError, match="'batch' is at 2, so 1 came too late")
    with at_commit(lambda: other.replace(rows("batch", [2 << 38], at=5), 0, 10, 2)), overtaken:
        log.replace(rows("batch", [1 << 38], at=6), 0, 10, 1)
    assert positions(log) == [("batch", 2 << 38)]


def test_two_processes_may_make_the_log_at_once(tmp_path: Path) -> None:
    log, other = RowLog(tmp_path, VIEW), RowLog(tmp_path, VIEW)
    create = DeltaTable.create

    def both(*args: Any, **kwargs: Any) -> Any:
        patch.undo()
        other.append(rows("b", [0]), {"b": 0})
        return create(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeltaTable, "create", both)
        log.append(rows("a", [0]), {"a": 0})
    assert positions(log) == [("a", 0), ("b", 0)]


def test_a_job_whose_commit_was_reported_lost_is_not_refused_as_late(tmp_path: Path) -> None:
    log = RowLog(tmp_path, VIEW)

    def lose_the_answer() -> None:
        raise CommitFailedError("the connection was lost")

    with at_commit(after=lose_the_answer):
        log.replace(rows("batch", [1 << 38], at=5), 0, 10, 1)
    assert positions(log) == [("batch", 1 << 38)]
    assert (log.job_version(1, -1), log.job_version(2, -1), log.job_version(1, log.version())) == (1, None, None)
