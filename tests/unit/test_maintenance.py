"""Rows of any key are erased from every version of a table, no others are, and stale online writes change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.definitions import Aggregation, Entity, FeatureView, Field, Project, PushSource
from featurestore.definitions.resolve import resolve
from featurestore.errors import OfflineStoreError
from featurestore.maintenance.letters import find_letters
from featurestore.offline.deadletters import DEAD_LETTER_SCHEMA, DeadLetters
from featurestore.offline.log import RowLog
from featurestore.offline.maintenance import Key, compact, erase_rows, read_rows, rows_of_key, vacuum
from featurestore.online.contract import SectionWrite
from featurestore.online.lookup import Lookup
from featurestore.online.memory import MemoryStore
from featurestore.online.view import OnlineView
from featurestore.semantics.windows import DAY, HOUR, MINUTE
from featurestore.types import Bool, Bytes, Float64, Int32, Int64, String, UnixTimestamp, Vector

FIELDS = [
    Field('an "odd" Name', String),
    Field("n", Int32),
    Field("big", Int64),
    Field("b", Bytes),
    Field("t", UnixTimestamp),
    Field("f", Bool),
]
SOURCE = PushSource("s", timestamp_field="ts")
VIEW = FeatureView("v", [Entity("e", join_keys=FIELDS)], [Field("x", Float64), Field("vec", Vector(2))], SOURCE)
TEXTS = st.sampled_from(["", "a", "A", "a'b", '"', "\\", "\n", "é", "e\u0301", "%", "a" * 300, "NULL", "\U0001f600"])
KEYS = st.tuples(
    TEXTS,
    st.sampled_from([-(2**31), -1, 0, 1]),
    st.sampled_from([-(2**63), 0, 2**53 + 1, 2**63 - 1]),
    st.sampled_from([b"", b"\x00", b"'", b"\xff\xfe"]),
    st.sampled_from([-7, 0, 1, 253402300799999999, -62135596800000000]),
    st.booleans(),
)


def rows(keys: Sequence[tuple[Any, ...] | None], first: int) -> list[dict[str, Any]]:
    return [
        {
            **dict(zip([field.name for field in FIELDS], key or [None] * 6, strict=True)),
            "event_timestamp": sequence,
            "arrival": sequence,
            "_writer": f"w'{sequence % 2}",
            "_sequence": sequence,
            "_origin": None,
            "x": float(sequence),
            "vec": [1.0, 2.0],
        }
        for sequence, key in enumerate(keys, first)
    ]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.one_of(st.none(), KEYS), min_size=1, max_size=6), KEYS, st.data())
def test_every_row_of_a_key_goes_from_every_version_and_no_other(
    keys: list[tuple[Any, ...] | None], other: tuple[Any, ...], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from([other, *(key for key in keys if key is not None)]))
    used = data.draw(st.lists(st.sampled_from(range(len(FIELDS))), min_size=1, unique=True))
    is_kept = [key is None or any(key[place] != gone[place] for place in used) for key in keys]
    with TemporaryDirectory() as folder:
        log = RowLog(Path(folder), VIEW)
        for sequence, key in enumerate(keys):
            part = pa.Table.from_pylist(rows([key], sequence), log.schema)
            log.append(part, {f"w'{sequence % 2}": sequence})
        compact(log.path, "event_timestamp")
        compacted = log.version()

        assert erase(log, [(FIELDS[place], gone[place]) for place in used]) == is_kept.count(False)

        left = [sequence for sequence, kept in enumerate(is_kept) if kept]
        for version in range(1, log.version() + 1):
            written = min(version, len(keys))
            assert sequences(log, version) == [sequence for sequence in left if sequence < written]
        assert log.version() - compacted <= 1
        assert log.sequence("w'0") == (len(keys) - 1) // 2 * 2
        batches = list(log.sorted_rows())
        assert sorted(row["x"] for batch in batches for row in batch.to_pylist()) == [float(n) for n in left]


def sequences(log: RowLog, version: int) -> list[int]:
    files = log.files(version=version)
    return sorted(n for file in files for n in pq.read_table(file, columns=["_sequence"])["_sequence"].to_pylist())


def erase(log: RowLog, key: Key) -> int:
    return erase_rows(log.path, rows_of_key(key, {"w'0": 99, "w'1": 99}), 0)


def test_only_the_rows_up_to_a_position_go(tmp_path: Path) -> None:
    log = RowLog(tmp_path, VIEW)
    key = ("a", 1, 1, b"", 1, True)
    log.append(pa.Table.from_pylist(rows([key] * 6, 0), log.schema), {"w'0": 5, "w'1": 5})
    chosen = rows_of_key(list(zip(FIELDS, key, strict=True)), {"w'0": 2})
    assert erase_rows(log.path, chosen, 0) == 2
    left = read_rows(log.path, rows_of_key([(FIELDS[0], "a")]), ["_sequence"])
    assert left is not None
    assert sorted(left["_sequence"].to_pylist()) == [1, 3, 4, 5]


def test_a_file_that_a_writer_may_be_about_to_commit_is_left_alone(tmp_path: Path) -> None:
    log = RowLog(tmp_path, VIEW)
    key = ("a", 1, 1, b"", 1, True)
    log.append(pa.Table.from_pylist(rows([key], 0), log.schema), {"w'0": 0})
    pending = log.path / "pending.parquet"
    pq.write_table(pq.read_table(log.files()[0]), pending)
    written = pending.stat().st_mtime_ns // 1000
    chosen = rows_of_key([(FIELDS[0], "a")])

    erase_rows(log.path, chosen, written - 1)
    assert pq.read_metadata(pending).num_rows == 1
    erase_rows(log.path, chosen, written + 1)
    assert pq.read_metadata(pending).num_rows == 0


def test_a_table_that_does_not_exist_needs_nothing(tmp_path: Path) -> None:
    chosen = rows_of_key([(FIELDS[0], "a")])
    assert erase_rows(tmp_path / "none", chosen, 0) == 0
    assert read_rows(tmp_path / "none", chosen, ["_writer"]) is None
    assert vacuum(tmp_path / "none", 0, [], dry_run=False) == (0, 0)
    assert compact(tmp_path / "none", "event_timestamp") == (0, 0)


def test_a_damaged_table_is_an_error_that_names_it(tmp_path: Path) -> None:
    log = RowLog(tmp_path, VIEW)
    log.append(pa.Table.from_pylist(rows([("a", 1, 1, b"", 1, True)], 0), log.schema), {"w'0": 0})
    Path(log.files()[0]).write_bytes(b"not a table")
    with pytest.raises(OfflineStoreError, match=str(log.path)):
        erase(log, [(FIELDS[0], "a")])


DRIVER = FeatureView("d", [Entity("driver", value_type=Int64)], [Field("x", Float64)], SOURCE)


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b'{"driver": 7, "x": "wrong"}', True),
        (b'{"driver": "7"}', True),  # of a wrong type, which may be why it was rejected
        (b'{"driver": 7.0}', False),
        (b'{"driver": 77}', False),
        (b'{"drive": 7}', False),
        (b'{"driver": null}', False),
        (b"[7]", None),
        (b"driver=7", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_letters_are_found_by_their_payload(tmp_path: Path, payload: bytes, found: bool | None) -> None:
    letters = DeadLetters(tmp_path, "f" * 32)
    row = {"source": "s", "writer": "w", "sequence": 3, "arrival": 0, "payload": payload, "reason": "r"}
    letters.append(pa.Table.from_pylist([{**row, "detail": "", "views": "d"}], DEAD_LETTER_SCHEMA), {"w": 3})
    key = [(DRIVER.join_keys[0], 7)]

    assert find_letters(letters, DRIVER, key, []) == ({"w": [3]} if found else {}, int(found is None))
    assert find_letters(letters, DRIVER, key, [b"w:3"]) == ({"w": [3]}, 0)


WINDOWS = FeatureView(
    "w",
    [Entity("driver", value_type=Int64)],
    [Field("x", Float64)],
    SOURCE,
    aggregations=[
        Aggregation("x", "sum", timedelta(hours=2), name="recent"),
        Aggregation("x", "sum", None, name="all"),
    ],
)
NOW = 100 * DAY + HOUR


class InterruptedStore(MemoryStore):
    """Applies writes of others just before or after the deletion of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[SectionWrite] = []
        self.after: list[SectionWrite] = []

    def delete(self, keys: Sequence[bytes]) -> None:
        self.merge(self.before)
        super().delete(keys)
        self.merge(self.after)
        self.before, self.after = [], []


def logged(sequences: range) -> pa.Table:
    columns = {
        "driver": [7] * len(sequences),
        "event_timestamp": [NOW - 15 * MINUTE * sequence for sequence in sequences],
        "arrival": [NOW] * len(sequences),
        "_writer": ["w"] * len(sequences),
        "_sequence": list(sequences),
        "_origin": [None] * len(sequences),
        "x": [1.0] * len(sequences),
    }
    schema = RowLog(Path("unused"), WINDOWS).schema
    return pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names})


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("last", [1, 4, 5])
def test_a_stale_write_that_comes_between_is_seen_and_taken_out(when: str, last: int) -> None:
    """It was computed from rows of before the erasure, up to the log's last or to an earlier one."""
    store = InterruptedStore()
    online = OnlineView(store, "p", WINDOWS, MINUTE)
    online.mark_ready()
    online.apply(logged(range(3)), "w", -1, 2)
    (stale,) = captured(WINDOWS, logged(range(last + 1)), last)
    setattr(store, when, [stale._replace(expected=None)])

    attempts = 0
    while not online.erase((7,), [], {"w": 5}, None):
        attempts += 1
        assert attempts < 3

    assert served(online, store) == [None, None]
    assert not [key for key in store.scan(online.fingerprint) if key[16:17] == b"c"]
    store.merge([stale])
    assert served(online, store) == [None, None]
    online.apply(logged(range(6, 8)), "w", 2, 7)
    assert served(online, store) == [2.0, 2.0]


def captured(view: FeatureView, table: pa.Table, last: int) -> list[SectionWrite]:
    """Return the writes that rows come to in a store that holds nothing of their key."""

    class Recorder(MemoryStore):
        def merge(self, writes: Sequence[SectionWrite], marks: Any = None, given: Any = None) -> Any:
            seen.extend(writes)
            return super().merge(writes, marks, given)

    seen: list[SectionWrite] = []
    OnlineView(Recorder(), "p", view, MINUTE).apply(table, "w", -1, last)
    return seen


def served(online: OnlineView, store: MemoryStore) -> list[Any]:
    request = resolve(Project([WINDOWS]), ["w:recent", "w:all"])
    answer = Lookup(request, store, {"w": online}).answer([{"driver": 7}], NOW + 1).to_dict()
    return [answer["recent"][0], answer["all"][0]]
