"""Thousands of generated cases aimed at the edges of section 2: every path answers as the reference, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from featurestore.offline import engine, rows
from featurestore.offline.duckdb import scan
from featurestore.offline.engine import ROW_MEMORY
from featurestore.offline.log import RowLog
from featurestore.online.contract import OnlineStore
from featurestore.online.lmdb import LmdbStore
from featurestore.online.memory import MemoryStore
from featurestore.online.view import OnlineView
from featurestore.testing.conformance import (
    Difference,
    apply_in_batches,
    fill_log,
    offline_differences,
    online_differences,
    receipt_differences,
)
from featurestore.testing.generate import Case, random_cases

OFFLINE_SEEDS = range(16)
OFFLINE_CASES = 130
ONLINE_SEEDS = range(8)
ONLINE_CASES = 500
SKEWS = (0, 1, 600_000_000)
SIZES = ([1], [1, 3, 7], [1000])


def tell(case: Case, differences: list[Difference]) -> str:
    listed = "\n".join(map(repr, case.rows))
    return f"{differences[0]}\nof {case.view!r}\nover\n{listed}\ncuts {case.cuts}"


def in_small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make of a few rows what else happens to millions: parts, threads, files in two halves, keys too far apart."""
    monkeypatch.setattr(engine, "_PART_ROWS", 3)
    monkeypatch.setattr(engine, "_PART_LABELS", 2)
    monkeypatch.setattr(rows, "_BITS", 1)
    monkeypatch.setattr(scan, "_SPLIT_ROWS", 1)
    monkeypatch.setattr(engine, "_PER_ROW", engine.ROW_MEMORY // 3)


@pytest.mark.parametrize("seed", OFFLINE_SEEDS)
def test_duckdb_answers_as_the_reference(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:
        in_small_portions(monkeypatch)
    for number, case in enumerate(random_cases(1000 + seed, OFFLINE_CASES)):
        log = RowLog(tmp_path / str(number), case.view)
        fill_log(log, case.view, case.rows, portions=1 + number % 3)
        for known_at in ("event", "arrival"):
            memory = (ROW_MEMORY, 300)[number % 2]  # the smaller holds a few rows at a time
            differences = list(offline_differences(case, log, known_at=known_at, memory=memory))
            assert not differences, f"known_at={known_at}, memory={memory}: {tell(case, differences)}"


@pytest.mark.parametrize("seed", range(4))
def test_duckdb_answers_as_the_reference_where_keys_have_many_rows(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 2:
        in_small_portions(monkeypatch)
    for number, case in enumerate(random_cases(2000 + seed, 15, max_rows=400, max_queries=40)):
        log = RowLog(tmp_path / str(number), case.view)
        fill_log(log, case.view, case.rows)
        for known_at in ("event", "arrival"):
            differences = list(offline_differences(case, log, known_at=known_at))
            assert not differences, f"known_at={known_at}: {tell(case, differences)}"


@pytest.mark.parametrize("seed", ONLINE_SEEDS)
def test_online_answers_as_the_reference_however_rows_are_batched(seed: int) -> None:
    for number, case in enumerate(random_cases(3000 + seed, ONLINE_CASES)):
        sizes = SIZES[number % len(SIZES)]

        def fill(online: OnlineView, case: Case, sizes: list[int] = sizes) -> None:
            apply_in_batches(online, case, sizes=sizes)

        skew = SKEWS[number // 3 % len(SKEWS)]
        differences = list(online_differences(case, MemoryStore(), skew=skew, fill=fill))
        assert not differences, f"batches of {sizes}, skew {skew}: {tell(case, differences)}"


@pytest.fixture
def lmdb_store(tmp_path: Path) -> Iterator[OnlineStore]:
    with closing(LmdbStore(tmp_path / "online")) as store:
        yield store


def test_lmdb_answers_as_the_reference(lmdb_store: OnlineStore) -> None:
    for case in random_cases(4000, 200):
        for key in lmdb_store.scan(b""):
            lmdb_store.delete([key])
        differences = list(
            online_differences(
                case, lmdb_store, skew=600_000_000, fill=lambda online, case: apply_in_batches(online, case, sizes=[4])
            )
        )
        assert not differences, tell(case, differences)


@pytest.mark.parametrize("seed", range(2))
def test_what_was_served_is_recomputed_from_its_receipt(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 2:
        in_small_portions(monkeypatch)
    for number, case in enumerate(random_cases(5000 + seed, 60, sources=("stream",))):
        log = RowLog(tmp_path / str(number), case.view)
        fill_log(log, case.view, case.rows)
        applied = (0.3, 0.7, 1.0)[number % 3]
        differences = list(receipt_differences(case, log, MemoryStore(), skew=600_000_000, applied=applied))
        assert not differences, tell(case, differences)
