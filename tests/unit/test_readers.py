"""Sources are read exactly as declared: exact widenings, clear refusals, bad rows set aside with their reason."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from featurestore.definitions import FileSource
from featurestore.errors import SourceError
from featurestore.materialize.columns import convert, fits, order_bits
from featurestore.materialize.readers import Rejected, SourceReader, Wanted
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

Read = tuple[dict[str, list[Any]], list[Rejected]]


def source(path: str, **options: Any) -> FileSource:
    return FileSource("trips", path=path, timestamp_field="ts", **options)


def read(folder: Path, path: str, columns: dict[str, ValueType], **options: Any) -> Read:
    """Read columns; times as microseconds. Bad rows stand among the rejected, with their reason as detail."""
    reader = SourceReader(source(path, **options), folder)
    rejected: list[Rejected] = []
    values: dict[str, list[Any]] = {name: [] for name in columns}
    wanted = [Wanted(name, reader.column(name), dtype) for name, dtype in columns.items()]
    for chunk in reader.typed(wanted, rejected.append):
        rejected += [Rejected(repr(chunk.payload(row)).encode(), "bad", what) for row, what in chunk.bad.items()]
        for (name, dtype), array in zip(columns.items(), chunk.columns, strict=True):
            assert array.type == dtype.to_arrow()
            values[name] += (array.cast(pa.int64()) if dtype == UnixTimestamp else array).to_pylist()
    return values, rejected


def parquet(folder: Path, name: str = "a.parquet", **columns: Any) -> None:
    pq.write_table(pa.table({"ts": pa.array([0], pa.timestamp("us")), **columns}), folder / name)


WIDENINGS = [
    (pa.int8(), Int32),
    (pa.uint16(), Int32),
    (pa.int32(), Int64),
    (pa.uint32(), Int64),
    (pa.int32(), Float64),
    (pa.uint32(), Float64),
    (pa.int16(), Float32),
    (pa.float16(), Float32),
    (pa.float32(), Float64),
    (pa.dictionary(pa.int8(), pa.string()), String),
    (pa.large_string(), String),
    (pa.large_binary(), Bytes),
    (pa.binary(3), Bytes),
    (pa.date32(), UnixTimestamp),
    (pa.timestamp("s"), UnixTimestamp),
    (pa.timestamp("ns", "America/New_York"), UnixTimestamp),
    (pa.null(), Float64),
    (pa.list_(pa.int32()), Array(Int64)),
    (pa.large_list(pa.float32()), Vector(2)),
    (pa.list_(pa.float32(), 2), Vector(2, Float64)),
    (pa.list_(pa.float32(), 2), Array(Float32)),
    (pa.decimal128(9, 0), Int32),
    (pa.decimal128(18, 0), Int64),
    (pa.decimal128(38, 9), String),
]
REFUSALS = [
    (pa.float64(), Int64),
    (pa.int64(), Float64),
    (pa.int64(), Int32),
    (pa.int32(), Float32),
    (pa.uint64(), Int64),
    (pa.float64(), Float32),
    (pa.decimal128(10, 2), Float64),
    (pa.decimal128(19, 0), Int64),
    (pa.decimal128(10, 0), Int32),
    (pa.string(), Int64),
    (pa.int64(), String),
    (pa.int64(), Bool),
    (pa.bool_(), Int64),
    (pa.int64(), UnixTimestamp),
    (pa.string(), UnixTimestamp),
    (pa.string(), Bytes),
    (pa.list_(pa.float64()), Vector(2, Float32)),
    (pa.float32(), Array(Float32)),
    (pa.time64("us"), UnixTimestamp),
]


@pytest.mark.parametrize(("stored", "declared"), WIDENINGS)
def test_exact_widenings_are_taken(stored: pa.DataType, declared: ValueType) -> None:
    assert fits(stored, declared)
    array, bad = convert(pa.array([None, None], stored), declared)
    assert (array.type, array.null_count, bad) == (declared.to_arrow(), 2, {})


@pytest.mark.parametrize(("stored", "declared"), REFUSALS)
def test_everything_else_is_refused(tmp_path: Path, stored: pa.DataType, declared: ValueType) -> None:
    assert not fits(stored, declared)
    parquet(tmp_path, x=pa.nulls(1, stored))
    with pytest.raises(SourceError) as caught:
        read(tmp_path, "a.parquet", {"x": declared})
    message = str(caught.value)
    for part in (
        "FileSource 'trips'",
        "'x'",
        str(stored).split("<")[0],
        str(tmp_path / "a.parquet"),
        f"declared {declared}",
    ):
        assert part in message


def test_values_survive_widening_to_the_bit(tmp_path: Path) -> None:
    parquet(
        tmp_path,
        i=pa.array([2**31 - 1], pa.int32()),
        f=pa.array([0.1], pa.float32()),
        u=pa.array([2**32 - 1], pa.uint32()),
        d=pa.array(["é"]).dictionary_encode(),
        zero=pa.array([-0.0]),
    )
    columns = {"i": Float64, "f": Float64, "u": Int64, "d": String, "zero": Float64}
    values, _ = read(tmp_path, "a.parquet", columns)
    assert [*values["i"], *values["f"], *values["u"], *values["d"]] == [2**31 - 1, 0.10000000149011612, 2**32 - 1, "é"]
    assert math.copysign(1, values["zero"][0]) == -1


def test_decimals_keep_their_digits(tmp_path: Path) -> None:
    fractions = [Decimal("0.000000001"), Decimal("-1.5"), None]
    wholes = [Decimal(10**18 - 1), None, Decimal(-1)]
    table = {"d": pa.array(fractions, pa.decimal128(20, 9)), "n": pa.array(wholes, pa.decimal128(18, 0))}
    pq.write_table(pa.table({"ts": pa.nulls(3, pa.timestamp("us")), **table}), tmp_path / "a.parquet")
    values, _ = read(tmp_path, "a.parquet", {"d": String, "n": Int64})
    assert values == {"d": ["0.000000001", "-1.500000000", None], "n": [10**18 - 1, None, -1]}


def test_times_are_utc_and_floor_toward_the_past(tmp_path: Path) -> None:
    parquet(
        tmp_path,
        nanos=pa.array([-1], pa.timestamp("ns")),
        later=pa.array([1_999], pa.timestamp("ns", "UTC")),
        zoned=pa.array([7], pa.timestamp("us", "America/New_York")),
        day=pa.array([date(1969, 12, 31)]),
        dates=pa.array([[date(1970, 1, 2), None]]),
    )
    columns = dict.fromkeys(("nanos", "later", "zoned", "day"), UnixTimestamp)
    values, _ = read(tmp_path, "a.parquet", columns)
    assert values == {"nanos": [-1], "later": [1], "zoned": [7], "day": [-86_400_000_000]}
    listed, _ = read(tmp_path, "a.parquet", {"dates": Array(UnixTimestamp)})
    assert listed["dates"] == [[datetime(1970, 1, 2, tzinfo=UTC), None]]


def test_a_time_that_microseconds_cannot_hold_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path, t=pa.array([2**61], pa.timestamp("ms")))
    with pytest.raises(SourceError, match=r"a\.parquet: column 't' does not fit timestamp"):
        read(tmp_path, "a.parquet", {"t": UnixTimestamp})


def test_every_nan_gets_the_same_bits() -> None:
    odd = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000123))[0]
    for array, dtype in ((pa.array([odd, 1.0]), Float64), (pa.array([None, [odd, None]]).slice(1), Array(Float64))):
        converted, _ = convert(array, dtype)
        values = converted if dtype == Float64 else converted.flatten()
        assert struct.pack("<d", values[0].as_py()) == struct.pack("<d", math.nan)


def test_vectors_of_another_length_are_bad_rows() -> None:
    array = pa.array([[9.0], [1.0, 2.0], None, [1.0], [None, 1.0], [3.0, 4.0]], pa.list_(pa.float32())).slice(1)
    converted, bad = convert(array, Vector(2))
    assert converted.to_pylist() == [[1.0, 2.0], None, None, None, [3.0, 4.0]]
    assert set(bad) == {2, 3}
    assert "has 2 elements, this one has 1" in bad[2]
    assert "no null elements" in bad[3]


def test_lists_behind_slices_and_nulls_are_read_right() -> None:
    array = pa.array([[1], None, [], [2, None, 3]], pa.list_(pa.int32())).slice(1)
    assert convert(array, Array(Int64))[0].to_pylist() == [None, [], [2, None, 3]]


def test_order_bits_order_floats_totally() -> None:
    values = [-math.inf, -1.5, -5e-324, -0.0, 0.0, 5e-324, 2.0, math.inf, math.nan]
    for arrow in (pa.float64(), pa.float32()):
        distinct = values if arrow == pa.float64() else [value for value in values if abs(value) != 5e-324]
        bits = order_bits(pa.array([None, *distinct], arrow)).to_pylist()
        assert bits[0] is None
        assert bits[1:] == sorted(set(bits[1:]))
    assert order_bits(pa.array([[0.0, None], None, []])).to_pylist() == [[0, None], None, []]


def test_a_missing_column_suggests_the_nearest(tmp_path: Path) -> None:
    parquet(tmp_path, fare_amount=[1.0])
    with pytest.raises(SourceError, match=r"has no column 'fare_amout'; did you mean 'fare_amount'"):
        read(tmp_path, "a.parquet", {"fare_amout": Float64})
    with pytest.raises(SourceError, match=r"no column 'fare_amout' \(mapped to 'fare'\); did you mean"):
        read(tmp_path, "a.parquet", {"fare": Float64}, field_mapping={"fare_amout": "fare"})


def test_fields_are_mapped(tmp_path: Path) -> None:
    parquet(tmp_path, a=[1], b=[2])
    assert read(tmp_path, "a.parquet", {"b": Int64}, field_mapping={"a": "b", "b": "c"})[0] == {"b": [1]}


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_broken_files_are_named(tmp_path: Path, damage: str) -> None:
    parquet(tmp_path, "good.parquet", x=[1])
    whole = (tmp_path / "good.parquet").read_bytes()
    content = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"id,x\n1,2\n"}[damage]
    (tmp_path / "z.parquet").write_bytes(content)
    with pytest.raises(SourceError, match=r"z\.parquet cannot be read as parquet"):
        read(tmp_path, "*.parquet", {"x": Int64})


def test_data_pages_that_are_broken_are_named(tmp_path: Path) -> None:
    parquet(tmp_path, x=list(range(1)))
    path = tmp_path / "a.parquet"
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(bytes(content))
    with pytest.raises(SourceError, match=r"a\.parquet cannot be read as parquet"):
        read(tmp_path, "a.parquet", {"x": Int64, "ts": UnixTimestamp})


def test_files_folders_and_globs_are_found_in_order(tmp_path: Path) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "_delta").mkdir()
    for name, value in (("b.parquet", 2), ("a.parquet", 1), ("sub/c.parquet", 3), ("_delta/x.parquet", 9)):
        parquet(tmp_path / "data", name, x=[value])
    (tmp_path / "data" / "notes.txt").write_text("not data")
    (tmp_path / "data" / ".hidden.parquet").write_text("not data")

    assert read(tmp_path, "data", {"x": Int64})[0]["x"] == [1, 2, 3]
    assert read(tmp_path, "data/*.parquet", {"x": Int64})[0]["x"] == [1, 2]
    assert read(tmp_path, str(tmp_path / "data" / "b.parquet"), {"x": Int64})[0]["x"] == [2]


def test_a_folder_that_a_job_is_writing_to_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "data" / "_temporary" / "0").mkdir(parents=True)
    parquet(tmp_path / "data", "a.parquet", x=[1])
    with pytest.raises(SourceError, match=r"FileSource 'trips': .*data is being written by a job"):
        read(tmp_path, "data", {"x": Int64})


@pytest.mark.parametrize("how", ["rewritten", "removed"])
@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, ending: str, how: str, whole: bool) -> None:
    def write(name: str, value: int) -> None:
        texts = {"csv": f"ts,x\n0,{value}\n", "jsonl": f'{{"ts": "1970-01-01", "x": {value}}}\n'}
        if ending == "parquet":
            parquet(tmp_path, name, x=[value])
        else:
            (tmp_path / name).write_text(texts[ending])

    names = [f"{name}.{ending}" for name in "ab"]
    for name in names:
        write(name, 1)
    reader = SourceReader(source(f"*.{ending}"), tmp_path)
    before = reader.version()
    assert before == SourceReader(source(f"*.{ending}"), tmp_path).version()
    rows: Iterator[Any] = reader.records(_fail) if whole else reader.typed([Wanted("x", "x", Int64)], _fail)
    next(rows)
    if how == "rewritten":
        write(names[0], 2)
    else:
        (tmp_path / names[1]).unlink()
    with pytest.raises(SourceError, match=r"was changed while it was read|cannot be read as"):
        list(rows)
    assert SourceReader(source(f"*.{ending}"), tmp_path).version() != before


def test_what_is_not_there_or_not_known_is_said(tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    for name in ("a.csv", "b.jsonl", "c.bin"):
        (tmp_path / "mixed" / name).write_text("x\n")
    for path, message in (
        ("nothing.parquet", "there is no file at .*nothing.parquet; relative paths start at"),
        ("mixed", "cannot tell the format of .*mixed"),
        ("mixed/c.bin", "cannot tell the format"),
        ("gs://bucket/a.parquet", "neither a path on this machine nor s3://"),
    ):
        with pytest.raises(SourceError, match=message):
            SourceReader(source(path), tmp_path)
    with pytest.raises(SourceError, match="there is no Delta table at"):
        SourceReader(source("mixed", file_format="delta"), tmp_path)
    with pytest.raises(SourceError, match=r"no file in .* ends in"):
        SourceReader(source("mixed", file_format="parquet"), tmp_path)


def test_row_groups_outside_the_range_are_not_read_but_rows_without_a_time_are(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    times = [0, 1, 10, 11, 20, None]
    table = pa.table({"ts": pa.array(times, pa.timestamp("ms")), "x": range(6)})
    pq.write_table(table, path, row_group_size=2)
    reader = SourceReader(source("a.parquet"), tmp_path)

    def rows(start: int | None, end: int | None) -> list[int]:
        wanted = [Wanted("x", "x", Int64)]
        return [value for chunk in reader.typed(wanted, _fail, start, end) for value in chunk.columns[0].to_pylist()]

    assert rows(10_000, 11_000) == [2, 3, 4, 5]
    assert rows(None, 10_000) == [0, 1, 4, 5]
    assert rows(11_000, None) == [2, 3, 4, 5]
    assert rows(None, None) == [0, 1, 2, 3, 4, 5]


def _fail(rejected: Rejected) -> None:
    raise AssertionError(rejected)


def test_delta_tables_are_read_with_their_partitions_and_as_they_are_now(tmp_path: Path) -> None:
    table = pa.table({"ts": pa.array([1, 2], pa.timestamp("us", "UTC")), "part": ["a", "b"], "x": [1, 2]})
    write_deltalake(tmp_path / "t", table, partition_by=["part"])
    write_deltalake(tmp_path / "t", table.slice(0, 1), mode="overwrite")
    values, _ = read(tmp_path, "t", {"part": String, "x": Int64, "ts": UnixTimestamp})
    assert values == {"part": ["a"], "x": [1], "ts": [1]}
    with pytest.raises(SourceError, match="declared float64"):
        read(tmp_path, "t", {"x": Float64}, file_format="delta")


CSV = """id,ts,x,n,name,flag,v
1,2024-01-01T00:00:00Z,0.1,5,"",true,"[1, 2]"
2,1969-12-31 23:59:59.9999999,NA,,,FALSE,
3,2024-01-01T05:00:00+05:00,NaN, 7 ,"a,""b""
c",0,"[1]"
4,yesterday,1e400,5.5,NA,maybe,
5,2024-01-01
"""
CSV_TYPES = {
    "id": Int64,
    "ts": UnixTimestamp,
    "x": Float64,
    "n": Int32,
    "name": String,
    "flag": Bool,
    "v": Vector(2),
}


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_csv_is_parsed_into_the_declared_types(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(CSV.encode()) if ending == ".csv.gz" else b"\xef\xbb\xbf" + CSV.encode())
    values, rejected = read(tmp_path, path.name, CSV_TYPES)

    assert values["id"] == [1, 2, 3, 4]
    assert values["ts"] == [1_704_067_200_000_000, -1, 1_704_067_200_000_000, None]
    assert values["x"][:2] == [0.1, None]
    assert math.isnan(values["x"][2])
    assert values["n"] == [5, None, 7, None]
    assert values["name"] == ["", None, 'a,"b"\nc', "NA"]
    assert values["flag"] == [True, False, False, None]
    assert values["v"] == [[1.0, 2.0], None, None, None]
    ragged, *bad = rejected
    assert (ragged.payload, ragged.reason) == (b"5,2024-01-01", "undecodable")
    assert "2 fields, the header 7" in ragged.detail
    assert [item.detail for item in bad] == [
        "column 'ts': 'yesterday' is not a timestamp",
        "column 'v': '[1]' is not a vector<float32,2>",
    ] or {item.detail[:12] for item in bad} == {"column 'ts':", "column 'v': "}
    assert b"'id': '4'" in bad[0].payload


def test_a_csv_without_rows_is_empty_and_one_without_a_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,ts\n")
    assert read(tmp_path, "a.csv", {"id": Int64}) == ({"id": []}, [])
    (tmp_path / "b.csv").write_text("")
    with pytest.raises(SourceError, match=r"b\.csv cannot be read as csv"):
        read(tmp_path, "b.csv", {"id": Int64})
    (tmp_path / "c.csv").write_text("id,id\n1,2\n")
    with pytest.raises(SourceError, match="'id' more than once"):
        read(tmp_path, "c.csv", {"id": Int64})


def test_json_lines_are_converted_like_a_stream(tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "x": 5, "ts": "2024-01-01T00:00:00Z", "b": "AAE=", "tags": ["a", null]}',
        "",
        '{"id": 9007199254740993, "x": 0.5}\r',
        '{"id": 1.5}',
        "[1]",
        '{"id": "1"}',
        '{"id": 2, "x": 9007199254740993}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    columns = {"id": Int64, "x": Float64, "ts": UnixTimestamp, "b": Bytes, "tags": Array(String)}
    values, rejected = read(tmp_path, "a.jsonl", columns)

    assert values["id"] == [1, 9007199254740993, None, None, 2]
    assert values["x"] == [5.0, 0.5, None, None, None]
    assert values["b"] == [b"\x00\x01", None, None, None, None]
    assert values["tags"] == [["a", None], None, None, None, None]
    undecodable, *bad = rejected
    assert (undecodable.payload, undecodable.reason) == (b"[1]", "undecodable")
    assert "a.jsonl line 5" in undecodable.detail
    assert [item.detail.split(":")[0] for item in bad] == ["column 'id'", "column 'id'", "column 'x'"]


def test_a_json_field_that_never_occurs_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"ts": null, "fare": 1.0}\n{"ts": null, "fare": null}\n')
    with pytest.raises(SourceError, match="no column 'fair'; did you mean 'fare'"):
        read(tmp_path, "a.jsonl", {"fair": Float64})
    assert read(tmp_path, "a.jsonl", {"ts": UnixTimestamp})[0] == {"ts": [None, None]}


def test_records_hold_every_column_as_python_values(tmp_path: Path) -> None:
    parquet(tmp_path, when=pa.array([-1], pa.timestamp("ns")), old=pa.array(["x"]).dictionary_encode(), n=[1])
    reader = SourceReader(source("a.parquet", field_mapping={"old": "new"}), tmp_path)
    assert list(reader.records(_fail)) == [
        [
            {
                "ts": datetime(1970, 1, 1, tzinfo=UTC),
                "when": datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
                "new": "x",
                "n": 1,
            }
        ]
    ]


def test_csv_records_have_types_that_hold_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ts,n,f\n2024-01-01T00:00:00Z,1,1\n2024-01-02T00:00:00Z,,2.5\n")
    [records] = SourceReader(source("a.csv"), tmp_path).records(_fail)
    assert records[1] == {"ts": datetime(2024, 1, 2, tzinfo=UTC), "n": None, "f": 2.5}
    assert isinstance(records[0]["n"], int)
    assert isinstance(records[0]["f"], float)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,ts,name\n1,2024-01-01T00:00:00Z,x\n2,2024-01-02T00:00:00Z,y\n"),
        (
            "a.jsonl",
            '{"id": 1, "ts": "2024-01-01T00:00:00Z", "name": "x"}\n{"id": 2, "ts": "2024-01-02", "name": "y"}\n',
        ),
    ],
)
def test_schema_and_sample(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    reader = SourceReader(source(name, field_mapping={"id": "key"}), tmp_path)
    assert [(column.name, column.dtype) for column in reader.schema()] == [
        ("key", Int64),
        ("ts", UnixTimestamp),
        ("name", String),
    ]
    assert reader.sample(1).select(["key", "name"]).to_pylist() == [{"key": 1, "name": "x"}]


def test_the_schema_covers_all_files(tmp_path: Path) -> None:
    parquet(tmp_path, "a.parquet", x=pa.array([1], pa.int32()), d=pa.array([1], pa.decimal128(5, 2)))
    parquet(tmp_path, "b.parquet", x=pa.array([1.5], pa.float64()))
    found = {column.name: column for column in SourceReader(source("*.parquet"), tmp_path).schema()}
    assert found["x"].dtype == Float64
    assert (found["d"].dtype, found["d"].stored) == (None, "decimal128(5, 2)")
    parquet(tmp_path, "c.parquet", x=["text"])
    with pytest.raises(SourceError, match="do not have the same columns"):
        SourceReader(source("*.parquet"), tmp_path).schema()
