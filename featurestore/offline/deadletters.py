"""The dead letters of a log: records that could not become rows, with their payload, position and reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from featurestore.errors import OfflineStoreError
from featurestore.offline.journal import Journal

DEAD_LETTER_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("writer", pa.string()),
        pa.field("sequence", pa.int64()),
        pa.field("arrival", pa.timestamp("us", "UTC")),
        pa.field("payload", pa.binary()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("views", pa.string()),
    ]
)
"""Source, position and arrival of a record, its raw bytes, a short reason, what exactly is wrong, and the views."""


class DeadLetters:
    """The dead letters of one log, appended exactly once as its rows are.

    Parameters
    ----------
    root
        The offline store's folder.
    log_fingerprint
        The row fingerprint of the log.

    Attributes
    ----------
    path
        Folder of the Delta table.
    """

    schema = DEAD_LETTER_SCHEMA

    def __init__(self, root: Path, log_fingerprint: str) -> None:
        self._journal = Journal(
            root / "deadletters" / log_fingerprint,
            DEAD_LETTER_SCHEMA,
            what="the dead letters",
            writer_column="writer",
            sequence_column="sequence",
            statistics=["writer", "sequence", "arrival"],
        )
        self.path = self._journal.path

    def sequence(self, writer: str) -> int:
        """Return the sequence up to which a writer's dead letters are stored, or -1."""
        return self._journal.position(writer)

    def append(self, table: pa.Table, through: Mapping[str, int]) -> pa.Table:
        """Append dead letters exactly once, however often they are handed in.

        Parameters
        ----------
        table
            Rows of `DEAD_LETTER_SCHEMA`, in any order.
        through
            Writer to the sequence that is reached once they are in: at least their greatest.

        Returns
        -------
        pyarrow.Table
            The dead letters that this call appended.

        Raises
        ------
        OfflineStoreError
            Where the table cannot be read or written.
        """
        if not table.num_rows:
            return DEAD_LETTER_SCHEMA.empty_table()
        return self._journal.append(table, through)

    def read(self) -> pa.Table:
        """Return all dead letters, ordered by writer and sequence; an empty table where there are none.

        Raises
        ------
        OfflineStoreError
            Where the table cannot be read.
        """
        try:
            table = ds.dataset(self._journal.files(), schema=DEAD_LETTER_SCHEMA, format="parquet").to_table()
        except (OSError, pa.ArrowException) as error:
            raise OfflineStoreError(f"cannot read the dead letters in {self.path}: {error}") from error
        return table.sort_by([("writer", "ascending"), ("sequence", "ascending")])

    def count(self) -> int:
        """Return the number of dead letters."""
        return self._journal.count()
