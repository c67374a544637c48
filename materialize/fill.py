"""Fills a view's online state from its log: for a new or changed definition, and for a store that lost data."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from featurestore.errors import OfflineStoreError
from featurestore.materialize.rows import FIRST, LAST
from featurestore.offline.duckdb.query import writers
from featurestore.offline.log import RowLog
from featurestore.online.contract import NEVER, Given, MarkMovedError
from featurestore.online.view import OnlineView
from featurestore.semantics.rows import BATCH_WRITER

_KEYS_AT_ONCE = 1000


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


def lacks_jobs(log: RowLog, online: OnlineView, cut: int | None) -> bool:
    """Return whether filled online state is behind the jobs of its log, or behind the cut in force."""
    if cut is None and online.view.is_lambda:  # batch rows do not count yet
        return False
    known = online.cut()
    has_cut = cut is None or (known is not None and known >= cut)
    return not has_cut or online.watermark(BATCH_WRITER) < log.sequence(BATCH_WRITER)


def catch_up_jobs(log: RowLog, online: OnlineView, cut: int | None, given: Given) -> int:
    """Write the batch sections of all keys where the store lacks jobs that the log has; return how many.

    Keys that had batch rows as of the last job that the store has, and have none any more, lose theirs. Where the log
    no longer has the version of that job, which keys these are cannot be told: all is written anew, and the view is
    not ready meanwhile.

    Parameters
    ----------
    cut
        The cut in force of a lambda view, in microseconds.
    given
        What `OnlineView.begin_filling` returned before it was looked what the store lacks.

    Raises
    ------
    MarkMovedError
        Where the store lost more meanwhile, or another process wrote the same: look again what is to be done.
    """
    version, mark = log.version(), online.watermark(BATCH_WRITER)
    keys = _keys_of(log, mark)
    if keys is None:
        _empty(online, [*writers(log), BATCH_WRITER])
        return fill(log, online, cut)
    rows = log.sorted_rows(writers=[BATCH_WRITER], horizon=online.horizon, batch_before=cut, version=version)
    through = {BATCH_WRITER: log.sequence(BATCH_WRITER, version)}
    count = online.rewrite(rows, through, cut, keys, {**given, **online.at(BATCH_WRITER, mark)})
    if cut is not None:
        online.set_cut(cut, given)
    return count


def _keys_of(log: RowLog, job: int) -> pa.Table | None:
    """Return the keys that had batch rows once a job had written its; None where that is not known any more."""
    if job == NEVER:
        return log.batch_keys(FIRST, LAST + 1, -1)
    try:
        version = log.job_version(job, -1)
        return None if version is None else log.batch_keys(FIRST, LAST + 1, version)
    except OfflineStoreError:  # its files were vacuumed
        return None


def _empty(online: OnlineView, names: Sequence[str]) -> None:
    """Take everything out of the store that is of a view, the marks first: from then on it is not ready."""
    marks = ["ready", "cut", *(f"writer:{name}" for name in names)]
    online.store.put({online.key(mark): None for mark in marks})
    keys = online.store.scan(online.fingerprint)
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        online.store.delete(keys[start : start + _KEYS_AT_ONCE])
