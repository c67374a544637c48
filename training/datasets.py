"""Saved training sets: a retrieval's result on disk with all that is needed to build it again, byte for byte."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from msgspec.structs import replace

from featurestore.clock import Clock
from featurestore.definitions import FeatureView, OnDemandFeatureView, Project
from featurestore.definitions.feature_view import Projection
from featurestore.definitions.project import feature_fingerprint, row_fingerprint
from featurestore.definitions.resolve import Request
from featurestore.errors import DatasetError, suggest
from featurestore.offline.log import RowLog
from featurestore.offline.maintenance import Key
from featurestore.offline.pins import Pins
from featurestore.offline.retrieval import RetrievalJob
from featurestore.training.erasing import erase_from_set
from featurestore.training.files import ENTITIES, numbers, publish, read_parquet, sync, write_data, write_parquet
from featurestore.training.manifest import (
    MANIFEST,
    Manifest,
    SavedView,
    content_hash,
    environment,
    file_hash,
    read_manifest,
    statistics,
)
from featurestore.training.reproduce import Reproducer, Reproduction

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_NEW = ".new-"
_LABEL = re.compile(r"([^@]*)(?:@(\d{1,9}))?")


class Origin(NamedTuple):
    """Where a retrieval came from: the registry's revision, the service asked for, column names, what it reads."""

    revision: int
    service: str
    full_feature_names: bool
    pins: Pins


class Datasets:
    """The saved training sets of an offline store.

    Parameters
    ----------
    root
        Their folder. A set is the folder ``<name>/<version>`` in it.
    project
        Name of the project.
    release
        Version of the feature store, for the manifest.
    clock
        Tells when a set was saved.
    definitions_at
        Gives the definitions as applied at a revision, with the code of the on-demand views named.
    log_of
        Gives the log of a view.
    """

    def __init__(
        self,
        root: Path,
        *,
        project: str,
        release: str,
        clock: Clock,
        definitions_at: Callable[[int, set[str]], Project],
        log_of: Callable[[FeatureView], RowLog],
    ) -> None:
        self.root = root
        self._project = project
        self._release = release
        self._clock = clock
        self._definitions_at = definitions_at
        self._log_of = log_of

    def save(self, name: str, job: RetrievalJob, origin: Origin) -> Manifest:
        """Work a retrieval out and save it as the next version of a set.

        The folder appears under its number when all of it is on the disk.

        Raises
        ------
        DatasetError
            Where the name is not one, or the folder cannot be written.
        """
        parent = self.root / check_name(name)
        new = parent / f"{_NEW}{uuid.uuid4().hex}"
        try:
            new.mkdir(parents=True)
            manifest = self._write(new, name, job, origin)
            while True:
                manifest = replace(manifest, version=max(numbers(parent), default=0) + 1)
                (new / MANIFEST).write_bytes(manifest.encode())
                sync(new / MANIFEST)
                if publish(new, parent / str(manifest.version)):
                    return manifest
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"the training set {name!r} cannot be saved in {parent}: {error}") from error
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _write(self, folder: Path, name: str, job: RetrievalJob, origin: Origin) -> Manifest:
        entities = write_parquet(job.entities, folder / ENTITIES)
        stored = read_parquet([folder / ENTITIES])
        result = job.to_arrow()
        features = result.select(range(job.entities.num_columns, result.num_columns))
        table = result_table(stored, features)
        views: tuple[FeatureView | OnDemandFeatureView, ...] = (*job.request.views, *job.request.on_demand)
        return Manifest(
            name=name,
            version=0,
            created=self._clock.now(),
            featurestore=self._release,
            project=self._project,
            revision=origin.revision,
            features=tuple(f"{column.view}:{column.feature}" for column in job.request.columns),
            service=origin.service,
            asked=_asked(job.request),
            full_feature_names=origin.full_feature_names,
            known_at=job.known_at,
            views=tuple(_saved_view(view, origin.pins, job.request) for view in views),
            entities_hash=content_hash(stored),
            rows=table.num_rows,
            entities=entities,
            data=write_data(table, folder),
            columns=statistics(table),
            environment=environment(),
        )

    def ls(self) -> list[Manifest]:
        """Return the manifests of all versions of all sets, by name and version."""
        if not self.root.is_dir():
            return []
        names = sorted(entry.name for entry in self.root.iterdir() if _NAME.fullmatch(entry.name) and entry.is_dir())
        return [read_manifest(self.root / name / str(n)) for name in names for n in sorted(numbers(self.root / name))]

    def show(self, name: str, version: int | None = None) -> Manifest:
        """Return the manifest of a set: ``name`` or ``name@version``; by default the newest version.

        Raises
        ------
        DatasetError
            Where there is no such set or version.
        """
        return read_manifest(self.folder(name, version))

    def load(self, name: str, version: int | None = None) -> pa.Table:
        """Return the rows of a set as an Arrow table, in the order of its entity frame."""
        folder = self.folder(name, version)
        manifest = read_manifest(folder)
        try:
            for file in manifest.data:
                if file_hash(folder / file.name) != file.sha256:
                    raise DatasetError(
                        f"the training set {manifest.label} was changed after it was saved: {file.name} is not what "
                        "its manifest says; restore the file, or save the set again"
                    )
            return read_parquet([folder / file.name for file in manifest.data])
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"the training set {manifest.label} cannot be read: {error}") from error

    def reproduce(self, name: str, version: int | None = None) -> Reproduction:
        """Build a set again from its manifest, and say whether the bytes are equal; nothing is written."""
        folder = self.folder(name, version)
        return Reproducer(self._definitions_at, self._log_of).reproduce(folder, read_manifest(folder))

    def folder(self, name: str, version: int | None = None) -> Path:
        """Return the folder of a set's version; by default of the newest."""
        parts = _LABEL.fullmatch(name)
        if parts is None:
            raise DatasetError(f"{name!r} is not a training set; write NAME or NAME@VERSION")
        number = version if parts[2] is None else int(parts[2])
        parent = self.root / check_name(parts[1])
        known = sorted(numbers(parent)) if parent.is_dir() else []
        if not known:
            names = {manifest.name for manifest in self.ls()}
            raise DatasetError(f"there is no training set {parts[1]!r}{suggest(parts[1], names)}")
        if number is not None and number not in known:
            raise DatasetError(
                f"training set {parts[1]!r} has no version {number}; it has {', '.join(map(str, known))}"
            )
        return parent / str(known[-1] if number is None else number)

    def erase(self, log: str, key: Key, at: int) -> int:
        """Take the rows of a key out of every set that read a log, given by row fingerprint; return how many.

        The other rows stay, and can be reproduced as before.
        """
        rows = 0
        for manifest in self.ls():
            uses = [columns for view in manifest.views if view.rows == log for columns in view.uses]
            if uses:
                folder = self.root / manifest.name / str(manifest.version)
                try:
                    rows += erase_from_set(folder, manifest, key, uses, at)
                except (OSError, pa.ArrowException) as error:
                    raise DatasetError(f"a key cannot be erased from the set {manifest.label}: {error}") from error
        return rows

    def unfinished(self, before: int) -> list[Path]:
        """Return the folders of saves that were cut off: nothing in them was written since, in microseconds."""
        found = self.root.glob(f"*/{_NEW}*")
        return sorted(
            folder
            for folder in found
            if all(path.stat().st_mtime_ns < before * 1000 for path in (folder, *folder.iterdir()))
        )

    def pinned(self) -> dict[str, set[int]]:
        """Return the versions of logs, by row fingerprint, that saved sets need to be reproduced."""
        pins: dict[str, set[int]] = {}
        for manifest in self.ls():
            for view in manifest.views:
                if view.version is not None:
                    pins.setdefault(view.rows, set()).add(view.version)
        return pins


def check_name(name: str) -> str:
    """Return a training set's name, or refuse it."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DatasetError(
            f"{name!r} cannot name a training set; use 1 to 128 letters, digits, '_', '.' and '-', "
            "starting with a letter or digit"
        )
    return name


def result_table(entities: pa.Table, features: pa.Table) -> pa.Table:
    """Return the stored entity frame's columns, then the features."""
    for place, field in enumerate(features.schema):
        entities = entities.append_column(field.remove_metadata(), features.column(place))
    return entities


def _asked(request: Request) -> tuple[Projection, ...]:
    """Return what gives the same request again: each feature, by the name and join keys of its use."""
    reads = {read.name: read for read in request.reads}
    asked = []
    for column in request.columns:
        read = reads.get(column.view)
        if read is None:  # an on-demand view
            asked.append(Projection(column.view, (column.feature,)))
            continue
        pairs = zip(read.view.join_keys, read.keys, strict=True)
        renamed = {key.name: used.name for key, used in pairs if key.name != used.name}
        name = "" if read.name == read.view.name else read.name
        asked.append(Projection(read.view.name, (column.feature,), name, renamed))
    return tuple(asked)


def _saved_view(view: FeatureView | OnDemandFeatureView, pins: Pins, request: Request) -> SavedView:
    fingerprint = feature_fingerprint(view)
    if isinstance(view, OnDemandFeatureView):
        return SavedView(name=view.name, fingerprint=fingerprint, code=view.code.digest)
    return SavedView(
        name=view.name,
        fingerprint=fingerprint,
        rows=row_fingerprint(view),
        version=pins.versions[row_fingerprint(view)],
        cuts=tuple((cut.at, cut.arrival) for cut in pins.cuts(view)),
        code=view.code.digest if view.code else "",
        join_keys={key.name: str(key.dtype) for key in view.join_keys},
        uses=tuple(
            {key.name: column.name for key, column in zip(view.join_keys, read.keys, strict=True)}
            for read in request.reads
            if read.view.name == view.name
        ),
    )
