"""Input that is wrong as a whole is refused with what to do, and what was stored stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featurestore import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource
from featurestore.clock import ManualClock
from featurestore.config import Config
from featurestore.errors import RowError, SourceError
from featurestore.types import Float64, Int64, String

thing = Entity("thing", join_keys=["id"], value_type=Int64)
START, END = 1_704_067_200_000_000, 1_706_745_600_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with closing(FeatureStore(config=Config(project="p", repo_path=tmp_path), clock=ManualClock(END))) as store:
        yield store


def test_a_source_of_which_no_row_is_usable_replaces_nothing(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,ts,amount\n1,2024-01-02T00:00:00Z,1.5\n2,2024-01-03T00:00:00Z,2.5\n")
    source = FileSource("rows", path="rows.csv", timestamp_field="ts")
    store.apply([FeatureView("v", [thing], [Field("amount", Float64)], source)])
    store.materialize(START, END)

    path.write_text("id,ts,amount\n1,2024-01-02T00:00:00Z,abc\n2,2024-01-03T00:00:00Z,xyz\n")
    with pytest.raises(SourceError, match=r"'rows' \(rows.csv\): none of its 2 rows can be used by v; .*'abc'"):
        store.materialize(START, END)

    assert store.get_online_features(["v:amount"], [{"id": 1}]).to_dict()["amount"] == [1.5]
    path.write_text("id,ts,amount\n1,2024-01-02T00:00:00Z,abc\n2,2024-01-03T00:00:00Z,3.5\n")
    (job,) = store.materialize(START, END)
    assert (job.rows, job.rejected) == (1, 1)
    assert "'abc'" in job.reasons[0]
    letters = store.dead_letters("v")
    assert letters.num_rows == 1
    assert "abc" in letters["detail"][0].as_py()


@pytest.fixture
def pushed(store: FeatureStore) -> FeatureStore:
    source = PushSource("rows", timestamp_field="ts")
    schema = [Field("big", Int64), Field("name", String)]
    store.apply([FeatureView("v", [thing], schema, source)])
    store.push("rows", [{"id": 1, "ts": "2024-01-31T00:00:00Z", "big": 2**53 + 1, "name": "a"}])
    return store


def test_integers_stay_integers_in_a_frame_beside_nulls(pushed: FeatureStore) -> None:
    frame = pushed.get_online_features(["v:big", "v:name"], [{"id": 1}, {"id": 2}, {"id": None}]).to_df()

    assert frame["big"].dtype == "Int64"
    assert int(frame["big"][0]) == 2**53 + 1
    assert frame["id"].dtype == "Int64"
    assert frame["big"].isna().tolist() == [False, True, True]


def test_entity_rows_may_be_a_frame_and_hold_numpy_values(pushed: FeatureStore) -> None:
    for rows in (pd.DataFrame({"id": [1]}), [{"id": np.int64(1)}], {"id": [1]}):
        assert pushed.get_online_features(["v:name"], rows).to_dict()["name"] == ["a"]


@pytest.mark.parametrize("rows", [None, [1], "abc", 7])
def test_entity_rows_that_are_no_rows_are_refused(pushed: FeatureStore, rows: object) -> None:
    with pytest.raises(RowError, match="give a list of dicts"):
        pushed.get_online_features(["v:name"], rows)  # type: ignore[arg-type]
