"""Erases a key from everything that is stored, and records that it was done.

Order of steps, per log: write down what there is, the log (its newest version, then its history), dead letters, online
state, saved training sets, the registry's record. Each may be repeated: running an erasure again finishes it.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from featurestore.clock import Clock
from featurestore.definitions import FeatureView, Project
from featurestore.definitions.project import row_fingerprint
from featurestore.errors import FeatureNotFoundError, OnlineStoreError, RowError, suggest
from featurestore.maintenance.intent import Intent, IntentFile
from featurestore.maintenance.letters import find_letters
from featurestore.materialize.lease import leased
from featurestore.offline.deadletters import DeadLetters
from featurestore.offline.log import RowLog
from featurestore.offline.maintenance import Key, erase_rows, read_rows, rows_at, rows_of_key
from featurestore.online.view import OnlineView
from featurestore.registry.catalog import Registry
from featurestore.registry.records import Erasure
from featurestore.semantics.rows import BATCH_WRITER, RANK_BITS
from featurestore.training.datasets import Datasets
from featurestore.types import convert

_ATTEMPTS = 100
_SETTLED = 3_600_000_000
"""No stream takes so long, in microseconds, between writing a file and committing it; jobs are kept out."""


class ErasureReport(msgspec.Struct, frozen=True):
    """What an erasure did.

    Attributes
    ----------
    erasures
        One record for each log, as the registry keeps them.
    unreadable_letters
        Dead letters of these logs that hold no JSON object: whether they are about the key cannot be told.
    batch_sources
        Sources of these logs that jobs read. Where one still holds the key, the next job brings it back.
    """

    erasures: tuple[Erasure, ...]
    unreadable_letters: int
    batch_sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Eraser:
    """Erases keys from an offline and an online store.

    Attributes
    ----------
    root
        The offline store's folder.
    online_of
        The online state of a view, also of one that is no longer applied; None where it is not kept online.
    clock
        Tells when.
    wall
        The wall clock, that of leases and of files, in microseconds since the epoch.
    hook
        Called with the name of each step once it is done: ``noted``, ``log``, ``letters``, ``online``, ``sets`` and
        ``recorded``. Tests raise in it.
    """

    root: Path
    registry: Registry
    datasets: Datasets
    online_of: Callable[[FeatureView], OnlineView | None]
    clock: Clock
    wall: Callable[[], int]
    hook: Callable[[str], None] = lambda _: None

    def erase(self, key: Mapping[str, Any], views: Sequence[FeatureView]) -> ErasureReport:
        """Erase a key from the logs of some views, and from all that was made of them.

        Parameters
        ----------
        key
            Join key to value. Views with more join keys lose every row that has these.
        views
            Every version of the views, also those no longer applied.
        """
        logs: dict[str, list[FeatureView]] = {}
        for view in views:
            logs.setdefault(row_fingerprint(view), []).append(view)
        typed: list[tuple[list[FeatureView], Key]] = []
        problems: list[RowError] = []
        for group in logs.values():
            try:
                typed.append((group, typed_key(key, group[0])))
            except RowError as error:  # another revision's key was of another type, which cannot hold this value
                problems.append(error)
        if problems and not typed:
            raise problems[0]
        done = [self._erase_log(group, values) for group, values in typed]
        sources = {view.batch_source.name for view in views if view.batch_source is not None}
        return ErasureReport(tuple(e for e, _ in done), sum(n for _, n in done), tuple(sorted(sources)))

    def _erase_log(self, views: Sequence[FeatureView], key: Key) -> tuple[Erasure, int]:
        log, names = RowLog(self.root, views[0]), tuple(sorted({view.name for view in views}))
        hashed = key_hash(self.registry.project, key)
        file = IntentFile(self.root, log.fingerprint, hashed)
        with leased(self.registry, log.fingerprint, ", ".join(names), self.wall):
            intent = self._note(file, log, key)
            self.hook("noted")
            erase_rows(log.path, rows_of_key(key, intent.through), self.wall() - _SETTLED)
            shutil.rmtree(self.root / "spool" / log.fingerprint, ignore_errors=True)
            self.hook("log")
            unreadable = self._erase_letters(file, log, views[0], key, intent)
            self.hook("letters")
            online = [online for view in views if view.online and (online := self.online_of(view)) is not None]
            for state in {state.fingerprint: state for state in online}.values():
                for whole in intent.keys:
                    self._erase_online(log, state, dict(zip(log.key_names, whole, strict=True)), intent.through)
            self.hook("online")
            intent.dataset_rows += self.datasets.erase(log.fingerprint, key, self.clock.now())
            file.save(intent)
            self.hook("sets")
            erasure = Erasure(
                id=intent.id,
                log=log.fingerprint,
                views=names,
                join_keys=tuple(sorted(field.name for field, _ in key)),
                key_hash=hashed,
                rows=intent.rows,
                dead_letters=sum(map(len, intent.letters.values())),
                dataset_rows=intent.dataset_rows,
                online_keys=len(intent.keys) if online else 0,
                sequences={w: s >> RANK_BITS if w == BATCH_WRITER else s for w, s in intent.through.items()},
                at=self.clock.now(),
            )
            self.registry.record_erasure(erasure)
            self.hook("recorded")
            file.remove()
        return erasure, unreadable

    def _note(self, file: IntentFile, log: RowLog, key: Key) -> Intent:
        """Return what there is of a key, with what a run that was cut off found, and write it down."""
        intent = file.load() or Intent(id=uuid.uuid4().hex)
        chosen = rows_of_key(key)
        keys = dict.fromkeys(map(tuple, intent.keys))
        named = {field.name: value for field, value in key}
        if set(named) == set(log.key_names):
            keys[tuple(named[name] for name in log.key_names)] = None
        columns = [*log.key_names, "_writer", "_sequence", "_origin"]
        stored = read_rows(log.path, chosen, columns, self.wall() - _SETTLED)
        if stored is not None:
            found = [_values(stored[name]) for name in log.key_names]
            keys.update(dict.fromkeys(whole for whole in zip(*found, strict=True) if None not in whole))
            newest = read_rows(log.path, chosen, ["_writer"])
            intent.rows = max(intent.rows, 0 if newest is None else newest.num_rows)
            origins = {origin for origin in stored["_origin"].to_pylist() if origin is not None}
            intent.origins = sorted(origins | set(intent.origins))
            for row in stored.group_by("_writer").aggregate([("_sequence", "max")]).to_pylist():
                writer, last = row["_writer"], row["_sequence_max"]
                intent.through[writer] = max(last, intent.through.get(writer, last))
        intent.keys = list(keys)
        file.save(intent)
        return intent

    def _erase_letters(self, file: IntentFile, log: RowLog, view: FeatureView, key: Key, intent: Intent) -> int:
        """Erase the dead letters about a key, and return how many could not be looked into."""
        letters = DeadLetters(self.root, log.fingerprint)
        found = find_letters(letters, view, key, intent.origins)
        for writer, sequences in found.positions.items():
            intent.letters[writer] = sorted({*sequences, *intent.letters.get(writer, [])})
        file.save(intent)
        if intent.letters:
            erase_rows(letters.path, rows_at(intent.letters), self.wall() - _SETTLED)
        return found.unreadable

    @staticmethod
    def _erase_online(log: RowLog, online: OnlineView, key: Mapping[str, Any], writers: Iterable[str]) -> None:
        fields = online.view.join_keys
        whole = tuple(key[field.name] for field in fields)
        keys = pa.table({field.name: pa.array([key[field.name]], field.dtype.to_arrow()) for field in fields})
        for _ in range(_ATTEMPTS):
            past = log.at(log.version())
            cut = online.cut() if online.is_lambda else None
            rows = list(past.sorted_rows(keys=keys, horizon=online.horizon, batch_before=cut))
            named = {name for batch in rows for name in batch.column("_writer").unique().to_pylist()}
            through = {writer: past.sequence(writer) for writer in {*writers, *named, BATCH_WRITER}}
            through = {writer: last for writer, last in through.items() if last >= 0}
            # Rows are logged before they go online: while the log stays as it was read, none of them can be lost.
            if online.erase(whole, rows, through, cut) and log.version() == past.version():
                return
        raise OnlineStoreError(
            f"online state of view {online.view.name!r} could not be erased: other processes wrote its log "
            f"{_ATTEMPTS} times meanwhile; run the command again"
        )


def chosen_views(
    registry: Registry, project: Project, key: Mapping[str, Any], *, view: str | None, entity: str | None
) -> list[FeatureView]:
    """Return every version of the views that a key is to be erased from.

    Raises
    ------
    FeatureNotFoundError
        Where there is no such view or entity.
    RowError
        Where the key's names are not those of the view or entity.
    """
    if (view is None) == (entity is None):
        raise RowError("say what to erase the key from: a view, or an entity for all views of it")
    fingerprint = ""
    if view is not None:
        what, names = f"view {view!r}", [field.name for field in project.feature_view(view).join_keys]
        fingerprint = row_fingerprint(project.feature_view(view))
    else:
        entities = project.of_kind("entity")
        if entity not in entities:
            raise FeatureNotFoundError.with_suggestion("entity", str(entity), entities)
        what, names = f"entity {entity!r}", [field.name for field in entities[entity].keys]
    if set(key) != set(names) or not names:
        needed = ", ".join(names) or "none, so there is no key to erase"
        raise RowError(f"the join keys of {what} are {needed}; given: {', '.join(key) or 'none'}")
    ever = [
        version.definition
        for name in registry.names_ever("feature_view")
        for version in registry.versions("feature_view", name)
        if isinstance(version.definition, FeatureView)
    ]
    return [
        candidate
        for candidate in ever
        if {field.name for field in candidate.join_keys} >= set(names)
        and (view is None or view == candidate.name or row_fingerprint(candidate) == fingerprint)
    ]


def typed_key(key: Mapping[str, Any], view: FeatureView) -> Key:
    """Return the fields of a key with values as the store holds them.

    Raises
    ------
    FeatureNotFoundError
        Where the view has no such join key.
    RowError
        Where a value is null, or not of the declared type.
    """
    fields = {field.name: field for field in view.join_keys}
    typed = []
    for name, value in key.items():
        if name not in fields:
            raise FeatureNotFoundError(f"view {view.name!r} has no join key {name!r}{suggest(name, fields)}")
        if value is None:
            raise RowError(f"the join key {name!r} is null; a null identifies nothing")
        typed.append((fields[name], convert(value, fields[name].dtype)))
    if not typed:
        raise RowError(f"no join key was given; view {view.name!r} has {', '.join(fields) or 'none'}")
    return typed


def key_hash(project: str, key: Key) -> str:
    """Return the SHA-256 by which the registry names an erased key: of JSON ``[project, {join key: value, ...}]``."""
    named = {field.name: value for field, value in key}
    return hashlib.sha256(msgspec.json.encode([project, named], order="sorted")).hexdigest()


def _values(column: pa.ChunkedArray) -> list[Any]:
    values: list[Any] = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
    return values
