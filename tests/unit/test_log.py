"""The row log keeps rows to the bit, appends them exactly once and replaces ranges to the microsecond."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.definitions import Entity, FeatureView, Field, PushSource
from featurestore.errors import OfflineStoreError
from featurestore.offline import journal
from featurestore.offline.log import RowLog, log_schema
from featurestore.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
    ValueType,
    Vector,
)

TYPES: dict[str, ValueType] = {
    "a_bool": Bool,
    "a_int": Int32,
    "a_long": Int64,
    "a_float": Float32,
    "a_double": Float64,
    "a_text": String,
    "a_blob": Bytes,
    "a_time": UnixTimestamp,
    "many_floats": Array(Float32),
    "many_texts": Array(String),
    "many_times": Array(UnixTimestamp),
    "vec": Vector(2),
    "vec64": Vector(3, Float64),
}


def wide_view() -> FeatureView:
    return FeatureView(
        "wide",
        entities=[Entity("pair", join_keys=[Field("b_key", Bytes), Field("a_key", String)])],
        schema=[Field(name, dtype) for name, dtype in TYPES.items()],
        source=PushSource("p", timestamp_field="ts"),
    )


def view() -> FeatureView:
    return FeatureView(
        "trips",
        entities=[Entity("driver", value_type=Int64)],
        schema=[Field("x", Float64)],
        source=PushSource("p", timestamp_field="ts"),
    )


def rows(items: Iterable[tuple[int, int, int]], writer: str = "s", arrivals: Sequence[int] | None = None) -> pa.Table:
    """Rows from (driver, event time, sequence); x repeats the sequence."""
    listed = list(items)
    times = [time for _, time, _ in listed]
    return pa.table(
        {
            "driver": [driver for driver, _, _ in listed],
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            "arrival": pa.array(times if arrivals is None else arrivals, pa.timestamp("us", "UTC")),
            "_writer": [writer] * len(listed),
            "_sequence": [sequence for _, _, sequence in listed],
            "_origin": pa.nulls(len(listed), pa.binary()),
            "x": [float(sequence) for _, _, sequence in listed],
        },
        schema=log_schema(view()),
    )


def content(log: RowLog, **selection: Any) -> list[tuple[Any, ...]]:
    """(driver, event time, writer, sequence) of the selected rows, in the order given."""
    found: list[tuple[Any, ...]] = []
    for batch in log.sorted_rows(**selection):
        assert batch.schema == log.schema
        times = batch["event_timestamp"].cast(pa.int64()).to_pylist()
        found += zip(
            batch["driver"].to_pylist(),
            times,
            batch["_writer"].to_pylist(),
            batch["_sequence"].to_pylist(),
            strict=True,
        )
    return found


def bits(value: Any) -> Any:
    """Floats as their bytes, so that -0.0 and NaN compare as what they are."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    return [bits(item) for item in value] if isinstance(value, list) else value


def columns_in_bits(table: pa.Table) -> dict[str, Any]:
    plain = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        elif pa.types.is_list(column.type) and pa.types.is_timestamp(column.type.value_type):
            column = column.cast(pa.list_(pa.int64()))
        plain[name] = [bits(value) for value in column.to_pylist()]
    return plain


def test_the_schema_has_keys_by_name_then_positions_then_columns_by_name() -> None:
    names = log_schema(wide_view()).names
    assert names[:2] == ["a_key", "b_key"]
    assert names[2:7] == ["event_timestamp", "arrival", "_writer", "_sequence", "_origin"]
    assert names[7:] == sorted(TYPES)


def test_every_type_comes_back_to_the_bit(tmp_path: Path) -> None:
    log = RowLog(tmp_path, wide_view())
    earliest, latest = -62_135_596_800_000_000, 253_402_300_799_999_999
    values: dict[str, list[Any]] = {
        "a_key": ["", "é\x00", "😀"],
        "b_key": [b"", b"\xff\x00", b"a"],
        "event_timestamp": [earliest, -1, latest],
        "arrival": [latest, 0, -999],
        "_writer": ["push/ü/0", "push/ü/0", "push/ü/0"],
        "_sequence": [0, 1, 2**63 - 1],
        "_origin": [None, b"", b"\x00"],
        "a_bool": [True, None, False],
        "a_int": [-(2**31), None, 2**31 - 1],
        "a_long": [-(2**63), None, 2**63 - 1],
        "a_float": [-0.0, math.nan, 1.401298464324817e-45],
        "a_double": [-0.0, math.nan, 5e-324],
        "a_text": ["", None, "a\x00b"],
        "a_blob": [b"", None, b"\x80"],
        "a_time": [-1, None, earliest],
        "many_floats": [[], None, [None, -0.0, math.inf]],
        "many_texts": [["", None], [], None],
        "many_times": [[-1, None], None, []],
        "vec": [[1.5, -0.0], None, [math.nan, math.inf]],
        "vec64": [None, [0.1, 5e-324, -0.0], [1.0, 2.0, 3.0]],
    }
    given = pa.table(values, schema=log.schema)

    appended = log.append(given, {"push/ü/0": 2**63 - 1})
    back = pa.Table.from_batches(log.sorted_rows(), log.schema)

    assert columns_in_bits(appended) == columns_in_bits(given)
    assert columns_in_bits(back) == columns_in_bits(given)
    assert [type(value) for value in back["vec"].to_pylist()] == [list, type(None), list]


def test_before_the_first_write_there_is_nothing(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    assert (log.exists(), log.version(), log.sequence("s"), log.files()) == (False, -1, -1, [])
    assert content(log) == []
    assert log.batch_keys(0, 10).num_rows == 0


def test_an_empty_append_commits_nothing_but_makes_the_table(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    assert log.append(rows([]), {"s": 5}).num_rows == 0
    assert (log.exists(), log.version(), log.sequence("s")) == (True, 0, -1)
    log.append(rows([]), {"s": 6})
    assert log.version() == 0


def test_replayed_and_overlapping_batches_append_only_what_is_new(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    first = log.append(rows([(1, 0, 0), (1, 1, 1)]), {"s": 1})
    replayed = log.append(rows([(1, 0, 0), (1, 1, 1)]), {"s": 1})
    overlapping = log.append(rows([(1, 1, 1), (2, 5, 2), (2, 5, 2)]), {"s": 4})

    assert [table.num_rows for table in (first, replayed, overlapping)] == [2, 0, 1]
    assert content(log) == [(1, 0, "s", 0), (1, 1, "s", 1), (2, 5, "s", 2)]
    assert log.sequence("s") == 4
    assert RowLog(tmp_path, view()).sequence("s") == 4


def test_writers_advance_apart(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    log.append(rows([(1, 0, 5)], "a"), {"a": 5})
    both = pa.concat_tables([rows([(1, 0, 3)], "b"), rows([(1, 0, 5), (1, 0, 6)], "a")])
    assert log.append(both, {"a": 6, "b": 3})["_sequence"].to_pylist() == [3, 6]
    assert (log.sequence("a"), log.sequence("b")) == (6, 3)


@pytest.mark.parametrize("through", [{}, {"other": 9}, {"s": 0}])
def test_rows_beyond_the_position_are_refused(tmp_path: Path, through: dict[str, int]) -> None:
    log = RowLog(tmp_path, view())
    with pytest.raises(OfflineStoreError, match="'s' with sequences 0 to 1 do not fit"):
        log.append(rows([(1, 0, 0), (1, 0, 1)]), through)
    assert not log.exists()


def test_batch_rows_cannot_be_appended(tmp_path: Path) -> None:
    with pytest.raises(OfflineStoreError, match="replaced by jobs"):
        RowLog(tmp_path, view()).append(rows([(1, 0, 0)], "batch"), {"batch": 0})


def test_rows_without_a_column_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OfflineStoreError, match="do not have its columns"):
        RowLog(tmp_path, view()).append(rows([(1, 0, 0)]).drop_columns(["x"]), {"s": 0})


def test_a_job_number_counts_once_and_only_upwards(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    log.replace(rows([(1, 0, 2 << 38)], "batch"), 0, 10, 2)
    for late in (1, 2):
        with pytest.raises(OfflineStoreError, match="'batch' is at 2"):
            log.replace(rows([]), 0, 10, late)
    assert log.sequence("batch") == 2
    assert len(content(log)) == 1


def test_replacing_by_nothing_deletes_and_records_the_job(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    log.append(rows([(1, 5, 0)]), {"s": 0})
    log.replace(rows([(1, 4, 1 << 38), (1, 5, 1 << 38 | 1)], "batch"), 0, 10, 1)
    log.replace(rows([]), 5, 10, 2)
    assert content(log) == [(1, 4, "batch", 1 << 38), (1, 5, "s", 0)]
    assert log.sequence("batch") == 2


def test_rows_out_of_range_or_of_a_stream_are_refused(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    for wrong in (rows([(1, 10, 1 << 38)], "batch"), rows([(1, -1, 1 << 38)], "batch"), rows([(1, 5, 0)], "s")):
        with pytest.raises(OfflineStoreError, match="validation"):
            log.replace(wrong, 0, 10, 1)
    with pytest.raises(OfflineStoreError, match="is empty"):
        log.replace(rows([]), 10, 10, 1)
    assert content(log) == []


POINTS = sorted({sign * point for point in (0, 1, 499, 500, 501, 999, 1000, 1001, 1999, 2000) for sign in (1, -1)})


@pytest.mark.parametrize("bounds", [(-1001, -999), (-500, 0), (-1, 1), (500, 1000), (501, 1001), (999, 1000)])
def test_ranges_are_exact_although_statistics_are_in_milliseconds(
    tmp_path: Path, bounds: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_COMPACT_EVERY", 10**9)  # it would put the files together
    start, end = bounds
    log = RowLog(tmp_path, view())
    for number, point in enumerate(POINTS):  # one file a row, so that its statistics are of that row alone
        log.replace(rows([(1, point, number + 1 << 38)], "batch"), point, point + 1, number + 1)
        log.append(rows([(2, point, number)]), {"s": number})
    inside = [point for point in POINTS if start <= point < end]

    assert [time for _, time, _, _ in content(log, batch_before=end, writers=["batch"])] == [
        point for point in POINTS if point < end
    ]
    assert log.batch_keys(start, end).to_pydict() == {"driver": [1] if inside else []}
    kept = set(log.files(start, end))
    every = {path: pq.read_table(path) for path in log.files()}
    for path, table in every.items():
        times = table["event_timestamp"].cast(pa.int64()).to_pylist()
        assert path in kept or not any(start <= time < end for time in times)
    assert len(kept) < len(every)

    log.replace(rows([(3, start, 99 << 38)], "batch"), start, end, 99)
    left = [(driver, time) for driver, time, writer, _ in content(log) if writer == "batch"]
    assert left == [(1, point) for point in POINTS if point not in inside] + [(3, start)]
    assert [time for driver, time, _, _ in content(log) if driver == 2] == POINTS


@pytest.mark.parametrize("micros", [-62_135_596_800_000_000, -14_000_000_000_000_000, 253_402_300_799_999_999])
def test_ranges_far_from_today(tmp_path: Path, micros: int) -> None:
    log = RowLog(tmp_path, view())
    log.replace(rows([(1, micros, 1 << 38)], "batch"), micros, micros + 1, 1)
    assert content(log, batch_before=micros + 1) == [(1, micros, "batch", 1 << 38)]
    log.replace(rows([(2, micros, 2 << 38)], "batch"), micros, micros + 1, 2)
    assert content(log) == [(2, micros, "batch", 2 << 38)]


def test_rows_come_sorted_and_selected(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    log.append(rows([(10, 1, 0), (2, 2, 1), (10, 0, 2)], "z"), {"z": 2})
    log.append(rows([(10, 1, 7), (2, 9, 8)], "Ä"), {"Ä": 8})
    log.replace(rows([(2, 3, 1 << 38), (10, 4, 1 << 38 | 1)], "batch"), 0, 10, 1)

    assert [(driver, writer, sequence % 2**38) for driver, _, writer, sequence in content(log)] == [
        (2, "batch", 0),
        (2, "z", 1),
        (2, "Ä", 8),
        (10, "batch", 1),
        (10, "z", 0),
        (10, "z", 2),
        (10, "Ä", 7),
    ]
    keys = pa.table({"driver": pa.array([10, None, 99], pa.int64())})
    assert {driver for driver, *_ in content(log, keys=keys)} == {10}
    assert content(log, keys=keys.slice(0, 0)) == []
    assert {writer for *_, writer, _ in content(log, writers=["Ä", "none"])} == {"Ä"}
    assert content(log, writers=[]) == []
    assert [sequence for *_, sequence in content(log, after={"z": 1}, writers=["z"])] == [2]
    assert len(content(log, after={"z": 1})) == 5
    assert [time for _, time, writer, _ in content(log, batch_before=4) if writer == "batch"] == [3]


def test_the_horizon_reaches_back_from_the_greatest_arrival_of_each_section(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    log.append(rows([(1, 0, 0), (1, 10, 1), (1, 20, 2)], "a", [0, 30, 20]), {"a": 2})
    log.append(rows([(1, 0, 0), (1, 5, 1)], "b"), {"b": 1})
    log.append(rows([(2, -100, 3)], "a"), {"a": 3})

    expected = [(1, 10, "a", 1), (1, 20, "a", 2), (1, 0, "b", 0), (1, 5, "b", 1), (2, -100, "a", 3)]
    assert content(log, horizon=20) == expected
    assert content(log, horizon=19)[0] == (1, 20, "a", 2)
    assert content(log, horizon=20, after={"a": 1}) == [row for row in expected if row[2] != "a" or row[3] > 1]
    assert len(content(log, horizon=2**63 - 1)) == 6
    assert [row[2] for row in content(log, horizon=9, after={"a": 1}) if row[0] == 1] == ["b", "b"]


def test_the_cut_comes_before_the_horizon(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    log.replace(rows([(1, 0, 1 << 38), (1, 50, 1 << 38 | 1), (1, 99, 1 << 38 | 2)], "batch"), 0, 100, 1)
    assert [time for _, time, _, _ in content(log, horizon=50, batch_before=51)] == [0, 50]


def test_a_view_of_the_whole_world_has_one_key(tmp_path: Path) -> None:
    world = FeatureView("world", schema=[Field("x", Float64)], source=PushSource("p", timestamp_field="ts"))
    log = RowLog(tmp_path, world)
    given = rows([(1, 1, 1), (1, 0, 0)]).drop_columns(["driver"])
    log.append(given, {"s": 1})
    batches = list(log.sorted_rows(keys=log.batch_keys(0, 1), horizon=0))
    assert [batch["_sequence"].to_pylist() for batch in batches] == [[1]]


def test_old_versions_stay_readable_beyond_a_checkpoint(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    for sequence in range(120):
        log.append(rows([(1, sequence, sequence)]), {"s": sequence})
    assert list((log.path / "_delta_log").glob("*.checkpoint.parquet"))

    reopened = RowLog(tmp_path, view())
    assert reopened.sequence("s") == 119
    assert reopened.append(rows([(1, 7, 7)]), {"s": 7}).num_rows == 0
    assert len(content(reopened)) == 120
    assert len(content(reopened, version=5)) == 5


def test_the_snapshot_is_taken_by_the_call(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    log.append(rows([(1, 0, 0)]), {"s": 0})
    batches = log.sorted_rows()
    log.append(rows([(1, 1, 1)]), {"s": 1})
    assert sum(batch.num_rows for batch in batches) == 1


def test_unusual_column_names_and_paths(tmp_path: Path) -> None:
    odd = FeatureView(
        "odd",
        entities=[Entity("e", join_keys=[Field("the key, ü", Int64)])],
        schema=[Field('a "quoted".name', Float64)],
        source=PushSource("p", timestamp_field="ts"),
    )
    log = RowLog(tmp_path / "a b?c*é#=1", odd)
    given = rows([(1, 0, 0)]).rename_columns(log.schema.names)
    log.append(given, {"s": 0})
    [batch] = log.sorted_rows(keys=given.select(["the key, ü"]))
    assert batch.schema == log.schema
    assert all(Path(path).exists() for path in log.files())


@pytest.mark.parametrize("folder", ["a[1]", "50%", "a^b"])
def test_paths_that_delta_cannot_take_are_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(OfflineStoreError, match="choose another offline_path"):
        RowLog(tmp_path / folder, view())


def test_a_corrupt_log_says_where(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    log.append(rows([(1, 0, 0)]), {"s": 0})
    [data] = log.files()
    Path(data).write_bytes(b"PAR1 truncated")
    with pytest.raises(OfflineStoreError, match=str(log.path)):
        content(log)

    next(iter((log.path / "_delta_log").glob("*1.json"))).write_text("garbage")
    broken = RowLog(tmp_path, view())
    for use in (broken.version, broken.files, lambda: broken.append(rows([(1, 1, 1)]), {"s": 1})):
        with pytest.raises(OfflineStoreError, match=str(log.path)):
            use()


def test_a_folder_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    with pytest.raises(OfflineStoreError, match="cannot create the log of view 'trips'"):
        RowLog(tmp_path, view()).append(rows([]), {})


def test_a_missing_version_says_so(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    log.append(rows([(1, 0, 0)]), {"s": 0})
    with pytest.raises(OfflineStoreError, match="cannot read the log of view 'trips'"):
        log.files(version=7)


def test_many_small_commits_leave_few_files_and_every_row(tmp_path: Path) -> None:
    log = RowLog(tmp_path, view())
    commits = 3 * journal._COMPACT_EVERY
    for number in range(commits):
        log.append(rows([(number % 5, number, number)]), {"s": number})

    assert len(log.files()) <= journal._COMPACT_EVERY + 3
    assert sorted(row[1] for row in content(log)) == list(range(commits))
    again = log.append(rows([(number % 5, number, number) for number in range(commits)]), {"s": commits - 1})
    assert again.num_rows == 0
    assert len(content(RowLog(tmp_path, view()), version=10)) < commits  # earlier versions can still be read
