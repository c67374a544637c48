"""docker-compose.yml as Docker Compose reads it: merged, with variables filled in; and what its Dockerfile says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")


class UnsetVariableError(LookupError):
    """A variable that must be set is not."""


def services(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the services by name, ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}`` filled in."""
    found: dict[str, Any] = _fill(yaml.safe_load(FILE.read_text()), environment)["services"]
    return found


def variables() -> dict[str, bool]:
    """Return the variables that the file reads, and whether each must be set."""
    return {match[1]: match[2] == ":?" for match in _VARIABLE.finditer(FILE.read_text())}


def dockerfile(service: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile that a service is built from, as keyword and text, in order."""
    text = (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).read_text()
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def command(service: Mapping[str, Any]) -> list[str]:
    """Return the whole command line that a service runs."""
    if "build" not in service:
        return list(service["command"])
    [entry] = (text for keyword, text in dockerfile(service) if keyword == "ENTRYPOINT")
    return [*json.loads(entry), *service["command"]]


def health_check(service: Mapping[str, Any]) -> list[str]:
    """Return the command that tells whether a service is healthy: its own, or that of its image."""
    if "healthcheck" in service:
        kind, *words = service["healthcheck"]["test"]
        return words if kind == "CMD" else ["sh", "-c", *words]
    [check] = (text for keyword, text in dockerfile(service) if keyword == "HEALTHCHECK")
    words = json.loads(check.partition("CMD ")[2])
    return list(words)


def _fill(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def text(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if environment.get(name) or (operator is None and name in environment):
            return environment[name]
        if operator == ":-":
            return str(rest)
        raise UnsetVariableError(f"{name}: {rest or 'not set'}")

    return _VARIABLE.sub(text, value)
