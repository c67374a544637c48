"""What is done with a batch in one log: reject, append, and bring the online views along.

The order is fixed: dead letters, log, online. The source's position comes after all of it. Each step can be repeated,
and is when a process dies before the next: by their positions, what was written already is recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.definitions import FeatureView
from featurestore.errors import DefinitionError
from featurestore.offline.deadletters import DEAD_LETTER_SCHEMA, DeadLetters
from featurestore.offline.log import RowLog
from featurestore.online.view import OnlineView
from featurestore.streaming.counters import Counters
from featurestore.streaming.follow import OnlineFollower
from featurestore.streaming.prepare import Batch, Prepared, Preparer, Rejection

Hook = Callable[[str], None]
"""Called with the name of each step once it is done; tests raise in it."""


class LogApplier:
    """Applies batches to one log and to the views that read it.

    Parameters
    ----------
    log
        The log.
    letters
        Its dead letters.
    views
        The views of one stream source that share the log.
    online
        Online state by view name; a view that is not in it is only logged.
    max_future_skew
        How far a row's event time may be ahead of its arrival, in microseconds.
    hook
        Called after each step: ``rejected``, ``logged`` and, per view, ``online:<view>``.

    Attributes
    ----------
    counters
        By view name.
    """

    def __init__(
        self,
        log: RowLog,
        letters: DeadLetters,
        views: Sequence[FeatureView],
        *,
        online: Mapping[str, OnlineView],
        max_future_skew: int,
        hook: Hook,
    ) -> None:
        source = views[0].stream_source
        if source is None:
            raise DefinitionError(f"FeatureView {views[0].name!r} has no stream source")
        self.log = log
        self.letters = letters
        self.views = tuple(views)
        self.counters = {view.name: Counters() for view in views}
        self._followers = [OnlineFollower(log, online[view.name]) for view in views if view.name in online]
        self._source = source.name
        self._prepare = Preparer(views[0], source, log.schema, max_future_skew)
        self._hook = hook
        self._positions: dict[str, int] = {}

    def position(self, writer: str) -> int:
        """Return the last sequence of a writer that is known to be in the log; others may have gone on since."""
        if writer not in self._positions:
            self._positions[writer] = self.log.sequence(writer)
        return self._positions[writer]

    def next_sequence(self, writer: str) -> int:
        """Return the first sequence that neither log nor dead letters hold; for callers that number their rows."""
        self._positions.pop(writer, None)
        return max(self.position(writer), self.letters.sequence(writer)) + 1

    def start(self, writers: Sequence[str]) -> None:
        """Bring the online views level with the log, and mark those ready that only streams fill."""
        self._positions.clear()
        self.catch_up(writers)
        for follower in self._followers:
            if follower.online.view.batch_source is None and not follower.online.ready():
                follower.online.mark_ready()

    def catch_up(self, writers: Sequence[str]) -> None:
        """Bring the online views level with the log, as far as these writers go."""
        for follower in self._followers:
            for writer in writers:
                follower.catch_up(writer)

    def apply(self, batch: Batch) -> None:
        """Apply a batch; what the log holds already counts as a duplicate."""
        fresh = batch.after({writer: self.position(writer) for writer in batch.through})
        for counters in self.counters.values():
            counters.events += len(batch) - len(fresh)
            counters.duplicates += len(batch) - len(fresh)
        self.write(fresh, self.prepare(fresh))

    def prepare(self, batch: Batch) -> Prepared:
        """Return what a batch comes to, without writing anything."""
        return self._prepare(batch)

    def write(self, batch: Batch, prepared: Prepared) -> pa.Table:
        """Write what a batch beyond the log's positions came to; return the rows that were not in the log before."""
        rows, through = prepared.rows, batch.through
        if prepared.rejected:
            self.letters.append(self._letters(prepared.rejected), through)
        self._hook("rejected")
        before = {writer: self.position(writer) for writer in through}
        appended = self.log.append(rows, through) if rows.num_rows else rows
        self._hook("logged")
        # Fewer rows: somebody else has appended. The log then knows more than this batch says.
        is_mine = appended.num_rows == rows.num_rows > 0
        for writer, last in through.items():
            self._positions[writer] = max(before[writer], last) if is_mine else self.log.sequence(writer)
        for follower in self._followers:
            for writer, last in through.items():
                if is_mine and last > before[writer]:
                    follower.apply(_of_writer(appended, writer, len(through)), writer, before[writer], last)
                else:
                    follower.catch_up(writer)
            self._hook(f"online:{follower.online.view.name}")
        self._count(len(batch), prepared, appended)
        return appended

    def _letters(self, rejected: Sequence[Rejection]) -> pa.Table:
        views = ", ".join(view.name for view in self.views)
        rows = [
            {
                "source": self._source,
                "writer": record.writer,
                "sequence": record.sequence,
                "arrival": record.arrival,
                "payload": record.payload or _encode(fields),
                "reason": kind,
                "detail": detail,
                "views": views,
            }
            for record, fields, kind, detail in rejected
        ]
        return pa.Table.from_pylist(rows, DEAD_LETTER_SCHEMA)

    def _count(self, events: int, prepared: Prepared, appended: pa.Table) -> None:
        cuts = {}
        for follower in self._followers:
            view = follower.online.view
            cuts[view.name] = follower.online.cut() if view.is_lambda else None
        for name, counters in self.counters.items():
            counters.events += events
            counters.rows += appended.num_rows
            counters.dropped += prepared.dropped
            counters.duplicates += prepared.rows.num_rows - appended.num_rows
            for rejection in prepared.rejected:
                counters.rejected[rejection.kind] += 1
            cut = cuts.get(name)
            if cut is not None and appended.num_rows:
                counters.superseded += pc.sum(pc.less(appended["event_timestamp"].cast(pa.int64()), cut)).as_py()


def _of_writer(rows: pa.Table, writer: str, writers: int) -> pa.Table:
    return rows if writers == 1 else rows.filter(pc.equal(rows["_writer"], writer))


def _encode(fields: object) -> bytes:
    """Return decoded fields as the JSON they would have come as; NaN becomes null."""
    return b"" if fields is None else msgspec.json.encode(fields, enc_hook=repr)
