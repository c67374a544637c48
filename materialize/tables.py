"""What a source that is a table answers: the contract behind SQL databases, Hive, BigQuery and whatever comes next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa

from featurestore.errors import SourceError, suggest


class Span(NamedTuple):
    """A range of a source's time column, in microseconds; rows outside of it may be left out.

    A bound that is None is open; `start` is inclusive, `end` exclusive. Rows whose time is null are always delivered,
    since they must be reported.
    """

    column: str
    start: int | None
    end: int | None


class Partition(NamedTuple):
    """A part of a source that can be read on its own: how the source names it, and its rows where known."""

    name: str
    rows: int | None = None


class TableReader(ABC):
    """Reads one table or query of a warehouse.

    Errors are `SourceError`, and name the source, what was tried and what to do. A reader that has delivered a batch
    and cannot go on raises; it never ends early as if that were all.

    Attributes
    ----------
    prunes
        Whether `batches` leaves out what lies outside of the span without reading it.
    """

    prunes = True

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Return the columns and their types; no rows are read.

        Raises
        ------
        SourceError
            Where the table does not exist or may not be read.
        """

    @abstractmethod
    def batches(self, columns: Sequence[str] | None, span: Span) -> Iterator[pa.RecordBatch]:
        """Yield the rows with the named columns (None: all) in bounded batches, in any order.

        Types are those of `schema`, or others that hold the same values exactly. Times are UTC.
        """

    def partitions(self) -> list[Partition]:
        """Return the partitions, sorted by name; none where the table has none."""
        return []

    def version(self) -> str | None:
        """Return a token that changes whenever the contents may have changed, or None where none is to be had."""
        return None

    def changed_since(self, version: str, column: str) -> list[tuple[int, int]] | None:  # noqa: ARG002
        """Return spans of a time column that hold all rows that were added or removed since a version.

        Parameters
        ----------
        version
            What `version` returned then.
        column
            The column.

        Returns
        -------
        list of tuple of int, or None
            Least and greatest time in microseconds, both inclusive; None where that cannot be told.
        """
        return None

    def close(self) -> None:  # noqa: B027  (most readers hold nothing open)
        """Let go of connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_settings(label: str, connection: str, settings: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse a setting of a connection that its reader does not have.

    Raises
    ------
    SourceError
        For the first one that is not known.
    """
    for key in settings:
        if key not in known:
            raise SourceError(
                f"{label}: connections.{connection} in feature_store.yaml has the unknown setting {key!r}"
                f"{suggest(key, known)}"
            )
