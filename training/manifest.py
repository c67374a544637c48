"""The manifest of a saved training set: all that is needed to build it again, and to tell whether it is the same."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.definitions.feature_view import Projection
from featurestore.errors import DatasetError

FORMAT = 1
MANIFEST = "manifest.json"
_LIBRARIES = ("pyarrow", "duckdb", "deltalake", "numpy")


class SavedView(msgspec.Struct, frozen=True, kw_only=True):
    """A view as a training set used it.

    Attributes
    ----------
    fingerprint
        What the definition meant (see `feature_fingerprint`).
    rows
        Row fingerprint, which names the log; empty for on-demand views.
    version
        The version of the log that was read: -1 where there was none; None for on-demand views.
    cuts
        Of a lambda view, time and arrival of each cut known then, in microseconds.
    code
        SHA-256 of the source text of the transform or on-demand function; empty where there is none.
    join_keys
        Join key to its declared type.
    uses
        For each use of the view, join key to the entity frame's column that held it.
    """

    name: str
    fingerprint: str
    rows: str = ""
    version: int | None = None
    cuts: tuple[tuple[int, int], ...] = ()
    code: str = ""
    join_keys: dict[str, str] = {}
    uses: tuple[dict[str, str], ...] = ()


class ColumnStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a column holds. Least, greatest and mean leave nulls and NaN out; times are ISO 8601, bytes hexadecimal."""

    name: str
    type: str
    nulls: int
    distinct: int | None = None
    min: str | int | float | bool | None = None
    max: str | int | float | bool | None = None
    mean: float | None = None


class DataFile(msgspec.Struct, frozen=True):
    """One Parquet file of a set: name, rows, bytes and SHA-256."""

    name: str
    rows: int
    size: int
    sha256: str


class Erased(msgspec.Struct, frozen=True):
    """Rows that were taken out because their key was erased: when (microseconds), and how many."""

    at: int
    rows: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a saved training set.

    Attributes
    ----------
    created
        The store's clock when it was saved, microseconds since the epoch.
    features
        ``view:feature``, in the order of the columns.
    service
        The feature service that was asked for; empty where features were.
    asked
        Each feature with its view, and the name and join keys of this use of it.
    entities_hash
        SHA-256 of what the entity frame holds: names, types and values, in order (see `content_hash`).
    erased
        What `delete-entity` took out since.
    environment
        Versions of Python, of the libraries that compute or write values, and the processor's architecture.
    """

    name: str
    version: int
    created: int
    featurestore: str
    project: str
    revision: int
    features: tuple[str, ...]
    service: str = ""
    asked: tuple[Projection, ...] = ()
    full_feature_names: bool
    known_at: str
    views: tuple[SavedView, ...]
    entities_hash: str
    rows: int
    entities: DataFile
    data: tuple[DataFile, ...]
    columns: tuple[ColumnStatistics, ...]
    environment: dict[str, str]
    erased: tuple[Erased, ...] = ()
    format: int = FORMAT

    @property
    def label(self) -> str:
        """The name as the command line takes it: ``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def erased_rows(self) -> int:
        """Number of rows that were taken out since."""
        return sum(erased.rows for erased in self.erased)

    def encode(self) -> bytes:
        """Return the manifest as readable JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest in a folder.

    Raises
    ------
    DatasetError
        Where it is missing, damaged, or of a later format.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
        found = msgspec.json.decode(data, type=dict[str, Any]).get("format")
        if found != FORMAT:
            raise DatasetError(f"{path} has format {found}, this release reads {FORMAT}: upgrade featurestore")
        return msgspec.json.decode(data, type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise DatasetError(
            f"{path} cannot be read: {error}; restore it from a backup, or save the set again"
        ) from error


def environment() -> dict[str, str]:
    """Return the versions that may change a value's bits or a file's bytes."""
    libraries = {name: installed_version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), "machine": platform.machine(), **libraries}


def file_hash(path: Path) -> str:
    """Return a file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def statistics(table: pa.Table) -> tuple[ColumnStatistics, ...]:
    """Return what each column of a table holds."""
    return tuple(_statistics(field, table.column(place)) for place, field in enumerate(table.schema))


def _statistics(field: pa.Field, column: pa.ChunkedArray) -> ColumnStatistics:
    facts: dict[str, Any] = {"name": field.name, "type": str(field.type), "nulls": column.null_count}
    t: Any = pa.types
    if t.is_floating(field.type):
        column = column.filter(pc.invert(pc.fill_null(pc.is_nan(column), True)))
    is_number = t.is_integer(field.type) or t.is_floating(field.type)
    others = (t.is_boolean, t.is_timestamp, t.is_date, t.is_string, t.is_large_string, t.is_binary, t.is_large_binary)
    if is_number or any(test(field.type) for test in others):
        facts["distinct"] = pc.count_distinct(column, mode="only_valid").as_py()
        bounds = pc.min_max(column)
        facts["min"], facts["max"] = (_plain(bounds[name]) for name in ("min", "max"))
    if is_number:
        facts["mean"] = pc.mean(column.cast(pa.float64(), safe=False)).as_py()
    return ColumnStatistics(**facts)


def _plain(scalar: pa.Scalar) -> Any:
    if not scalar.is_valid:
        return None
    if pa.types.is_timestamp(scalar.type) or pa.types.is_date(scalar.type):
        return str(scalar)
    value = scalar.as_py()
    return value.hex() if isinstance(value, bytes) else value


def content_hash(table: pa.Table) -> str:
    """Return the SHA-256 of a table's names, types and values, whatever its chunks, padding and what nulls hide."""
    total = hashlib.sha256()
    for field, column in zip(table.schema, table.columns, strict=True):
        total.update(f"{field.name}\0{_type_name(field.type)}\0{len(column)}\0".encode())
        for part in _canonical(column.combine_chunks()):
            total.update(part)
    return total.hexdigest()


def _type_name(arrow: pa.DataType) -> str:
    """Return a type's name; that of a list without the name of its items, which Parquet changes."""
    is_list = pa.types.is_list(arrow) or pa.types.is_large_list(arrow) or pa.types.is_fixed_size_list(arrow)
    return f"list<{_type_name(arrow.value_type)}>" if is_list else str(arrow)


def _canonical(array: pa.Array) -> Sequence[bytes]:
    """Return an array's validity and values as bytes that depend on nothing else."""
    if isinstance(array, pa.ChunkedArray):  # combining no chunks
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    valid = np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes()
    t: Any = pa.types
    if t.is_null(array.type):
        return [valid]
    if t.is_dictionary(array.type):
        return _canonical(array.dictionary_decode())
    if t.is_list(array.type) or t.is_large_list(array.type) or t.is_fixed_size_list(array.type):
        lengths = pc.fill_null(pc.list_value_length(array), 0).cast(pa.int64()).to_numpy()
        return [valid, lengths.tobytes(), *_canonical(array.flatten())]
    if t.is_boolean(array.type):
        return [valid, np.packbits(pc.fill_null(array, False).to_numpy(zero_copy_only=False)).tobytes()]
    if t.is_string(array.type) or t.is_large_string(array.type) or t.is_string_view(array.type):
        array = array.cast(pa.large_string()).cast(pa.large_binary())
    if t.is_binary(array.type) or t.is_large_binary(array.type) or t.is_fixed_size_binary(array.type):
        filled = pc.fill_null(array.cast(pa.large_binary()), b"")
        return [valid, pc.binary_length(filled).cast(pa.int64()).to_numpy().tobytes(), b"".join(filled.to_pylist())]
    if t.is_integer(array.type) or t.is_floating(array.type):
        return [valid, pc.fill_null(array, 0).to_numpy().tobytes()]
    if t.is_temporal(array.type) and array.type.bit_width in {32, 64}:
        return _canonical(array.view(pa.int64() if array.type.bit_width == 64 else pa.int32()))
    return [valid, repr(array.to_pylist()).encode()]
