"""Builds a saved training set again from its manifest, and says whether, and where, it differs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.definitions import FeatureView, Project
from featurestore.definitions.project import feature_fingerprint
from featurestore.definitions.resolve import resolve
from featurestore.errors import DatasetError, FeatureStoreError
from featurestore.offline.log import RowLog
from featurestore.offline.maintenance import missing_files
from featurestore.offline.pins import Pins
from featurestore.offline.retrieval import RetrievalJob
from featurestore.semantics.rows import Cut
from featurestore.training.files import ENTITIES, read_parquet, write_data
from featurestore.training.manifest import DataFile, Manifest, SavedView, content_hash, environment, file_hash

EQUAL, DIFFERENT, ENVIRONMENT, IMPOSSIBLE = "equal", "different", "environment", "impossible"


class ColumnDifference(msgspec.Struct, frozen=True):
    """A column that came out differently: in how many rows, and the first of them."""

    name: str
    rows: int
    first_row: int


class Reproduction(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of building a set again.

    Attributes
    ----------
    verdict
        ``equal``: every byte of the Parquet data is; ``different``: values differ; ``environment``: the values are
        equal, other library versions wrote other bytes; ``impossible``: it could not be built, see `reason`.
    differences
        The columns that differ.
    environment
        What differs from the environment that saved it: name to (then, now).
    erased_rows
        Rows that were taken out of the set because their key was erased; the others were compared.
    """

    name: str
    version: int
    verdict: str
    rows: int
    reason: str = ""
    differences: tuple[ColumnDifference, ...] = ()
    environment: dict[str, tuple[str, str]] = {}
    erased_rows: int = 0

    @property
    def equal(self) -> bool:
        """Whether every byte came out as saved."""
        return self.verdict == EQUAL

    def to_text(self) -> str:
        """Return the outcome as a person reads it."""
        label = f"{self.name}@{self.version}"
        erased = f" ({self.erased_rows:,} rows were erased since it was saved)" if self.erased_rows else ""
        changed = "; ".join(f"{name} {then} is now {now}" for name, (then, now) in self.environment.items())
        if self.verdict == EQUAL:
            return f"{label}: equal, all {self.rows:,} rows to the byte{erased}"
        if self.verdict == ENVIRONMENT:
            return f"{label}: all values are equal, the files' bytes are not: {changed}{erased}"
        if self.verdict == IMPOSSIBLE:
            return f"{label}: cannot be reproduced: {self.reason}{erased}"
        lines = [f"{label}: DIFFERENT in {len(self.differences)} columns{erased}"]
        lines += [f"  {item.name}: {item.rows:,} rows, the first is row {item.first_row}" for item in self.differences]
        if changed:
            lines.append(f"The environment differs: {changed}")
        return "\n".join(lines)


class _ImpossibleError(DatasetError):
    """Why a set cannot be built again."""


class Reproducer:
    """Builds sets again from logs as they were."""

    def __init__(
        self, definitions_at: Callable[[int, set[str]], Project], log_of: Callable[[FeatureView], RowLog]
    ) -> None:
        self._definitions_at = definitions_at
        self._log_of = log_of

    def reproduce(self, folder: Path, manifest: Manifest) -> Reproduction:
        """Build the set in a folder again, elsewhere, and compare."""
        facts: dict[str, Any] = {
            "name": manifest.name,
            "version": manifest.version,
            "rows": manifest.rows,
            "erased_rows": manifest.erased_rows,
            "environment": _changed(manifest),
        }
        try:
            entities = self._entities(folder, manifest)
            with tempfile.TemporaryDirectory() as name:
                scratch = Path(name)
                files = write_data(self._rebuild(manifest, entities), scratch)
                is_equal = [file.sha256 for file in files] == [file.sha256 for file in manifest.data]
                differences = () if is_equal else compare(_read(folder, manifest.data), _read(scratch, files))
        except FeatureStoreError as error:
            return Reproduction(verdict=IMPOSSIBLE, reason=str(error), **facts)
        verdict = EQUAL if is_equal else DIFFERENT if differences else ENVIRONMENT
        return Reproduction(verdict=verdict, differences=differences, **facts)

    def _entities(self, folder: Path, manifest: Manifest) -> pa.Table:
        """Return the saved entity frame, once every file is what was saved."""
        for file in (manifest.entities, *manifest.data):
            path = folder / file.name
            if not path.exists():
                raise _ImpossibleError(f"{path} is gone")
            if file_hash(path) != file.sha256:
                raise _ImpossibleError(f"{path} was changed since it was saved: its SHA-256 is not the manifest's")
        entities = read_parquet([folder / ENTITIES])
        if content_hash(entities) != manifest.entities_hash:
            raise _ImpossibleError(f"the entity frame in {folder} is not the one that was saved")
        return entities

    def _rebuild(self, manifest: Manifest, entities: pa.Table) -> pa.Table:
        saved = {view.name: view for view in manifest.views}
        on_demand = {name for name, view in saved.items() if view.version is None}
        project = self._definitions_at(manifest.revision, on_demand)
        for name, view in saved.items():
            if feature_fingerprint(project.view(name)) != view.fingerprint:
                raise _ImpossibleError(
                    f"revision {manifest.revision} of the registry holds another definition of view {name!r}; "
                    "it is not the registry that the set was saved with"
                )
        request = resolve(project, manifest.service or manifest.asked, full_feature_names=manifest.full_feature_names)
        for stored in request.views:
            self._check_log(stored, saved[stored.name])
        versions = {view.rows: view.version for view in manifest.views if view.version is not None}
        cuts = {view.name: [Cut(*cut) for cut in view.cuts] for view in manifest.views}
        pins = Pins(request.views, self._log_of, lambda view: cuts[view.name], versions)
        known_at: Any = manifest.known_at
        return RetrievalJob(entities, request, pins.log, pins.cuts, known_at).to_arrow()

    def _check_log(self, view: FeatureView, saved: SavedView) -> None:
        assert saved.version is not None  # noqa: S101  (a stored view)
        log = self._log_of(view)
        if log.version() < saved.version:
            raise _ImpossibleError(
                f"the log of view {view.name!r} ends at version {log.version()}, the set was read from version "
                f"{saved.version}: the log in {log.path} was removed or replaced"
            )
        files = log.files(version=saved.version)
        gone = missing_files(files)
        if gone:
            raise _ImpossibleError(
                f"version {saved.version} of the log of view {view.name!r} was vacuumed: {len(gone)} of its "
                f"{len(files)} files are gone"
            )


def _read(folder: Path, files: Iterable[DataFile]) -> pa.Table:
    return read_parquet([folder / file.name for file in files])


def _changed(manifest: Manifest) -> dict[str, tuple[str, str]]:
    now = environment()
    names = sorted(manifest.environment.keys() | now.keys())
    pairs = {name: (manifest.environment.get(name, "unknown"), now.get(name, "none")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def compare(saved: pa.Table, rebuilt: pa.Table) -> tuple[ColumnDifference, ...]:
    """Return the columns of which any row differs to the bit; one that only one side has differs in every row."""
    differences = []
    for name in dict.fromkeys([*saved.column_names, *rebuilt.column_names]):
        if name not in saved.column_names or name not in rebuilt.column_names:
            differences.append(ColumnDifference(name, max(saved.num_rows, rebuilt.num_rows), 0))
            continue
        rows = differing(saved.column(name), rebuilt.column(name))
        if len(rows):
            differences.append(ColumnDifference(name, len(rows), int(rows[0])))
    return tuple(differences)


def differing(left: pa.ChunkedArray, right: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the rows in which two columns differ to the bit; NaN equals NaN, 0.0 does not equal -0.0."""
    if len(left) != len(right) or left.type != right.type:
        return np.arange(max(len(left), len(right)), dtype=np.int64)
    if pa.types.is_nested(left.type):
        pairs = zip(left, right, strict=True)
        places = [place for place, (a, b) in enumerate(pairs) if repr(a.as_py()) != repr(b.as_py())]
        return np.array(places, dtype=np.int64)
    if pa.types.is_floating(left.type):
        width = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[left.type.bit_width]
        left, right = (pa.chunked_array([chunk.view(width) for chunk in c.chunks], width) for c in (left, right))
    same = pc.or_(pc.fill_null(pc.equal(left, right), False), pc.and_(left.is_null(), right.is_null()))
    return np.flatnonzero(~same.to_numpy()).astype(np.int64)
