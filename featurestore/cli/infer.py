"""A user's own data file: its columns and types, the times it covers, and some of its keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.cli.codegen import identifier
from featurestore.clock import from_micros
from featurestore.definitions import FileSource
from featurestore.errors import SourceError, suggest
from featurestore.materialize.readers import SourceColumn, SourceReader, Wanted
from featurestore.types import UnixTimestamp

SAMPLE_ROWS = 10
_SAMPLE_BATCH = 1000
_KEY_KINDS = {"int32", "int64", "string", "bytes", "bool", "timestamp"}


@dataclass(frozen=True, slots=True)
class DataFile:
    """What was found in a file.

    Attributes
    ----------
    path
        The file, folder or glob, as given.
    columns
        All columns, in order, with the feature type that holds each (None where there is none).
    keys, time, created
        Names of the join keys, of the event's time and (or "") of the time a row could first be known.
    first, last
        The least and the greatest event time; None where there are no rows.
    sample
        Some rows of join keys and event times: ``(key, ..., time)``.
    """

    path: Path
    columns: tuple[SourceColumn, ...]
    keys: tuple[str, ...]
    time: str
    created: str
    first: datetime | None
    last: datetime | None
    sample: tuple[tuple[Any, ...], ...]

    def column(self, name: str) -> SourceColumn:
        """Return a column that is known to be there."""
        return next(column for column in self.columns if column.name == name)


def inspect_file(path: Path, keys: Sequence[str], time: str, created: str) -> DataFile:
    """Read what is needed to define features of a file, folder or glob.

    Raises
    ------
    SourceError
        Where the file is missing or unreadable, a column is not there, a key has a type that keys cannot have, or
        a time is not a timestamp.
    """
    source = FileSource(identifier(path.name, "data"), path=str(path.absolute()), timestamp_field=time)
    reader = SourceReader(source, Path.cwd())
    columns = tuple(reader.schema())
    _check_columns(path, columns, keys, time, created)
    types = {column.name: column.dtype or UnixTimestamp for column in columns}
    first, last, sample = _scan(reader, [Wanted(name, name, types[name]) for name in [*keys, time]])
    return DataFile(path, columns, tuple(keys), time, created, first, last, sample)


def _check_columns(path: Path, columns: Sequence[SourceColumn], keys: Sequence[str], time: str, created: str) -> None:
    known = {column.name: column for column in columns}
    for name in [*keys, time, *([created] if created else [])]:
        if name not in known:
            raise SourceError(f"{path} has no column {name!r}{suggest(name, known)}")
    repeated = next((name for name in [*keys, time] if [*keys, time].count(name) > 1), None)
    if repeated is not None:
        raise SourceError(f"the column {repeated!r} is given twice; name each --key once, and another --time")
    for name in keys:
        dtype = known[name].dtype
        if dtype is None or dtype.kind not in _KEY_KINDS:
            hint = "; store it as an integer or a string" if dtype is not None and dtype.is_float else ""
            raise SourceError(
                f"{path}: the key {name!r} is a {dtype or known[name].stored}; keys are integers, strings, "
                f"bytes, bools or timestamps{hint}"
            )
    for option, name in (("--time", time), ("--created", created)):
        dtype = known[name].dtype if name else None
        if name and (dtype is None or dtype.kind != "timestamp"):
            times = [column.name for column in columns if column.dtype is not None and column.dtype.kind == "timestamp"]
            there = f"; timestamps are: {', '.join(times)}" if times else "; convert it to a timestamp first"
            raise SourceError(f"{path}: {option} {name!r} is a {known[name].stored}, not a timestamp{there}")


def _scan(
    reader: SourceReader, wanted: Sequence[Wanted]
) -> tuple[datetime | None, datetime | None, tuple[tuple[Any, ...], ...]]:
    """Return the least and the greatest time (the last of ``wanted``), and a sample of rows without nulls."""
    first: int | None = None
    last: int | None = None
    sample: tuple[tuple[Any, ...], ...] = ()
    for chunk in reader.typed(wanted, lambda _: None):  # what cannot be read, materialize rejects and counts
        times = chunk.columns[-1].cast(pa.int64())
        table = pa.table([*chunk.columns[:-1], times], names=[item.name for item in wanted]).drop_null()
        if not table.num_rows:
            continue
        bounds = pc.min_max(table.column(len(wanted) - 1)).as_py()
        first = bounds["min"] if first is None else min(first, bounds["min"])
        last = bounds["max"] if last is None else max(last, bounds["max"])
        if not sample:
            step = max(1, min(table.num_rows, _SAMPLE_BATCH) // SAMPLE_ROWS)
            rows = [list(row.values()) for row in table.slice(0, step * SAMPLE_ROWS).to_pylist()[::step]]
            sample = tuple((*keys, from_micros(at)) for *keys, at in rows)
    return None if first is None else from_micros(first), None if last is None else from_micros(last), sample
