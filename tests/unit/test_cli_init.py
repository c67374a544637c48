"""``init``: projects that are right as they are written, for a sample and for a user's own file."""

from __future__ import annotations

import csv
import runpy
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from featurestore.cli.codegen import call, identifier, keyword_list, quote, render, unique
from featurestore.cli.main import run
from featurestore.cli.settings import Settings
from featurestore.clock import ManualClock
from featurestore.config import load_config
from featurestore.definitions import Definition, Entity, FeatureService, FeatureView, FileSource, Project
from featurestore.definitions.project import KINDS, row_fingerprint
from featurestore.types import Array, Bool, Bytes, Float32, Float64, Int64, String, UnixTimestamp, ValueType, Vector

START = datetime(2024, 3, 1, 6, 30)  # noqa: DTZ001  (files may hold naive times, which are UTC)
NOW = datetime(2024, 5, 17, 13, 45, tzinfo=UTC)


def definitions(folder: Path) -> list[Definition]:
    values = runpy.run_path(str(folder / "features.py")).values()
    return [value for value in values if type(value) in KINDS]


def assert_formatted(folder: Path) -> None:
    for arguments in (["format", "--check"], ["check", "--select", "E,F,I,W,UP,B"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--isolated", "--no-cache", str(folder)]
        if arguments[0] == "check":
            command += ["--ignore", "E501"]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr


def trips(path: Path, columns: Mapping[str, Any] | None = None, rows: int = 40) -> Path:
    table = {
        "driver_id": list(range(rows)),
        "ts": [START + timedelta(hours=number) for number in range(rows)],
        "fare": [0.5 * number for number in range(rows)],
    } | dict(columns or {})
    pq.write_table(pa.table(table), path)
    return path


def init_from(path: Path, folder: Path, *options: str, key: str = "driver_id", time: str = "ts") -> int:
    return run(["init", "--from", str(path), "--key", key, "--time", time, *options, str(folder)])


def views(folder: Path) -> dict[str, FeatureView]:
    return Project(definitions(folder)).feature_views


class TestSample:
    def test_it_is_a_whole_project(self, tmp_path: Path) -> None:
        folder = tmp_path / "my shop"

        assert run(["init", str(folder)], Settings(clock=ManualClock(NOW))) == 0

        assert load_config(folder).project == "my_shop"
        project = Project(definitions(folder))
        kinds = {type(definition).__name__ for definition in project.objects.values()}
        assert kinds >= {"Entity", "FeatureView", "OnDemandFeatureView", "FeatureService", "PushSource"}
        assert {view.is_window for view in project.feature_views.values()} == {True, False}
        assert_formatted(folder)

    def test_its_data_is_there_and_ends_where_the_new_orders_begin(self, tmp_path: Path) -> None:
        run(["init", str(tmp_path)], Settings(clock=ManualClock(NOW)))

        project = Project(definitions(tmp_path))
        for source in project.sources.values():
            if isinstance(source, FileSource):
                table = pyarrow.csv.read_csv(tmp_path / source.path)
                assert table.num_rows > 0
                assert max(table[source.timestamp_field].to_pylist()) < NOW.replace(hour=0, minute=0)
        with (tmp_path / "data/labels.csv").open() as file:
            labels = list(csv.DictReader(file))
        assert {label["fraud"] for label in labels} == {"0", "1"}
        assert '"ordered_at": "2024-05-17T00:00:01Z"' in (tmp_path / "data/new_orders.jsonl").read_text()

    def test_its_function_runs(self, tmp_path: Path) -> None:
        run(["init", str(tmp_path)])
        view = Project(definitions(tmp_path)).on_demand_views["order_size"]

        assert view.code({"amount": 30.0, "mean_amount_7d": 20.0, "credit_limit": None}) == {
            "amount_to_mean": 1.5,
            "amount_to_limit": None,
        }

    def test_the_next_commands_are_printed_and_in_the_readme(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(["init", str(tmp_path)], Settings(clock=ManualClock(NOW)))

        readme = (tmp_path / "README.md").read_text()
        printed = capsys.readouterr().out.partition("Next:\n")[2].splitlines()
        commands = [line.strip() for line in printed if line.strip().startswith("featurestore")]
        assert "featurestore materialize-incremental 2024-05-17" in commands
        assert all(command in readme for command in commands)

    def test_nothing_is_overwritten_and_nothing_half_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "README.md").write_text("mine")

        assert run(["init", str(tmp_path)]) == 1

        assert "README.md" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
        assert (tmp_path / "README.md").read_text() == "mine"

    def test_python_files_that_apply_will_import_are_mentioned(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "train.py").write_text("")

        assert run(["init", str(tmp_path)]) == 0

        assert "train.py" in capsys.readouterr().out


class TestFromFile:
    def test_types_are_inferred(self, tmp_path: Path) -> None:
        columns: dict[str, tuple[pa.DataType, Any, ValueType]] = {
            "flag": (pa.bool_(), True, Bool),
            "seats": (pa.int64(), 4, Int64),
            "score": (pa.float32(), 0.5, Float32),
            "city": (pa.dictionary(pa.int32(), pa.string()), "Bern", String),
            "raw": (pa.binary(), b"x", Bytes),
            "day": (pa.date32(), date(2024, 1, 1), UnixTimestamp),
            "tags": (pa.list_(pa.string()), ["a"], Array(String)),
            "embedding": (pa.list_(pa.float32(), 2), [1.0, 2.0], Vector(2)),
        }
        values = {name: pa.array([value] * 40, arrow) for name, (arrow, value, _) in columns.items()}
        data = trips(tmp_path / "trips.parquet", values)

        assert init_from(data, tmp_path / "p") == 0

        assert_formatted(tmp_path / "p")
        project = Project(definitions(tmp_path / "p"))
        latest = project.feature_views["trips_latest"]
        assert {field.name: field.dtype for field in latest.features} == {
            "fare": Float64,
            **{name: dtype for name, (_, _, dtype) in columns.items()},
        }
        assert [(key.name, key.dtype) for key in latest.join_keys] == [("driver_id", Int64)]
        source = latest.batch_source
        assert isinstance(source, FileSource)
        assert (source.path, source.timestamp_field) == ("../trips.parquet", "ts")
        assert [type(item) for item in project.objects.values() if item.name == "trips_features"] == [FeatureService]

    def test_both_views_share_one_log(self, tmp_path: Path) -> None:
        init_from(trips(tmp_path / "trips.parquet", {"city": ["Bern"] * 40}), tmp_path / "p")

        latest, recent = views(tmp_path / "p").values()
        assert row_fingerprint(latest) == row_fingerprint(recent)

    def test_windows_aggregate_the_first_number_over_spans_that_fit(self, tmp_path: Path) -> None:
        init_from(trips(tmp_path / "short.parquet", {"n": [1] * 40}), tmp_path / "a")
        init_from(trips(tmp_path / "long.parquet", rows=24 * 61), tmp_path / "b")

        names = {
            name: [f.name for f in view.features]
            for name, view in (views(tmp_path / "a") | views(tmp_path / "b")).items()
        }
        assert names["short_recent"] == ["count_1d", "mean_fare_1h", "mean_fare_1d", "max_fare_1d"]
        assert names["long_recent"] == ["count_30d", "mean_fare_7d", "mean_fare_30d", "max_fare_30d"]

    def test_without_a_number_there_is_no_window_view_and_with_keys_alone_only_counts(self, tmp_path: Path) -> None:
        table = pa.table({"id": ["a"], "ts": [START], "city": ["Bern"]})
        pq.write_table(table, tmp_path / "text.parquet")
        pq.write_table(table.drop_columns("city"), tmp_path / "bare.parquet")

        assert init_from(tmp_path / "text.parquet", tmp_path / "a", key="id") == 0
        assert init_from(tmp_path / "bare.parquet", tmp_path / "b", key="id") == 0

        assert list(views(tmp_path / "a")) == ["text_latest"]
        assert list(views(tmp_path / "b")) == ["bare_recent"]
        assert [field.name for field in views(tmp_path / "b")["bare_recent"].features] == ["count_1h"]
        assert_formatted(tmp_path / "a")
        assert_formatted(tmp_path / "b")

    def test_composite_keys_and_the_created_column(self, tmp_path: Path) -> None:
        columns = {"region": ["north"] * 40, "seen": [START.replace(tzinfo=UTC)] * 40}
        data = trips(tmp_path / "trips.parquet", columns)

        assert init_from(data, tmp_path / "p", "--key", "region", "--created", "seen") == 0

        view = views(tmp_path / "p")["trips_latest"]
        assert [key.name for key in view.join_keys] == ["driver_id", "region"]
        assert [field.name for field in view.features] == ["fare"]
        assert view.batch_source is not None
        assert view.batch_source.created_timestamp_column == "seen"
        assert (
            (tmp_path / "p/entities.csv")
            .read_text()
            .startswith("driver_id,region,event_timestamp\n0,north,2024-03-01T06:30:00Z\n")
        )

    def test_columns_that_nothing_can_hold_are_left_out_with_the_reason(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        columns = {"price": [Decimal("1.5")] * 40, "nested": [{"a": 1}] * 40, "nothing": pa.nulls(40)}

        assert init_from(trips(tmp_path / "trips.parquet", columns), tmp_path / "p") == 0

        assert [field.name for field in views(tmp_path / "p")["trips_latest"].features] == ["fare"]
        text = (tmp_path / "p/features.py").read_text()
        assert "# Left out: price is decimal128(2, 1), which no feature type holds exactly; store it as" in text
        assert "# Left out: nested is struct<a: int64>" in text
        assert "# Left out: nothing is null, it holds no values" in text
        assert "price (decimal128(2, 1))" in capsys.readouterr().out
        assert_formatted(tmp_path / "p")

    def test_names_that_code_cannot_have_are_mapped(self, tmp_path: Path) -> None:
        odd = {
            "Fare, total ($)": "fare_total",
            "fare_total ": "fare_total_2",
            "arrival": "arrival_value",
            "2nd": "column_7_2nd",
            "!!": "column_8",
            "quo\"te'\\": "quo_te",
            'line\nbreak"""': "line_break",
            "a very long name that goes on and on until no line of any width could ever hold it, twice over": (
                "a_very_long_name_that_goes_on_and_on_until_no_line_of_any_wi"
            ),
        }
        data = trips(tmp_path / "my trips-2024.parquet", {name: [1] * 40 for name in odd})

        assert init_from(data, tmp_path / "p") == 0

        view = views(tmp_path / "p")["my_trips_2024_latest"]
        assert view.batch_source is not None
        assert view.batch_source.field_mapping == odd
        assert [field.name for field in view.features] == ["fare", *odd.values()]
        assert_formatted(tmp_path / "p")

    @pytest.mark.parametrize("key", ["class", "columns", "list", "Field", "timedelta", "trips_latest", "trips_source"])
    def test_a_key_may_be_called_anything(self, tmp_path: Path, key: str) -> None:
        table = pa.table({key: [1], "ts": [START], "fare": [1.5]})
        pq.write_table(table, tmp_path / "trips.parquet")

        assert init_from(tmp_path / "trips.parquet", tmp_path / "p", key=key) == 0

        entities = [item for item in definitions(tmp_path / "p") if isinstance(item, Entity)]
        assert [entity.keys[0].name for entity in entities] == [key]
        assert list(views(tmp_path / "p")) == ["trips_latest", "trips_recent"]

    @pytest.mark.parametrize("ending", ["csv", "jsonl"])
    def test_text_files(self, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"trips.{ending}"
        if ending == "csv":
            path.write_text("driver_id,ts,fare\n1,2024-03-01T06:30:00Z,1\n2,2024-03-02T06:30:00Z,2.5\n")
        else:
            path.write_text(
                '{"driver_id": 1, "ts": "2024-03-01T06:30:00Z", "fare": 1.0}\n'
                '{"driver_id": 2, "ts": "2024-03-02T06:30:00Z", "fare": 2.5}\n'
            )

        assert init_from(path, tmp_path / "p") == 0

        view = views(tmp_path / "p")["trips_latest"]
        assert [(field.name, field.dtype) for field in view.features] == [("fare", Float64)]
        assert (tmp_path / "p/entities.csv").read_text().splitlines()[1] == "1,2024-03-01T06:30:00Z"

    def test_folders_and_globs(self, tmp_path: Path) -> None:
        (tmp_path / "days").mkdir()
        trips(tmp_path / "days/a.parquet")
        trips(tmp_path / "days/b.parquet")

        assert init_from(tmp_path / "days", tmp_path / "p") == 0
        assert init_from(tmp_path / "days/*.parquet", tmp_path / "q") == 0

        folder, glob = (
            view.batch_source for view in (views(tmp_path / "p")["days_latest"], views(tmp_path / "q")["data_latest"])
        )
        assert isinstance(folder, FileSource)
        assert isinstance(glob, FileSource)
        assert (folder.path, folder.file_format) == ("../days", "")
        assert (glob.path, glob.file_format) == ("../days/*.parquet", "parquet")

    def test_the_next_commands_fit_the_data(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = trips(tmp_path / "trips.parquet", {"region": ["far north"] * 40})

        init_from(data, tmp_path / "p", "--key", "region")

        printed = capsys.readouterr().out
        assert "featurestore materialize 2024-03-01 2024-03-03\n" in printed
        assert "--entity driver_id=0 --entity 'region=far north' --at 2024-03-03\n" in printed
        assert "historical --entities entities.csv --service trips_features --out training.parquet" in printed

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"key": "drver_id"}, "no column 'drver_id'; did you mean 'driver_id'?"),
            ({"time": "tss"}, "no column 'tss'; did you mean 'ts'?"),
            ({"key": "fare"}, "the key 'fare' is a float64; keys are integers, strings"),
            ({"key": "ts"}, "'ts' is given twice"),
            ({"time": "driver_id", "key": "fare"}, "the key 'fare'"),
            ({"time": "fare"}, "--time 'fare' is a double, not a timestamp; timestamps are: ts"),
        ],
    )
    def test_mistakes(
        self, tmp_path: Path, options: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = trips(tmp_path / "trips.parquet")

        assert init_from(data, tmp_path / "p", **options) == 1

        error = capsys.readouterr().err
        assert told in error
        assert not (tmp_path / "p").exists()

    def test_files_that_are_missing_or_broken(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        whole = trips(tmp_path / "trips.parquet").read_bytes()
        (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "notes.txt").write_text("no data")

        codes = [init_from(tmp_path / name, tmp_path / "p") for name in ("none.parquet", "cut.parquet", "notes.txt")]

        missing, cut, text = capsys.readouterr().err.splitlines()
        assert codes == [1, 1, 1]
        assert "there is no file at" in missing
        assert "cut.parquet cannot be read as parquet" in cut
        assert "cannot tell the format of" in text


class TestCode:
    def test_what_fits_a_line_stays_on_it(self) -> None:
        assert render(call("f", "a", call("g", "b")), "x = ") == "x = f(a, g(b))"

    def test_what_does_not_gets_a_line_each(self) -> None:
        long = "a" * 50
        assert render(call("f", f'"{long}"', keyword_list("b", [f'"{long}"'])), "x = ") == (
            f'x = f(\n    "{long}",\n    b=["{long}"],\n)'
        )

    def test_comments_open_their_list(self) -> None:
        assert render(keyword_list("a", ["# why", "b"])) == "a=[\n    # why\n    b,\n]"

    @pytest.mark.parametrize("text", ["a", 'a"b', "a'b", "a\\b", "a\nb", "ü", "a'b\"c", 'a"\n', 'a\\"b', '""\''])
    def test_quoted_text_means_itself(self, text: str) -> None:
        assert eval(quote(text)) == text  # noqa: S307  (our own output)

    def test_names(self) -> None:
        assert identifier("My Data (v2)", "x") == "my_data_v2"
        assert identifier("2024", "data") == "data_2024"
        assert identifier("__", "data") == "data"
        assert unique("class", [], "_entity") == "class_entity"
        assert unique("a", ["a", "a_2"]) == "a_3"
