"""Runs pieces of array work at the same time: NumPy and Arrow let go of the interpreter while they compute."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return ``work(item)`` for each item, in order; items are taken only as threads become free for them."""
    remaining = iter(items)
    workers = os.cpu_count() or 1
    first = list(islice(remaining, 2))
    if workers < 2 or len(first) < 2:
        return [work(item) for item in [*first, *remaining]]
    results: list[R] = []
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        for items_left in (first, remaining):
            for item in items_left:
                pending.append(threads.submit(work, item))
                if len(pending) > workers:
                    results.append(pending.popleft().result())
        results += [future.result() for future in pending]
    return results
