"""BigQuery tables on an emulator, over REST and over the Storage API: the same tests, tables and values for both."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import Forbidden
from google.cloud.bigquery import LoadJobConfig, SchemaField

from featurestore.clock import from_micros, to_micros
from featurestore.definitions import BigQuerySource
from featurestore.errors import SourceError
from featurestore.materialize.bigquery_table import BigQueryTable
from featurestore.materialize.tables import Partition, Span
from featurestore.testing.source_suite import SourceSuite, SourceTables
from tests.servers.bigquery import PROJECT, BigQuery

# Google's client says so of the way in which it itself reads.
pytestmark = pytest.mark.filterwarnings("ignore:Retrieving Arrow record batches directly:PendingDeprecationWarning")

TYPES = {
    pa.bool_(): "BOOL",
    pa.int64(): "INT64",
    pa.float64(): "FLOAT64",
    pa.string(): "STRING",
    pa.binary(): "BYTES",
    pa.timestamp("us", "UTC"): "TIMESTAMP",
    pa.timestamp("us"): "DATETIME",
    pa.date32(): "DATE",
}
EVERYTHING = Span("", None, None)


class BigQueryTables(SourceTables):
    """Tables in a dataset of their own, written by load jobs."""

    suggests_tables = True
    sees_one_state = False
    cannot_hold: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("int32s", "widened_int32s"), "its integers have 64 bits"),
        **dict.fromkeys(("float32s", "widened_float32s", "vectors"), "its floats have 64 bits"),
        **dict.fromkeys(("int_lists", "text_lists"), "its arrays hold no nulls, and are never null"),
    }

    def __init__(self, server: BigQuery, settings: Mapping[str, Any]) -> None:
        self.server = server
        self.given = settings
        self.dataset = f"d{uuid4().hex}"
        with server.connect() as client:
            client.create_dataset(self.dataset)

    def source(self, name: str, **options: Any) -> BigQuerySource:
        return BigQuerySource(name, connection="bigquery", table=f"{self.dataset}.{name}", **options)

    def settings(self) -> Mapping[str, Any]:
        return self.given

    def write(self, name: str, table: pa.Table) -> None:
        with self.server.connect() as client:
            # The emulator keeps the time at which a table was changed through a load.
            client.delete_table(f"{self.dataset}.{name}", not_found_ok=True)
        names = {field.name: TYPES[field.type] for field in table.schema}
        for place, field in enumerate(table.schema):
            if field.type == pa.binary():  # which the emulator takes from base64 only, whatever it loads
                texts = [None if value is None else b64encode(value).decode() for value in table[place].to_pylist()]
                table = table.set_column(place, field.name, pa.array(texts))
        sink = io.BytesIO()
        pq.write_table(table, sink)
        sink.seek(0)
        config = LoadJobConfig(
            source_format="PARQUET",
            schema=[SchemaField(name, kind) for name, kind in names.items()],
        )
        with self.server.connect() as client:
            client.load_table_from_file(sink, f"{PROJECT}.{self.dataset}.{name}", job_config=config).result()


class TestRest(SourceSuite):
    @pytest.fixture
    def tables(self, bigquery: BigQuery) -> SourceTables:
        return BigQueryTables(bigquery, bigquery.settings)


class TestStorage(SourceSuite):
    @pytest.fixture
    def tables(self, bigquery: BigQuery) -> SourceTables:
        return BigQueryTables(bigquery, bigquery.storage_settings)


@pytest.fixture(params=["rest", "storage"])
def settings(request: pytest.FixtureRequest, bigquery: BigQuery) -> Mapping[str, Any]:
    return bigquery.settings if request.param == "rest" else bigquery.storage_settings


@pytest.fixture(scope="module")
def dataset(bigquery: BigQuery) -> str:
    """Return a dataset with a table partitioned by the day of ``ts``, whose last row has no time."""
    name = f"d{uuid4().hex}"
    with bigquery.connect() as client:
        client.create_dataset(name)
        client.query(
            f"CREATE TABLE {name}.trips (id INT64, ts TIMESTAMP, price NUMERIC(10), tax NUMERIC(5, 2), money NUMERIC, "
            "big BIGNUMERIC, xs ARRAY<FLOAT64>, names ARRAY<STRING>, days ARRAY<DATE>, place STRUCT<x INT64>) "
            "PARTITION BY DATE(ts)"
        ).result()
        client.query(
            f"INSERT INTO {name}.trips VALUES "
            "(1, TIMESTAMP '2024-05-01 23:59:59.999999', 7, 1.5, 0.000000001, 1.5, [0.1, 1e-320], ['', 'é'], "
            "[DATE '0001-01-01'], STRUCT(1)), "
            "(2, TIMESTAMP '2024-05-02 00:00:00', NULL, NULL, NULL, NULL, [], [], [], NULL), "
            "(3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
        ).result()
    return name


def read(settings: Mapping[str, Any], columns: list[str] | None, span: Span = EVERYTHING, **options: Any) -> pa.Table:
    source = BigQuerySource("trips", connection="bigquery", timestamp_field="ts", **options)
    with BigQueryTable(source, settings) as table:
        return pa.Table.from_batches(table.batches(columns, span)).sort_by("id")


def test_decimals_and_arrays(settings: Mapping[str, Any], dataset: str) -> None:
    columns = ["id", "price", "tax", "money", "big", "xs", "names", "days"]
    found = read(settings, columns, table=f"{PROJECT}.{dataset}.trips")
    assert found.to_pylist()[0] == {
        "id": 1,
        "price": Decimal(7),
        "tax": Decimal("1.50"),
        "money": Decimal("0.000000001"),
        "big": Decimal("1.5"),
        "xs": [0.1, 1e-320],
        "names": ["", "é"],
        "days": [date(1, 1, 1)],
    }
    assert found["xs"].to_pylist()[1:] == [[], []]  # BigQuery has no array that is null
    source = BigQuerySource("trips", connection="bigquery", timestamp_field="ts", table=f"{dataset}.trips")
    with BigQueryTable(source, settings) as table:
        types = table.schema()
    assert types.field("price").type == pa.decimal128(10, 0)
    assert types.field("tax").type == pa.decimal128(5, 2)
    assert types.field("days").type == pa.list_(pa.date32())


def test_a_range_reaches_the_service(bigquery: BigQuery, settings: Mapping[str, Any], dataset: str) -> None:
    start, end = (to_micros(datetime(2024, 5, day, tzinfo=UTC)) for day in (2, 3))
    assert read(settings, ["id"], Span("ts", start, end), table=f"{dataset}.trips")["id"].to_pylist() == [2, 3]
    with bigquery.connect() as client:
        job = next(iter(client.list_jobs(max_results=1)))
        asked = job.query, {parameter.name: parameter.value for parameter in job.query_parameters}
    assert asked[0].endswith("WHERE `ts` IS NULL OR (`ts` >= @first AND `ts` < @after)")
    assert asked[1] == {"first": from_micros(start), "after": from_micros(end)}


def test_partitions_with_their_rows(settings: Mapping[str, Any], dataset: str) -> None:
    source = BigQuerySource("trips", connection="bigquery", timestamp_field="ts", table=f"{dataset}.trips")
    with BigQueryTable(source, settings) as table:
        assert table.partitions() == [Partition("20240501", 1), Partition("20240502", 1), Partition("__NULL__", 1)]


def test_a_query(settings: Mapping[str, Any], dataset: str) -> None:
    query = f"SELECT id, TO_JSON_STRING(place) AS place, ts FROM {dataset}.trips -- all\n;"
    source = BigQuerySource("trips", connection="bigquery", timestamp_field="ts", query=query)
    with BigQueryTable(source, settings) as table:
        assert table.schema().names == ["id", "place", "ts"]
        assert (table.partitions(), table.version()) == ([], None)
    found = read(settings, None, Span("ts", None, 0), query=query)
    assert found["id"].to_pylist() == [3]


def test_a_failing_query_is_an_error(settings: Mapping[str, Any], dataset: str) -> None:
    query = "SELECT IF(id = 3, ERROR('gone wrong'), id) AS id FROM UNNEST(GENERATE_ARRAY(1, 5)) AS id"
    with pytest.raises(SourceError, match=r"BigQuery: .*gone wrong"):
        read(settings, ["id"], query=query)
    with pytest.raises(SourceError, match=r"BigQuery: .*nope"):
        read(settings, None, query=f"SELECT nope FROM {dataset}.trips")
    with pytest.raises(SourceError, match="no column 'idd'; did you mean 'id'"):
        read(settings, ["idd"], table=f"{dataset}.trips")
    with pytest.raises(SourceError, match=r"'place' is NULLABLE RECORD.*TO_JSON_STRING\(place\)"):
        read(settings, None, table=f"{dataset}.trips")


def test_what_is_not_there_is_told_apart(bigquery: BigQuery, dataset: str) -> None:
    with pytest.raises(SourceError, match="no dataset 'd0' in tests"):
        read(bigquery.settings, None, table="d0.trips")
    with pytest.raises(SourceError, match=rf"no table 'trip' in {dataset}; did you mean 'trips'"):
        read(bigquery.settings, None, table=f"{dataset}.trip")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"endpoint": "http://127.0.0.1:1", "project": "p", "timeout": 0.1}, "BigQuery: .*Connection refused"),
        ({"project": "p"}, "no usable credentials.*gcloud auth application-default login"),
        ({"project": "p", "credentials": "nowhere.json"}, "connections.bigquery.credentials: 'nowhere.json'"),
        ({"projekt": "p"}, "connections.bigquery: unknown setting 'projekt'; did you mean 'project'"),
    ],
)
def test_a_connection_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Mapping[str, Any], problem: str
) -> None:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(SourceError, match=problem):
        read(settings, None, table="d.t")


def test_permission_denied_says_which_roles() -> None:
    source = BigQuerySource("trips", connection="bigquery", timestamp_field="ts", table="p.d.t")
    with BigQueryTable(source, {"project": "p", "endpoint": "http://127.0.0.1:1"}) as table:
        table.__dict__["_client"] = Denied()
        with pytest.raises(SourceError, match=r"permission denied: 403 no access to d.t; .*bigquery.dataViewer"):
            table.schema()


class Denied:
    """A client whose account may do nothing: the emulator checks no rights."""

    project = "p"

    def get_table(self, *_: object, **__: object) -> None:
        raise Forbidden("no access to d.t")

    def close(self) -> None: ...
