"""Fills a view's online state from its log: for a new or changed definition, and for a store that lost its data."""

from __future__ import annotations

from featurestore.offline.duckdb.query import writers
from featurestore.offline.log import RowLog
from featurestore.online.contract import Given, MarkMovedError
from featurestore.online.view import OnlineView
from featurestore.semantics.rows import BATCH_WRITER


def fill(log: RowLog, online: OnlineView, cut: int | None) -> int:
    """Write whole sections for every key and writer of a log, and mark the view ready; return how many.

    Rows that are logged meanwhile are not lost: the watermarks set here end where the log did before it was read, and
    whoever applies next starts from them. Where the store loses data meanwhile, all is written again.

    Parameters
    ----------
    cut
        The cut in force of a lambda view, in microseconds; None where there is none yet, then batch rows do not count.
    """
    while True:
        given = online.begin_filling()
        try:
            count = _fill(log, online, cut, given)
            online.mark_ready(given)
        except MarkMovedError:
            if online.ready():  # another process has filled it
                return 0
        else:
            return count


def _fill(log: RowLog, online: OnlineView, cut: int | None, given: Given) -> int:
    names = [name for name in writers(log) if name != BATCH_WRITER or cut is not None or not online.view.is_lambda]
    through = {name: log.sequence(name) for name in names}
    rows = log.sorted_rows(writers=names, horizon=online.horizon, batch_before=cut)
    count = online.rewrite(rows, through, cut, given=given)
    if cut is not None:
        online.set_cut(cut, given)
    return count
