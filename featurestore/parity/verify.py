"""Verify: what the online store serves, recomputed offline from exactly the rows that the receipts make visible.

Any difference to the bit is a bug, and is listed. A second recomputation from all rows known now counts how many
values rows that came since, or had not been applied, would change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.definitions import FeatureView, OnDemandFeatureView
from featurestore.definitions.project import Project
from featurestore.definitions.resolve import resolve
from featurestore.errors import NotReadyError
from featurestore.offline.asof import Visible
from featurestore.offline.duckdb.query import newest_arrival, sample_keys
from featurestore.offline.kernels import Bools, Ints
from featurestore.offline.log import RowLog
from featurestore.offline.retrieval import evaluate_view
from featurestore.offline.rows import Rows
from featurestore.online.contract import NEVER, OnlineStore
from featurestore.online.lookup import Lookup, OnlineResponse, Receipt
from featurestore.online.view import OnlineView
from featurestore.semantics.rows import BATCH_WRITER, RANK_BITS, Cut, Result, Status
from featurestore.semantics.values import same_result
from featurestore.types import python_values, to_python

SAMPLE = 1000


class Mismatch(NamedTuple):
    """One value that online and offline disagree on."""

    view: str
    key: dict[str, Any]
    feature: str
    evaluated_at: int
    online: Result
    offline: Result


class ViewReport(NamedTuple):
    """What was checked of a view.

    Attributes
    ----------
    keys, values
        How many keys were looked up, and values compared; each key at each clock.
    changed
        Values that all rows known now would change: late rows, or rows not applied yet.
    skipped
        Why the view was not checked; empty where it was.
    """

    view: str
    keys: int
    values: int
    changed: int
    mismatches: list[Mismatch]
    skipped: str = ""


class VerifyReport(NamedTuple):
    """The outcome of a verification."""

    views: list[ViewReport]

    @property
    def mismatches(self) -> int:
        """Number of values that differ."""
        return sum(len(view.mismatches) for view in self.views)

    @property
    def values(self) -> int:
        """Number of values compared."""
        return sum(view.values for view in self.views)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "verified_values": self.values,
            "mismatches": self.mismatches,
            "views": [
                {
                    **view._asdict(),
                    "mismatches": [
                        {
                            "key": {name: _plain(value) for name, value in item.key.items()},
                            "feature": item.feature,
                            "evaluated_at": item.evaluated_at,
                            "online": _plain(item.online.value),
                            "online_status": item.online.status.name,
                            "offline": _plain(item.offline.value),
                            "offline_status": item.offline.status.name,
                        }
                        for item in view.mismatches
                    ],
                }
                for view in self.views
            ],
        }

    def to_text(self) -> str:
        """Return the report as a person reads it."""
        lines = []
        for view in self.views:
            if view.skipped:
                lines.append(f"{view.view}: not verified, {view.skipped}")
                continue
            verdict = f"{len(view.mismatches):,} differ" if view.mismatches else "all equal to the bit"
            changed = f"; newer or late rows would change {view.changed:,}" if view.changed else ""
            lines.append(f"{view.view}: {view.keys:,} keys, {view.values:,} values, {verdict}{changed}")
            for item in view.mismatches[:5]:
                key = ", ".join(f"{name}={value!r}" for name, value in item.key.items())
                lines.append(f"  {item.feature} of {key}: online {_show(item.online)}, offline {_show(item.offline)}")
        wrong = self.mismatches
        verdict = f"{wrong:,} MISMATCHES" if wrong else "no mismatch"
        lines.append(f"{self.values:,} values verified, {verdict}.")
        if not self.values:
            lines.append("Nothing could be verified: materialize, push or stream some rows first.")
        return "\n".join(lines)


class Verifier:
    """Compares what an online store serves with what its logs say.

    Parameters
    ----------
    log_of, online_of
        The row log and the online state of a view.
    now
        The clock's time, in microseconds since the epoch.
    """

    def __init__(
        self,
        project: Project,
        store: OnlineStore,
        log_of: Callable[[FeatureView], RowLog],
        online_of: Callable[[FeatureView], OnlineView],
        now: int,
    ) -> None:
        self._project = project
        self._store = store
        self._log_of = log_of
        self._online_of = online_of
        self._now = now

    def verify(self, views: Sequence[FeatureView | OnDemandFeatureView], sample: int = SAMPLE) -> VerifyReport:
        """Verify up to `sample` keys of each view, now and as of the newest row's arrival."""
        return VerifyReport([self._view(view, sample) for view in views])

    def _view(self, view: FeatureView | OnDemandFeatureView, sample: int) -> ViewReport:
        if isinstance(view, OnDemandFeatureView):
            why = "it is computed from request fields, of which none are stored; one function serves both paths"
            return ViewReport(view.name, 0, 0, 0, [], why)
        log, online = self._log_of(view), self._online_of(view)
        if not view.online:
            return ViewReport(view.name, 0, 0, 0, [], "it is not served online (online=False)")
        keys = sample_keys(log, view, sample)
        if not keys.num_rows:
            return ViewReport(view.name, 0, 0, 0, [], "its log is empty")
        features = [field.name for field in view.features]
        request = resolve(self._project, [f"{view.name}:{name}" for name in features])
        lookup = Lookup(request, self._store, {view.name: online})
        clocks = sorted({self._now, min(self._now, newest_arrival(log))})
        mismatches, changed = [], 0
        for clock in clocks:
            try:
                response = lookup.answer(_entity_rows(view, keys), clock)
            except NotReadyError as error:
                return ViewReport(view.name, 0, 0, 0, [], str(error))
            visible = recompute(view, features, log, keys, response)
            everything = recompute(view, features, log, keys, response, all_rows=True)
            for name in features:
                for place, served in enumerate(response.results[name]):
                    if not same_result(served, visible[name][place]):
                        key = {field: column[place] for field, column in response.keys.items()}
                        t = response.evaluated_at[place]
                        mismatches.append(Mismatch(view.name, key, name, t, served, visible[name][place]))
                    changed += not same_result(visible[name][place], everything[name][place])
        values = keys.num_rows * len(features) * len(clocks)
        return ViewReport(view.name, keys.num_rows, values, changed, mismatches)


def recompute(
    view: FeatureView,
    features: list[str],
    log: RowLog,
    keys: pa.Table,
    response: OnlineResponse,
    *,
    all_rows: bool = False,
) -> dict[str, list[Result]]:
    """Recompute a view's values of a response offline, at the times it states.

    Parameters
    ----------
    keys
        The join keys of the response's rows, with their declared types.
    all_rows
        Recompute from all rows of the log, not only from those that the receipts make visible.
    """
    receipts = [row[view.name] for row in response.receipts]
    times = np.array([receipt.t for receipt in receipts], dtype=np.int64)
    columns = [keys.column(field.name) for field in view.join_keys]
    result: dict[str, list[Result]] = {name: [Result(None, Status.NOT_FOUND)] * len(receipts) for name in features}
    for cut in {receipt.cut for receipt in receipts}:
        chosen = np.array([place for place, receipt in enumerate(receipts) if receipt.cut == cut], dtype=np.int64)
        mine = [receipts[place] for place in chosen.tolist()]
        cuts = [] if cut is None else [Cut(cut, 0)]
        answer = evaluate_view(
            view,
            features,
            log,
            cuts,
            [column.take(pa.array(chosen)) for column in columns],
            times=times[chosen],
            visible_of=None if all_rows else partial(visible_by, receipts=mine),
        )
        for name, feature in answer.items():
            values = python_values(feature.values)
            for place, value, status in zip(chosen.tolist(), values, feature.statuses.tolist(), strict=True):
                result[name][place] = Result(value, Status(status))
    return result


def visible_by(rows: Rows, labels: Ints, receipts: Sequence[Receipt]) -> Visible:
    """Return which rows the labels' receipts make visible: of each writer, those up to the sequence named."""
    writers = rows.column("_writer").dictionary_encode()
    names = writers.dictionary.to_pylist()
    codes: Ints = writers.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    sequences: Ints = rows.column("_sequence").to_numpy(zero_copy_only=False).astype(np.int64)
    for code, name in enumerate(names):
        if name == BATCH_WRITER:  # a receipt names the job
            sequences = np.where(codes == code, sequences >> RANK_BITS, sequences)
    last = np.array([[receipt.sequences.get(name, NEVER) for name in names] for receipt in receipts], dtype=np.int64)

    def visible(row: Ints, label: Ints) -> Bools:
        seen: Bools = sequences[row] <= last.reshape(len(receipts), -1)[labels[label], codes[row]]
        return seen

    return visible


def _entity_rows(view: FeatureView, keys: pa.Table) -> list[Mapping[str, Any]]:
    types = {field.name: field.dtype for field in view.join_keys}
    columns = {name: python_values(keys.column(name)) for name in types}
    rows = range(keys.num_rows)
    return [{name: to_python(columns[name][row], dtype) for name, dtype in types.items()} for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int, float, type(None))):
        return value
    return [_plain(item) for item in value] if isinstance(value, list) else str(value)


def _show(result: Result) -> str:
    return repr(result.value) if result.status is Status.PRESENT else result.status.name
