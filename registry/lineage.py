"""Lineage: which definitions stand on which."""

from __future__ import annotations

from featurestore.definitions.feature_view import FeatureView
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.definitions.project import Definition, Project
from featurestore.definitions.service import FeatureService
from featurestore.definitions.sources import FileStreamSource, PushSource, RequestSource
from featurestore.errors import FeatureNotFoundError

Key = tuple[str, str]
"""Kind and name, as in `Project.objects`."""


def upstream(project: Project, kind: str, name: str) -> list[Key]:
    """Return everything that an object stands on, directly or not, nearest first."""
    return _reach(project, (kind, name), _edges(project))


def downstream(project: Project, kind: str, name: str) -> list[Key]:
    """Return everything that stands on an object, directly or not, nearest first."""
    reverse: dict[Key, list[Key]] = {key: [] for key in project.objects}
    for key, needs in _edges(project).items():
        for need in needs:
            reverse[need].append(key)
    return _reach(project, (kind, name), reverse)


def _edges(project: Project) -> dict[Key, list[Key]]:
    return {key: [need for need in _needs(value) if need in project.objects] for key, value in project.objects.items()}


def _needs(definition: Definition) -> list[Key]:
    if isinstance(definition, FeatureView):
        source = definition.source
        entities = [("entity", entity.name) for entity in definition.entities]
        return entities + ([("source", source.name)] if source is not None else [])
    if isinstance(definition, OnDemandFeatureView):
        return [
            ("source", source.name) if isinstance(source, RequestSource) else ("feature_view", source.view)
            for source in definition.sources
        ]
    if isinstance(definition, FeatureService):
        return [("feature_view", projection.view) for projection in definition.projections]
    if isinstance(definition, (PushSource, FileStreamSource)) and definition.batch_source is not None:
        return [("source", definition.batch_source.name)]
    return []


def _reach(project: Project, start: Key, edges: dict[Key, list[Key]]) -> list[Key]:
    if start not in project.objects:
        kind, name = start
        raise FeatureNotFoundError.with_suggestion(kind.replace("_", " "), name, project.of_kind(kind))
    found: dict[Key, None] = {}
    pending = [start]
    for key in pending:
        for other in edges[key]:
            if other not in found:
                found[other] = None
                pending.append(other)
    return list(found)
