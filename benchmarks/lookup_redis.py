"""Lookups from Redis, measured in one process with a bare MGET of the same keys, in turns."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis

from benchmarks.child import Stopwatch
from featurestore import FeatureStore
from featurestore.clock import ManualClock
from featurestore.definitions.resolve import resolve
from featurestore.online.lookup import Lookup
from featurestore.online.redis_keys import Keys

ROUNDS = 5


def measure(
    *, project: str, redis: int, features: Sequence[str], requests: Sequence[Sequence[int]], now: int, answer: str
) -> Stopwatch:
    """Look keys up, a request after the other.

    Parameters
    ----------
    now
        What the reader's clock shows, in microseconds.
    answer
        A file for what the first 20 requests came to, as a list of the columns of each.

    Returns
    -------
    Stopwatch
        `seconds` is the median of ours. Figures: `p50`, `p99` and `p999` of ours; `bare`, the median of the MGET;
        `bytes`, what that returns for a request; `steps`, how often ours reads for a request.
    """
    with closing(FeatureStore(project, clock=ManualClock(now))) as store, closing(Redis(port=redis)) as client:
        rows = [[{"id": key} for key in ids] for ids in requests]
        references = tuple(features)

        def ours(some: list[dict[str, Any]]) -> dict[str, list[Any]]:
            return store.get_online_features(references, some).to_dict()

        read, steps = _keys(store, references, rows)
        found = [ours(some) for some in rows[:20]]
        size = statistics.mean(sum(map(len, filter(None, client.mget(keys)))) for keys in read[:20])
        times: dict[str, list[float]] = {"ours": [], "bare": []}
        with Stopwatch() as watch:
            for _ in range(ROUNDS):
                times["ours"] += _timed(ours, rows)
                times["bare"] += _timed(client.mget, read)
    p50, p99, p999 = np.percentile(times["ours"], (50, 99, 99.9)).tolist()
    bare = statistics.median(times["bare"])
    watch.figures = {"p50": p50, "p99": p99, "p999": p999, "bare": bare, "bytes": size, "steps": steps}
    watch.seconds = p50
    Path(answer).write_text(json.dumps(found), encoding="utf-8")
    return watch


def _keys(
    store: FeatureStore, features: tuple[str, ...], rows: Sequence[list[dict[str, Any]]]
) -> tuple[list[list[bytes]], float]:
    """Return the keys in Redis that each request reads, and how many reads a request takes."""
    request = resolve(store.project, features)
    lookup = Lookup(request, store.online_store, {view.name: store.online_view(view) for view in request.views})
    names: Keys = store.online_store.keys  # type: ignore[attr-defined]  # a store in Redis
    keys, steps = [], 0
    with store.online_store.snapshot() as snapshot:
        for some in rows:
            run = lookup.steps(some, store.clock.now())
            mine: list[bytes] = []
            try:
                asked = next(run)
                while True:
                    steps += 1
                    mine += asked
                    asked = run.send(snapshot.get(asked))
            except StopIteration:
                keys.append(list(map(names.physical, mine)))
    return keys, steps / len(rows)


def _timed(work: Callable[[Any], object], items: Sequence[Any]) -> list[float]:
    times = []
    for item in items:
        started = time.perf_counter()
        work(item)
        times.append(time.perf_counter() - started)
    return times


def chosen(keys: int, entities: int, count: int) -> list[list[int]]:
    """Return the ids of some requests, always the same."""
    chooser = random.Random(keys * 1000 + entities)
    return [[chooser.randrange(keys) for _ in range(entities)] for _ in range(count)]
