"""Entity files (Parquet, CSV, JSON lines) in, and training sets (Parquet, CSV) out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore.cli.requests import parse_value
from featurestore.errors import EntityFrameError, FeatureStoreError, RowError
from featurestore.types import UnixTimestamp, ValueType, convert

if TYPE_CHECKING:
    import pyarrow as pa

EVENT_TIMESTAMP = "event_timestamp"


def read_entities(path: Path, types: Mapping[str, ValueType]) -> pa.Table:
    """Read a file of entities and times.

    Parameters
    ----------
    path
        ``.parquet``, ``.csv``, ``.jsonl`` or ``.ndjson``.
    types
        Types of columns that a text format cannot tell (the key ``007`` is not 7); others are inferred.

    Raises
    ------
    EntityFrameError
        Where the file is missing, of another format, unreadable, or a value is not of its type.
    """
    readers: dict[str, Callable[[Path, Mapping[str, ValueType]], pa.Table]] = {
        ".parquet": _read_parquet,
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise EntityFrameError(f"{path}: cannot tell the format; name it .parquet, .csv or .jsonl")
    import pyarrow as pa

    try:
        return reader(path, {EVENT_TIMESTAMP: UnixTimestamp, **types})
    except FileNotFoundError as error:
        raise EntityFrameError(f"{path}: there is no such file in {Path.cwd()}") from error
    except (OSError, pa.ArrowException) as error:
        raise EntityFrameError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def read_json_lines(path: Path | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, object)`` for the lines of a file, or of standard input; blank lines are skipped."""
    name = "standard input" if path is None else str(path)
    decoder = msgspec.json.Decoder(dict[str, Any])
    try:
        lines = sys.stdin.buffer if path is None else path.open("rb")
    except OSError as error:
        raise RowError(f"{name} cannot be read: {error.strerror or error}") from error
    with lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, decoder.decode(line)
            except msgspec.DecodeError as error:
                raise RowError(f"{name}, line {number}: not a JSON object: {error}") from error


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet or CSV, by the name's ending; the file appears whole or not at all.

    CSV has no lists: they are written as JSON text.
    """
    check_output(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            pq.write_table(table, temporary)
        else:
            import pyarrow.csv

            pyarrow.csv.write_csv(_lists_as_text(table), temporary)
        temporary.replace(path)
    except OSError as error:
        raise FeatureStoreError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Path) -> None:
    """Refuse an output file of another format or in a folder that is not there."""
    if path.suffix.lower() not in {".parquet", ".csv"}:
        raise FeatureStoreError(f"{path}: cannot tell the format to write; name it .parquet or .csv")
    if not path.absolute().parent.is_dir():
        raise FeatureStoreError(f"{path} cannot be written: there is no folder {path.absolute().parent}")


def _read_parquet(path: Path, _types: Mapping[str, ValueType]) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(path)


def _read_csv(path: Path, types: Mapping[str, ValueType]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv

    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(types, pa.string()), strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    table = pyarrow.csv.read_csv(path, convert_options=options)
    for index, name in enumerate(table.column_names):
        if name in types:
            column = _parse_column(path, name, table.column(index), types[name])
            table = table.set_column(index, name, column)
    return table


def _parse_column(path: Path, name: str, texts: pa.ChunkedArray, dtype: ValueType) -> pa.ChunkedArray:
    import pyarrow as pa

    arrow = dtype.to_arrow()
    for step in (pa.timestamp("us"), arrow) if dtype.kind == "timestamp" else (arrow,):
        if dtype.is_list or dtype.kind == "bytes":
            break
        try:
            parsed = texts.cast(step)
        except pa.ArrowException:
            continue
        return parsed.cast(arrow)
    values = []  # what Arrow cannot read at once: mixed zones, lists, bytes, and whatever is wrong
    for row, text in enumerate(texts.to_pylist(), start=2):
        try:
            values.append(None if text is None else parse_value(name, text, dtype))
        except EntityFrameError as error:
            raise EntityFrameError(f"{path}, line {row}: {error}") from error
    return pa.chunked_array([pa.array(values, arrow)])


def _read_jsonl(path: Path, types: Mapping[str, ValueType]) -> pa.Table:
    import pyarrow as pa

    rows = list(read_json_lines(path))
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    columns = []
    for name in names:
        dtype = types.get(name)
        if dtype is None:
            columns.append(pa.array([row.get(name) for _, row in rows]))
            continue
        values = []
        for number, row in rows:
            try:
                values.append(convert(row.get(name), dtype))
            except RowError as error:
                raise EntityFrameError(f"{path}, line {number}: {name}: {error}") from error
        columns.append(pa.array(values, dtype.to_arrow()))
    return pa.table(columns, names=names)


def _lists_as_text(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            texts = [None if v is None else msgspec.json.encode(v).decode() for v in table.column(index).to_pylist()]
            table = table.set_column(index, field.name, pa.array(texts, pa.string()))
    return table
