"""What is counted: cells that cost an addition each, and their sum over all workers as Prometheus reads it.

Each worker counts in its own memory and writes its cells into a file of the folder that the workers share, every
second and before it answers a scrape. Whichever worker is scraped adds up the files, so that counters never go back;
the file of a worker that died stays, its gauges are left out.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from prometheus_client.core import Metric

BOUNDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the latency buckets, in seconds."""
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
"""Upper bounds of the buckets of how many requests share a read."""
_STALE_SECONDS = 15.0

Cell = list[float]
"""A counter's or gauge's one number; of a histogram the count of each bucket, one above all bounds, then the sum."""


class Family(NamedTuple):
    """A metric: its kind, what it means, the names of its labels, and the bounds of a histogram's buckets."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


FAMILIES: dict[str, Family] = {
    "featurestore_requests": Family("counter", "Requests answered.", ("route", "code")),
    "featurestore_request_seconds": Family(
        "histogram",
        "Time from the whole request to its answer; service is - where features were named one by one.",
        ("route", "service"),
        BOUNDS,
    ),
    "featurestore_entity_rows": Family("counter", "Entity rows looked up.", ("service",)),
    "featurestore_values": Family(
        "counter", "Feature values answered, by view and status: PRESENT, NOT_FOUND, and so on.", ("view", "status")
    ),
    "featurestore_read_requests": Family("histogram", "Requests that shared a read of the online store.", (), SIZES),
    "featurestore_pushed_rows": Family("counter", "Rows pushed.", ("source", "outcome")),
    "featurestore_rate_limited": Family("counter", "Requests refused because their token's rate was used up."),
    "featurestore_shed": Family("counter", "Lookups refused because as many as a worker takes were in flight."),
    "featurestore_reloads": Family("counter", "Switches to new definitions.", ("outcome",)),
    "featurestore_refills": Family("counter", "Views filled from their logs by a worker.", ("view", "outcome")),
    "featurestore_in_flight": Family("gauge", "Requests being answered.", ("worker",)),
    "featurestore_revision": Family("gauge", "Revision of the definitions in use.", ("worker",)),
    "featurestore_ready": Family("gauge", "1 where the worker says that it is ready.", ("worker",)),
    "featurestore_view_ready": Family("gauge", "1 where the view's online state is filled.", ("view",)),
    "featurestore_freshness_seconds": Family("gauge", "Seconds since a row of the view's log arrived.", ("view",)),
}
"""Every metric. Labels take values from the definitions and from fixed lists alone, so that their number is bounded."""


class Snapshot(msgspec.Struct, array_like=True):
    """One worker's cells at one time (seconds since the epoch)."""

    worker: int
    at: float
    cells: list[tuple[str, tuple[str, ...], Cell]]


class Metrics:
    """The cells of one worker.

    Parameters
    ----------
    folder
        The folder shared with the other workers; None where there are none.

    Attributes
    ----------
    worker
        The process id, which tells workers apart.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self.worker = os.getpid()
        self._cells: dict[tuple[str, tuple[str, ...]], Cell] = {}

    def cell(self, name: str, *labels: str) -> Cell:
        """Return the cell of a metric with these label values; whoever holds it adds to its first number."""
        cell = self._cells.get((name, labels))
        if cell is None:
            bounds = FAMILIES[name].bounds
            cell = self._cells[name, labels] = [0.0] * (len(bounds) + 2 if bounds else 1)
        return cell

    def add(self, name: str, *labels: str, value: float = 1.0) -> None:
        """Add to a counter or gauge."""
        self.cell(name, *labels)[0] += value

    def set(self, name: str, *labels: str, value: float) -> None:
        """Set a gauge."""
        self.cell(name, *labels)[0] = value

    def remove(self, name: str, *labels: str) -> None:
        """Forget a cell, of a view that is no more."""
        self._cells.pop((name, labels), None)

    def labels(self, name: str) -> list[tuple[str, ...]]:
        """Return the label values that a metric has cells of."""
        return [labels for known, labels in self._cells if known == name]

    def flush(self) -> None:
        """Write the cells where the other workers find them."""
        if self._folder is None:
            return
        path = self._folder / f"{self.worker}.json"
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(self._snapshot()))
        new.replace(path)

    def expose(self) -> bytes:
        """Return the sum over all workers in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        self.flush()
        snapshots = [self._snapshot()] if self._folder is None else list(_read(self._folder))
        registry = CollectorRegistry()
        registry.register(_Collector(snapshots))
        text: bytes = generate_latest(registry)
        return text

    def _snapshot(self) -> Snapshot:
        cells = [(name, labels, list(cell)) for (name, labels), cell in list(self._cells.items())]
        return Snapshot(self.worker, time.time(), cells)


def observe(cell: Cell, bounds: Sequence[float], value: float) -> None:
    """Count a value in a histogram's cell."""
    cell[bisect_left(bounds, value)] += 1
    cell[-1] += value


def _read(folder: Path) -> Iterator[Snapshot]:
    decoder = msgspec.json.Decoder(Snapshot)
    for path in sorted(folder.glob("*.json")):
        yield decoder.decode(path.read_bytes())


class _Collector:
    """Hands the sum of some snapshots to prometheus_client."""

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterable[Metric]:
        totals = _sum(self._snapshots)
        for name, family in FAMILIES.items():
            yield _metric(name, family, {labels: cell for (known, labels), cell in totals.items() if known == name})


def _sum(snapshots: Sequence[Snapshot]) -> dict[tuple[str, tuple[str, ...]], Cell]:
    newest = max((snapshot.at for snapshot in snapshots), default=0.0)
    totals: dict[tuple[str, tuple[str, ...]], Cell] = {}
    for snapshot in sorted(snapshots, key=lambda item: item.at):
        for name, labels, cell in snapshot.cells:
            if name not in FAMILIES:
                continue
            known = totals.get((name, labels))
            if FAMILIES[name].kind == "gauge":
                if newest - snapshot.at <= _STALE_SECONDS:
                    totals[name, labels] = cell  # of a gauge that workers share, the newest
            elif known is None:
                totals[name, labels] = list(cell)
            else:
                totals[name, labels] = [a + b for a, b in zip(known, cell, strict=True)]
    return totals


def _metric(name: str, family: Family, cells: dict[tuple[str, ...], Cell]) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
        for labels, (*counts, total) in sorted(cells.items()):
            running, buckets = 0.0, []
            for bound, count in zip((*map(str, family.bounds), "+Inf"), counts, strict=True):
                running += count
                buckets.append((bound, running))
            histogram.add_metric(labels, buckets, total)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(name, family.help, labels=family.labels)
    for labels, cell in sorted(cells.items()):
        metric.add_metric(labels, cell[0])
    return metric
