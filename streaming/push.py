"""Rows that a caller hands in, through the same steps as a stream's records."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from featurestore.clock import Clock
from featurestore.errors import RowError
from featurestore.streaming.apply import Applier
from featurestore.streaming.leases import exclusive, free_lane
from featurestore.streaming.log_applier import LogApplier
from featurestore.streaming.numbered import number, write_all
from featurestore.streaming.origins import writers_of
from featurestore.streaming.prepare import Batch, Prepared
from featurestore.streaming.tables import check_columns, records_of

LANES = 8
_SHOWN_REASONS = 10
_KEY_LOCKS = 64
_MAX_KEY_BYTES = 1024


class PushResult(msgspec.Struct, frozen=True):
    """What became of the rows of a push.

    Attributes
    ----------
    rows
        Number of rows handed in.
    rejected
        How many of them at least one view could not take; they are with the dead letters.
    reasons
        Why, for the first ten.
    repeated
        Whether an earlier push with this idempotency key had written the rows. Then nothing was written now, except
        to logs which that push did not get to, and `rejected` counts for those alone.
    """

    rows: int
    rejected: int = 0
    reasons: tuple[str, ...] = ()
    repeated: bool = False


class Pusher:
    """Pushes rows into the views of one push source.

    Rows go through one of a fixed set of lanes, each a writer of its own, ``push/<source>/<lane>``. A lane is leased
    for one push at a time; sequences continue from what log and dead letters hold. The arrival of a row is the time it
    was accepted. It is stored, so that nothing depends on when rows are read.

    Parameters
    ----------
    applier
        Applies to the views of the source.
    clock
        Tells the time of acceptance.
    state
        Folder of the leases. All that push into the same offline store must share it, on one machine.
    """

    def __init__(self, applier: Applier, clock: Clock, state: Path) -> None:
        self._applier = applier
        self._clock = clock
        name = applier.source.name
        self._label = f"push to {name!r}"
        self._folder = state / "push" / name
        self._started = False
        self.writers: Sequence[str] = tuple(f"push/{name}/{lane}" for lane in range(LANES))

    def push(
        self, table: object, *, to: str = "online_and_offline", idempotency_key: str | bytes | None = None
    ) -> PushResult:
        """Write rows to the logs and online state of all views of the source; when it returns, both hold them.

        Parameters
        ----------
        table
            A pandas, polars or Arrow table or a list of dicts, with the source's fields as columns.
        to
            ``"online_and_offline"``; ``"offline"`` where no view of the source is served online. Online state is a
            function of the rows in the log, so that rows cannot go to one of them alone.
        idempotency_key
            Names this push. A second push with the key writes nothing that the first has written. **Without a key, a
            push that is tried again after a failure may write its rows twice.**

        Raises
        ------
        RowError
            Where the table is unusable as a whole: a column is missing or of the wrong type, or no row is valid.
            Nothing was written.
        OfflineStoreError, OnlineStoreError
            Where a store cannot be written. Rows may have been logged: push again with the same key.
        """
        self._check_target(to)
        key = self._key(idempotency_key)
        fields, columns = records_of(table, self._label)
        for log in self._applier.logs:
            view = log.views[0]
            if view.code is None and fields:  # a transform may do without columns
                check_columns(view, self._applier.source.timestamp_field, columns, self._label)
        if not self._started:
            self._applier.start(self.writers)
            self._started = True
        if not fields:
            return PushResult(0)
        if key is None:
            return self._push(fields, None)
        lock = hashlib.sha256(key).digest()[0] % _KEY_LOCKS
        with exclusive(self._folder / f"key-{lock}.lock"):
            return self._push(fields, key)

    def _push(self, fields: Sequence[Mapping[str, Any]], key: bytes | None) -> PushResult:
        todo = [log for log in self._applier.logs if not self._is_done(log, key)]
        if not todo:
            return PushResult(len(fields), repeated=True)
        with free_lane(self._folder, LANES) as lane:
            writer = self.writers[lane]
            arrival = self._clock.now()
            batches = [number(log, writer, arrival, [(row, key) for row in fields]) for log in todo]
            prepared = [log.prepare(batch) for log, batch in zip(todo, batches, strict=True)]
            self._check_any_valid(len(fields), prepared)
            for log, batch, result in zip(todo, batches, prepared, strict=True):
                write_all(log, batch, result)
        return self._result(len(fields), batches, prepared, repeated=len(todo) < len(self._applier.logs))

    def _is_done(self, log: LogApplier, key: bytes | None) -> bool:
        """Return whether a log has the rows of an earlier push with this key; if so, its online views have them too."""
        if key is None:
            return False
        writers = writers_of(log.log, key)
        log.catch_up(list(writers))  # that push may have died after the log
        return bool(writers)

    def _check_any_valid(self, rows: int, prepared: Sequence[Prepared]) -> None:
        if all(len(result.rejected) == rows for result in prepared):
            first = prepared[0].rejected[0]
            raise RowError(f"{self._label}: no row is valid, nothing was written; the first: {first.detail}")

    def _check_target(self, to: str) -> None:
        if to == "online_and_offline":
            return
        if to not in {"online", "offline"}:
            raise RowError(f"{self._label}: to={to!r} is not known; use to='online_and_offline'")
        served = [view.name for log in self._applier.logs for view in log.views if view.online]
        if to == "offline" and not served:
            return
        why = (
            "online values are computed from the rows in the offline log, so that training can see what was served; "
            "a row in the online store alone could never be verified"
            if to == "online"
            else f"online values are computed from the rows in the offline log, and {served[0]!r} is served online "
            "from the same log; only a source all of whose views have online=False takes offline rows"
        )
        raise RowError(f"{self._label}: to={to!r} is refused: {why}. Use to='online_and_offline'")

    def _key(self, key: str | bytes | None) -> bytes | None:
        encoded = key.encode() if isinstance(key, str) else key
        if encoded is not None and not (isinstance(encoded, bytes) and 0 < len(encoded) <= _MAX_KEY_BYTES):
            raise RowError(f"{self._label}: an idempotency_key is text or bytes, from 1 to {_MAX_KEY_BYTES} bytes long")
        return encoded

    @staticmethod
    def _result(rows: int, batches: Sequence[Batch], prepared: Sequence[Prepared], *, repeated: bool) -> PushResult:
        reasons: dict[int, str] = {}
        for batch, result in zip(batches, prepared, strict=True):
            first = batch.events[0].record.sequence
            for rejection in result.rejected:
                reasons.setdefault(rejection.record.sequence - first, rejection.detail)
        shown = tuple(f"row {place}: {reasons[place]}" for place in sorted(reasons)[:_SHOWN_REASONS])
        return PushResult(rows, len(reasons), shown, repeated)
