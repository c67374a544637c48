"""Compaction and vacuum of all logs, with what saved training sets and open jobs need kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec

from featurestore.clock import delta_micros
from featurestore.errors import OfflineStoreError
from featurestore.offline.log import RowLog
from featurestore.offline.maintenance import compact, job_versions, vacuum
from featurestore.registry.catalog import Registry
from featurestore.training.datasets import Datasets

RETENTION = timedelta(days=7)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


class CompactReport(msgspec.Struct, frozen=True):
    """What compaction did to a log: its data files before and after."""

    log: str
    views: tuple[str, ...]
    files_before: int
    files_after: int


class VacuumReport(msgspec.Struct, frozen=True):
    """What vacuum removed, or would remove, of one table, and the old versions that it kept."""

    table: str
    files: int
    bytes: int
    kept_versions: tuple[int, ...]


def compact_logs(logs: Sequence[tuple[RowLog, tuple[str, ...]]]) -> list[CompactReport]:
    """Lay logs out by event time in files of a sensible size. No row, position or earlier version changes."""
    reports = []
    for log, views in logs:
        done = compact(log.path, "event_timestamp")
        reports.append(CompactReport(log.fingerprint, views, done.before, done.after))
    return reports


def vacuum_all(
    root: Path, registry: Registry, datasets: Datasets, wall: int, *, retention: timedelta, dry_run: bool
) -> list[VacuumReport]:
    """Remove the files that no version within the retention, no saved set and no open job needs.

    Also what saves that were cut off left, once it is as old, and at least a day.

    Parameters
    ----------
    root
        The offline store's folder.
    wall
        The time by the clock that files go by, in microseconds since the epoch.
    retention
        Versions that were current within it stay whole; rounded up to hours.
    """
    if retention < timedelta(0):
        raise OfflineStoreError(f"a retention of {retention} lies in the future; give 0 or more, such as 7d")
    hours = -(-retention // _HOUR)
    pinned = datasets.pinned()
    reports = []
    for kind, table in _tables(root):
        keep: set[int] = set()
        if kind == "logs":
            keep |= pinned.get(table.name, set())
            for base in registry.open_job_versions(table.name):
                keep |= {base, *job_versions(table, base)}
        removed = vacuum(table, hours, keep, dry_run=dry_run)
        kept = tuple(sorted(version for version in keep if version >= 0))
        reports.append(VacuumReport(f"{kind}/{table.name}", removed.files, removed.bytes, kept))
    left = datasets.unfinished(wall - delta_micros(max(retention, _DAY)))
    files = [file for folder in left for file in folder.iterdir()]
    if files:
        reports.append(VacuumReport("datasets", len(files), sum(file.stat().st_size for file in files), ()))
    for folder in left:
        if not dry_run:
            shutil.rmtree(folder)
    return reports


def _tables(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the kind and folder of every Delta table of an offline store, also those no applied view reads."""
    for kind in ("logs", "deadletters"):
        parent = root / kind
        if parent.is_dir():
            yield from ((kind, table) for table in sorted(parent.iterdir()) if table.is_dir())
