"""File sources in S3: folders and globs, formats, credentials from every place, and quick errors without any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from featurestore.cli.main import run
from featurestore.definitions import FileSource
from featurestore.errors import SourceError
from featurestore.materialize.readers import Rejected, SourceReader, Wanted
from featurestore.materialize.s3 import S3Settings
from featurestore.types import Int64
from tests.servers.s3 import KEY, SECRET, S3Server

NOWHERE = "http://127.0.0.1:1"


class Bucket:
    """A bucket of its own in the server."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.name = f"bucket-{uuid4().hex}"
        self.files = server.filesystem()
        self.files.create_dir(self.name)

    def put(self, key: str, *numbers: int) -> None:
        times = pa.array([0] * len(numbers), pa.timestamp("us"))
        table = pa.table({"ts": times, "x": pa.array(numbers, pa.int64())})
        pq.write_table(table, f"{self.name}/{key}", filesystem=self.files)

    def reader(self, path: str, settings: dict[str, object] | None = None, **options: Any) -> SourceReader:
        source = FileSource("trips", path=f"s3://{self.name}/{path}", timestamp_field="ts", connection="s3", **options)
        return SourceReader(source, Path(), self.server.settings if settings is None else settings)

    def numbers(self, path: str, settings: dict[str, object] | None = None) -> list[int]:
        chunks = self.reader(path, settings).typed([Wanted("x", "x", Int64)], fail)
        return [value for chunk in chunks for value in chunk.columns[0].to_pylist()]


@pytest.fixture
def bucket(s3: S3Server) -> Bucket:
    return Bucket(s3)


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep this machine's own credentials out of the tests."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def fail(rejected: Rejected) -> None:
    raise AssertionError(rejected)


def test_files_folders_and_globs_are_found_in_order(bucket: Bucket) -> None:
    for key, number in (("b.parquet", 2), ("a.parquet", 1), ("sub/c.parquet", 3), ("_log/x.parquet", 9)):
        bucket.put(f"data/{key}", number)
    bucket.put("database/y.parquet", 8)
    with bucket.files.open_output_stream(f"{bucket.name}/data/notes.txt") as stream:
        stream.write(b"not data")
    for path, numbers in (
        ("data", [1, 2, 3]),
        ("data/", [1, 2, 3]),
        ("data/*.parquet", [1, 2]),
        ("data/[b-c].parquet", [2]),
        ("data/**/*.parquet", [9, 1, 2, 3]),
        ("*/?.parquet", [1, 2, 8]),
        ("data/sub/c.parquet", [3]),
    ):
        assert bucket.numbers(path) == numbers, path
    parts = [part.name for part in bucket.reader("data/*.parquet").partitions()]
    assert parts == [f"s3://{bucket.name}/data/{name}.parquet" for name in "ab"]


def test_what_is_not_there_or_being_written_is_said(bucket: Bucket) -> None:
    with pytest.raises(SourceError, match=rf"FileSource 'trips': there is no file at s3://{bucket.name}/none"):
        bucket.reader("none/*.parquet")
    with pytest.raises(SourceError, match="there is no Delta table at s3://"):
        bucket.reader("none", file_format="delta")
    bucket.put("data/a.parquet", 1)
    bucket.put("data/_temporary/0/b.parquet", 2)
    with pytest.raises(SourceError, match="is being written by a job"):
        bucket.reader("data")
    with bucket.files.open_output_stream(f"{bucket.name}/bad.parquet") as stream:
        stream.write(b"PAR1 not")
    with pytest.raises(SourceError, match=r"FileSource 'trips': s3://.*/bad\.parquet cannot be read as parquet"):
        bucket.numbers("bad.parquet")


def test_row_groups_outside_the_range_are_not_fetched(bucket: Bucket) -> None:
    table = pa.table({"ts": pa.array(range(6), pa.timestamp("us")), "x": range(6)})
    pq.write_table(table, f"{bucket.name}/a.parquet", filesystem=bucket.files, row_group_size=2)
    chunks = bucket.reader("a.parquet").typed([Wanted("x", "x", Int64)], fail, 2, 4)
    assert [chunk.columns[0].to_pylist() for chunk in chunks] == [[2, 3]]


def test_a_delta_table_with_partitions_is_read_as_one_version(bucket: Bucket) -> None:
    options = {
        "AWS_ENDPOINT_URL": bucket.server.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "eu-west-1",
    }
    place = f"s3://{bucket.name}/t"
    table = pa.table({"ts": pa.array([1, 2], pa.timestamp("us", "UTC")), "day": ["b", "a"], "x": [1, 2]})
    write_deltalake(place, table, partition_by=["day"], storage_options=options)
    reader = bucket.reader("t")
    assert [part.name for part in reader.partitions()] == ["day=a", "day=b"]
    write_deltalake(place, table.slice(0, 1), mode="overwrite", storage_options=options)
    assert sorted(row["x"] for part in reader.records(fail) for row in part) == [1, 2]
    assert bucket.reader("t").version() != reader.version()


def test_credentials_come_from_the_environment_or_a_profile(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket.put("a.parquet", 1)
    settings: dict[str, object] = {"endpoint": bucket.server.endpoint, "allow_http": True}
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        assert bucket.numbers("a.parquet", settings) == [1]
    (tmp_path / "credentials").write_text(f"[work]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    assert bucket.numbers("a.parquet", {**settings, "profile": "work"}) == [1]
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert bucket.numbers("a.parquet", settings) == [1]


def test_public_buckets_are_read_without_credentials(bucket: Bucket) -> None:
    bucket.put("a.parquet", 1)
    settings: dict[str, object] = {"endpoint": bucket.server.endpoint, "allow_http": True, "anonymous": True}
    found = S3Settings.of("FileSource 'trips'", "s3", settings)
    assert (found.key, found.delta_options()["AWS_SKIP_SIGNATURE"]) == ("", "true")
    assert bucket.numbers("a.parquet", settings) == [1]


def test_without_credentials_nobody_is_asked_for_any(bucket: Bucket) -> None:
    with pytest.raises(SourceError, match=r"no credentials for S3 in connections\.s3: set access_key_id.*anonymous"):
        bucket.reader("a.parquet", {"endpoint": NOWHERE, "allow_http": True})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"access_key_id": "a"}, "only one of access_key_id and secret_access_key"),
        ({"endpont": "x"}, "unknown setting 'endpont'; did you mean 'endpoint'"),
        ({"endpoint": NOWHERE}, r"is not encrypted; allow_http: true in connections\.s3 allows it"),
    ],
)
def test_settings_that_are_wrong(bucket: Bucket, settings: dict[str, object], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        bucket.reader("a.parquet", settings)


@pytest.mark.parametrize("path", ["a.parquet", "folder", "t.delta"])
def test_an_endpoint_that_is_not_there_is_named_soon(bucket: Bucket, path: str) -> None:
    settings: dict[str, object] = {"endpoint": NOWHERE, "allow_http": True, "access_key_id": "a"}
    settings["secret_access_key"] = SECRET
    with pytest.raises(SourceError, match=r"FileSource 'trips': s3://.*cannot be read.*connect") as caught:
        bucket.reader(path, settings)
    assert SECRET not in str(caught.value)


FEATURES = """
from featurestore import Entity, FeatureView, Field, FileSource
from featurestore.types import Int64

driver = Entity(name="driver", join_keys=["x"], value_type=Int64)
trips = FileSource(name="trips", path="s3://{bucket}/trips", timestamp_field="ts", connection="lake")
fares = FeatureView(name="fares", entities=[driver], schema=[Field("ts_copy", Int64)], source=trips)
"""


def test_sources_are_looked_into_from_the_command_line(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.put("trips/a.parquet", 1)
    bucket.put("trips/b.parquet", 2, 3)
    settings = {"project": "p", "connections": {"lake": bucket.server.settings}}
    (tmp_path / "feature_store.yaml").write_text(json.dumps(settings))
    (tmp_path / "features.py").write_text(FEATURES.format(bucket=bucket.name))
    at = ["-C", str(tmp_path), "source"]
    assert run([*at, "check"]) == 1
    assert "has no column 'ts_copy'" in capsys.readouterr().out
    assert run([*at, "schema", "trips", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [column["type"] for column in found["columns"]] == ["timestamp", "int64"]
    assert found["partitions"] == [f"s3://{bucket.name}/trips/{name}.parquet" for name in "ab"]
    assert run([*at, "sample", "trips", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"ts": "1970-01-01T00:00:00Z", "x": 1}]
