"""Sections: the same however rows were batched, kept as long as somebody may ask, and of one key."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from featurestore.definitions import Aggregation, Entity, FeatureView, Field, PushSource
from featurestore.errors import OnlineStoreError
from featurestore.offline.log import RowLog
from featurestore.online.layout import WindowLayout, state_fingerprint
from featurestore.online.memory import MemoryStore
from featurestore.online.rows import OnlineRow
from featurestore.online.sections import WindowSection, chunk_payloads, whole_key
from featurestore.online.view import OnlineView
from featurestore.semantics.rows import Row
from featurestore.semantics.windows import DAY, HOUR, MINUTE, floor_to
from featurestore.testing.conformance import log_table, unique
from featurestore.testing.generate import random_cases
from featurestore.types import Float64, Int64, String

SKEW = 10 * MINUTE
SOURCE = PushSource("s", timestamp_field="ts")
ID = Entity("id", value_type=Int64)


def view_of(*aggregations: Aggregation, entity: Entity = ID) -> FeatureView:
    return FeatureView("v", [entity], [Field("x", Float64)], SOURCE, aggregations=list(aggregations))


def row(ts: int, x: float | None = 1.0, *, arrival: int | None = None, sequence: int = 0) -> OnlineRow:
    return OnlineRow(ts, ts if arrival is None else arrival, sequence, [x, 7])


class Stored:
    """A window section as a store holds it: nothing but bytes between two additions."""

    def __init__(self, layout: WindowLayout, *, fold: bool = True) -> None:
        self.layout = layout
        self.fold = fold
        self.header: bytes | None = None
        self.chunks: dict[tuple[int, int], bytes] = {}

    def open(self, chunks: Sequence[tuple[int, int]] = ()) -> WindowSection:
        if self.header is None:
            return WindowSection(self.layout, "w", fold=self.fold)
        section = WindowSection.decode(self.layout, "w", self.header, fold=self.fold)
        for level, chunk in chunks:
            section.load(level, self.chunks[level, chunk])
        return section

    def add(self, rows: list[OnlineRow]) -> None:
        touched = self.open().touched(rows)
        section = self.open(touched)
        changed, dropped = section.add(rows)
        for place, payload in chunk_payloads(section, changed).items():
            assert payload is not None
            self.chunks[place] = payload
        for place in dropped:
            del self.chunks[place]
        self.header = section.encode(None)

    @property
    def meaning(self) -> str:
        """Return everything that readers use; a chunk may also hold tiles that none may ask for any more."""
        assert self.header is not None
        return repr((msgspec.msgpack.decode(self.header)[:4], self.kept))  # NaN is not itself, its text is

    @property
    def kept(self) -> list[tuple[int, int, int, list[Any]]]:
        """Return level, start, newest time and packed states of every tile that readers may ask for."""
        section = self.open(sorted(self.chunks))
        assert section.arrival is not None
        found = []
        for level in range(len(self.layout.hops)):
            oldest = section.kept_from(level, section.arrival)
            for start, tile in section.tiles(level).items():
                if oldest is None or start >= oldest:
                    states = [
                        self.layout.accumulators[index].pack(tile.states[index])
                        for index in self.layout.tile_accumulators[level]
                    ]
                    found.append((level, start, tile.newest, states))
        return found


@pytest.mark.parametrize("seed", range(4))
def test_a_window_section_is_the_same_however_its_rows_are_batched(seed: int) -> None:
    chosen = random.Random(seed)
    compared = 0
    for case in random_cases(7000 + seed, 80, kinds=("window",), max_rows=40):
        view, skew = case.view, chosen.choice([0, 1, SKEW])
        layout = WindowLayout(view, skew)
        names = [field.name for field in view.columns]
        rows = [
            OnlineRow(r.event_timestamp, r.arrival, n, [*(r.values.get(name) for name in names), *r.key])
            for n, r in enumerate(unique(case.rows))
        ]
        if not rows:
            continue
        fold = chosen.random() < 0.7
        whole, parts = Stored(layout, fold=fold), Stored(layout, fold=fold)
        whole.add(rows)
        start = 0
        while start < len(rows):
            size = chosen.choice([1, 1, 2, 5])
            parts.add(rows[start : start + size])
            start += size
        for stored in (whole, parts):
            assert set(stored.chunks) == {(level, c) for level, found in enumerate(stored.open().chunks) for c in found}
        assert parts.meaning == whole.meaning
        compared += 1
    assert compared > 50


def test_a_row_from_the_future_waits_until_an_arrival_reaches_it() -> None:
    stored = Stored(WindowLayout(view_of(Aggregation(None, "count", timedelta(hours=1))), SKEW))
    stored.add([row(HOUR, arrival=HOUR - 1)])
    assert stored.open().pending == [row(HOUR, arrival=HOUR - 1)]
    assert stored.kept == []
    stored.add([row(0, arrival=HOUR - 1, sequence=1)])
    assert [r.event_timestamp for r in stored.open().pending] == [HOUR]
    stored.add([row(0, arrival=HOUR, sequence=2)])
    assert stored.open().pending == []
    assert HOUR in {start for _, start, _, _ in stored.kept}


def test_tiles_go_only_when_no_reader_within_the_skew_can_ask_for_them() -> None:
    layout = WindowLayout(view_of(Aggregation(None, "count", timedelta(hours=1))), SKEW)
    stored = Stored(layout)
    stored.add([row(0)])
    last = HOUR + SKEW + 5 * MINUTE - 1  # a reader a skew behind still begins its window at 0
    stored.add([row(last, sequence=1)])
    assert 0 in {start for _, start, _, _ in stored.kept}
    stored.add([row(last + 1, sequence=2)])
    assert 0 not in {start for _, start, _, _ in stored.kept}
    count = len(stored.chunks)
    for hour in range(2, 50):
        stored.add([row(hour * HOUR, sequence=hour + 1)])
    assert len(stored.chunks) <= count + 2, "what a section stores does not grow with time"


def test_a_section_needs_no_row_from_before_its_horizon() -> None:
    chosen = random.Random(3)
    view = view_of(
        Aggregation("x", "sum", timedelta(hours=3), offset=timedelta(hours=1)), Aggregation("x", "max", timedelta(1))
    )
    layout = WindowLayout(view, SKEW)
    assert layout.horizon is not None
    rows = [row(chosen.randrange(6 * DAY), float(n), arrival=6 * DAY, sequence=n) for n in range(300)]
    everything, recent = Stored(layout), Stored(layout)
    everything.add(rows)
    recent.add([r for r in rows if r.event_timestamp >= 6 * DAY - layout.horizon])
    assert recent.kept == everything.kept
    assert recent.header == everything.header


def test_all_history_is_a_base_of_what_is_old_and_tails_of_what_is_not() -> None:
    layout = WindowLayout(view_of(Aggregation("x", "sum", None), Aggregation("x", "min", None)), SKEW)
    assert layout.horizon is None
    stored = Stored(layout)
    values = {day: 0.1 * day for day in range(10)}
    for day, x in values.items():
        stored.add([row(day * DAY + HOUR, x, sequence=day)])
        stored.add([row(day // 2 * DAY, -x, arrival=day * DAY + HOUR, sequence=100 + day)])
        section = stored.open(sorted(stored.chunks))
        end = section.base_end(0)
        assert end == floor_to(day * DAY + HOUR - SKEW, DAY)
        for index in layout.base_accumulators[0]:
            accumulator = layout.accumulators[index]
            state = section.bases[0][index]
            assert min(section.tails[0], default=end) >= end
            for states in section.tails[0].values():
                state = accumulator.merge(state, states[index])
            expected = Stored(layout, fold=False)
            expected.add(
                [r for d in range(day + 1) for r in (row(d * DAY + HOUR, values[d]), row(d // 2 * DAY, -values[d]))]
            )
            plain = expected.open(sorted(expected.chunks))
            total = accumulator.empty()
            for tile in plain.tiles(0).values():
                total = accumulator.merge(total, tile.states[index])
            assert accumulator.pack(state) == accumulator.pack(total)
    assert len(stored.chunks) <= 2


def test_a_stream_that_does_not_fold_keeps_every_tile() -> None:
    stored = Stored(WindowLayout(view_of(Aggregation("x", "sum", None)), SKEW), fold=False)
    for day in range(30):
        stored.add([row(day * DAY, sequence=day)])
    assert [start for _, start, _, _ in stored.kept] == [day * DAY for day in range(30)]


@pytest.mark.parametrize("aggregations", [(), (Aggregation("x", "sum", timedelta(hours=1)),)])
def test_two_keys_that_share_a_shortened_key_are_found_out(
    monkeypatch: pytest.MonkeyPatch, aggregations: tuple[Aggregation, ...]
) -> None:
    monkeypatch.setattr("featurestore.online.view.shorten", lambda entity: entity[:300])
    view = view_of(*aggregations, entity=Entity("code", value_type=String))
    online = OnlineView(MemoryStore(), "p", view, SKEW)
    schema = RowLog(Path(), view).schema
    first, second = (
        log_table(view, [Row(("k" * 500 + end,), 0, 0, "w", sequence, {"x": 1.0})], schema)
        for sequence, end in enumerate("ab")
    )
    online.apply(first, "w", -1, 0)
    with pytest.raises(OnlineStoreError, match="two keys of view 'v' share a shortened key"):
        online.apply(second, "w", 0, 1)


def test_the_header_of_a_shortened_key_holds_the_whole_one() -> None:
    window = WindowSection(WindowLayout(view_of(Aggregation(None, "count", timedelta(hours=1))), SKEW), "w", fold=True)
    window.add([row(0)])
    assert whole_key(window.encode(b"all of it")) == b"all of it"


def test_only_what_changes_the_stored_bytes_changes_the_fingerprint_of_the_state() -> None:
    hourly = Aggregation("x", "sum", timedelta(hours=1))
    before = state_fingerprint("p", view_of(hourly), SKEW)
    renamed = Aggregation("x", "sum", timedelta(hours=1), name="other")
    assert state_fingerprint("p", view_of(renamed), SKEW) == before
    others = [
        state_fingerprint("q", view_of(hourly), SKEW),
        state_fingerprint("p", view_of(hourly), SKEW + 1),
        state_fingerprint("p", view_of(hourly, Aggregation("x", "max", timedelta(hours=1))), SKEW),
        state_fingerprint("p", view_of(Aggregation("x", "sum", timedelta(hours=2))), SKEW),
        state_fingerprint("p", view_of(hourly, entity=Entity("id", value_type=String)), SKEW),
    ]
    assert len({before, *others}) == 6
