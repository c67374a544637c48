"""Definitions as flat attributes that a person can read and compare."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import msgspec

from featurestore.clock import delta_micros, format_duration
from featurestore.definitions import Aggregation, Entity, Field, Projection, UserCode
from featurestore.types import ValueType


def attributes(definition: Any, *, nested: bool = True) -> dict[str, str]:
    """Return what a definition says as attribute to text; what is empty or left at its default is left out.

    Parameters
    ----------
    nested
        Whether the attributes of sources and entities inside the definition are given too (``source.path``),
        or only their names.
    """
    found: dict[str, str] = {}
    default = {field.name: field.default for field in msgspec.structs.fields(definition)}
    for name in definition.__struct_fields__:
        value = getattr(definition, name)
        if name != "name" and value not in (None, "", (), {}) and value != default[name]:
            _flatten(name, value, found, nested=nested)
    return found


def orders(definition: Any) -> dict[str, str]:
    """Return the order of the named things in a definition, by attribute: order is part of its meaning."""
    found = {}
    for name in definition.__struct_fields__:
        value = getattr(definition, name)
        if isinstance(value, tuple):
            found[name] = ", ".join(_label(item) for item in value)
    return found


def _flatten(path: str, value: Any, found: dict[str, str], *, nested: bool) -> None:
    if isinstance(value, tuple):
        for item in value:
            _flatten_item(path, item, found, nested=nested)
    elif isinstance(value, dict):
        for key in sorted(value):
            found[f"{path}.{key}"] = repr(value[key])
    elif isinstance(value, UserCode):
        found[path] = value.path
        if nested:
            found[f"{path} code"] = value.text
    elif isinstance(value, msgspec.Struct) and not isinstance(value, ValueType):
        found[path] = _label(value)
        if nested:
            for key, text in attributes(value).items():
                found[f"{path}.{key}"] = text
    else:
        found[path] = _scalar(value)


def _flatten_item(path: str, item: Any, found: dict[str, str], *, nested: bool) -> None:
    label = f"{path}.{_label(item)}"
    if isinstance(item, Field):
        found[label] = str(item.dtype)
        if nested and item.description:
            found[f"{label}.description"] = repr(item.description)
        if nested:
            for key in sorted(item.tags):
                found[f"{label}.tags.{key}"] = repr(item.tags[key])
    elif isinstance(item, Aggregation):
        found[label] = describe_aggregation(item)
    elif isinstance(item, Projection):
        found[label] = ", ".join(item.features)
        if item.join_key_map:
            found[f"{label}.join_key_map"] = ", ".join(f"{key}={column}" for key, column in item.join_key_map.items())
    else:
        found[label] = _kind(item)
        if nested:
            for key, text in attributes(item).items():
                found[f"{label}.{key}"] = text


def describe_aggregation(aggregation: Aggregation) -> str:
    """Return an aggregation as ``sum(amount) over 1h, hop 5m``."""
    extra = "".join(
        f", {name}={value}"
        for name, value in (("n", aggregation.n), ("q", aggregation.q), ("max_distinct", aggregation.max_distinct))
        if value is not None
    )
    window = aggregation.window
    length = "all history" if window.length is None else format_duration(window.length)
    text = (
        f"{aggregation.function}({aggregation.column or '*'}{extra}) over {length}, hop {format_duration(window.hop)}"
    )
    return text + (f", {format_duration(window.offset)} ago" if window.offset else "")


def _label(item: Any) -> str:
    if not isinstance(item, Projection):
        return str(item.name)
    return item.view if item.label == item.view else f"{item.view} as {item.name}"


def _kind(item: Any) -> str:
    """Return the kind of thing, with its keys or fields where those say what it is."""
    if isinstance(item, Entity):
        return _fields(item.keys)
    return _fields(item.schema) if hasattr(item, "schema") else type(item).__name__


def _fields(fields: Iterable[Field]) -> str:
    return ", ".join(f"{field.name} {field.dtype}" for field in fields)


def _scalar(value: Any) -> str:
    if isinstance(value, timedelta):
        return format_duration(delta_micros(value))
    return str(value) if isinstance(value, (bool, ValueType)) else repr(value)
