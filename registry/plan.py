"""What an apply would change, in words: which definitions, which attributes, and what that means for stored data."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from itertools import chain
from typing import Any

from featurestore.definitions.feature_view import FeatureView
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.definitions.project import Definition, Project, encode
from featurestore.registry.attributes import attributes, orders
from featurestore.registry.checks import check_on_demand
from featurestore.registry.effects import effect_of_adding, effect_of_changing, effect_of_removing
from featurestore.semantics.on_demand import input_types

_SIGNS = {"added": "+", "changed": "~", "removed": "-"}
_KIND_ORDER = ("entity", "source", "feature_view", "feature_service")


@dataclass(frozen=True, slots=True)
class Difference:
    """One attribute that changes; `old` is None where it is new, `new` where it goes away."""

    attribute: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One definition that an apply would add, change or remove.

    Attributes
    ----------
    action
        ``"added"``, ``"changed"`` or ``"removed"``.
    kind, name
        The object, as in `Project.objects`.
    effect
        What it means for stored data, in a sentence.
    differences
        The attributes, old and new.
    windows
        For window views: each feature's window and the span it truly covers.
    spec
        The new definition as JSON; empty for a removed one.
    """

    action: str
    kind: str
    name: str
    effect: str
    differences: tuple[Difference, ...]
    windows: tuple[str, ...] = ()
    spec: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the change as plain data."""
        return {
            "action": self.action,
            "kind": self.kind,
            "name": self.name,
            "effect": self.effect,
            "differences": [{"attribute": d.attribute, "old": d.old, "new": d.new} for d in self.differences],
            "windows": list(self.windows),
        }

    def to_text(self) -> str:
        """Return the change as indented lines."""
        lines = [f"  {_SIGNS[self.action]} {self.kind} {self.name}"]
        lines += chain.from_iterable(_render(difference, self.action) for difference in self.differences)
        spans = dict.fromkeys(window.split("  ", 1)[1] for window in self.windows)
        if spans:
            lines.append(f"      windows span {'; '.join(spans)}")
        if self.kind == "feature_view" or self.action == "changed":
            lines.append(f"      => {self.effect}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an apply would change, and the revision it was compared with.

    Attributes
    ----------
    project
        Name of the project.
    base_revision
        The registry's revision when the plan was made; applying it later is refused if that has moved.
    changes
        Entities first, then sources, views and services, each by name.
    """

    project: str
    base_revision: int
    changes: tuple[Change, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the definitions are already the applied ones."""
        return not self.changes

    def count(self, action: str) -> int:
        """Return how many definitions are ``"added"``, ``"changed"`` or ``"removed"``."""
        return sum(change.action == action for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, for ``--json``."""
        return {
            "project": self.project,
            "base_revision": self.base_revision,
            "is_empty": self.is_empty,
            "changes": [change.to_dict() for change in self.changes],
        }

    def to_text(self) -> str:
        """Return the plan as plain text: ``+`` added, ``~`` changed, ``-`` removed."""
        head = f"Project {self.project!r}, revision {self.base_revision}: "
        if self.is_empty:
            return head + "nothing to change, the definitions are already applied"
        counts = (f"{self.count(action)} {word}" for action, word in _WORDS)
        return "\n\n".join([head + ", ".join(counts), *(change.to_text() for change in self.changes)])


_WORDS = (("added", "to add"), ("changed", "to change"), ("removed", "to remove"))


def make_plan(name: str, revision: int, applied: Project, wanted: Project) -> Plan:
    """Compare two sets of definitions.

    Raises
    ------
    DefinitionError
        Where an on-demand view that is new or changed fails its check on sample rows.
    """
    changes = []
    for key in sorted({*applied.objects, *wanted.objects}, key=lambda key: (_KIND_ORDER.index(key[0]), key[1])):
        old, new = applied.objects.get(key), wanted.objects.get(key)
        if old is None or new is None or encode(old) != encode(new):
            changes.append(_change(key, old, new, applied, wanted))
    return Plan(name, revision, tuple(changes))


def _change(
    key: tuple[str, str], old: Definition | None, new: Definition | None, applied: Project, wanted: Project
) -> Change:
    kind, name = key
    if new is None:
        effect = effect_of_removing(old)
        return Change("removed", kind, name, effect, _one_sided(old, removed=True))
    if isinstance(new, OnDemandFeatureView) and new.code.function is not None:
        check_on_demand(new, input_types(new, wanted.feature_views.values()))
    windows, spec = _windows(new), encode(new).decode()
    if old is None:
        effect = effect_of_adding(new, applied)
        return Change("added", kind, name, effect, _one_sided(new, removed=False), windows, spec)
    effect = effect_of_changing(old, new, applied)
    return Change("changed", kind, name, effect, differences(old, new), windows, spec)


def differences(old: Definition, new: Definition) -> tuple[Difference, ...]:
    """Return the attributes in which two definitions of the same name differ."""
    before, after = attributes(old), attributes(new)
    if type(old) is not type(new):
        before["type"], after["type"] = type(old).__name__, type(new).__name__
    names = [*before, *(name for name in after if name not in before)]
    found = [
        Difference(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    ]
    old_orders, new_orders = orders(old), orders(new)
    for name, order in old_orders.items():
        other = new_orders.get(name, "")
        if order != other and sorted(order.split(", ")) == sorted(other.split(", ")):
            found.append(Difference(f"{name} order", order, other))
    return tuple(found)


def _one_sided(definition: Any, *, removed: bool) -> tuple[Difference, ...]:
    return tuple(
        Difference(name, text, None) if removed else Difference(name, None, text)
        for name, text in attributes(definition, nested=False).items()
    )


def _windows(definition: Definition) -> tuple[str, ...]:
    if not isinstance(definition, FeatureView):
        return ()
    return tuple(f"{a.name}  {a.window.describe()}" for a in definition.aggregations)


def _render(difference: Difference, action: str) -> list[str]:
    name, old, new = difference.attribute, difference.old, difference.new
    if action != "changed":
        return [f"      {name}: {new if old is None else old}"]
    if "\n" in (old or "") + (new or ""):
        lines = difflib.unified_diff((old or "").splitlines(), (new or "").splitlines(), lineterm="", n=2)
        body = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
        return [f"      ~ {name}:", *(f"          {line}".rstrip() for line in body)]
    if old is None:
        return [f"      + {name}: {new}"]
    return [f"      - {name}: {old}"] if new is None else [f"      ~ {name}: {old} -> {new}"]
