"""Text formats: CSV and JSON lines, parsed into the declared types; a value that does not parse rejects its row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from featurestore.errors import RowError
from featurestore.materialize.columns import Bad, canonical
from featurestore.materialize.places import Place
from featurestore.types import ValueType, convert

MISSING_TEXTS = ("", "NA", "N/A", "NULL", "null")
"""What stands for null in a CSV column that is not text; in a text column only an empty field without quotes does."""

_BLOCK = 8 << 20
_LINES = 20_000
_ZONE = r"(?i):\d.*(Z|[+-]\d\d:?(\d\d)?)$|Z$"


class Rejected(NamedTuple):
    """A record that becomes no row: its raw bytes, the kind of reason, and what exactly is wrong."""

    payload: bytes
    reason: str
    detail: str


def csv_batches(place: Place, columns: Sequence[str], reject: Callable[[Rejected], None]) -> Iterator[pa.RecordBatch]:
    """Yield columns of a CSV file as text; a line with too few or too many fields is rejected.

    Raises
    ------
    OSError, pyarrow.ArrowException
        Where the file cannot be read.
    """

    def skip(row: csv.InvalidRow) -> str:
        problem = f"it has {row.actual_columns} fields, the header {row.expected_columns}"
        reject(Rejected((row.text or "").encode(), "undecodable", f"{place} line {row.number}: {problem}"))
        return "skip"

    reader = csv.open_csv(
        place.stream(),
        read_options=csv.ReadOptions(use_threads=False, block_size=_BLOCK),
        parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        convert_options=_as_text(columns),
    )
    yield from reader


def csv_header(place: Place) -> list[str]:
    """Return the column names of a CSV file."""
    lenient = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _: "skip")
    with csv.open_csv(place.stream(), read_options=csv.ReadOptions(use_threads=False), parse_options=lenient) as reader:
        return list(reader.schema.names)


def csv_inferred(place: Place) -> pa.Table:
    """Return a whole CSV file with types that hold all its values: integers, floats, bools, times or text.

    What is null in a column of text is what `csv_batches` takes for it.
    """
    lines = csv.ParseOptions(newlines_in_values=True)
    table = csv.read_csv(place.stream(), parse_options=lines, convert_options=_inferring())
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    if texts:
        again = csv.read_csv(place.stream(), parse_options=lines, convert_options=_as_text(texts))
        for name in texts:
            table = table.set_column(table.schema.get_field_index(name), name, again[name])
    return table


def csv_head(place: Place) -> pa.RecordBatch:
    """Return the first rows of a CSV file with types that hold them."""
    lines = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _: "skip")
    reading = csv.ReadOptions(use_threads=False)
    with csv.open_csv(place.stream(), reading, lines, _inferring()) as reader:
        return next(iter(reader), None) or pa.RecordBatch.from_pylist([], reader.schema)


def _inferring() -> csv.ConvertOptions:
    return csv.ConvertOptions(
        strings_can_be_null=False,
        null_values=[*MISSING_TEXTS, "NaN", "nan"],
        timestamp_parsers=[csv.ISO8601],
        auto_dict_encode=False,
    )


def _as_text(columns: Sequence[str]) -> csv.ConvertOptions:
    return csv.ConvertOptions(
        include_columns=list(columns),
        column_types=dict.fromkeys(columns, pa.string()),
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )


def parse_text(column: pa.Array, dtype: ValueType) -> tuple[pa.Array, Bad]:
    """Return a column of text in a declared type, null where a value does not parse, and what does not.

    Timestamps are ISO 8601 (without a zone UTC), bytes are base64, lists are JSON.
    """
    if dtype.kind == "string":
        return column, {}
    column = pc.utf8_trim_whitespace(column)
    column = pc.if_else(pc.is_in(column, pa.array(MISSING_TEXTS)), None, column)
    try:
        return _parse_fast(column, dtype), {}
    except (pa.ArrowException, NotImplementedError):
        return _parse_each(column, dtype)


def _parse_fast(column: pa.Array, dtype: ValueType) -> pa.Array:
    if dtype.kind == "timestamp":
        zoned = pc.match_substring_regex(column, _ZONE)
        target = dtype.to_arrow()
        naive = pc.if_else(zoned, None, column).cast(pa.timestamp("us")).cast(pa.int64()).cast(target)
        return pc.coalesce(pc.if_else(zoned, column, None).cast(target), naive)
    if dtype.is_list or dtype.kind == "bytes":
        raise NotImplementedError
    values = column.cast(dtype.to_arrow())
    if dtype.is_float:
        overflown = pc.and_(pc.is_inf(values), pc.invert(pc.match_substring_regex(column, "(?i)inf")))
        if pc.any(overflown).as_py():
            raise pa.ArrowInvalid("a number is too large")
    return canonical(values)


def _parse_each(column: pa.Array, dtype: ValueType) -> tuple[pa.Array, Bad]:
    values: list[Any] = []
    bad: Bad = {}
    for row, text in enumerate(column.to_pylist()):
        try:
            values.append(None if text is None else _parse_one(text, dtype))
        except (RowError, pa.ArrowException, msgspec.DecodeError):
            bad[row] = f"{text!r:.60} is not a {dtype}"
            values.append(None)
    return pa.array(values, dtype.to_arrow()), bad


def _parse_one(text: str, dtype: ValueType) -> Any:
    if dtype.is_list:
        return convert(msgspec.json.decode(text.encode()), dtype)
    if dtype.kind in {"bytes", "timestamp"}:
        return convert(text, dtype)
    return _parse_fast(pa.array([text]), dtype)[0].as_py()


class JsonLine(NamedTuple):
    """One line of a JSON-lines file: its number from 1, its bytes and the object it holds."""

    number: int
    payload: bytes
    record: dict[str, Any]


def json_lines(place: Place, reject: Callable[[Rejected], None]) -> Iterator[list[JsonLine]]:
    """Yield the objects of a JSON-lines file, some thousands at a time; blank lines count for nothing.

    Raises
    ------
    OSError
        Where the file cannot be read.
    """
    decoder = msgspec.json.Decoder(dict[str, Any])
    lines: list[JsonLine] = []
    with place.stream() as raw:
        for number, line in enumerate(_split(raw), start=1):
            if not line or line.isspace():
                continue
            try:
                lines.append(JsonLine(number, line, decoder.decode(line)))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                reject(Rejected(line, "undecodable", f"{place} line {number}: not a JSON object: {error}"))
            if len(lines) >= _LINES:
                yield lines
                lines = []
    yield lines


def _split(stream: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(_BLOCK):
        *whole, rest = re.split(rb"\r?\n", rest + block)
        yield from whole
    if rest:
        yield rest


def json_column(lines: Sequence[JsonLine], name: str, dtype: ValueType) -> tuple[pa.Array, Bad]:
    """Return one field of some lines in a declared type, null where a value is not of it, and what is not."""
    values: list[Any] = []
    bad: Bad = {}
    for row, line in enumerate(lines):
        try:
            values.append(convert(line.record.get(name), dtype))
        except RowError as error:
            bad[row] = str(error)
            values.append(None)
    return pa.array(values, dtype.to_arrow()), bad
