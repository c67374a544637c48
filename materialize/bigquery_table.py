"""BigQuery tables and queries as a source: rows of a time range as Arrow, by the Storage API where it can be used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.clock import from_micros
from featurestore.definitions.warehouse import BigQuerySource
from featurestore.errors import ClockError, MissingExtraError, SourceError, suggest
from featurestore.materialize.tables import Partition, Span, TableReader

if TYPE_CHECKING:
    from google.api_core.retry import Retry
    from google.auth.credentials import Credentials
    from google.cloud import bigquery
    from google.cloud.bigquery_storage import BigQueryReadClient

_SETTINGS = ("project", "location", "credentials", "endpoint", "storage_endpoint", "storage_api", "timeout")
_SIMPLE = {
    "INTEGER": pa.int64(),
    "FLOAT": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "STRING": pa.string(),
    "BYTES": pa.binary(),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "DATETIME": pa.timestamp("us"),
    "DATE": pa.date32(),
    "JSON": pa.string(),
    "GEOGRAPHY": pa.string(),
}
_NEW_NAMES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}
_DECIMAL128_DIGITS = 38
_DECIMALS = {"NUMERIC": (38, 9), "BIGNUMERIC": (76, 38)}
_DAY = 86_400_000_000
_PAGE_ROWS = 20_000
_BATCH_ROWS = 65_536
_QUEUED = _STREAMS = 4
"""How many of the Storage API's batches wait in memory, and streams that fill them."""

_PATIENCE = 60.0
_LOGIN = "run gcloud auth application-default login, or set credentials: to a service account's key file"
_READ_ROLES = "roles/bigquery.dataViewer on the data and roles/bigquery.jobUser on the project"


class BigQueryTable(TableReader):
    """Reads one BigQuery table or query, by query jobs.

    Parameters
    ----------
    source
        The source.
    settings
        ``project``, ``location``, ``credentials`` (a service account's key file; by default the environment's),
        ``endpoint`` and ``storage_endpoint`` (of a private service or an emulator, which ``http://`` says), ``timeout``
        (seconds to go on trying a service that does not answer) and ``storage_api: false`` to do without that.

    Raises
    ------
    SourceError
        Where a setting is unknown.
    """

    def __init__(self, source: BigQuerySource, settings: Mapping[str, Any]) -> None:
        for key in settings:
            if key not in _SETTINGS:
                raise SourceError(f"connections.{source.connection}: unknown setting {key!r}{suggest(key, _SETTINGS)}")
        self._source = source
        self._settings = settings
        self._query = source.query.strip().rstrip(";")

    def schema(self) -> pa.Schema:
        """Return the columns; those of a type that no value has are opaque, and cannot be read."""
        return pa.schema([(field.name, arrow_type(field)) for field in self._fields])

    def batches(self, columns: Sequence[str] | None, span: Span) -> Iterator[pa.RecordBatch]:
        """Yield rows of the span; a predicate on the bare time column lets BigQuery skip partitions."""
        from google.cloud import bigquery

        fields = {field.name: field for field in self._fields}
        listed = ", ".join(_selected(fields, name) for name in (fields if columns is None else columns))
        where, bounds = _within(fields, span)
        parameters = [bigquery.ScalarQueryParameter(name, kind, value) for name, (kind, value) in bounds.items()]
        relation = _quoted(self._source.table) if self._source.table else f"(\n{self._query}\n)"
        config = bigquery.QueryJobConfig(query_parameters=parameters)
        with self._errors():
            job = self._client.query(f"SELECT {listed} FROM {relation}{where}", job_config=config, retry=self._retry)
            rows = job.result(page_size=_PAGE_ROWS, retry=self._retry)
            arrow = rows.to_arrow_iterable(self._storage, max_queue_size=_QUEUED, max_stream_count=_STREAMS)
            for batch in arrow:
                yield from (batch.slice(start, _BATCH_ROWS) for start in range(0, batch.num_rows, _BATCH_ROWS))

    def partitions(self) -> list[Partition]:
        """Return the partitions of a partitioned table, by the ids that BigQuery gives them."""
        from google.cloud import bigquery

        if not self._source.table:
            return []
        with self._errors():
            table = self._table()
            if table.time_partitioning is None and table.range_partitioning is None:
                return []
            view = _quoted(f"{table.project}.{table.dataset_id}.INFORMATION_SCHEMA.PARTITIONS")
            config = bigquery.QueryJobConfig(
                query_parameters=[bigquery.ScalarQueryParameter("name", "STRING", table.table_id)]
            )
            sql = f"SELECT partition_id, total_rows FROM {view} WHERE table_name = @name ORDER BY partition_id"
            rows = self._client.query(sql, job_config=config, retry=self._retry).result(retry=self._retry)
            return [Partition(row[0] or "", row[1]) for row in rows]

    def version(self) -> str | None:
        """Return what the table's metadata change with; None for queries and while rows are streamed into it."""
        if not self._source.table:
            return None
        with self._errors():
            table = self._table()
        is_plain = table.table_type == "TABLE" and table.streaming_buffer is None and table.modified is not None
        return f"{table.modified.isoformat()} {table.num_rows} {table.num_bytes}" if is_plain else None

    def close(self) -> None:
        """Close the connections."""
        for name in ("_storage", "_client"):
            opened = self.__dict__.pop(name, None)
            if name == "_client" and opened is not None:
                opened.close()
            elif opened is not None:
                opened.transport.close()

    @cached_property
    def _fields(self) -> list[bigquery.SchemaField]:
        with self._errors():
            if self._source.table:
                return list(self._table().schema)
            from google.cloud import bigquery

            config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
            return list(self._client.query(self._query, job_config=config, retry=self._retry).schema or [])

    @cached_property
    def _client(self) -> bigquery.Client:
        from google.api_core.client_options import ClientOptions
        from google.cloud import bigquery

        endpoint = self._settings.get("endpoint")
        return bigquery.Client(
            project=self._settings.get("project"),
            location=self._settings.get("location"),
            credentials=self._credentials(),
            client_options=ClientOptions(api_endpoint=endpoint) if endpoint else None,
        )

    @cached_property
    def _storage(self) -> BigQueryReadClient | None:
        """The client of the Storage API; None where it is not installed, or only the other endpoint was named."""
        endpoint = self._settings.get("storage_endpoint")
        if not self._settings.get("storage_api", True) or (self._settings.get("endpoint") and not endpoint):
            return None
        try:
            from google.api_core.client_options import ClientOptions
            from google.cloud.bigquery_storage import BigQueryReadClient
            from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport
        except ImportError:
            return None
        if _is_plain(endpoint):
            import grpc

            channel = grpc.insecure_channel(str(endpoint).removeprefix("http://"))
            return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
        options = ClientOptions(api_endpoint=endpoint) if endpoint else None
        return BigQueryReadClient(credentials=self._client._credentials, client_options=options)  # noqa: SLF001

    @property
    def _retry(self) -> Retry:
        from google.cloud.bigquery import DEFAULT_RETRY

        return DEFAULT_RETRY.with_timeout(float(self._settings.get("timeout", _PATIENCE)))

    def _credentials(self) -> Credentials | None:
        from google.auth.credentials import AnonymousCredentials
        from google.oauth2 import service_account

        path = self._settings.get("credentials")
        if path:
            scopes = ["https://www.googleapis.com/auth/cloud-platform"]
            try:
                found: Credentials = service_account.Credentials.from_service_account_file(path, scopes=scopes)
            except (OSError, ValueError) as error:
                raise SourceError(f"connections.{self._source.connection}.credentials: {path!r}: {error}") from error
            return found
        return AnonymousCredentials() if _is_plain(self._settings.get("endpoint")) else None

    def _table(self) -> bigquery.Table:
        return self._client.get_table(self._reference, retry=self._retry)

    @property
    def _reference(self) -> str:
        parts = self._source.table.split(".")
        return self._source.table if len(parts) > 2 else f"{self._client.project}.{self._source.table}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            from google.api_core import exceptions
            from google.auth.exceptions import GoogleAuthError
        except ImportError as error:
            raise MissingExtraError.for_package("google-cloud-bigquery", "bigquery") from error
        try:
            yield
        except exceptions.NotFound as error:
            raise self._absent(error) from error
        except exceptions.Forbidden as error:
            raise SourceError(
                f"BigQuery: permission denied: {_reason(error)}; the account needs {_READ_ROLES}"
            ) from error
        except GoogleAuthError as error:
            raise SourceError(f"BigQuery: no usable credentials: {_reason(error)}; {_LOGIN}") from error
        except (exceptions.GoogleAPIError, OSError) as error:
            raise SourceError(f"BigQuery: {_reason(error)}") from error

    def _absent(self, error: Exception) -> SourceError:
        """Return the error for what is not there, with the nearest name that is."""
        from google.api_core.exceptions import GoogleAPIError

        if self._source.table:
            project, dataset, table = self._reference.rsplit(".", 2)
            try:
                datasets = [item.dataset_id for item in self._client.list_datasets(project, retry=self._retry)]
                if dataset not in datasets:
                    return SourceError(
                        f"BigQuery: there is no dataset {dataset!r} in {project}{suggest(dataset, datasets)}"
                    )
                tables = [item.table_id for item in self._client.list_tables(f"{project}.{dataset}", retry=self._retry)]
                if table not in tables:
                    return SourceError(f"BigQuery: there is no table {table!r} in {dataset}{suggest(table, tables)}")
            except GoogleAPIError:  # may not be listed; the first error says what is missing
                pass
        return SourceError(f"BigQuery: {_reason(error)}")


def arrow_type(field: bigquery.SchemaField) -> pa.DataType:
    """Return the Arrow type in which a BigQuery type is delivered; opaque where it is not."""
    kind = _NEW_NAMES.get(field.field_type, field.field_type)
    if kind in _DECIMALS:
        precision, scale = _digits(field)
        item = (pa.decimal128 if precision <= _DECIMAL128_DIGITS else pa.decimal256)(precision, scale)
    else:
        item = _SIMPLE.get(kind, pa.opaque(pa.null(), kind, "BigQuery"))
    if field.mode != "REPEATED" or isinstance(item, pa.OpaqueType):
        return item
    return pa.opaque(pa.null(), kind, "BigQuery") if kind in _DECIMALS else pa.list_(item)


def _digits(field: bigquery.SchemaField) -> tuple[int, int]:
    """Return precision and scale of a decimal; one that gives its precision only has no decimal places."""
    return _DECIMALS[field.field_type] if field.precision is None else (field.precision, field.scale or 0)


def _selected(fields: Mapping[str, bigquery.SchemaField], name: str) -> str:
    field = _field(fields, name)
    if isinstance(arrow_type(field), pa.OpaqueType):
        raise SourceError(
            f"the column {name!r} is {field.mode} {field.field_type}, which no feature type holds; give a query that "
            f"takes out what you need, for example TO_JSON_STRING({name}) AS {name}, or leaves it out"
        )
    return _quoted(name)


def _field(fields: Mapping[str, bigquery.SchemaField], name: str) -> bigquery.SchemaField:
    if name not in fields:
        raise SourceError(f"there is no column {name!r}{suggest(name, fields)}")
    return fields[name]


def _within(fields: Mapping[str, bigquery.SchemaField], span: Span) -> tuple[str, dict[str, tuple[str, datetime]]]:
    """Return the SQL for rows of a span or without a time, and its parameters with their types."""
    if not span.column:
        return "", {}
    field, name = _field(fields, span.column), _quoted(span.column)
    limits = {"first": span.start, "after": span.end}
    bounds = {key: bound for key, micros in limits.items() if (bound := _bound(field, micros)) is not None}
    tests = [f"{name} {'>=' if key == 'first' else '<'} @{key}" for key in bounds]
    return (f" WHERE {name} IS NULL OR ({' AND '.join(tests)})" if tests else ""), bounds


def _bound(field: bigquery.SchemaField, micros: int | None) -> tuple[str, Any] | None:
    """Return a bound as a query parameter; None where there is none, or none that the column's type could hold."""
    if micros is None or field.mode == "REPEATED":
        return None
    try:
        if field.field_type == "TIMESTAMP":
            return "TIMESTAMP", from_micros(micros)
        if field.field_type == "DATETIME":
            return "DATETIME", from_micros(micros).replace(tzinfo=None)
        if field.field_type == "DATE":  # midnight of a day is at or after the bound from the bound's ceiling on
            return "DATE", from_micros(-(-micros // _DAY) * _DAY).date()
    except ClockError:
        pass
    return None


def _quoted(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _is_plain(endpoint: Any) -> bool:
    """Whether an endpoint is without encryption, as emulators are; nobody's credentials are sent there."""
    return str(endpoint or "").startswith("http://")


def _reason(error: Exception) -> str:
    """Return what a person needs of a service's message."""
    text = re.split(r"\n\s*(?:Location|Job ID):|; reason: ", str(error))[0]
    return " ".join(re.sub(r"^(\d+) (?:GET|POST) \S+: ", r"\1 ", text).split())
