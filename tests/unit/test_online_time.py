"""Which time a lookup is evaluated at, and that a batch cut off half-way counts nothing twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from featurestore import Aggregation, Entity, FeatureStore, FeatureView, Field, PushSource
from featurestore.clock import ManualClock, from_micros
from featurestore.config import Config
from featurestore.definitions import Project
from featurestore.definitions.resolve import resolve
from featurestore.errors import OnlineStoreError
from featurestore.offline.log import RowLog
from featurestore.online import view as view_module
from featurestore.online.contract import Given, Outcome, SectionWrite
from featurestore.online.lookup import Lookup
from featurestore.online.memory import MemoryStore
from featurestore.online.view import OnlineView
from featurestore.semantics.rows import Row
from featurestore.testing.conformance import log_table
from featurestore.types import Float64, Int64

SECOND = 1_000_000
thing = Entity("thing", join_keys=["id"], value_type=Int64)
counted = FeatureView(
    "counted",
    [thing],
    [Field("x", Float64)],
    PushSource("rows", timestamp_field="ts"),
    aggregations=[Aggregation(function="count", time_window=timedelta(seconds=60), name="n")],
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    config = Config(project="p", repo_path=tmp_path, online_type="memory")
    with closing(FeatureStore(config=config, clock=ManualClock(20 * SECOND))) as store:
        store.apply([counted])
        yield store


def test_the_time_moves_past_the_clocks_own_tile_and_no_further(store: FeatureStore) -> None:
    times = [11 * SECOND - 1, 11 * SECOND + 500_000]  # the last instant of the clock's tile, and the next tile
    store.push("rows", [{"id": 1, "ts": from_micros(t), "x": 1.0} for t in times])

    response = store.get_online_features(["counted:n"], [{"id": 1}], now=10 * SECOND + 200_000)

    assert response.evaluated_at == [11 * SECOND]
    assert response.to_dict()["n"] == [1]


class FailingOnce(MemoryStore):
    """Refuses service at its second merge."""

    merges = 0

    def merge(
        self, writes: Sequence[SectionWrite], marks: Mapping[bytes, bytes] | None = None, given: Given | None = None
    ) -> list[Outcome]:
        self.merges += 1
        if self.merges == 2:
            raise OnlineStoreError("out of service")
        return super().merge(writes, marks, given)


def test_a_batch_cut_off_between_its_keys_counts_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "_WRITES_AT_ONCE", 1)
    memory = FailingOnce()
    online = OnlineView(memory, "p", counted, 0)
    keys = (0, 1, 0)
    rows = [Row((key,), SECOND, 2 * SECOND, "push/rows/0", place, {"x": 1.0}) for place, key in enumerate(keys)]
    table = log_table(counted, rows, RowLog(Path(), counted).schema)

    with pytest.raises(OnlineStoreError, match="out of service"):
        online.apply(table.slice(0, 2), "push/rows/0", -1, 1)  # the first key is written, the second is not
    assert online.watermark("push/rows/0") == -1
    online.apply(table, "push/rows/0", -1, 2)
    online.mark_ready()

    request = resolve(Project([counted]), ["counted:n"])
    answer = Lookup(request, memory, {"counted": online}).answer([{"id": 0}, {"id": 1}], 3 * SECOND)
    assert answer.to_dict()["n"] == [2, 1]
    assert online.watermark("push/rows/0") == 2
