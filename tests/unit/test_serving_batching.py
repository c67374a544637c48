"""Reads that requests share: what is joined, what each gets, and whom a failure, a delay or a cancellation meets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import StoreUnavailableError
from featurestore.serving.batching import DeadlineError, SharedReader
from tests.unit.serving_bench import in_loop

READY, CUT = b"\x00ready", b"\x00cut"


class Gated:
    """Reads what it is asked for once a test lets it; the value of a key is the key behind a ``v``."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.reads: list[list[bytes]] = []
        self.cancelled = 0
        self.closed = False
        self._gates: list[asyncio.Future[Exception | None]] = []
        self._is_open = is_open
        self._begun = asyncio.Event()

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.reads.append(list(keys))
        gate = asyncio.get_running_loop().create_future()
        self._gates.append(gate)
        self._begun.set()
        try:
            error = None if self._is_open else await gate
        except asyncio.CancelledError:
            self.cancelled += 1
            self._begun.set()
            raise
        if error is not None:
            raise error
        return [b"v" + key for key in keys]

    async def close(self) -> None:
        self.closed = True

    async def begun(self, number: int) -> None:
        """Return once this many reads have begun."""
        while len(self.reads) < number:
            self._begun.clear()
            await self._begun.wait()

    async def ended(self, number: int) -> None:
        """Return once this many reads have been cancelled."""
        while self.cancelled < number:
            self._begun.clear()
            await self._begun.wait()

    def let(self, number: int, error: Exception | None = None) -> None:
        """Let the read of this number (from 1) come back."""
        self._gates[number - 1].set_result(error)


def ask(reader: SharedReader, *keys: bytes) -> asyncio.Task[list[bytes | None]]:
    return asyncio.get_running_loop().create_task(reader.get(keys))


def values(*keys: bytes) -> list[bytes]:
    return [b"v" + key for key in keys]


@in_loop
async def test_requests_that_come_together_and_during_a_read_share_the_next_one() -> None:
    below = Gated()
    reader = SharedReader(below, seconds=60)
    first = [ask(reader, b"a"), ask(reader, b"b")]
    await below.begun(1)
    later = [ask(reader, b"c"), ask(reader, b"d", b"e")]
    await asyncio.sleep(0)
    assert below.reads == [[b"a", b"b"]]
    below.let(1)
    await below.begun(2)
    below.let(2)
    assert await asyncio.gather(*first, *later) == [values(b"a"), values(b"b"), values(b"c"), values(b"d", b"e")]
    assert below.reads == [[b"a", b"b"], [b"c", b"d", b"e"]]


@in_loop
async def test_marks_in_common_are_read_once_and_after_all_that_they_vouch_for() -> None:
    below = Gated(is_open=True)
    reader = SharedReader(below, seconds=60)
    tasks = [ask(reader, b"a", READY), ask(reader, b"a", b"b", READY, CUT), ask(reader, READY)]
    assert await asyncio.gather(*tasks) == [values(b"a", READY), values(b"a", b"b", READY, CUT), values(READY)]
    assert below.reads == [[b"a", b"a", b"b", READY, CUT]]


@in_loop
async def test_a_failing_read_fails_for_its_requests_alone() -> None:
    below = Gated()
    reader = SharedReader(below, seconds=60)
    lost = [ask(reader, b"a"), ask(reader, b"b")]
    await below.begun(1)
    kept = ask(reader, b"c")
    await asyncio.sleep(0)
    below.let(1, StoreUnavailableError("gone"))
    await below.begun(2)
    below.let(2)
    assert await kept == values(b"c")
    for task in lost:
        with pytest.raises(StoreUnavailableError, match="gone"):
            await task


@in_loop
async def test_a_bug_below_reaches_whoever_waits() -> None:
    below = Gated()
    reader = SharedReader(below, seconds=60)
    task = ask(reader, b"a")
    await below.begun(1)
    below.let(1, KeyError("bug"))
    with pytest.raises(KeyError):
        await task


@in_loop
async def test_a_request_waits_no_longer_than_its_deadline_and_a_read_that_nobody_waits_for_ends() -> None:
    below = Gated()
    reader = SharedReader(below, seconds=0.02)
    stuck = ask(reader, b"a")
    await below.begun(1)
    queued = ask(reader, b"b")
    for task in (stuck, queued):
        with pytest.raises(DeadlineError, match=r"0\.02 s"):
            await task
    await below.ended(1)
    after = ask(reader, b"c")
    while [b"c"] not in below.reads:
        await below.begun(len(below.reads) + 1)
    below.let(len(below.reads))
    assert await after == values(b"c")


@in_loop
async def test_who_is_cancelled_leaves_the_others_their_read() -> None:
    below = Gated()
    reader = SharedReader(below, seconds=60)
    gone, kept = ask(reader, b"a"), ask(reader, b"b")
    await below.begun(1)
    waiting, next_one = ask(reader, b"c"), ask(reader, b"d")
    await asyncio.sleep(0)
    gone.cancel()
    waiting.cancel()
    await asyncio.sleep(0)
    below.let(1)
    assert await kept == values(b"b")
    await below.begun(2)
    assert below.reads[1] == [b"d"]
    below.let(2)
    assert await next_one == values(b"d")


@in_loop
async def test_reads_are_bounded_but_one_request_is_never_split() -> None:
    below = Gated(is_open=True)
    sizes: list[int] = []
    reader = SharedReader(below, seconds=60, most_keys=3, observe=sizes.append)
    tasks = [ask(reader, b"a", b"b"), ask(reader, b"c"), ask(reader, b"d"), ask(reader, *[b"e"] * 5)]
    await asyncio.gather(*tasks)
    assert [len(keys) for keys in below.reads] == [3, 1, 5]
    assert sizes == [2, 1, 1]


@in_loop
async def test_closing_fails_what_waits_and_closes_what_reads() -> None:
    below = Gated()
    reader = SharedReader(below, seconds=60)
    task = ask(reader, b"a")
    await below.begun(1)
    await reader.close()
    assert below.closed
    with pytest.raises(StoreUnavailableError, match="shuts down"):
        await task


@given(
    st.lists(
        st.tuples(
            st.lists(st.binary(min_size=1, max_size=3).filter(lambda key: key[0] != 0), max_size=4),
            st.lists(st.sampled_from([READY, CUT, b"\x00x"]), max_size=3),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 6),
    st.integers(1, 3),
)
def test_each_request_gets_its_own_values_whatever_is_shared(
    asked: list[tuple[list[bytes], list[bytes]]], most_keys: int, reads: int
) -> None:
    async def run() -> None:
        reader = SharedReader(Gated(is_open=True), seconds=60, most_keys=most_keys, reads=reads)
        tasks = [ask(reader, *keys, *marks) for keys, marks in asked]
        assert await asyncio.gather(*tasks) == [values(*keys, *marks) for keys, marks in asked]
        await reader.close()

    asyncio.run(run())
