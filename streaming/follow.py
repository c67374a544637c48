"""Keeps a view's online state level with the rows in its log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from featurestore.errors import OnlineStoreError
from featurestore.offline.log import RowLog
from featurestore.online.contract import Given
from featurestore.online.view import BehindLogError, OnlineView, RebuildError
from featurestore.streaming.records import NEVER

_ATTEMPTS = 10


class OnlineFollower:
    """Applies logged rows to one view's online state.

    The common way is incremental. Where the store is behind, because of a crash between log and store, another
    process, or a store that lost data, the sections of the keys concerned are written whole, from the log. Both give
    the same bits.

    Parameters
    ----------
    log
        The log the view reads.
    online
        The view's online state.
    """

    def __init__(self, log: RowLog, online: OnlineView) -> None:
        self.log = log
        self.online = online

    def apply(self, rows: pa.Table, writer: str, after: int, through: int) -> None:
        """Apply one writer's logged rows.

        Parameters
        ----------
        rows
            All its logged rows with ``after < _sequence <= through``, in that order.
        writer
            The writer.
        after, through
            The log's sequence for the writer before and after these rows.

        Raises
        ------
        OnlineStoreError
            Where the store cannot be written.
        """
        for _ in range(_ATTEMPTS):
            try:
                self.online.apply(rows, writer, after, through)
            except BehindLogError:
                self.catch_up(writer)  # these rows are in the log already
            except RebuildError as error:
                self.online.rewrite(self._sections(writer, self._table(error.keys)), {})
            else:
                return
        raise OnlineStoreError(
            f"online state of view {self.online.view.name!r}: {_ATTEMPTS} writes in a row were refused for "
            f"writer {writer!r}; stop the other processes that write it and try again"
        )

    def catch_up(self, writer: str, given: Given | None = None) -> int:
        """Rewrite, from the log, every key with rows of the writer that the store has not seen; return how many.

        Parameters
        ----------
        given
            Marks that must stay as they are meanwhile.
        """
        through = self.log.sequence(writer)  # before the rows are read: they reach at least as far
        watermark = self.online.watermark(writer)
        if watermark >= through:
            return 0
        keys = None if watermark == NEVER else self._keys_after(writer, watermark)
        return self.online.rewrite(self._sections(writer, keys), {writer: through}, given=given)

    def _sections(self, writer: str, keys: pa.Table | None) -> Iterator[pa.RecordBatch]:
        return self.log.sorted_rows(keys=keys, writers=[writer], horizon=self.online.horizon)

    def _keys_after(self, writer: str, sequence: int) -> pa.Table | None:
        names = self.log.key_names
        if not names:
            return None
        parts = [
            pa.Table.from_batches([batch.select(names)]).group_by(names).aggregate([])
            for batch in self.log.sorted_rows(writers=[writer], after={writer: sequence})
        ]
        if not parts:
            return self._table([])
        return pa.concat_tables(parts).group_by(names).aggregate([])

    def _table(self, keys: Sequence[tuple[Any, ...]]) -> pa.Table:
        """Return join keys, given in the view's order, as a table."""
        fields = self.online.view.join_keys
        columns = {
            field.name: pa.array([key[place] for key in keys], field.dtype.to_arrow())
            for place, field in enumerate(fields)
        }
        return pa.table(columns)
