"""Tables of one kind of source as the conformance suite makes and changes them, around the reader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from featurestore.definitions.sources import BatchSource
from featurestore.materialize.readers import SourceReader


class SourceTables(ABC):
    """Tables of one kind of source, written and changed around the reader.

    Attributes
    ----------
    cannot_hold
        Columns of `EDGES` that this kind cannot hold, and why.
    times
        The type of the column ``ts``.
    is_typed
        Whether columns have stored types; else values are parsed one by one, and a wrong one rejects its row.
    has_versions
        Whether `SourceReader.version` tells of changes; else it is None.
    sees_one_state
        Whether a reader sees one state, or fails, from its first read until it is closed; else only within one read.
    suggests_tables
        Whether the error for a table that is not there names the nearest one.
    many
        A number of rows, of a hundred bytes each, that is too many for one portion.
    """

    cannot_hold: ClassVar[Mapping[str, str]] = {}
    times: ClassVar[pa.DataType] = pa.timestamp("us", "UTC")
    is_typed: ClassVar[bool] = True
    has_versions: ClassVar[bool] = True
    sees_one_state: ClassVar[bool] = False
    suggests_tables: ClassVar[bool] = False
    many: ClassVar[int] = 70_000

    @abstractmethod
    def write(self, name: str, table: pa.Table) -> None:
        """Make the table, with these rows and no others; one of the name is replaced, whatever columns it has."""

    @abstractmethod
    def source(self, name: str, **options: Any) -> BatchSource:
        """Return the definition of a source called ``name`` that reads the table, there or not.

        ``options`` are `field_mapping` and the like; `timestamp_field` is always among them.
        """

    def rewrite(self, name: str, table: pa.Table) -> None:
        """Replace all rows and keep the columns, the way that writers do while others read."""
        self.write(name, table)

    def try_write(self, name: str, table: pa.Table) -> bool:
        """Write the table while a reader is open; return False where that has to wait until it is closed."""
        self.write(name, table)
        return True

    def settings(self) -> Mapping[str, Any]:
        """Return the settings of the source's connection."""
        return {}

    def reader(self, name: str, **options: Any) -> SourceReader:
        """Return a reader of the table."""
        source = self.source(name, **{"timestamp_field": "ts", **options})
        return SourceReader(source, Path(), self.settings())
