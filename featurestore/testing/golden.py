"""Golden vectors: committed files of rows, questions and the exact bits of the answers, which pin the reference.

``python -m featurestore.testing.golden FOLDER`` checks every file of a folder against the reference;
with ``--write`` it fills in the answers instead, which a person then reads before committing them.

A file is JSON: ``{"about": ..., "cases": [{"name", "view", "rows", "cuts", "queries"}]}``. Times and durations are
microseconds. A float is ``{"f": float.hex()}``, bytes are ``{"b": hex}``; other values are JSON's own. A row is
``[key, event_timestamp, arrival, writer, sequence, values]`` and an answer ``[status, value]``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from featurestore.definitions import Aggregation, Entity, FeatureView, Field, FileSource, PushSource
from featurestore.definitions.sources import Source
from featurestore.errors import FeatureStoreError
from featurestore.semantics.reference import evaluate
from featurestore.semantics.rows import Cut, Result, Row
from featurestore.testing.generate import Case
from featurestore.types import ValueType

_BATCH = FileSource("src_batch", path="x.parquet", timestamp_field="ts")
_SOURCES: dict[str, Source] = {
    "batch": _BATCH,
    "stream": PushSource("src", timestamp_field="ts"),
    "lambda": PushSource("src", batch_source=_BATCH),
}


class GoldenError(FeatureStoreError, ValueError):
    """A golden file cannot be read."""


def read_cases(path: Path) -> list[dict[str, Any]]:
    """Return the cases of a file as they are written."""
    try:
        cases: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError) as error:
        raise GoldenError(
            f"the golden file {path} cannot be read ({error}); restore it from version control"
        ) from error
    return cases


def answers(case: dict[str, Any]) -> list[dict[str, list[Any]]]:
    """Return the reference's answer to each query of a case, as a file writes it."""
    view = to_view(case["view"])
    rows = [to_row(row) for row in case["rows"]]
    cuts = [Cut(*cut) for cut in case.get("cuts", ())]
    return [
        {
            name: encode_result(result)
            for name, result in evaluate(
                view, tuple(decode(query["key"])), query["t"], rows, known_at=query.get("known_at", "event"), cuts=cuts
            ).items()
        }
        for query in case["queries"]
    ]


def differences(path: Path) -> list[str]:
    """Return one line per query of a file that the reference answers otherwise than the file does."""
    found = []
    for case in read_cases(path):
        for query, answer in zip(case["queries"], answers(case), strict=True):
            if json.dumps(answer) != json.dumps(query.get("expect")):  # as text: there, 1 is not true
                asked = json.dumps({name: query[name] for name in query if name != "expect"})
                found.append(f"{path.name}: {case['name']}: {asked}: {json.dumps(answer)}")
    return found


def write_answers(path: Path) -> None:
    """Fill the reference's answers into a file."""
    about = json.loads(path.read_text(encoding="utf-8"))["about"]
    cases = read_cases(path)
    for case in cases:
        for query, answer in zip(case["queries"], answers(case), strict=True):
            query["expect"] = answer
    path.write_text(format_file(about, cases), encoding="utf-8")


def format_file(about: str, cases: Sequence[dict[str, Any]]) -> str:
    """Return a file's text, one row and one query a line."""
    parts = []
    for case in cases:
        members = [f'"name": {json.dumps(case["name"])}', f'"view": {json.dumps(case["view"])}']
        for name in ("rows", "cuts", "queries"):
            lines = ",\n".join(f"    {json.dumps(item, ensure_ascii=True)}" for item in case.get(name, ()))
            members.append(f'"{name}": [\n{lines}\n   ]' if lines else f'"{name}": []')
        parts.append("  {" + ",\n   ".join(members) + "}")
    joined = ",\n".join(parts)
    return f'{{"about": {json.dumps(about)},\n "cases": [\n{joined}\n ]}}\n'


def from_case(name: str, case: Case) -> dict[str, Any]:
    """Return a generated case as a file writes it, each query asked of both clocks, without the answers."""
    return {
        "name": name,
        "view": from_view(case.view),
        "rows": [
            [encode(list(row.key)), *row[1:5], {k: encode(v) for k, v in row.values.items()}] for row in case.rows
        ],
        "cuts": [list(cut) for cut in case.cuts],
        "queries": [
            {"key": encode(list(key)), "t": t, "known_at": known_at}
            for key, t in case.queries
            for known_at in ("event", "arrival")
        ],
    }


def to_row(written: Sequence[Any]) -> Row:
    """Return the row that a file writes as a list."""
    key, event_timestamp, arrival, writer, sequence, values = written
    decoded = {name: decode(value) for name, value in values.items()}
    return Row(tuple(decode(key)), event_timestamp, arrival, writer, sequence, decoded)


def encode_result(result: Result) -> list[Any]:
    """Return a result as a file writes it."""
    return [result.status.name, encode(result.value)]


def encode(value: Any) -> Any:
    """Return a value as a file writes it."""
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, float):
        return {"f": value.hex()}
    return {"b": value.hex()} if isinstance(value, bytes) else value


def decode(written: Any) -> Any:
    """Return the value that a file writes so."""
    if isinstance(written, list):
        return [decode(item) for item in written]
    if not isinstance(written, dict):
        return written
    return float.fromhex(written["f"]) if "f" in written else bytes.fromhex(written["b"])


def to_view(written: dict[str, Any]) -> FeatureView:
    """Return the view that a file describes by ``keys``, ``columns``, ``source``, ``ttl`` and ``features``."""
    keys = [Field(name, _to_type(text)) for name, text in written["keys"].items()]
    return FeatureView(
        "v",
        entities=[Entity("e", join_keys=keys)] if keys else [],
        schema=[Field(name, _to_type(text)) for name, text in written["columns"].items()],
        source=_SOURCES[written.get("source", "batch")],
        ttl=_to_delta(written.get("ttl")),
        aggregations=[_to_aggregation(name, parts) for name, parts in written.get("features", {}).items()],
    )


def from_view(view: FeatureView) -> dict[str, Any]:
    """Return the description of a view that `to_view` reads."""
    source = "lambda" if view.is_lambda else "stream" if view.stream_source else "batch"
    written: dict[str, Any] = {
        "keys": {field.name: str(field.dtype) for field in view.join_keys},
        "columns": {field.name: str(field.dtype) for field in view.schema},
        "source": source,
    }
    if view.ttl_micros is not None:
        written["ttl"] = view.ttl_micros
    if view.is_window:
        written["features"] = {a.name: _from_aggregation(a) for a in view.aggregations}
    return written


def _to_aggregation(name: str, parts: dict[str, Any]) -> Aggregation:
    return Aggregation(
        name=name,
        column=parts.get("column"),
        function=parts["function"],
        time_window=_to_delta(parts.get("length")),
        slide_interval=_to_delta(parts.get("hop")),
        offset=timedelta(microseconds=parts.get("offset", 0)),
        n=parts.get("n"),
        q=parts.get("q"),
        max_distinct=parts.get("max_distinct"),
    )


def _from_aggregation(aggregation: Aggregation) -> dict[str, Any]:
    window = aggregation.window
    parts = {
        "function": aggregation.function,
        "column": aggregation.column,
        "length": window.length,
        "hop": window.hop,
        "offset": window.offset or None,
        "n": aggregation.n,
        "q": aggregation.q,
        "max_distinct": aggregation.max_distinct,
    }
    return {name: part for name, part in parts.items() if part is not None}


def _to_delta(micros: int | None) -> timedelta | None:
    return None if micros is None else timedelta(microseconds=micros)


def _to_type(text: str) -> ValueType:
    kind, _, inner = text.rstrip(">").partition("<")
    item, _, length = inner.partition(",")
    return ValueType(kind, item=item, length=int(length or 0))


def main(arguments: Sequence[str]) -> int:
    """Check the golden files of a folder, or write their answers; return the exit code."""
    write = "--write" in arguments
    folders = [argument for argument in arguments if argument != "--write"]
    paths = sorted(path for folder in folders for path in Path(folder).glob("*.json"))
    if not paths:
        sys.stderr.write("usage: python -m featurestore.testing.golden FOLDER [--write]\n")
        return 2
    found = []
    for path in paths:
        if write:
            write_answers(path)
        else:
            found += differences(path)
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
