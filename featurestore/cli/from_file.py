"""A project for a user's own data file: definitions, entity file, README and the commands to run next."""

from __future__ import annotations

import base64
import builtins
import csv
import io
import os
import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from featurestore.cli.codegen import Group, call, identifier, import_from, keyword_list, quote, render, unique
from featurestore.cli.infer import DataFile
from featurestore.definitions.naming import RESERVED_COLUMNS
from featurestore.materialize.readers import SourceColumn
from featurestore.types import ValueType

ENTITY_FILE = "entities.csv"
_FACADE = ("Aggregation", "Entity", "FeatureService", "FeatureView", "Field", "FileSource")
_TYPE_NAMES = {
    "bool": "Bool",
    "int32": "Int32",
    "int64": "Int64",
    "float32": "Float32",
    "float64": "Float64",
    "string": "String",
    "bytes": "Bytes",
    "timestamp": "UnixTimestamp",
}
_SPANS = ((60, "days=7", "days=30"), (7, "days=1", "days=7"), (1, "hours=1", "days=1"), (0, "minutes=5", "hours=1"))


class FileProject:
    """The names and texts of a project about one data file.

    Parameters
    ----------
    data
        What was found in the file.
    folder
        Where the project goes; the file's path is written relative to it.
    """

    def __init__(self, data: DataFile, folder: Path) -> None:
        self.data = data
        self.path = _relative(data.path, folder)
        self.base = identifier(data.path.name.split(".")[0].strip("*?[]"), "data")
        taken = {*_FACADE, *_TYPE_NAMES.values(), "Array", "Vector", "timedelta", "columns", *dir(builtins)}
        self.source = f"{self.base}_source"
        self.latest = f"{self.base}_latest"
        self.recent = f"{self.base}_recent"
        self.service = f"{self.base}_features"
        taken |= {self.source, self.latest, self.recent, self.service}
        self.entity = unique(_entity_name(data.keys), taken, "_entity")
        self.names = _column_names(data)

    @property
    def features(self) -> list[SourceColumn]:
        """The columns that are neither key nor time and have a feature type."""
        return [column for column in self._others if column.dtype is not None]

    @property
    def _others(self) -> list[SourceColumn]:
        special = {*self.data.keys, self.data.time, self.data.created}
        return [column for column in self.data.columns if column.name not in special]

    @property
    def number(self) -> SourceColumn | None:
        """The column that the sample windows aggregate: the first float, else the first integer."""
        numbers = [column for column in self.features if column.dtype is not None and column.dtype.is_number]
        floats = [column for column in numbers if column.dtype is not None and column.dtype.is_float]
        return next(iter(floats or numbers), None)

    @property
    def has_windows(self) -> bool:
        """Whether there is something to aggregate, or nothing else to define."""
        return self.number is not None or not self.features

    def definitions(self) -> str:
        """Return the text of ``features.py``."""
        statements = [
            *self._imports(),
            "",
            "# Where rows come from, and which column says when each of them happened.",
            render(self._source(), f"{self.source} = "),
            "",
            "# What the features describe.",
            render(self._entity(), f"{self.entity} = "),
        ]
        if self.features:
            statements += [
                "",
                "# The columns to keep. Views that name the same columns share what is stored.",
                render(Group("[", self._columns(), "]", open=True), "columns = "),
                "",
                "# A state view: of each key, the newest row at the moment asked for.",
                "# With ttl=timedelta(days=30) it would forget rows that are older than that.",
                render(self._view(self.latest), f"{self.latest} = "),
            ]
        if self.has_windows:
            statements += [
                "",
                "# A window view: aggregates over the rows of each key until the moment asked for.",
                render(self._window_view(), f"{self.recent} = "),
            ]
        views = [*([self.latest] if self.features else []), *([self.recent] if self.has_windows else [])]
        service = call("FeatureService", f"name={quote(self.service)}", keyword_list("features", views), spread=True)
        statements += ["", "# What one model uses.", render(service, f"{self.service} = ")]
        return "\n".join(statements) + "\n"

    def _imports(self) -> list[str]:
        names = [name for name in _FACADE if self.has_windows or name != "Aggregation"]
        used = [self.data.column(key).dtype for key in self.data.keys] + [column.dtype for column in self.features]
        types = sorted({name for dtype in used if dtype is not None for name in _type_imports(dtype)})
        return [
            f'"""Features of {_comment(self.data.path.name)}, begun by featurestore init; change them as you like."""',
            "",
            *(["from datetime import timedelta", ""] if self.has_windows else []),
            render(import_from("featurestore", names)),
            render(import_from("featurestore.types", types)),
        ]

    def _source(self) -> Group:
        items: list[str | Group] = [
            f"name={quote(self.source)}",
            f"path={quote(self.path)}",
            f"timestamp_field={quote(self.data.time)}",
        ]
        if self.data.created:
            items.append(f"created_timestamp_column={quote(self.data.created)}")
        renamed = {old: new for old, new in self.names.items() if old != new}
        if renamed:
            pairs = tuple(f"{quote(old)}: {quote(new)}" for old, new in renamed.items())
            items.append(Group("field_mapping={", pairs, "}", open=True))
        return call("FileSource", *items, spread=True)

    def _entity(self) -> Group:
        keys = [self._field(self.data.column(key)) for key in self.data.keys]
        return call("Entity", f"name={quote(self.entity)}", keyword_list("join_keys", keys), spread=True)

    def _columns(self) -> list[str | Group]:
        listed: list[str | Group] = []
        for column in self._others:
            if column.dtype is None:
                listed.append(f"# Left out: {_comment(column.name)} is {_comment(column.stored)}, {_reason(column)}")
            else:
                listed.append(self._field(column))
        return listed

    def _window_view(self) -> Group:
        short, long = self._spans()
        aggregations: list[str | Group] = [
            call("Aggregation", 'function="count"', f"time_window=timedelta({long})"),
        ]
        if self.number is not None:
            name = quote(self.names[self.number.name])
            for function, span in (("mean", short), ("mean", long), ("max", long)):
                aggregations.append(call("Aggregation", name, quote(function), f"timedelta({span})"))
        return self._view(self.recent, keyword_list("aggregations", aggregations, spread=True))

    def _view(self, name: str, *items: Group) -> Group:
        schema = ["schema=columns"] if self.features else []
        return call(
            "FeatureView",
            f"name={quote(name)}",
            f"entities=[{self.entity}]",
            *schema,
            f"source={self.source}",
            *items,
            spread=True,
        )

    def _field(self, column: SourceColumn) -> Group:
        assert column.dtype is not None  # noqa: S101  (callers pass columns that have a feature type)
        return call("Field", quote(self.names[column.name]), _type(column.dtype))

    def _spans(self) -> tuple[str, str]:
        """Return a short and a long window that fit the time the data covers."""
        if self.data.first is None or self.data.last is None:
            return "days=1", "days=7"
        days = (self.data.last - self.data.first) / timedelta(days=1)
        return next((short, long) for least, short, long in _SPANS if days >= least)

    def entity_file(self) -> str:
        """Return some keys and times of the data as CSV, to build a first training set for."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*(self.names[key] for key in self.data.keys), "event_timestamp"])
        writer.writerows([_text(value) for value in row] for row in self.data.sample)
        return text.getvalue()

    def commands(self) -> list[str]:
        """Return the commands to run next, in order, for the project's folder."""
        start, end = _days(self.data.first, self.data.last)
        lookup = ["featurestore", "lookup", "--service", self.service]
        for key, value in zip(self.data.keys, self.data.sample[0] if self.data.sample else (), strict=False):
            lookup += ["--entity", f"{self.names[key]}={_text(value)}"]
        return [
            "featurestore apply",
            f"featurestore materialize {start} {end}",
            shlex.join([*lookup, "--at", end]),
            f"featurestore historical --entities {ENTITY_FILE} --service {self.service} --out training.parquet",
            "featurestore verify",
        ]

    def readme(self, project: str) -> str:
        """Return the text of ``README.md``."""
        commands = "\n".join(self.commands())
        return (
            f"# {project}\n\nFeatures of `{self.path}`, defined in `features.py`.\n\n```sh\n{commands}\n```\n\n"
            f"`{ENTITY_FILE}` holds some keys and times of the data; put your own training examples in its place.\n"
            "After a change of `features.py`, `featurestore plan` says what it means for stored data. If something\n"
            "does not work, `featurestore doctor` says what and why.\n"
        )


def _entity_name(keys: Iterable[str]) -> str:
    names = [identifier(key, "key") for key in keys]
    return identifier("_".join(name.removesuffix("_id") or name for name in names), "entity")


def _column_names(data: DataFile) -> dict[str, str]:
    """Return the name used in definitions for each key and feature column of the file."""
    names: dict[str, str] = {}
    for position, column in enumerate(data.columns, start=1):
        if column.dtype is None or column.name in {data.time, data.created}:
            continue
        name = column.name
        if not name.isidentifier() or len(name) > 128:
            name = identifier(name, f"column_{position}")
        elif name in RESERVED_COLUMNS:
            name = f"{name.strip('_')}_value"
        kept = {other.name for other in data.columns if other.name != column.name}
        names[column.name] = name if name == column.name else unique(name, kept | set(names.values()))
    return names


def _type(dtype: ValueType) -> str:
    if dtype.kind == "array":
        return f"Array({_TYPE_NAMES[dtype.item]})"
    if dtype.kind == "vector":
        return f"Vector({dtype.length}, {_TYPE_NAMES[dtype.item]})"
    return _TYPE_NAMES[dtype.kind]


def _type_imports(dtype: ValueType) -> list[str]:
    if dtype.is_list:
        return [dtype.kind.capitalize(), _TYPE_NAMES[dtype.item]]
    return [_TYPE_NAMES[dtype.kind]]


def _reason(column: SourceColumn) -> str:
    if column.stored.startswith("decimal"):
        return "which no feature type holds exactly; store it as float64 or int64"
    if column.stored == "null":
        return "it holds no values"
    return "which no feature type holds"


def _comment(text: str) -> str:
    """Return ``text`` so that it cannot end the comment or docstring that it stands in."""
    return "".join(character if character.isprintable() and character not in '"\\' else "?" for character in text)


def _relative(path: Path, folder: Path) -> str:
    """Return the path as seen from the project's folder, absolute where it is far from it."""
    relative = Path(os.path.relpath(path.absolute(), folder.absolute()))
    return (path.absolute() if relative.parts[:3] == ("..", "..", "..") else relative).as_posix()


def _days(first: datetime | None, last: datetime | None) -> tuple[str, str]:
    """Return the days that enclose the data: the first, and the one after the last."""
    start = first or datetime(2024, 1, 1, tzinfo=UTC)
    end = (last or start) + timedelta(days=1)
    return start.date().isoformat(), end.date().isoformat()


def _text(value: Any) -> str:
    """Return a key or time as the command line and entity files spell it."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value).lower() if isinstance(value, bool) else str(value)


def project_files(project: FileProject, name: str, yaml: str) -> Mapping[str, str]:
    """Return the files of the project: path to text."""
    return {
        "feature_store.yaml": yaml,
        "features.py": project.definitions(),
        ENTITY_FILE: project.entity_file(),
        "README.md": project.readme(name),
    }
