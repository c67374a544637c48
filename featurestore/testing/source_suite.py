"""What every batch source must do, as tests that a reader's author inherits.

Derive from `SourceTables` to say how tables of the kind are made *around* the reader, and from `SourceSuite` in a test
module, overriding the fixture ``tables``::

    class TestParquet(SourceSuite):
        @pytest.fixture
        def tables(self, tmp_path: Path) -> SourceTables:
            return ParquetTables(tmp_path)

A table is written whole, from an Arrow table; a column that went and a type that changed are a table written anew.
What a kind of source cannot hold by its nature (JSON has no NaN) stands in `SourceTables.cannot_hold`, with the reason.
"""

# ruff: noqa: D102  (a test's name says what it asserts)

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from featurestore.clock import from_micros, to_micros
from featurestore.errors import SourceError
from featurestore.materialize.readers import SourceReader, Wanted
from featurestore.materialize.text import Rejected
from featurestore.testing.source_edges import EDGES, bits, edge_table, expected
from featurestore.testing.source_tables import SourceTables
from featurestore.types import Float64, Int64, String, UnixTimestamp, ValueType

__all__ = ["SourceSuite", "SourceTables"]

_AT = to_micros(datetime(2024, 5, 1, 12, tzinfo=UTC))
_DAY = 86_400_000_000


class SourceSuite:
    """Tests of one kind of source. Override `tables`."""

    @pytest.fixture
    def tables(self) -> SourceTables:
        """Return tables of the kind; whatever they make is gone after the test."""
        raise NotImplementedError

    def test_the_schema_names_columns_and_types(self, tables: SourceTables) -> None:
        tables.write("trips", _small(tables))
        with tables.reader("trips", field_mapping={"x": "fare"}) as reader:
            found = [(column.name, column.dtype) for column in reader.schema()]
        assert found == [("id", Int64), ("ts", UnixTimestamp), ("fare", Float64), ("name", String)]

    def test_every_value_arrives_to_the_bit(self, tables: SourceTables) -> None:
        names = [name for name in EDGES if name not in tables.cannot_hold]
        table = edge_table(names, tables.times)
        tables.write("trips", table)
        with tables.reader("trips") as reader:
            found, bad = _read(reader, {"id": Int64, **{name: EDGES[name].declared for name in names}})
        assert bad == []
        assert found["id"] == list(range(table.num_rows))
        for name in names:
            assert [bits(value) for value in found[name]] == expected(name, table.num_rows), name

    def test_records_hold_the_same_values(self, tables: SourceTables) -> None:
        tables.write("trips", _small(tables))
        with tables.reader("trips", field_mapping={"x": "fare"}) as reader:
            records = sorted((record for part in reader.records(_fail) for record in part), key=lambda row: row["id"])
        assert [(row["id"], row["fare"], row["name"]) for row in records] == [(0, 0.5, "a"), (1, None, None)]
        times = [datetime.fromisoformat(t) if isinstance(t := row["ts"], str) else t for row in records]
        assert times == [from_micros(_AT), from_micros(_AT + 1)]

    @pytest.mark.parametrize("kind", ["times", "naive_times", "days"])
    def test_a_range_loses_nothing_at_its_bounds(self, tables: SourceTables, kind: str) -> None:
        if kind in tables.cannot_hold:
            kind = "naive_times" if kind == "times" else "times"
        unit = _DAY if kind == "days" else 1
        start = _AT - _AT % unit
        steps = [-1, 0, 1, 9, 10, 11, None]
        times = [None if step is None else _stored(from_micros(start + step * unit), kind) for step in steps]
        tables.write("trips", pa.table({"id": range(7), "ts": pa.array(times, EDGES[kind].stored)}))
        with tables.reader("trips") as reader:
            for low, high, inside in (
                (start, start + 10 * unit, {1, 2, 3, 6}),
                (None, start + 10 * unit, {0, 1, 2, 3, 6}),
                (start, None, {1, 2, 3, 4, 5, 6}),
                (start + 1, start + 9 * unit + 1, {2, 3, 6}),
                (to_micros(datetime.min), to_micros(datetime.max) + 1, set(range(7))),  # noqa: DTZ901
                (-(2**62), 2**62, set(range(7))),
            ):
                found, _ = _read(reader, {"id": Int64, "ts": UnixTimestamp}, low, high)
                assert inside <= set(found["id"]), (low, high)
                assert None in found["ts"]

    def test_columns_come_in_the_order_asked(self, tables: SourceTables) -> None:
        tables.write("trips", _small(tables))
        with tables.reader("trips") as reader:
            wanted = [Wanted("b", "name", String), Wanted("a", "id", Int64), Wanted("c", "name", String)]
            rows = [row for chunk in reader.typed(wanted, _fail) for row in zip(*chunk.columns, strict=True)]
        found = sorted(tuple(cell.as_py() for cell in row) for row in rows if row[0].is_valid)
        assert found == [("a", 0, "a")]

    def test_many_rows_come_in_bounded_portions(self, tables: SourceTables) -> None:
        tables.write("trips", _many(tables, 0))
        with tables.reader("trips") as reader:
            chunks = [chunk.columns[0] for chunk in reader.typed([Wanted("id", "id", Int64)], _fail)]
        assert max(map(len, chunks)) < tables.many
        found = pa.chunked_array(chunks)
        assert len(found) == len(found.unique()) == tables.many

    def test_a_table_that_is_rewritten_while_read_is_one_state_or_an_error(self, tables: SourceTables) -> None:
        tables.write("trips", _many(tables, 0))
        with tables.reader("trips") as reader:
            chunks = reader.typed([Wanted("id", "id", Int64), Wanted("n", "n", Int64)], _fail)
            found = [next(chunks).columns]
            tables.rewrite("trips", _many(tables, 1))
            try:
                found += [chunk.columns for chunk in chunks]
            except SourceError as error:
                assert "trips" in str(error)
                return
        states = pa.chunked_array([columns[1] for columns in found]).unique().to_pylist()
        assert states in ([0], [1])
        assert len(pa.chunked_array([columns[0] for columns in found]).unique()) == tables.many

    def test_a_table_that_is_rewritten_between_reads_is_one_state_or_an_error(self, tables: SourceTables) -> None:
        tables.write("trips", _small(tables))
        with tables.reader("trips") as reader:
            found, _ = _read(reader, {"id": Int64, "name": String})
            tables.rewrite("trips", _small(tables).set_column(3, "name", pa.array(["b", None])))
            try:
                again, _ = _read(reader, {"id": Int64, "name": String})
            except SourceError as error:
                assert "trips" in str(error)
                return
        assert again["name"] == found["name"] or (not tables.sees_one_state and again["name"] == ["b", None])

    def test_what_is_not_there_is_said(self, tables: SourceTables) -> None:
        tables.write("trips", _small(tables))
        with pytest.raises(SourceError, match="'tripz'") as caught, tables.reader("tripz") as reader:
            reader.schema()
        assert not tables.suggests_tables or "did you mean 'trips'" in str(caught.value)

    def test_a_column_that_is_gone_is_named_with_the_nearest(self, tables: SourceTables) -> None:
        tables.write("trips", _small(tables))
        tables.write("trips", _small(tables).rename_columns(["id", "ts", "x", "nam"]))
        with tables.reader("trips") as reader, pytest.raises(SourceError, match=r"'trips'.*'name'.*mean 'nam'"):
            _read(reader, {"id": Int64, "name": String})

    def test_a_type_that_has_changed_is_never_guessed_at(self, tables: SourceTables) -> None:
        tables.write("trips", _small(tables))
        changed = _small(tables)
        tables.write("trips", changed.set_column(2, "x", pa.array(["0.5 EUR", None])))
        with tables.reader("trips") as reader:
            if tables.is_typed:
                with pytest.raises(SourceError, match=r"'trips'.*'x'.*declared float64"):
                    _read(reader, {"id": Int64, "x": Float64})
                return
            found, bad = _read(reader, {"id": Int64, "x": Float64})
        assert (found["x"], [what[:10] for what in bad]) == ([None, None], ["column 'x'"])

    def test_a_change_after_the_schema_was_read_is_an_error_or_not_seen(self, tables: SourceTables) -> None:
        tables.write("trips", _small(tables))
        with tables.reader("trips") as reader:
            reader.schema()
            tables.try_write("trips", _small(tables).drop_columns(["x"]))
            try:
                found, _ = _read(reader, {"id": Int64, "x": Float64})
            except SourceError as error:
                assert "trips" in str(error)
                return
        assert found == {"id": [0, 1], "x": [0.5, None]}

    def test_a_type_that_changes_after_the_schema_was_read_is_never_guessed_at(self, tables: SourceTables) -> None:
        times = _small(tables)["ts"]
        tables.write("trips", pa.table({"id": [0, 1], "ts": times, "n": [1, 2]}))
        with tables.reader("trips") as reader:
            reader.schema()
            tables.try_write("trips", pa.table({"id": [0, 1], "ts": times, "n": [3.0, 4.0]}))
            try:
                found, bad = _read(reader, {"id": Int64, "n": Int64})
            except SourceError as error:
                assert "trips" in str(error)
                return
        assert found["n"] == [1, 2] or len(bad) == 2

    def test_a_sample_has_some_rows_with_all_columns(self, tables: SourceTables) -> None:
        tables.write("trips", _small(tables))
        with tables.reader("trips", field_mapping={"x": "fare"}) as reader:
            assert reader.sample(1).num_rows == 1
            sample = reader.sample(5)
        assert sample.column_names == ["id", "ts", "fare", "name"]
        assert sorted(sample["id"].to_pylist()) == [0, 1]

    def test_a_table_without_rows(self, tables: SourceTables) -> None:
        tables.write("trips", _small(tables).slice(0, 0))
        with tables.reader("trips") as reader:
            assert _read(reader, {"id": Int64, "x": Float64}, 0, 1) == ({"id": [], "x": []}, [])
            assert reader.sample(5).num_rows == 0
            assert [row for part in reader.records(_fail) for row in part] == []

    def test_partitions_are_sorted_by_name(self, tables: SourceTables) -> None:
        tables.write("trips", _small(tables))
        with tables.reader("trips") as reader:
            names = [partition.name for partition in reader.partitions()]
        assert names == sorted(names)

    def test_the_version_changes_with_the_contents(self, tables: SourceTables) -> None:
        tables.write("trips", _small(tables))
        with tables.reader("trips") as reader:
            before = reader.version()
        with tables.reader("trips") as reader:
            assert reader.version() == before
        tables.rewrite("trips", _small(tables).set_column(3, "name", pa.array(["b", None])))
        with tables.reader("trips") as reader:
            after = reader.version()
        assert before != after if tables.has_versions else (before, after) == (None, None)

    def test_a_reader_can_be_closed_while_it_reads_and_again(self, tables: SourceTables) -> None:
        tables.write("trips", _many(tables, 0))
        reader = tables.reader("trips")
        chunks = reader.typed([Wanted("id", "id", Int64)], _fail)
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
        reader.close()
        reader.close()
        tables.write("trips", _small(tables))


def _small(tables: SourceTables) -> pa.Table:
    times = pa.array([_AT, _AT + 1], pa.int64()).cast(pa.timestamp("us", "UTC")).cast(tables.times)
    return pa.table({"id": [0, 1], "ts": times, "x": [0.5, None], "name": ["a", None]})


def _many(tables: SourceTables, state: int) -> pa.Table:
    times = pa.array([_AT]).take(pa.array([0] * tables.many)).cast(pa.timestamp("us", "UTC")).cast(tables.times)
    filler = pa.array([f"{state}" * 100]).take(pa.array([0] * tables.many))
    states = pa.array([state]).take(pa.array([0] * tables.many))
    return pa.table({"id": pa.array(range(tables.many)), "ts": times, "n": states, "name": filler})


def _read(
    reader: SourceReader, columns: dict[str, ValueType], start: int | None = None, end: int | None = None
) -> tuple[dict[str, list[Any]], list[str]]:
    """Return columns in the order of ``id``, and what is wrong with which value."""
    wanted = [Wanted(name, reader.column(name), dtype) for name, dtype in columns.items()]
    bad: list[str] = []
    rows: list[tuple[Any, ...]] = []
    for chunk in reader.typed(wanted, _fail, start, end):
        assert [column.type for column in chunk.columns] == [dtype.to_arrow() for dtype in columns.values()]
        bad += chunk.bad.values()
        rows += zip(*(column.to_pylist() for column in chunk.columns), strict=True)
    rows.sort(key=lambda row: row[0])
    return {name: [row[place] for row in rows] for place, name in enumerate(columns)}, bad


def _stored(at: datetime, kind: str) -> Any:
    if kind == "days":
        return at.date()
    return at.replace(tzinfo=None) if kind == "naive_times" else at


def _fail(rejected: Rejected) -> None:
    raise AssertionError(rejected)
