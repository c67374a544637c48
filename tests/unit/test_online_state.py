"""Stored rows of state views: they come back to the bit, whoever wrote them and however many are read together."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.definitions import Entity, FeatureView, Field, Project, PushSource
from featurestore.definitions.resolve import resolve
from featurestore.errors import OnlineStoreError
from featurestore.offline.log import RowLog
from featurestore.online.framing import Section, build, parse
from featurestore.online.lookup import Lookup
from featurestore.online.memory import MemoryStore
from featurestore.online.rows import OnlineRow
from featurestore.online.state import NARROW, StateCodec, StateSection
from featurestore.online.view import OnlineView
from featurestore.semantics.rows import Row
from featurestore.semantics.windows import DAY, MINUTE
from featurestore.testing.conformance import log_table
from featurestore.testing.strategies import values
from featurestore.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp, Vector

NOON = 200 * DAY
SOURCE = PushSource("s", timestamp_field="ts")
TYPES = [Float64, Int64, Int32, Float32, Bool, UnixTimestamp, Vector(3, Float64), Vector(2, Float32), String, Bytes]
TYPES += [Array(Float64), Array(String)]
FIELDS = [Field(f"c{place}", dtype) for place, dtype in enumerate(TYPES)]
KINDS = {"fixed": FIELDS[:6], "all": FIELDS, "vectors": FIELDS[6:8], "text": FIELDS[8:]}
EDGES = [0, 1, -1, NOON, NARROW - 1, NARROW, -NARROW, -NARROW - 1, 2**62, -(2**62)]
TIMES = st.sampled_from(EDGES) | st.integers(-(2**62), 2**62)


@st.composite
def sections(draw: st.DrawFn, fields: Sequence[Field]) -> StateSection:
    """Draw a section as `StateSection.add` could have left it."""

    def row(happened: int, arrival: int) -> OnlineRow:
        return OnlineRow(happened, arrival, draw(st.integers(0, 2**62)), [draw(values(f.dtype)) for f in fields])

    section = StateSection()
    section.arrival = draw(TIMES)
    if draw(st.booleans()):
        happened = min(draw(TIMES), section.arrival)
        section.newest = row(happened, draw(st.sampled_from([happened, section.arrival])))
    pending = draw(st.lists(st.integers(section.arrival + 1, 2**62 + 1), max_size=2))
    section.pending = [row(happened, section.arrival) for happened in sorted(pending)]
    return section


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_encoded_comes_back_to_the_bit(kind: str) -> None:
    codec = StateCodec(KINDS[kind])

    @settings(max_examples=100, deadline=None)
    @given(sections(KINDS[kind]), st.none() | st.binary(min_size=1))
    def check(section: StateSection, entity: bytes | None) -> None:
        payload = codec.encode(section, entity)
        back = codec.decode(payload, 7)
        assert (back.arrival, repr(back.pending)) == (section.arrival, repr(section.pending))
        if section.newest is None:
            assert back.newest is None
        else:
            assert bits(back.newest) == bits(section.newest._replace(sequence=7))
        assert codec.whole_key(payload) == entity
        assert codec.encode(back, entity) == payload

    check()


def bits(row: OnlineRow | None) -> str:
    """Return a row as text that tells any two floats apart, and an integer from a float."""
    return repr(row)


def test_floats_keep_the_sign_of_zero_and_infinities() -> None:
    codec = StateCodec([Field("x", Float64)])
    section = StateSection()
    for value in (-0.0, 0.0, float("inf"), float("-inf"), 5e-324, 1.7976931348623157e308):
        section.newest, section.arrival = OnlineRow(NOON, NOON, 0, [value]), NOON
        (back,) = codec.decode(codec.encode(section, None), 0).newest.values  # type: ignore[union-attr]
        assert struct.pack("<d", back) == struct.pack("<d", value)


def test_what_is_cut_short_is_damaged_and_never_a_value() -> None:
    codec = StateCodec(FIELDS)
    section = StateSection()
    section.newest = OnlineRow(NOON, NOON + 1, 0, [None] * len(FIELDS))
    section.arrival = NOON + 2
    payload = codec.encode(section, b"key")
    for end in range(len(payload)):
        with pytest.raises(OnlineStoreError, match="damaged"):
            codec.head(payload[:end])


class Bench:
    """A view's rows, applied as a stream would and rewritten as a fill would."""

    def __init__(self, fields: Sequence[Field], ttl: timedelta | None = None) -> None:
        self.view = FeatureView("v", [Entity("thing", value_type=Int64)], list(fields), SOURCE, ttl=ttl)
        self.schema = RowLog(Path(), self.view).schema
        self.applied, self.filled = (OnlineView(MemoryStore(), "p", self.view, 10 * MINUTE) for _ in range(2))

    def write(self, rows: Sequence[Row]) -> None:
        """Write one writer's rows both ways."""
        last = max(row.sequence for row in rows)
        self.applied.apply(log_table(self.view, sorted(rows, key=lambda r: r.sequence), self.schema), "w", -1, last)
        ordered = sorted(rows, key=lambda row: (row.key, row.sequence))
        self.filled.rewrite(log_table(self.view, ordered, self.schema).to_batches(max_chunksize=5), {"w": last})
        for view in (self.applied, self.filled):
            view.mark_ready()

    def stored(self, view: OnlineView, keys: Sequence[int]) -> list[list[Section]]:
        with view.store.snapshot() as snapshot:
            found = snapshot.get([view.header(view.entity((key,))) for key in keys])
        return [[] if value is None else parse(value) for value in found]

    def ask(self, view: OnlineView, keys: Sequence[int | None], now: int, names: Sequence[str] = ()) -> list[Any]:
        """Return all that is answered, row by row."""
        names = names or [field.name for field in self.view.schema]
        request = resolve(Project([self.view]), [f"v:{name}" for name in names])
        response = Lookup(request, view.store, {"v": view}).answer([{"thing": key} for key in keys], now)
        columns = [response.results[name] for name in names]
        rows = zip(*columns, response.receipts, response.event_timestamps, response.evaluated_at, strict=True)
        return [repr(row) for row in rows]


@st.composite
def deliveries(draw: st.DrawFn, fields: Sequence[Field]) -> list[Row]:
    """Draw one writer's rows: ties, late ones and early ones among them."""
    rows = []
    for sequence in range(draw(st.integers(1, 30))):
        arrival = NOON + draw(st.integers(0, 3))
        happened = arrival + draw(st.sampled_from([0, 0, 0, -1, -2, 1, 2]))
        content = {field.name: draw(values(field.dtype)) for field in fields}
        rows.append(Row((draw(st.integers(0, 5)),), happened, arrival, "w", sequence, content))
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_rows_written_in_bulk_are_stored_like_rows_written_one_by_one(kind: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(deliveries(KINDS[kind]))
    def check(rows: list[Row]) -> None:
        bench = Bench(KINDS[kind])
        bench.write(rows)
        assert bench.stored(bench.applied, range(7)) == bench.stored(bench.filled, range(7))

    check()


def plain(key: int, fields: Sequence[Field], *, null: str = "") -> Row:
    """Return a row of a key whose values follow from it; `null` names a column that is null."""
    made: dict[str, Any] = {
        "float64": key / 7,
        "float32": key / 8,
        "int64": key << 40,
        "int32": -key,
        "bool": key % 2 == 0,
        "timestamp": NOON + key,
        "string": f"k{key}",
        "bytes": b"%d" % key,
    }
    content: dict[str, Any] = {}
    for field in fields:
        one = made[field.dtype.item or field.dtype.kind]
        content[field.name] = [one] * (field.dtype.length or 2) if field.dtype.item else one
    if null:
        content[null] = None
    return Row((key,), NOON - key * MINUTE, NOON - key * MINUTE, "w", key, content)


@pytest.mark.parametrize("ttl", [None, timedelta(minutes=30)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("odd", ["none", "a null", "an early row", "a late row"])
def test_many_keys_are_answered_as_each_by_itself(kind: str, odd: str, ttl: timedelta | None) -> None:
    fields = KINDS[kind]
    bench = Bench(fields, ttl)
    rows = [plain(key, fields, null=fields[0].name if odd == "a null" and key == 5 else "") for key in range(80)]
    if odd == "an early row":
        rows[7] = rows[7]._replace(event_timestamp=NOON + 5 * MINUTE)
    if odd == "a late row":
        rows[7] = rows[7]._replace(arrival=NOON + MINUTE)
    bench.write(rows)
    asked: list[int | None] = [*range(40), 1000, None, 3, 3, *range(79, 40, -1)]
    for now in (NOON + 1, NOON + 20 * MINUTE):
        for names in ([], [fields[-1].name], [fields[-1].name, fields[0].name]):
            together = bench.ask(bench.filled, asked, now, names)
            assert together == [bench.ask(bench.filled, [key], now, names)[0] for key in asked]
            assert together == bench.ask(bench.applied, asked, now, names)


def test_a_section_of_another_writer_among_many_is_not_taken_for_theirs() -> None:
    bench = Bench(KINDS["fixed"])
    rows = [plain(key, KINDS["fixed"]) for key in range(40)]
    bench.write(rows)
    view = bench.filled
    newer = rows[4]._replace(writer="u", event_timestamp=NOON + 1, arrival=NOON + 1, values=rows[9].values)
    alone = newer._replace(key=(40,), sequence=newer.sequence + 1)
    view.apply(log_table(bench.view, [newer, alone], bench.schema), "u", -1, alone.sequence)
    for asked in (range(40), [*range(4), *range(5, 41)]):
        found = bench.ask(view, asked, NOON + 2)
        assert found == [bench.ask(view, [key], NOON + 2)[0] for key in asked]
        assert ("'u'" in found[4], "'u'" in found[-1]) == (4 in asked, 40 in asked)


def test_stored_bytes_of_a_newer_release_are_refused_also_among_many() -> None:
    bench = Bench(KINDS["fixed"])
    bench.write([plain(key, KINDS["fixed"]) for key in range(40)])
    view = bench.filled
    header = view.header(view.entity((4,)))
    with view.store.snapshot() as snapshot:
        (value,) = snapshot.get([header])
    assert value is not None
    assert build(parse(value)) == value
    view.store.put({header: bytes((value[0] + 1,)) + value[1:]})
    for keys in ([4], list(range(40))):
        with pytest.raises(OnlineStoreError, match="version"):
            bench.ask(view, keys, NOON + 1)


def test_a_view_of_many_columns_keeps_every_null() -> None:
    fields = [Field(f"x{place}", Float64) for place in range(20)]
    bench = Bench(fields)
    content: list[dict[str, Any]] = [
        {field.name: None if (key >> place % 8) & 1 else float(place) for place, field in enumerate(fields)}
        for key in range(64)
    ]
    bench.write([Row((key,), NOON, NOON, "w", key, content[key]) for key in range(64)])
    request = resolve(Project([bench.view]), [f"v:{field.name}" for field in fields])
    for view in (bench.applied, bench.filled):
        answer = Lookup(request, view.store, {"v": view}).answer({"thing": list(range(64))}, NOON).to_dict()
        assert pa.table(answer).drop(["thing"]).to_pylist() == content
