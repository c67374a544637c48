"""Entity rows from text and JSON: values of the join keys and request fields that a request needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from featurestore.definitions.resolve import Request
from featurestore.errors import EntityFrameError, RowError, suggest
from featurestore.types import ValueType, convert, to_python

_TRUTH = {"true": True, "false": False}


def needed_types(request: Request) -> dict[str, ValueType]:
    """Return the types of the join keys and request fields that a request is answered by."""
    return {name: field.dtype for name, field in (request.join_keys | request.request_fields).items()}


def parse_value(name: str, text: str, dtype: ValueType) -> Any:
    """Return the value that ``text`` spells, as a user of the SDK would pass it."""
    try:
        if dtype.is_integer:
            plain: Any = int(text)
        elif dtype.is_float:
            plain = float(text)
        elif dtype.kind == "bool":
            plain = _TRUTH[text.lower()]
        elif dtype.is_list:
            plain = msgspec.json.decode(text)
        else:
            plain = text
        return to_python(convert(plain, dtype), dtype)
    except (ValueError, KeyError) as error:  # RowError and msgspec's errors are ValueErrors
        detail = str(error) if isinstance(error, RowError) else f"{text!r} is not a {dtype}"
        raise EntityFrameError(f"{name}: {detail}") from error


def parse_pairs(pairs: Sequence[str], types: Mapping[str, ValueType]) -> dict[str, Any]:
    """Return one entity row from ``key=value`` texts."""
    row: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise EntityFrameError(f"{pair!r} is not key=value; write, for example, --entity {_example(types)}")
        if name in row:
            raise EntityFrameError(f"{name!r} is given twice; --entity describes one entity, for more use --entities")
        row[name] = parse_value(name, text, _type_of(name, types))
    return row


def convert_row(row: Mapping[str, Any], types: Mapping[str, ValueType], where: str) -> dict[str, Any]:
    """Return an entity row from decoded JSON; columns that the features do not need are left out."""
    converted = {}
    for name, dtype in types.items():
        if name not in row:
            raise EntityFrameError(
                f"{where} lacks {name!r}, which the features need; it has {', '.join(row) or 'nothing'}"
            )
        try:
            converted[name] = to_python(convert(row[name], dtype), dtype)
        except RowError as error:
            raise EntityFrameError(f"{where}: {name}: {error}") from error
    return converted


def _type_of(name: str, types: Mapping[str, ValueType]) -> ValueType:
    if name not in types:
        raise EntityFrameError(f"the features are not looked up by {name!r}{suggest(name, types)}")
    return types[name]


def _example(types: Mapping[str, ValueType]) -> str:
    return next((f"{name}=..." for name in types), "key=value")
