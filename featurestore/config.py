"""The store's configuration: ``feature_store.yaml`` and the checked value it becomes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from featurestore.clock import format_duration
from featurestore.errors import ConfigError, suggest

CONFIG_FILE = "feature_store.yaml"
ONLINE_TYPES = ("lmdb", "memory", "redis")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+_]*://")
_REDIS_URL = re.compile(r"rediss?://|\$\{")
_VARIABLE = re.compile(r"(\$?)\$\{([^}]*)\}")
_DURATION = re.compile(r"(\d{1,15})\s*(us|ms|s|m|h|d)")
_UNITS = {"us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_LONGEST = 366 * _UNITS["d"]
# What the file may hold; a tuple lists a section's keys. Feast's keys without a meaning here are ignored.
_KEYS: dict[str, tuple[str, ...]] = {
    "project": (),
    "registry": ("path", "registry_type"),
    "offline_store": ("type", "path"),
    "online_store": ("type", "path", "url", "cluster", "key_prefix", "timeout", "ca", "cert", "key"),
    "connections": (),
    "max_clock_skew": (),
    "max_future_skew": (),
    "provider": (),
    "entity_key_serialization_version": (),
}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Where a store keeps its data and how far it trusts clocks.

    Attributes
    ----------
    project
        Name of the project, 1 to 128 letters, digits and underscores; every stored thing is kept under it.
    registry
        Path of the registry's SQLite file, or an SQLAlchemy URL.
    offline_path
        Folder of the offline store.
    online_type
        ``"lmdb"`` (files on this machine), ``"memory"`` (this process only; empty at every start) or ``"redis"`` (a
        Redis or Valkey server or cluster).
    online_path
        Folder of the online store of type ``"lmdb"``.
    online
        How to reach the store of type ``"redis"``: ``url``, ``cluster``, ``key_prefix``, ``timeout``, ``ca``, ``cert``,
        ``key``. Environment variables are filled in on use (`online_settings`), as in connections.
    max_clock_skew
        How far a reader's clock may be behind the data, in microseconds, at most 366 days.
    max_future_skew
        How far a row's event time may be ahead of its arrival, in microseconds, at most 366 days; past it
        the row is rejected.
    connections
        How batch sources reach what they read, by name: SQL databases, Hive, BigQuery, S3. Environment variables are
        filled in on use (`connection`), so that nobody needs the secrets of sources they do not read.
    repo_path
        Folder that relative paths start from: the one that holds ``feature_store.yaml``.

    Raises
    ------
    ConfigError
        Where a value is of the wrong type or out of bounds.
    """

    project: str
    registry: str = "data/registry.db"
    offline_path: str = "data/offline"
    online_type: str = "lmdb"
    online_path: str = "data/online"
    online: dict[str, Any] = {}
    max_clock_skew: int = 10 * _UNITS["m"]
    max_future_skew: int = _UNITS["d"]
    connections: dict[str, dict[str, Any]] = {}
    repo_path: Path = Path()

    def __post_init__(self) -> None:
        if not isinstance(self.project, str) or not _NAME.fullmatch(self.project):
            raise ConfigError(
                f"project: {self.project!r} is not a project name; use 1 to 128 letters, digits and "
                "underscores, not starting with a digit, for example project: rides"
            )
        for key, value in (
            ("registry", self.registry),
            ("offline_store.path", self.offline_path),
            ("online_store.path", self.online_path),
        ):
            if not isinstance(value, str) or not value:
                raise ConfigError(f"{key}: {value!r} is not a path; write, for example, {key}: data/here")
        if self.online_type not in ONLINE_TYPES:
            raise ConfigError(f"online_store.type: {self.online_type!r} is not supported; use {_either(ONLINE_TYPES)}")
        for key, micros in (
            ("max_clock_skew", self.max_clock_skew),
            ("max_future_skew", self.max_future_skew),
        ):
            if isinstance(micros, bool) or not isinstance(micros, int) or not 0 <= micros <= _LONGEST:
                shown = format_duration(micros) if isinstance(micros, int) and micros > 0 else repr(micros)
                raise ConfigError(f"{key}: {shown} is out of bounds; it is a duration from 0s to 366d")
        for name, settings in self.connections.items():
            if not isinstance(settings, dict):
                raise ConfigError(f"connections.{name}: write its settings indented below it, for example url: ...")
        if not isinstance(self.repo_path, Path):
            force_setattr(self, "repo_path", Path(self.repo_path))

    def resolve(self, path: str | Path) -> Path:
        """Return ``path`` as an absolute path; a relative one starts at `repo_path`."""
        return (self.repo_path / Path(path).expanduser()).absolute()

    def connection(self, name: str) -> dict[str, Any]:
        """Return a connection's settings with environment variables filled in; the name "" has none.

        Raises
        ------
        ConfigError
            Where there is no such connection, or a variable is not set.
        """
        if not name:
            return {}
        if name not in self.connections:
            raise ConfigError(
                f"no connection {name!r} in {CONFIG_FILE}{suggest(name, self.connections)}; add it under connections:"
            )
        settings: dict[str, Any] = _expand(self.connections[name], f"connections.{name}")
        return settings

    def online_settings(self) -> dict[str, Any]:
        """Return `online` with environment variables filled in.

        Raises
        ------
        ConfigError
            Where a variable is not set.
        """
        settings: dict[str, Any] = _expand(self.online, "online_store")
        return settings

    @property
    def registry_location(self) -> str:
        """The registry as an SQLAlchemy URL, as written, or as the absolute path of its SQLite file."""
        return self.registry if _URL.match(self.registry) else str(self.resolve(self.registry))


def load_config(repo_path: str | Path = ".") -> Config:
    """Read and check ``feature_store.yaml``.

    ``${NAME}`` in a value stands for an environment variable; ``$${NAME}`` is the text ``${NAME}``.

    Parameters
    ----------
    repo_path
        The folder that holds the file.

    Raises
    ------
    ConfigError
        Where the file is missing or not YAML, a key is unknown, a value is wrong or a variable is not set.
    """
    folder = Path(repo_path).expanduser().absolute()
    path = folder / CONFIG_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(
            f"no {CONFIG_FILE} in {folder}; go to the folder that holds it, name it with -C, "
            "or make a new project with: featurestore init"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    document = _parse_yaml(path, text)
    try:
        late = {key: document.pop(key, None) for key in ("connections", "online_store")}
        return _build(_expand(document, "") | late, folder)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_duration(key: str, value: object) -> int:
    """Return a duration such as ``90s``, ``10m``, ``6h`` or ``1d`` in microseconds."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ConfigError(f"{key}: {value!r} is not a duration; write a whole number and a unit: 90s, 10m, 6h or 1d")
    return int(match[1]) * _UNITS[match[2]]


def _parse_yaml(path: Path, text: str) -> dict[str, Any]:
    import yaml

    try:
        _refuse_repeated_keys(path, yaml.compose(text, Loader=yaml.SafeLoader))
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{where}: not valid YAML: {problem}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected lines of 'key: value'; the least is: project: my_project")
    return document


def _refuse_repeated_keys(path: Path, node: Any) -> None:
    """Refuse a key that stands twice in one mapping: YAML readers silently keep the last."""
    if not isinstance(getattr(node, "value", None), list):
        return
    seen: set[str] = set()
    for item in node.value:
        if not isinstance(item, tuple):
            continue
        key, value = item
        if str(key.value) in seen:
            line = key.start_mark.line + 1
            raise ConfigError(f"{path}, line {line}: the key {key.value!r} is there twice; keep one")
        seen.add(str(key.value))
        _refuse_repeated_keys(path, value)


def _expand(value: Any, key: str) -> Any:
    """Return ``value`` with environment variables filled in, at any depth."""
    if isinstance(value, dict):
        return {name: _expand(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        if escaped:
            return "${" + name + "}"
        if name not in os.environ:
            raise ConfigError(f"{key}: the environment variable {name!r} is not set; set it, or write the value itself")
        return os.environ[name]

    return _VARIABLE.sub(fill, value)


def _build(document: Mapping[str, Any], folder: Path) -> Config:
    _refuse_unknown("", document, _KEYS)
    if "project" not in document:
        raise ConfigError("the key 'project' is missing; add, for example, project: rides")
    values: dict[str, Any] = {"project": document["project"], "repo_path": folder}
    registry = document.get("registry")
    if isinstance(registry, dict):
        registry = _section("registry", registry).get("path")
    if registry is not None:
        values["registry"] = registry
    offline = _section("offline_store", document.get("offline_store"))
    if offline.get("type", "delta") != "delta":
        raise ConfigError(f"offline_store.type: {offline['type']!r} is not supported; use 'delta', or leave it out")
    if "path" in offline:
        values["offline_path"] = offline["path"]
    values |= _online(document.get("online_store"))
    connections = document.get("connections")
    if connections is not None:
        if not isinstance(connections, dict):
            raise ConfigError("connections: write one section for each, for example warehouse: with url: below it")
        values["connections"] = {str(name): settings for name, settings in connections.items()}
    for key in ("max_clock_skew", "max_future_skew"):
        if key in document:
            values[key] = parse_duration(key, document[key])
    return Config(**values)


def _online(value: object) -> dict[str, Any]:
    """Return what the section ``online_store`` gives; a URL alone stands for a section of type ``redis``."""
    if isinstance(value, str) and _REDIS_URL.match(value):
        value = {"type": "redis", "url": value}
    section = _section("online_store", value)
    if section.get("type") == "redis":
        if "path" in section:
            raise ConfigError(
                "online_store.path: a store of type 'redis' has no path; it has, for example, url: redis://localhost:6379"
            )
        return {"online_type": "redis", "online": {key: section[key] for key in section if key != "type"}}
    section = _expand(section, "online_store")
    for key in section:
        if key not in {"type", "path"}:
            raise ConfigError(f"online_store.{key}: only for type: redis")
    return {f"online_{key}": item for key, item in section.items()}


def _section(name: str, value: object) -> dict[str, Any]:
    """Return a section's keys and values, checked to be ones it may have; an empty section has none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(
            f"{name}: {value!r} is not a section; write its keys indented below it, for example path: ..."
        )
    _refuse_unknown(f"{name}.", value, _KEYS[name])
    return value


def _refuse_unknown(prefix: str, keys: Mapping[Any, object], known: Mapping[str, object] | tuple[str, ...]) -> None:
    for key in keys:
        if key not in known:
            raise ConfigError(f"unknown key '{prefix}{key}'{suggest(str(key), known)}")


def _either(options: tuple[str, ...]) -> str:
    *some, last = map(repr, options)
    return f"{', '.join(some)} or {last}"
