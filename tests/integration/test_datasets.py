"""Saved training sets: what is kept, that they come out the same to the byte later, and what is said otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.cli.main import run
from featurestore.cli.settings import Settings
from featurestore.clock import ManualClock, from_micros
from featurestore.config import Config
from featurestore.definitions import (
    Aggregation,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    PushSource,
)
from featurestore.errors import DatasetError
from featurestore.semantics.windows import DAY, HOUR, MINUTE
from featurestore.store import FeatureStore
from featurestore.training.files import write_parquet
from featurestore.training.manifest import content_hash
from featurestore.training.reproduce import compare
from featurestore.types import Float64, Int64, String

NOW = 300 * DAY + 12 * HOUR
DRIVER = Entity("driver", value_type=Int64)
PUSHED = PushSource("pushed", timestamp_field="ts")
BATCH = FileSource("b", path="b.parquet", timestamp_field="ts")
NEWEST = FeatureView("newest", [DRIVER], [Field("x", Float64), Field("s", String)], PUSHED)
RECENT = FeatureView(
    "recent", [DRIVER], [Field("x", Float64)], PUSHED, aggregations=[Aggregation("x", "sum", timedelta(hours=2))]
)
BOTH = FeatureView(
    "both",
    [DRIVER],
    [Field("x", Float64)],
    PushSource("mixed", batch_source=BATCH),
    aggregations=[Aggregation("x", "sum", None, name="total")],
)
CODE = """
from featurestore import Field, OnDemandFeatureView, RequestSource
from featurestore.types import Float64

def twice(row):
    return {"doubled": (row["x"] or 0.0) * FACTOR + row["amount"]}

DERIVED = OnDemandFeatureView(
    "derived", [NEWEST[["x"]], RequestSource("r", [Field("amount", Float64)])], [Field("doubled", Float64)], twice
)
"""
FEATURES = ["newest:x", "newest:s", "recent:sum_x_2h", "both:total"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    rows = {"driver": [1, 2], "ts": pa.array([NOW - DAY, NOW - 2 * DAY], pa.timestamp("us")), "x": [10.0, 20.0]}
    pq.write_table(pa.table(rows), tmp_path / "b.parquet")
    made = FeatureStore(config=Config(project="p", repo_path=tmp_path), clock=ManualClock(NOW))
    made.apply([NEWEST, RECENT, BOTH])
    made.push("pushed", [row(1, 0.1), row(1, 0.2, MINUTE), row(2, 5.0)])
    made.materialize(0, NOW)
    made.push("mixed", [row(1, 0.5)])
    yield made
    made.close()


def row(driver: int, x: float | None, ago: int = 0) -> dict[str, Any]:
    return {"driver": driver, "ts": from_micros(NOW - MINUTE - ago), "x": x, "s": f"s{x}"}


def frame(*drivers: int | None) -> pa.Table:
    times = pa.array([NOW] * len(drivers), pa.timestamp("us", "UTC"))
    return pa.table({"driver": pa.array(drivers, pa.int64()), "event_timestamp": times})


def test_a_set_keeps_the_rows_and_what_they_were_made_of(store: FeatureStore) -> None:
    job = store.get_historical_features(frame(2, 1, None, 3), FEATURES, known_at="arrival")
    manifest = job.save("trips")

    assert store.datasets.load("trips").equals(job.to_arrow())
    assert store.datasets.show("trips") == manifest
    assert (manifest.label, manifest.created, manifest.rows) == ("trips@1", NOW, 4)
    assert (manifest.revision, manifest.features, manifest.known_at) == (1, tuple(FEATURES), "arrival")
    assert {view.name: view.version for view in manifest.views} == {
        "newest": store.log("newest").version(),
        "recent": store.log("recent").version(),
        "both": store.log("both").version(),
    }
    [total] = [column for column in manifest.columns if column.name == "total"]
    assert (total.nulls, total.distinct, total.min, total.max, total.mean) == (2, 2, 10.5, 20.0, 15.25)
    assert manifest.entities_hash == content_hash(frame(2, 1, None, 3))


def test_later_rows_and_definitions_do_not_change_a_set(store: FeatureStore) -> None:
    store.get_historical_features(frame(1, 2), FEATURES, full_feature_names=True).save("trips")
    store.push("pushed", [row(1, 7.0, -2), row(2, 9.0, -3)])
    store.push("mixed", [row(2, 9.0, -3)])
    store.materialize(0, NOW - DAY)
    changed = FeatureView("newest", [DRIVER], [Field("x", Float64), Field("s", String)], PUSHED, ttl=timedelta(1))
    store.apply([changed, BOTH])
    store.compact()

    outcome = store.datasets.reproduce("trips")

    assert outcome.equal, outcome.to_text()
    assert store.get_historical_features(frame(1, 2), ["newest:x"]).to_arrow()["x"].to_pylist() != [0.1, 5.0]


def test_rows_that_come_between_the_request_and_its_evaluation_are_not_seen(store: FeatureStore) -> None:
    job = store.get_historical_features(frame(1), FEATURES)
    store.push("pushed", [row(1, 7.0, -2)])
    store.push("mixed", [row(1, 7.0)])
    manifest = job.save("trips")

    assert store.datasets.load("trips")["x"].to_pylist() == [0.1]
    assert {view.version for view in manifest.views if view.name == "newest"} == {store.log("newest").version() - 1}
    assert store.datasets.reproduce("trips").equal


def test_a_service_is_asked_for_again_as_it_was(store: FeatureStore) -> None:
    service = FeatureService("model", [NEWEST[["s", "x"]], BOTH])
    store.apply([NEWEST, RECENT, BOTH, service])
    for asked in ("model", service, FeatureService("model", [BOTH])):
        store.get_historical_features(frame(1, 2), asked).save("trips")
    store.apply([NEWEST, RECENT, BOTH, FeatureService("model", [RECENT])])

    assert [manifest.service for manifest in store.datasets.ls()] == ["model", "model", ""]  # the last is not applied
    assert [store.datasets.reproduce("trips", version).equal for version in (1, 2, 3)] == [True] * 3


def test_versions_count_up_and_old_ones_stay(store: FeatureStore) -> None:
    first = store.get_historical_features(frame(1), FEATURES)
    second = store.get_historical_features(frame(1, 2), FEATURES)

    assert [first.save("a").label, second.save("a").label, first.save("b").label] == ["a@1", "a@2", "b@1"]
    assert [manifest.label for manifest in store.datasets.ls()] == ["a@1", "a@2", "b@1"]
    assert store.datasets.load("a").num_rows == 2
    assert store.datasets.load("a@1").num_rows == store.datasets.load("a", 1).num_rows == 1


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "a@1", "ü", "x" * 129, "a\n"])
def test_a_name_cannot_lead_elsewhere(store: FeatureStore, name: str) -> None:
    job = store.get_historical_features(frame(1), FEATURES)
    with pytest.raises(DatasetError):
        job.save(name)
    with pytest.raises(DatasetError):
        store.datasets.load(name)
    assert store.datasets.ls() == []


def test_an_unknown_set_or_version_is_named_with_what_there_is(store: FeatureStore) -> None:
    store.get_historical_features(frame(1), FEATURES).save("trips")
    with pytest.raises(DatasetError, match=r"did you mean 'trips'\?"):
        store.datasets.show("trip")
    with pytest.raises(DatasetError, match="no version 7; it has 1"):
        store.datasets.show("trips@7")


@pytest.mark.parametrize("kind", ["pandas", "polars", "dictionary", "odd types"])
def test_any_entity_frame_comes_out_the_same(store: FeatureStore, kind: str) -> None:
    table = frame(1, 2, None).append_column("city", pa.array(["b", None, "a"]))
    frames: dict[str, Any] = {
        "pandas": table.to_pandas().astype({"city": "category", "driver": "Int64"}).set_index(pd.Index([7, 8, 9])),
        "polars": pl.from_arrow(table),
        "dictionary": table.set_column(2, "city", pa.array(["b", "a", "b"]).dictionary_encode()),
        "odd types": table.append_column("when", pa.array([1, None, 2], pa.timestamp("s")))
        .append_column("list", pa.array([[1], None, []], pa.list_(pa.int8())))
        .append_column("nothing", pa.nulls(3))
        .append_column("large", pa.array(["x", "y", None], pa.large_string())),
    }
    store.get_historical_features(frames[kind], FEATURES).save("trips")

    outcome = store.datasets.reproduce("trips")
    assert outcome.equal, outcome.to_text()


def test_an_empty_log_and_an_empty_frame_can_be_saved(tmp_path: Path) -> None:
    store = FeatureStore(config=Config(project="p", repo_path=tmp_path), clock=ManualClock(NOW))
    store.apply([NEWEST])
    store.get_historical_features(frame(1), ["newest:x"]).save("unknown")
    store.get_historical_features(frame(), ["newest:x"]).save("empty")
    store.push("pushed", [row(1, 0.1)])

    assert store.datasets.reproduce("unknown").equal
    assert store.datasets.reproduce("empty").equal
    store.close()


def test_values_that_changed_are_told_by_column_and_row(store: FeatureStore, tmp_path: Path) -> None:
    store.get_historical_features(frame(1, 2), FEATURES).save("trips")
    log = store.log("newest")
    for file in log.files():  # somebody rewrites history
        table = pq.read_table(file)
        changed = pa.array([value + 1.0 for value in table["x"].to_pylist()])
        pq.write_table(table.set_column(table.column_names.index("x"), "x", changed), file)

    outcome = store.datasets.reproduce("trips")

    assert outcome.verdict == "different"
    assert [(item.name, item.rows, item.first_row) for item in outcome.differences] == [("x", 2, 0)]


def test_a_set_that_was_changed_is_not_handed_to_a_trainer(store: FeatureStore, tmp_path: Path) -> None:
    store.get_historical_features(frame(1, 2), FEATURES).save("trips")
    (file,) = (tmp_path / "data/offline/datasets/trips/1").glob("data*.parquet")
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.column_names.index("x"), "x", pa.array([6.0, 6.0])), file)
    with pytest.raises(DatasetError, match=r"trips@1 was changed after it was saved: data.*parquet is not what its"):
        store.datasets.load("trips")


def test_a_set_whose_files_or_logs_are_gone_says_so(store: FeatureStore, tmp_path: Path) -> None:
    job = store.get_historical_features(frame(1, 2), FEATURES)
    for name in ("changed", "no-log-files"):
        job.save(name)
    folder = tmp_path / "data/offline/datasets"
    (folder / "changed/1/entities.parquet").write_bytes(b"other")
    assert "was changed since it was saved" in store.datasets.reproduce("changed").reason
    for file in store.log("newest").files():
        Path(file).unlink()
    outcome = store.datasets.reproduce("no-log-files")
    assert not outcome.equal
    assert "of the log of view 'newest' was vacuumed: 1 of its 1 files are gone" in outcome.reason


def test_code_that_changed_since_is_named(tmp_path: Path) -> None:
    store = FeatureStore(config=Config(project="p", repo_path=tmp_path), clock=ManualClock(NOW))
    head = """
from featurestore import Entity, FeatureView, PushSource
from featurestore.types import Int64, String
"""
    definitions = tmp_path / "features.py"

    def write(factor: str) -> None:
        view = 'NEWEST = FeatureView("newest", [Entity("driver", value_type=Int64)], [Field("x", Float64)], '
        view += 'PushSource("pushed", timestamp_field="ts"))\n'
        imports, rest = CODE.replace("FACTOR", factor).split("\n\ndef", 1)
        definitions.write_text(f"{head}{imports}\n{view}\ndef{rest}")

    write("2.0")
    store.apply()
    store.push("pushed", [{"driver": 1, "ts": from_micros(NOW - MINUTE), "x": 0.25}])
    entities = frame(1, 2).append_column("amount", pa.array([1.0, 2.0]))
    store.get_historical_features(entities, ["derived:doubled"]).save("trips")
    assert store.datasets.load("trips")["doubled"].to_pylist() == [1.5, 2.0]
    assert store.datasets.reproduce("trips").equal

    write("3.0")
    outcome = store.datasets.reproduce("trips")
    assert outcome.verdict == "impossible"
    assert "the code of the view 'derived'" in outcome.reason
    assert "changed" in outcome.reason
    store.close()


def test_a_killed_save_leaves_nothing_that_looks_like_a_set(store: FeatureStore, tmp_path: Path) -> None:
    """The process ends just before the finished folder gets its name."""
    store.close()
    script = f"""
import os, sys
from featurestore.clock import ManualClock
from featurestore.config import Config
from featurestore.store import FeatureStore
from featurestore.training import datasets
import pyarrow as pa
from pathlib import Path
datasets.publish = lambda *_: os._exit(9)
store = FeatureStore(config=Config(project="p", repo_path=Path({str(tmp_path)!r})), clock=ManualClock({NOW}))
times = pa.array([{NOW}], pa.timestamp("us", "UTC"))
store.get_historical_features(pa.table({{"driver": [1], "event_timestamp": times}}), ["newest:x"]).save("trips")
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert ended.returncode == 9
    assert os.listdir(tmp_path / "data/offline/datasets/trips") != []  # noqa: PTH208
    assert store.datasets.ls() == []
    assert store.get_historical_features(frame(1), FEATURES).save("trips").version == 1


def cli(store: FeatureStore, *arguments: str) -> tuple[int, str]:
    runner = CliRunner()
    with runner.isolation() as (out, *_):
        code = run(list(arguments), Settings(open_with=lambda _: store, clock=ManualClock(NOW)))
        return code, out.getvalue().decode()


def test_the_command_line_lists_shows_and_reproduces(store: FeatureStore, tmp_path: Path) -> None:
    pq.write_table(frame(1, 2), tmp_path / "entities.parquet")
    save = ["historical", "--entities", str(tmp_path / "entities.parquet"), "--features", ",".join(FEATURES)]
    code, out = cli(store, *save, "--save", "trips")
    assert code == 0
    assert "trips@1" in out
    code, out = cli(store, "dataset", "ls")
    assert (code, out.splitlines()[1].split()[:3]) == (0, ["trips", "1", "2"])
    code, out = cli(store, "dataset", "show", "trips@1", "--json")
    assert (code, json.loads(out)["features"]) == (0, FEATURES)
    code, out = cli(store, "dataset", "reproduce", "trips")
    assert (code, out) == (0, "trips@1: equal, all 2 rows to the byte\n")
    (tmp_path / "data/offline/datasets/trips/1/data.parquet").unlink()
    code, out = cli(store, "dataset", "reproduce", "trips", "--json")
    assert (code, json.loads(out)["verdict"]) == (1, "impossible")


ARRAYS = st.one_of(
    st.lists(st.one_of(st.none(), st.floats())).map(lambda v: pa.array(v, pa.float64())),
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))).map(lambda v: pa.array(v, pa.int64())),
    st.lists(st.one_of(st.none(), st.text(max_size=3))).map(lambda v: pa.array(v, pa.string())),
    st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.binary(max_size=2)), max_size=2))).map(
        lambda v: pa.array(v, pa.list_(pa.binary()))
    ),
)


@settings(deadline=None, max_examples=60)
@given(ARRAYS, st.integers(0, 5))
def test_hash_and_bytes_follow_from_the_values_alone(tmp_path_factory: Any, array: pa.Array, cut: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = pa.table({"c": array})
    other = pa.table({"c": pa.concat_arrays([array, array]).slice(len(array))})  # another buffer, an offset
    chunked = pa.concat_tables([other.slice(0, cut), other.slice(cut)])
    assert content_hash(whole) == content_hash(chunked)
    first, second = (write_parquet(table, folder / f"{i}.parquet") for i, table in enumerate((whole, chunked)))
    assert first.sha256 == second.sha256
    assert content_hash(pq.read_table(folder / "0.parquet")) == content_hash(whole)
    assert compare(whole, chunked) == ()


@settings(deadline=None, max_examples=60)
@given(ARRAYS, ARRAYS)
def test_tables_differ_where_their_hashes_do(left: pa.Array, right: pa.Array) -> None:
    one, two = pa.table({"c": left}), pa.table({"c": right})
    assert (content_hash(one) == content_hash(two)) == (compare(one, two) == () and left.type == right.type)


def test_differences_are_to_the_bit() -> None:
    left = pa.table({"f": [0.0, float("nan"), 1.0, None], "l": [[1], None, [], [2]]})
    right = pa.table({"f": [-0.0, float("nan"), np.nextafter(1.0, 2), None], "l": [[1], [], [], [2]]})
    assert [(item.name, item.rows, item.first_row) for item in compare(left, right)] == [("f", 2, 0), ("l", 1, 1)]
