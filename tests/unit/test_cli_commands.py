"""What each command asks of the store, and how it prints the answer, with a store that only remembers."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from featurestore.cli.main import run
from featurestore.cli.settings import Settings
from featurestore.clock import ManualClock
from featurestore.definitions import (
    Aggregation,
    Definition,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    FileStreamSource,
    Project,
    PushSource,
)
from featurestore.streaming.push import PushResult
from featurestore.types import Bool, Bytes, Float64, Int64, String, UnixTimestamp

TRIPS = FileSource("trips", path="data/trips.parquet", timestamp_field="ts")
DRIVER = Entity("driver", join_keys=["driver_id"], value_type=String, description="Who drives")
CITY = FeatureView("city", entities=[DRIVER], schema=[Field("name", String), Field("size", Int64)], source=TRIPS)
FARES = FeatureView(
    "fares",
    entities=[DRIVER],
    schema=[Field("fare", Float64)],
    source=PushSource("rides", batch_source=TRIPS),
    aggregations=[Aggregation("fare", "sum", timedelta(hours=1))],
    owner="pricing",
)
EVENTS = FileStreamSource("events", path="events.jsonl", timestamp_field="ts")
SEEN = FeatureView("seen", entities=[DRIVER], schema=[Field("at", UnixTimestamp)], source=EVENTS)
MODEL = FeatureService("model", features=[CITY[["size"]], FARES])

T0 = datetime(2024, 5, 1, tzinfo=UTC)


class RecordingStore:
    """Keeps the calls it gets, and answers each method with what the test put there."""

    def __init__(self, definitions: Sequence[Definition] = (CITY, FARES, SEEN, MODEL), **answers: Any) -> None:
        self.project = Project(definitions)
        self.registry = SimpleNamespace(load=lambda: self.project)
        self.closed = False
        self.answers = answers
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def close(self) -> None:
        self.closed = True

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            answer = self.answers[name]
            if options.get("progress"):
                options["progress"]("first step", 0, 10)
                options["progress"]("first step", 10, 10)
                options["progress"]("second step", 0, None)
            return answer

        return method

    def run(self, *arguments: str) -> int:
        store: Any = self
        return run(arguments, Settings(open_with=lambda _: store, clock=ManualClock(T0)))


class Changes(SimpleNamespace):
    is_empty = False

    def to_text(self) -> str:
        return "  + feature_view city"

    def to_dict(self) -> dict[str, Any]:
        return {"changes": ["city"]}


JOB = SimpleNamespace(
    view="city",
    job=3,
    rows=1234,
    rejected=2,
    dropped=1,
    keys=7,
    seconds=0.123,
    start=T0,
    end=T0 + timedelta(days=1),
    cut=1_714_521_600_000_000,
    reasons=("'fare' is not a number",),
)


def out_json(capsys: pytest.CaptureFixture[str]) -> Any:
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


class TestPlanAndApply:
    def test_plan_prints_the_changes_and_what_to_do(self, capsys: pytest.CaptureFixture[str]) -> None:
        store = RecordingStore(plan=Changes())

        assert store.run("plan") == 0

        assert store.closed
        assert capsys.readouterr().out == "  + feature_view city\n\nTo make these changes: featurestore apply\n"

    def test_plan_as_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert RecordingStore(plan=Changes()).run("plan", "--json") == 0

        assert out_json(capsys) == {"changes": ["city"]}

    def test_an_empty_plan_says_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        RecordingStore(plan=Changes(is_empty=True)).run("plan")

        assert capsys.readouterr().out.startswith("Nothing to change")

    def test_apply_prints_the_revision(self, capsys: pytest.CaptureFixture[str]) -> None:
        store = RecordingStore(apply=SimpleNamespace(revision=4, plan=Changes()))

        assert store.run("apply") == 0
        assert capsys.readouterr().out == "  + feature_view city\n\nApplied as revision 4.\n"
        assert store.run("apply", "--json") == 0
        assert out_json(capsys) == {"revision": 4, "plan": {"changes": ["city"]}}


class TestCatalog:
    def test_ls_lists_all_or_one_kind(self, capsys: pytest.CaptureFixture[str]) -> None:
        RecordingStore().run("ls")
        everything = capsys.readouterr().out
        RecordingStore().run("ls", "services")

        lines = everything.splitlines()
        assert lines[0].split() == ["kind", "name", "summary", "description"]
        assert "entity              driver  driver_id (string)                     Who drives" in lines
        assert [line.split("  ")[0] for line in lines[1:]] == [
            "entity",
            *["feature service"],
            *["feature view"] * 3,
            "file source",
            "file stream source",
            "push source",
        ]
        assert capsys.readouterr().out.splitlines()[1:] == ["feature service  model  2 features of 2 views"]

    def test_ls_as_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        RecordingStore().run("ls", "views", "--json")

        found = out_json(capsys)
        assert [item["name"] for item in found] == ["city", "fares", "seen"]
        assert found[1] == {
            "kind": "feature view",
            "name": "fares",
            "summary": "window view of 1 feature by driver_id",
            "description": "",
            "owner": "pricing",
            "tags": {},
        }

    def test_ls_before_apply_says_what_to_do(self, capsys: pytest.CaptureFixture[str]) -> None:
        RecordingStore([]).run("ls")
        assert capsys.readouterr().out == "Nothing is applied yet: featurestore apply\n"

        assert RecordingStore([]).run("describe", "city") == 1
        assert "nothing is applied yet; run featurestore apply" in capsys.readouterr().err

    def test_describe_a_view(self, capsys: pytest.CaptureFixture[str]) -> None:
        RecordingStore().run("describe", "fares")
        text = capsys.readouterr().out
        RecordingStore().run("describe", "fares", "--json")

        assert text.startswith("feature view fares\n")
        assert f"    sum_fare_1h  float64    sum(fare) over {FARES.aggregations[0].window.describe()}\n" in text
        assert "  used by: model\n" in text
        (described,) = out_json(capsys)
        assert described["features"][0]["name"] == "sum_fare_1h"
        assert described["source"] == "rides"
        assert described["online"] is True

    def test_describe_suggests(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert RecordingStore().run("describe", "fare") == 1

        assert "'fare' does not exist; did you mean 'fares'?" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["driver", "trips", "rides", "events", "seen", "model"])
    def test_everything_can_be_described(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert RecordingStore().run("describe", name) == 0

        assert f" {name}\n" in capsys.readouterr().out


class TestMaterialize:
    def test_dates_are_utc_and_views_are_split(self) -> None:
        store = RecordingStore(materialize=[JOB])

        assert (
            store.run("materialize", "2024-05-01", "2024-05-02T02:00:00+02:00", "-v", "city,fares", "-v", "seen") == 0
        )

        ((_, arguments, options),) = store.calls
        assert arguments == (T0, T0 + timedelta(days=1))
        assert arguments[1].tzinfo == UTC
        assert options["views"] == ["city", "fares", "seen"]

    def test_jobs_are_a_table_and_steps_are_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        store = RecordingStore(materialize=[JOB])

        store.run("materialize", "2024-05-01", "2024-05-02")

        captured = capsys.readouterr()
        assert captured.err.splitlines() == [
            "first step (0 of 10 parts)",
            "first step (10 of 10 parts)",
            "second step",
        ]
        lines = captured.out.splitlines()
        assert lines[0].split() == ["view", "job", "from", "until", "rows", "keys", "rejected", "seconds"]
        assert lines[1].split() == [
            "city",
            "3",
            "2024-05-01T00:00:00Z",
            "2024-05-02T00:00:00Z",
            "1234",
            "7",
            "2",
            "0.12",
        ]
        assert lines[2:] == [
            "2 rows rejected; they are in the dead-letter store, with reasons. The first:",
            "  city: 'fare' is not a number",
        ]

    def test_jobs_as_json_come_without_progress(self, capsys: pytest.CaptureFixture[str]) -> None:
        store = RecordingStore(materialize=[JOB])

        store.run("materialize", "2024-05-01", "2024-05-02", "--json")

        (job,) = out_json(capsys)
        assert job == {
            "view": "city",
            "job": 3,
            "start": "2024-05-01T00:00:00Z",
            "end": "2024-05-02T00:00:00Z",
            "cut": "2024-05-01T00:00:00Z",
            "rows": 1234,
            "rejected": 2,
            "reasons": ["'fare' is not a number"],
            "dropped": 1,
            "keys": 7,
            "seconds": 0.123,
        }
        assert store.calls[0][2] == {"views": None, "progress": None}

    def test_incremental_goes_up_to_the_time_given_or_now(self, capsys: pytest.CaptureFixture[str]) -> None:
        store = RecordingStore(materialize_incremental=[])

        assert store.run("materialize-incremental", "2024-04-30") == 0
        assert store.run("materialize-incremental", "--overlap", "2d") == 0

        assert [arguments for _, arguments, _ in store.calls] == [(T0 - timedelta(days=1),), (T0,)]
        assert [options["overlap"] for _, _, options in store.calls] == [None, timedelta(days=2)]
        assert capsys.readouterr().out.startswith("Nothing to load")


class Job:
    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def to_arrow(self) -> pa.Table:
        return self.table

    def explain(self) -> str:
        return "scan the log"

    def to_sql(self, dialect: str) -> str:
        return f"SELECT in {dialect}"


class TestHistorical:
    answer = pa.table({"driver_id": ["007", "8"], "sum_fare_1h": [1.5, None], "last": [[1, 2], None]})

    def store(self) -> RecordingStore:
        return RecordingStore(get_historical_features=Job(self.answer))

    def entities(
        self, folder: Path, text: str = "driver_id,event_timestamp,label\n007,2024-05-01,1\n8,2024-05-02,0\n"
    ) -> Path:
        path = folder / "entities.csv"
        path.write_text(text)
        return path

    def test_csv_is_read_as_the_declared_types(self, tmp_path: Path) -> None:
        store = self.store()

        assert (
            store.run("historical", "--entities", str(self.entities(tmp_path)), "--features", "fares:sum_fare_1h") == 0
        )

        ((_, _, options),) = store.calls
        frame = options["entity_df"]
        assert frame.to_pylist() == [
            {"driver_id": "007", "event_timestamp": T0, "label": 1},
            {"driver_id": "8", "event_timestamp": T0 + timedelta(days=1), "label": 0},
        ]
        assert frame.schema.field("event_timestamp").type == pa.timestamp("us", "UTC")
        assert options["features"] == ["fares:sum_fare_1h"]
        assert (options["known_at"], options["full_feature_names"]) == ("event", False)

    def test_mixed_zones_are_understood(self, tmp_path: Path) -> None:
        store = self.store()
        text = "driver_id,event_timestamp\n1,2024-05-01T02:00:00+02:00\n2,2024-05-01\n"

        store.run("historical", "--entities", str(self.entities(tmp_path, text)), "--service", "model")

        assert store.calls[0][2]["entity_df"]["event_timestamp"].to_pylist() == [T0, T0]

    @pytest.mark.parametrize("ending", ["jsonl", "parquet"])
    def test_other_formats(self, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"e.{ending}"
        if ending == "jsonl":
            path.write_text('{"driver_id": "007", "event_timestamp": "2024-05-01"}\n\n{"driver_id": null}\n')
        else:
            times = pa.array([T0, None], pa.timestamp("us", "UTC"))
            pq.write_table(pa.table({"driver_id": ["007", None], "event_timestamp": times}), path)
        store = self.store()

        assert store.run("historical", "--entities", str(path), "--service", "model", "--known-at", "arrival") == 0

        options = store.calls[0][2]
        assert options["entity_df"].to_pylist() == [
            {"driver_id": "007", "event_timestamp": T0},
            {"driver_id": None, "event_timestamp": None},
        ]
        assert options["known_at"] == "arrival"
        assert options["features"] == MODEL

    def test_a_preview_is_printed_and_all_is_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["historical", "--entities", str(self.entities(tmp_path)), "--service", "model"]

        for ending in ("parquet", "csv"):
            assert self.store().run(*arguments, "--out", str(tmp_path / f"out.{ending}")) == 0

        lines = capsys.readouterr().out.splitlines()
        assert lines[:3] == [
            "driver_id  sum_fare_1h  last",
            "007        1.5          [1, 2]",
            "8          null         null",
        ]
        assert lines[4] == f"2 rows of 3 columns in {tmp_path / 'out.parquet'}"
        assert pq.read_table(tmp_path / "out.parquet").equals(self.answer)
        assert (tmp_path / "out.csv").read_text() == '"driver_id","sum_fare_1h","last"\n"007",1.5,"[1,2]"\n"8",,\n'
        assert sorted(path.name for path in tmp_path.iterdir()) == ["entities.csv", "out.csv", "out.parquet"]

    def test_a_range_needs_no_entities(self) -> None:
        store = self.store()

        assert store.run("historical", "--start", "2024-05-01", "--end", "2024-05-02", "--service", "model") == 0

        options = store.calls[0][2]
        assert options["entity_df"] is None
        assert (options["start_date"], options["end_date"]) == (T0, T0 + timedelta(days=1))

    def test_the_plan_is_shown_and_nothing_is_read(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["historical", "--start", "2024-05-01", "--end", "2024-05-02", "--service", "model", "--explain"]

        assert self.store().run(*arguments, "--engine", "spark") == 0
        assert capsys.readouterr().out == "scan the log\n\nSELECT in spark\n"
        assert self.store().run(*arguments, "--json") == 0
        assert out_json(capsys) == {"plan": "scan the log", "sql": "SELECT in duckdb"}

    def test_the_summary_as_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.store().run("historical", "--entities", str(self.entities(tmp_path)), "--service", "model", "--json")

        summary = out_json(capsys)
        assert summary["rows"] == 2
        assert summary["columns"] == {"driver_id": "string", "sum_fare_1h": "double", "last": "list<item: int64>"}
        assert summary["out"] is None

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("driver_id,event_timestamp\n1,yesterday\n", "entities.csv, line 2: event_timestamp: 'yesterday' is not"),
            ("driver_id,event_timestamp\n1\n", "entities.csv cannot be read"),
        ],
    )
    def test_bad_entity_files(self, tmp_path: Path, text: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
        store = self.store()

        assert store.run("historical", "--entities", str(self.entities(tmp_path, text)), "--service", "model") == 1

        assert told in capsys.readouterr().err
        assert store.calls == []

    @pytest.mark.parametrize(
        ("options", "code", "told"),
        [
            (["--entities", "none.csv", "--service", "model"], 1, "none.csv: there is no such file"),
            (["--entities", "a.txt", "--service", "model"], 1, "name it .parquet, .csv or .jsonl"),
            (["--entities", "a.csv", "--service", "modle"], 1, "did you mean 'model'?"),
            (["--entities", "a.csv", "--features", "fares:sum"], 1, "sum_fare_1h"),
            (["--entities", "a.csv", "--service", "model", "--out", "a.xls"], 1, "name it .parquet or .csv"),
            (["--entities", "a.csv", "--service", "model", "--out", "nowhere/a.csv"], 1, "there is no folder"),
            (["--entities", "a.csv"], 2, "--features"),
            (["--entities", "a.csv", "--service", "model", "--features", "a:b"], 2, "--features"),
        ],
    )
    def test_mistakes(self, options: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.store().run("historical", *options) == code

        assert told in capsys.readouterr().err


class TestLookup:
    def store(self, rows: int = 1) -> RecordingStore:
        response = SimpleNamespace(
            to_dict=lambda: {"driver_id": ["007"] * rows, "size": [5] * rows, "sum_fare_1h": [None] * rows},
            statuses={"size": ["PRESENT"] * rows, "sum_fare_1h": ["NULL_VALUE"] * rows},
            event_timestamps=[{"city": 1_714_521_600_000_000}] * rows,
            evaluated_at=[1_714_521_600_000_001] * rows,
        )
        return RecordingStore(get_online_features=response)

    def test_one_entity(self, capsys: pytest.CaptureFixture[str]) -> None:
        store = self.store()

        assert store.run("lookup", "--service", "model", "--entity", "driver_id=007", "--at", "2024-05-01") == 0

        options = store.calls[0][2]
        assert options["entity_rows"] == [{"driver_id": "007"}]
        assert (options["features"], options["now"]) == (MODEL, T0)
        assert capsys.readouterr().out.splitlines() == [
            "driver_id=007 as of 2024-05-01T00:00:00.000001Z",
            "",
            "feature      value  status      event time",
            "size         5      PRESENT     2024-05-01T00:00:00Z",
            "sum_fare_1h  null   NULL_VALUE",
        ]

    def test_the_clock_is_the_stores_unless_it_is_set(self) -> None:
        store = self.store()

        store.run("lookup", "--service", "model", "--entity", "driver_id=1")

        assert store.calls[0][2]["now"] is None

    def test_as_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.store().run("lookup", "--service", "model", "--entity", "driver_id=007", "--json")

        assert out_json(capsys) == {
            "values": {"driver_id": ["007"], "size": [5], "sum_fare_1h": [None]},
            "statuses": {"size": ["PRESENT"], "sum_fare_1h": ["NULL_VALUE"]},
            "event_timestamps": [{"city": "2024-05-01T00:00:00Z"}],
            "evaluated_at": ["2024-05-01T00:00:00.000001Z"],
        }

    @pytest.mark.parametrize("given", ["json", "jsonl", "csv"])
    def test_many_entities(self, tmp_path: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / f"e.{given}"
        if given == "jsonl":
            path.write_text('{"driver_id": "007", "label": 1}\n{"driver_id": "8"}\n')
        elif given == "csv":
            path.write_text("driver_id,event_timestamp\n007,2024-05-01\n8,2024-05-01\n")
        entities = '[{"driver_id": "007"}, {"driver_id": "8"}]' if given == "json" else str(path)
        store = self.store(rows=2)

        assert store.run("lookup", "--features", "city:size,fares:sum_fare_1h", "--entities", entities) == 0

        assert store.calls[0][2]["entity_rows"] == [{"driver_id": "007"}, {"driver_id": "8"}]
        assert capsys.readouterr().out.splitlines()[0].split() == ["driver_id", "size", "sum_fare_1h"]

    def test_keys_are_read_as_their_types(self) -> None:
        keys = {"i": Int64, "b": Bool, "s": String, "y": Bytes, "t": UnixTimestamp}
        entity = Entity("many", join_keys=[Field(name, dtype) for name, dtype in keys.items()])
        view = FeatureView("wide", entities=[entity], schema=[Field("size", Int64)], source=TRIPS)
        store = RecordingStore([view], **self.store().answers)
        texts = ("i=-7", "b=true", "s=a=b", "y=eHk=", "t=2024-05-01T02:00:00+02:00")

        options = [option for text in texts for option in ("--entity", text)]
        assert store.run("lookup", "--features", "wide:size", *options) == 0

        assert store.calls[0][2]["entity_rows"] == [{"i": -7, "b": True, "s": "a=b", "y": b"xy", "t": T0}]

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--entity", "driver=1"], "not looked up by 'driver'; did you mean 'driver_id'?"),
            (["--entity", "driver_id"], "'driver_id' is not key=value"),
            (["--entity", "driver_id=1", "--entity", "driver_id=2"], "'driver_id' is given twice"),
            (["--entities", "[{"], "not a JSON list of objects"),
            (["--entities", '[{"driver_id": "1"}, {}]'], "--entities, row 2 lacks 'driver_id'"),
            (["--entities", '[{"driver_id": 1}]'], "--entities, row 1: driver_id: 1 (int) is not a string"),
            (["--entities", "none.jsonl"], "none.jsonl"),
        ],
    )
    def test_mistakes(self, options: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
        store = self.store()

        assert store.run("lookup", "--features", "city:size", *options) == 1

        assert told in capsys.readouterr().err
        assert store.calls == []


class TestPushAndStream:
    def test_push_hands_the_rows_over(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text('{"driver_id": "1", "fare": 2.5}\n\n{"driver_id": 5}\n')
        store = RecordingStore(push=PushResult(rows=2, rejected=1, reasons=("row 1: 5 (int) is not a string",)))

        assert store.run("push", "rides", str(path), "--idempotency-key", "k1") == 0

        rows = [{"driver_id": "1", "fare": 2.5}, {"driver_id": 5}]
        assert store.calls == [("push", ("rides", rows), {"idempotency_key": "k1"})]
        assert capsys.readouterr().out.splitlines() == [
            "1 row accepted into rides",
            "1 row rejected; the dead-letter store keeps them:",
            "  row 1: 5 (int) is not a string",
        ]

    def test_a_repeated_push_says_so(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "rows.jsonl").write_text("{}")
        store = RecordingStore(push=PushResult(rows=1, repeated=True))

        assert store.run("push", "rides", str(tmp_path / "rows.jsonl"), "--idempotency-key", "k1") == 0

        assert capsys.readouterr().out == (
            "An earlier push with the key 'k1' had written these rows; none is written twice.\n"
        )

    def test_push_reads_standard_input(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"driver_id": "1"}')))
        store = RecordingStore(push=PushResult(rows=1))

        assert store.run("push", "rides", "-", "--json") == 0

        assert out_json(capsys) == {
            "source": "rides",
            "accepted": 1,
            "rows": 1,
            "rejected": 0,
            "reasons": [],
            "repeated": False,
        }

    @pytest.mark.parametrize(
        ("text", "told"),
        [('{"a": 1}\n{"a": \n', "rows.jsonl, line 2: not a JSON object"), ("[1]", "line 1"), ("", "nothing")],
    )
    def test_a_broken_line_pushes_nothing(
        self, tmp_path: Path, text: str, told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text(text)
        store = RecordingStore(push=None)

        assert store.run("push", "rides", str(path)) == 1

        assert told in capsys.readouterr().err
        assert store.calls == []

    def test_stream_replays_all_file_streams(self, capsys: pytest.CaptureFixture[str]) -> None:
        report = SimpleNamespace(events=10, applied=7, skipped=2, rejected=1, seconds=0.512)
        store = RecordingStore(stream=report)

        assert store.run("stream", "--source", "file") == 0
        text = capsys.readouterr()
        assert store.run("stream", "events", "--json") == 0

        assert text.out.splitlines()[1].split() == ["events", "10", "7", "2", "1", "0.51"]
        assert "1 event rejected" in text.out
        assert text.err.splitlines() == ["first step (10)", "second step"]
        assert out_json(capsys) == [
            {"source": "events", "events": 10, "applied": 7, "skipped": 2, "rejected": 1, "seconds": 0.512}
        ]
        assert [arguments for _, arguments, _ in store.calls] == [("events",), ("events",)]

    @pytest.mark.parametrize("definitions", [(CITY,), (CITY, SEEN)])
    def test_streams_that_are_not_there(
        self, definitions: Sequence[Definition], capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = RecordingStore(definitions)

        assert store.run("stream", "evnts") == 1

        assert "file stream source 'evnts' does not exist" in capsys.readouterr().err

    def test_no_streams_at_all(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert RecordingStore([CITY]).run("stream") == 1

        assert "no applied view reads a FileStreamSource" in capsys.readouterr().err


class TestVerifyAndDoctor:
    @pytest.mark.parametrize(("mismatches", "code"), [(0, 0), (3, 1)])
    def test_verify_fails_on_mismatches(self, mismatches: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
        report = SimpleNamespace(
            mismatches=mismatches, to_text=lambda: "the report", to_dict=lambda: {"mismatches": mismatches}
        )
        store = RecordingStore(verify=report)

        assert store.run("verify") == code
        assert capsys.readouterr().out == "the report\n"
        assert store.run("verify", "-v", "city", "--sample", "5", "--json") == code
        assert out_json(capsys) == {"mismatches": mismatches}
        assert [options for _, _, options in store.calls] == [{"views": None}, {"views": ["city"], "sample": 5}]


def test_lists_and_types_print_plainly() -> None:
    from featurestore.cli.output import count, show

    assert show([1, None, T0]) == "[1, null, 2024-05-01T00:00:00Z]"
    assert show(b"\x00\xff") == "00ff"
    assert (count(1, "row"), count(26115, "row"), count(2, "entity")) == ("1 row", "26,115 rows", "2 entities")
