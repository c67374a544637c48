"""Dead letters are kept once, with payload, position and reason."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from featurestore.errors import OfflineStoreError
from featurestore.offline.deadletters import DEAD_LETTER_SCHEMA, DeadLetters


def letters(writer: str, sequences: list[int]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "source": "trips",
                "writer": writer,
                "sequence": sequence,
                "arrival": sequence,
                "payload": b'{"id": \xff}',
                "reason": "undecodable",
                "detail": "not UTF-8",
                "views": "a,b",
            }
            for sequence in sequences
        ],
        schema=DEAD_LETTER_SCHEMA,
    )


def test_dead_letters_come_back_as_they_were_once(tmp_path: Path) -> None:
    store = DeadLetters(tmp_path, "f" * 32)
    assert (store.count(), store.read().num_rows, store.sequence("w")) == (0, 0, -1)

    store.append(letters("w", [9, 2]), {"w": 9})
    again = store.append(letters("w", [2, 9, 11]), {"w": 12})
    store.append(letters("v", [1]), {"v": 1})

    assert again["sequence"].to_pylist() == [11]
    back = DeadLetters(tmp_path, "f" * 32)
    expected = pa.concat_tables([letters("v", [1]), letters("w", [2, 9, 11])])
    assert back.read().equals(expected)
    assert (back.count(), back.sequence("w")) == (4, 12)


def test_none_at_all_writes_nothing(tmp_path: Path) -> None:
    store = DeadLetters(tmp_path, "f" * 32)
    assert store.append(letters("w", []), {"w": 3}).num_rows == 0
    assert list(tmp_path.iterdir()) == []


def test_logs_do_not_share_dead_letters(tmp_path: Path) -> None:
    DeadLetters(tmp_path, "a" * 32).append(letters("w", [1]), {"w": 1})
    assert DeadLetters(tmp_path, "b" * 32).count() == 0


def test_damage_says_where(tmp_path: Path) -> None:
    store = DeadLetters(tmp_path, "a" * 32)
    store.append(letters("w", [1]), {"w": 1})
    next(store.path.glob("*.parquet")).write_bytes(b"PAR1")
    with pytest.raises(OfflineStoreError, match="cannot read the dead letters in"):
        store.read()
