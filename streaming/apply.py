"""The apply loop: from a stream's records to both stores, whatever the transport.

Order of steps: decode, convert and check, dead letters, row log, online store, and last the source's position. Online
state is computed from rows as logged. A crash between any two steps loses and doubles nothing: after a restart the
online store is brought level with the log, and the reader delivers again what was not committed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from featurestore.definitions import FeatureView, StreamSource
from featurestore.definitions.project import row_fingerprint
from featurestore.errors import DefinitionError, RowError, SourceError
from featurestore.offline.deadletters import DeadLetters
from featurestore.offline.log import RowLog
from featurestore.online.view import OnlineView
from featurestore.streaming.counters import Counters
from featurestore.streaming.decode import JsonDecoder
from featurestore.streaming.log_applier import Hook, LogApplier
from featurestore.streaming.prepare import Batch, Event
from featurestore.streaming.records import NEVER, Record, StreamReader, last_sequences

BATCH_LIMIT = 10_000


def replay_writer(log: RowLog) -> str:
    """Return the writer of the rows that replayed dead letters of a log become."""
    return f"deadletter/{log.fingerprint}"


def no_hook(_step: str) -> None:
    """Do nothing."""


class Applier:
    """Applies the records of one stream source to every view of it. Holds no state that a restart would miss.

    Parameters
    ----------
    source
        The stream source.
    views
        The views to feed: those of `source`; others are passed over. Views with equal rows share a log.
    log_factory
        Opens the log of a view.
    letters_factory
        Opens the dead letters of a log.
    online
        Online state by view name; leave out views that are not served online.
    max_future_skew
        How far a row's event time may be ahead of its arrival, in microseconds; rows past it are rejected.
    decoder
        Turns a payload into fields, or raises `RowError`.
    hook
        Called with each step's name once it is done.

    Attributes
    ----------
    logs
        One applier per log.

    Raises
    ------
    DefinitionError
        Where no view has the source, or a transform's code is not loaded.
    """

    def __init__(
        self,
        source: StreamSource,
        views: Sequence[FeatureView],
        *,
        log_factory: Callable[[FeatureView], RowLog],
        letters_factory: Callable[[RowLog], DeadLetters],
        online: Mapping[str, OnlineView],
        max_future_skew: int,
        decoder: Callable[[bytes], Mapping[str, object]] | None = None,
        hook: Hook = no_hook,
    ) -> None:
        groups: dict[str, list[FeatureView]] = {}
        for view in views:
            if view.stream_source is not None and view.stream_source.name == source.name:
                groups.setdefault(row_fingerprint(view), []).append(view)
        if not groups:
            raise DefinitionError(f"no feature view reads the source {source.name!r}; give one source={source.name}")
        self.source = source
        self.logs: list[LogApplier] = []
        for group in groups.values():
            log = log_factory(group[0])
            served = {view.name: online[view.name] for view in group if view.online and view.name in online}
            self.logs.append(
                LogApplier(
                    log,
                    letters_factory(log),
                    group,
                    online=served,
                    max_future_skew=max_future_skew,
                    hook=hook,
                )
            )
        self.hook = hook
        self._decode = decoder or JsonDecoder()

    @property
    def counters(self) -> dict[str, Counters]:
        """What became of the records so far, by view."""
        return {name: counters for log in self.logs for name, counters in log.counters.items()}

    def start(self, writers: Sequence[str]) -> dict[str, int]:
        """Bring online state level with the logs, and return where each writer's records go on.

        Parameters
        ----------
        writers
            The source's writers; those of replayed dead letters are seen to besides.

        Returns
        -------
        dict
            Writer to the last sequence that every log holds, or -1.
        """
        for log in self.logs:
            log.start([*writers, replay_writer(log.log)])
        return {writer: min(log.position(writer) for log in self.logs) for writer in writers}

    def apply(self, records: Sequence[Record]) -> None:
        """Apply records to all logs and online views. Records applied before change nothing.

        Raises
        ------
        OfflineStoreError, OnlineStoreError
            Where a store cannot be written; apply the same records again once it can.
        """
        events: list[Event] = []
        undecodable: list[tuple[Record, str]] = []
        for record in records:
            try:
                events.append(Event(record, self._decode(record.payload)))
            except RowError as error:
                undecodable.append((record, str(error)))
        self.hook("decoded")
        batch = Batch(events, undecodable, last_sequences(records))
        for log in self.logs:
            log.apply(batch)


class Loop:
    """Moves records from a reader through an applier, and the reader's position after them.

    Parameters
    ----------
    reader
        Delivers the records; the caller closes it.
    applier
        Applies them.
    limit
        Greatest number of records in one batch, which is one commit per log.
    """

    def __init__(self, reader: StreamReader, applier: Applier, *, limit: int = BATCH_LIMIT) -> None:
        self.reader = reader
        self.applier = applier
        self._limit = limit
        self._reached: dict[str, int] = {}
        self._started = False

    def start(self) -> None:
        """Bring the online store level with the log, and the reader to the log's position.

        `step` does it where it has not been done; also after a step that failed, which may be tried again.
        """
        self._reached = self.applier.start(self.reader.writers)
        self.reader.seek(self._reached)
        self._started = True

    def step(self, until: int | None = None) -> int:
        """Apply one batch of what is due, commit the position, and return the number of records.

        Parameters
        ----------
        until
            Records that arrive later wait, in microseconds since the epoch.

        Raises
        ------
        SourceError
            Where the reader delivers a sequence at or before an earlier one of the same writer; nothing of the batch
            was applied.
        """
        if not self._started:
            self.start()
        records = self.reader.poll(self._limit, until)
        if not records:
            return 0
        self._started = False  # until all is done: whatever fails, the log says where to go on
        self._check_order(records)
        self.applier.apply(records)
        reached = last_sequences(records)
        self.reader.commit(reached)
        self.applier.hook("committed")
        self._started = True
        return len(records)

    def run(self, until: int | None = None) -> int:
        """Apply all that is due; return the number of records."""
        total = 0
        while count := self.step(until):
            total += count
        return total

    def _check_order(self, records: Sequence[Record]) -> None:
        reached = dict(self._reached)
        for writer, sequence, *_ in records:
            if sequence <= reached.get(writer, NEVER):
                raise SourceError(
                    f"source {self.applier.source.name!r}: {writer!r} went back to {sequence} after "
                    f"{reached[writer]}; its log was cut or replaced. Give the new one a name of its own, "
                    "so that its records are not taken for old ones"
                )
            reached[writer] = sequence
        self._reached = reached
