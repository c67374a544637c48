"""Sources: where rows come from. A batch source is read in jobs, a stream source delivers records one by one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import PurePath

import msgspec
from msgspec.structs import force_setattr

from featurestore.definitions.entity import Field
from featurestore.definitions.naming import check_list, check_name, check_tags, check_text, check_unique, duration
from featurestore.definitions.warehouse import BigQuerySource, HiveSource, SqlSource, check_batch
from featurestore.errors import DefinitionError

_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
}


class FileSource(msgspec.Struct, frozen=True, tag="file"):
    """Parquet, CSV, JSON-lines or Delta files: a file, a folder or a glob.

    Parameters
    ----------
    path
        Path or glob; relative paths start at the folder of ``feature_store.yaml``. Or ``s3://bucket/key``, likewise.
    timestamp_field
        Column that says when a row happened. Naive times are UTC.
    created_timestamp_column
        Column that says when a row could first be known; else that is the event's time plus `availability_delay`.
    field_mapping
        Source column to the name used in definitions.
    file_format
        ``"parquet"``, ``"csv"``, ``"json"`` (one object a line) or ``"delta"``; by default told from the path.
    connection
        For ``s3://`` paths: the name of the connection in ``feature_store.yaml`` that holds endpoint and credentials;
        by default the environment's.
    """

    name: str
    path: str = ""
    timestamp_field: str = ""
    created_timestamp_column: str = ""
    field_mapping: dict[str, str] = {}
    file_format: str = ""
    connection: str = ""
    availability_delay: timedelta = timedelta(0)
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""

    def __post_init__(self) -> None:
        label = f"FileSource {self.name!r}"
        check_name("FileSource", self.name)
        if isinstance(self.path, PurePath):
            force_setattr(self, "path", str(self.path))
        if not isinstance(self.path, str) or not self.path:
            raise DefinitionError(f"{label}: give a path, for example path='data/trips.parquet'")
        check_text(label, path=self.path)
        check_batch(label, self)
        if not self.file_format:
            lowered = self.path.lower()
            found = next((f for ending, f in _FORMATS.items() if lowered.endswith(ending)), "")
            force_setattr(self, "file_format", found)
        if self.file_format not in {"", "parquet", "csv", "json", "delta"}:
            raise DefinitionError(f"{label}: file_format {self.file_format!r}: use 'parquet', 'csv', 'json' or 'delta'")

    @property
    def location(self) -> str:
        """The path."""
        return self.path


BatchSource = FileSource | SqlSource | HiveSource | BigQuerySource


class PushSource(msgspec.Struct, frozen=True, tag="push"):
    """Rows handed to the store by a caller (`FeatureStore.push`).

    Parameters
    ----------
    batch_source
        Source of the same rows' history; a view on this push source then is a batch-and-stream (lambda) view.
    timestamp_field
        Column that says when a row happened; by default that of the batch source.
    """

    name: str
    batch_source: BatchSource | None = None
    timestamp_field: str = ""
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""

    def __post_init__(self) -> None:
        check_name("PushSource", self.name)
        _check_stream(self, f"PushSource {self.name!r}")


class FileStreamSource(msgspec.Struct, frozen=True, tag="file_stream"):
    """A file of JSON lines, replayed as a stream in the order of its lines.

    Parameters
    ----------
    path
        The file; relative paths start at the folder of ``feature_store.yaml``.
    timestamp_field
        Field that says when an event happened; by default that of the batch source.
    arrival_field
        Field that says when an event could first be known; else that is its time plus `availability_delay`.
    """

    name: str
    path: str = ""
    batch_source: BatchSource | None = None
    timestamp_field: str = ""
    arrival_field: str = ""
    availability_delay: timedelta = timedelta(0)
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""

    def __post_init__(self) -> None:
        label = f"FileStreamSource {self.name!r}"
        check_name("FileStreamSource", self.name)
        if isinstance(self.path, PurePath):
            force_setattr(self, "path", str(self.path))
        if not isinstance(self.path, str) or not self.path:
            raise DefinitionError(f"{label}: give a path, for example path='data/events.jsonl'")
        check_text(label, path=self.path, arrival_field=self.arrival_field)
        duration(label, "availability_delay", self.availability_delay, positive=False)
        _check_stream(self, label)


class RequestSource(msgspec.Struct, frozen=True, tag="request"):
    """Fields that come with a request: an entity frame's extra columns offline, the request's fields online."""

    name: str
    schema: Sequence[Field] = ()
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""

    def __post_init__(self) -> None:
        label = f"RequestSource {self.name!r}"
        check_name("RequestSource", self.name)
        schema = check_list(label, "schema", self.schema, "schema=[Field('amount', Float64)]")
        if not schema or not all(isinstance(field, Field) for field in schema):
            raise DefinitionError(f"{label}: give its fields: schema=[Field('amount', Float64)]")
        check_unique(label, "field", [field.name for field in schema])
        check_tags(label, self.tags)
        check_text(label, description=self.description, owner=self.owner)
        force_setattr(self, "schema", schema)


StreamSource = PushSource | FileStreamSource
Source = FileSource | SqlSource | HiveSource | BigQuerySource | PushSource | FileStreamSource


def _check_stream(source: PushSource | FileStreamSource, label: str) -> None:
    if source.batch_source is not None and not isinstance(source.batch_source, BatchSource):
        raise DefinitionError(f"{label}: batch_source must be a batch source such as FileSource or SqlSource")
    if not source.timestamp_field:
        if source.batch_source is None:
            raise DefinitionError(f"{label}: say which field is the event's time: timestamp_field='ts'")
        batch = source.batch_source
        force_setattr(source, "timestamp_field", batch.field_mapping.get(batch.timestamp_field, batch.timestamp_field))
    check_tags(label, source.tags)
    check_text(label, timestamp_field=source.timestamp_field)
    check_text(label, description=source.description, owner=source.owner)
