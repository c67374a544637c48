"""``GET /features``: what can be asked for, by which keys, and how fresh it is."""

from __future__ import annotations

from typing import Any

from featurestore.definitions import FeatureService, FeatureView, Project
from featurestore.definitions.resolve import resolve
from featurestore.errors import DefinitionError
from featurestore.serving.generation import Generation
from featurestore.serving.health import Health


def listing(generation: Generation, health: Health, freshness: dict[str, float]) -> dict[str, Any]:
    """Return services and views with their features, types, join keys and state, as JSON values.

    Parameters
    ----------
    freshness
        By view, seconds since the newest row of its log arrived.
    """
    project = generation.store.project
    return {
        "project": generation.store.config.project,
        "revision": generation.revision,
        "services": [_service(project, service) for _, service in sorted(project.services.items())],
        "views": [
            _view(view, health, freshness) if isinstance(view, FeatureView) else _on_demand(project, view)
            for _, view in sorted(project.views_of_any_kind.items())
        ],
    }


def _service(project: Project, service: FeatureService) -> dict[str, Any]:
    full_names = False
    try:
        request = resolve(project, service)
    except DefinitionError:  # two features of one name
        full_names = True
        request = resolve(project, service, full_feature_names=True)
    return {
        "name": service.name,
        "description": service.description,
        "features": [
            {"name": column.name, "view": column.view, "feature": column.feature, "type": str(column.field.dtype)}
            for column in request.columns
        ],
        "join_keys": {name: str(field.dtype) for name, field in request.join_keys.items()},
        "request_fields": {name: str(field.dtype) for name, field in request.request_fields.items()},
        "full_feature_names": full_names,
    }


def _view(view: FeatureView, health: Health, freshness: dict[str, float]) -> dict[str, Any]:
    known = health.views.get(view.name)
    ttl = view.ttl_micros
    return {
        "name": view.name,
        "kind": "window" if view.is_window else "state",
        "description": view.description,
        "features": [
            {"name": field.name, "type": str(field.dtype), "description": field.description} for field in view.features
        ],
        "join_keys": {key.name: str(key.dtype) for key in view.join_keys},
        "request_fields": {},
        "ttl_seconds": None if ttl is None else ttl / 1e6,
        "online": view.online,
        "state": "offline" if not view.online else "unknown" if known is None else known.state,
        "freshness_seconds": freshness.get(view.name),
    }


def _on_demand(project: Project, view: Any) -> dict[str, Any]:
    request = resolve(project, [f"{view.name}:{field.name}" for field in view.features])
    return {
        "name": view.name,
        "kind": "on_demand",
        "description": view.description,
        "features": [
            {"name": field.name, "type": str(field.dtype), "description": field.description} for field in view.features
        ],
        "join_keys": {name: str(field.dtype) for name, field in request.join_keys.items()},
        "request_fields": {name: str(field.dtype) for name, field in request.request_fields.items()},
        "ttl_seconds": None,
        "online": True,
        "state": "on_demand",
        "freshness_seconds": None,
    }
