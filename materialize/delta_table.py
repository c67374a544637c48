"""Delta tables as batch sources, read as they were when first looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from featurestore.materialize.places import Place
from featurestore.materialize.tables import Partition, Span, TableReader
from featurestore.offline.delta_changes import changed_spans
from featurestore.offline.delta_files import DeltaSnapshot, delta_snapshot

_BATCH_ROWS = 65_536


class DeltaFiles(TableReader):
    """Reads one version of a Delta table: the newest one when it is first asked for anything.

    Parameters
    ----------
    place
        The table's folder.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def schema(self) -> pa.Schema:
        """Return the columns and their types."""
        return self._snapshot.dataset.schema

    def batches(self, columns: Sequence[str] | None, span: Span) -> Iterator[pa.RecordBatch]:
        """Yield the rows, file by file."""
        dataset = self._snapshot.dataset
        condition = None
        if span.column and pa.types.is_timestamp(dataset.schema.field(span.column).type):
            condition = _condition(dataset.schema.field(span.column).type, span)
        names = None if columns is None else list(columns)
        yield from dataset.to_batches(columns=names, filter=condition, batch_size=_BATCH_ROWS)

    def partitions(self) -> list[Partition]:
        """Return the partitions."""
        return [Partition(name) for name in self._snapshot.partitions]

    def version(self) -> str:
        """Return the table's id and version."""
        return self._snapshot.token

    def changed_since(self, version: str, column: str) -> list[tuple[int, int]] | None:
        """Return the spans of the files that were added or removed since a version."""
        return changed_spans(self._place.shown, self._options, version, self.version(), column)

    @cached_property
    def _snapshot(self) -> DeltaSnapshot:
        return delta_snapshot(self._place.shown, self._options)

    @property
    def _options(self) -> dict[str, str]:
        return {} if self._place.s3 is None else self._place.s3.delta_options()


def is_delta(place: Place) -> bool:
    """Return whether a folder holds a Delta table."""
    return place.files.get_file_info(f"{place.path}/_delta_log").type is fs.FileType.Directory


def _condition(arrow: pa.DataType, span: Span) -> ds.Expression | None:
    """Return a filter that keeps all rows of the span, and those without a time."""
    scalar = pa.timestamp("us", arrow.tz)
    condition = None
    for bound, is_start in ((span.start, True), (span.end, False)):
        if bound is None:
            continue
        value = ds.scalar(pa.scalar(bound, pa.int64()).cast(scalar))
        part = ds.field(span.column) >= value if is_start else ds.field(span.column) < value
        part |= ds.field(span.column).is_null()
        condition = part if condition is None else condition & part
    return condition
