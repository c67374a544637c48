"""Looks at the dead letters of a log, and replays them once their cause is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from featurestore.clock import Clock
from featurestore.errors import RowError
from featurestore.offline.deadletters import DeadLetters
from featurestore.streaming.apply import replay_writer
from featurestore.streaming.decode import JsonDecoder
from featurestore.streaming.leases import exclusive
from featurestore.streaming.log_applier import LogApplier
from featurestore.streaming.numbered import Row, number, write_all
from featurestore.streaming.origins import origins_of
from featurestore.streaming.prepare import Prepared


class ReplayReport(msgspec.Struct, frozen=True):
    """What became of the dead letters of a log.

    Attributes
    ----------
    replayed
        Number that became rows now.
    earlier
        Number that an earlier replay had turned into rows.
    dropped
        Number that the transform maps to no row.
    failing
        Kind of rejection to the number of letters that still fail for it; they stay where they are.
    """

    replayed: int
    earlier: int
    dropped: int
    failing: dict[str, int]


def count_by_reason(letters: DeadLetters) -> dict[str, int]:
    """Return the number of dead letters by kind of rejection, the replayed ones included."""
    return dict(sorted(Counter(letters.read()["reason"].to_pylist()).items()))


def replay(
    log: LogApplier,
    clock: Clock,
    state: Path,
    decoder: Callable[[bytes], Mapping[str, Any]] | None = None,
) -> ReplayReport:
    """Turn dead letters into rows, each at most once however often this is called.

    A replayed letter is a new row of the writer ``deadletter/<log>``: it arrives now, since it could not be known
    before, and its origin is its original position. Letters that fail again stay, and are not written a second time.

    Parameters
    ----------
    log
        The log's applier, made from today's definitions. A changed transform or schema makes another log: its rows
        come from its source, not from the letters of the old log.
    clock
        Tells the time of arrival.
    state
        Folder of the lease.
    decoder
        Turns a payload into fields.

    Raises
    ------
    OfflineStoreError, OnlineStoreError
        Where a store cannot be read or written; call it again then.
    """
    writer = replay_writer(log.log)
    with exclusive(state / "deadletter" / f"{log.log.fingerprint}.lock"):
        log.catch_up([writer])  # an earlier replay may have died after the log
        done = origins_of(log.log, writer)
        rows, earlier, failing = _decode(log.letters, done, decoder or JsonDecoder())
        if not rows:
            return ReplayReport(0, earlier, 0, dict(failing))
        batch = number(log, writer, clock.now(), rows)
        prepared = log.prepare(batch)
        failing.update(rejection.kind for rejection in prepared.rejected)
        if prepared.rows.num_rows:
            write_all(log, batch, Prepared(prepared.rows, [], prepared.dropped))
    return ReplayReport(prepared.rows.num_rows, earlier, prepared.dropped, dict(failing))


def _decode(
    letters: DeadLetters, done: set[bytes], decoder: Callable[[bytes], Mapping[str, Any]]
) -> tuple[list[Row], int, Counter[str]]:
    """Return the letters left to replay, how many are done, and how many cannot be decoded."""
    rows: list[Row] = []
    failing: Counter[str] = Counter()
    earlier = 0
    for letter in letters.read().select(["writer", "sequence", "payload", "reason"]).to_pylist():
        origin = f"{letter['writer']}:{letter['sequence']}".encode()
        if origin in done:
            earlier += 1
            continue
        try:
            rows.append((decoder(letter["payload"]), origin))
        except RowError:
            failing[letter["reason"]] += 1
    return rows, earlier, failing
