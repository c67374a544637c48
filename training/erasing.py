"""Takes the rows of an erased key out of a saved training set, so that what is left can still be reproduced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from featurestore.definitions import Field
from featurestore.offline.frame import EntityFrame
from featurestore.offline.maintenance import Key, arrow_scalar
from featurestore.training.files import ENTITIES, read_parquet, sync, write_data, write_parquet
from featurestore.training.manifest import MANIFEST, Erased, Manifest, content_hash, statistics

_NEW = "erasing"


def erase_from_set(folder: Path, manifest: Manifest, key: Key, uses: Sequence[Mapping[str, str]], at: int) -> int:
    """Remove the rows of a key from a set's files, note it in the manifest, and return how many there were.

    A row goes if any of `uses`, which map join keys to columns, finds the key in it.

    Each file is replaced as a whole, the manifest first. May be repeated after a crash at any point.
    """
    kept, erased = _without(read_parquet([folder / ENTITIES]), key, uses)
    stale = sorted(path for path in folder.glob("data*.parquet"))
    table, left = _without(read_parquet(_in_order(stale)), key, uses)
    if not erased and not left:
        return 0
    new = folder / _NEW
    new.mkdir(exist_ok=True)
    noted = (Erased(at, left),) if manifest.rows == table.num_rows + left and left else ()
    changed = replace(
        manifest,
        rows=table.num_rows,
        entities=write_parquet(kept, new / ENTITIES),
        data=write_data(table, new),
        entities_hash=content_hash(kept),
        columns=statistics(table),
        erased=(*manifest.erased, *noted),
    )
    (new / MANIFEST).write_bytes(changed.encode())
    sync(new / MANIFEST)
    for name in (MANIFEST, ENTITIES, *(file.name for file in changed.data)):
        (new / name).replace(folder / name)
    for path in stale:
        if path.name not in {file.name for file in changed.data}:
            path.unlink()
    new.rmdir()
    sync(folder)
    return max(erased, left)


def _in_order(paths: list[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: int(path.stem.partition("-")[2] or 0))


def _without(table: pa.Table, key: Key, uses: Sequence[Mapping[str, str]]) -> tuple[pa.Table, int]:
    """Return a table without the rows of a key, and how many they were."""
    frame = EntityFrame(table, need_times=False)
    gone = pa.chunked_array([pa.repeat(pa.scalar(False), table.num_rows)])
    for columns in uses:
        same = pa.chunked_array([pa.repeat(pa.scalar(True), table.num_rows)])
        for field, value in key:
            column = frame.typed(Field(columns[field.name], field.dtype), "the erased join key,")
            same = pc.and_(same, pc.fill_null(pc.equal(column, arrow_scalar(value, field.dtype)), False))
        gone = pc.or_(gone, same)
    return table.filter(pc.invert(gone)), int(pc.sum(gone).as_py() or 0)
