"""Definitions as plain data for ``ls`` and ``describe``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from featurestore.clock import delta_micros, format_duration
from featurestore.definitions import (
    BatchSource,
    BigQuerySource,
    Definition,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    FileStreamSource,
    HiveSource,
    OnDemandFeatureView,
    Project,
    Projection,
    PushSource,
    RequestSource,
    Source,
    SqlSource,
)

# What a user types, and the kind under which a project keeps it.
KIND_NAMES = {
    "entities": "entity",
    "sources": "source",
    "views": "feature_view",
    "services": "feature_service",
}
_KINDS: dict[type, str] = {
    Entity: "entity",
    FileSource: "file source",
    SqlSource: "SQL source",
    HiveSource: "Hive source",
    BigQuerySource: "BigQuery source",
    PushSource: "push source",
    FileStreamSource: "file stream source",
    RequestSource: "request source",
    FeatureView: "feature view",
    OnDemandFeatureView: "on-demand view",
    FeatureService: "feature service",
}


def kind_of(definition: Definition) -> str:
    """Return the kind in words; a window view is a feature view too, and `summary` says so."""
    return _KINDS[type(definition)]


def summary(definition: Definition) -> str:
    """Return the one thing to know about a definition."""
    match definition:
        case Entity():
            return _typed(definition.keys)
        case FileSource() | SqlSource() | HiveSource() | BigQuerySource():
            return definition.location
        case FileStreamSource():
            return definition.path
        case PushSource():
            return f"history in {definition.batch_source.name}" if definition.batch_source else "no history"
        case RequestSource():
            return _typed(definition.schema)
        case FeatureView():
            sort = "window" if definition.is_window else "state"
            return f"{sort} view of {_count(definition.features)} by {_names(definition.join_keys) or 'nothing'}"
        case OnDemandFeatureView():
            return f"{_count(definition.features)} at request time"
        case _:
            features = sum(len(projection.features) for projection in definition.projections)
            return f"{_plural(features, 'feature')} of {_plural(len(definition.projections), 'view')}"


def describe_object(project: Project, definition: Definition) -> dict[str, Any]:
    """Return all there is to say about a definition, empty things included, as JSON-ready data."""
    match definition:
        case Entity():
            details: dict[str, Any] = {"join_keys": _fields(definition.keys)}
        case FeatureView():
            details = _describe_view(definition)
        case OnDemandFeatureView():
            details = _describe_on_demand(definition)
        case FeatureService():
            details = {"features": _references(definition.projections)}
        case _:
            details = _describe_source(definition)
    prose = {"description": definition.description, "owner": definition.owner, "tags": definition.tags}
    used = sorted(_users(project, definition))
    code = {"code": details.pop("code")} if "code" in details else {}
    return {"kind": kind_of(definition), "name": definition.name} | prose | details | {"used_by": used} | code


def _describe_view(view: FeatureView) -> dict[str, Any]:
    features = _fields(view.features)
    for feature, aggregation in zip(features, view.aggregations, strict=False):
        source = f"({aggregation.column})" if aggregation.column else "(rows)"
        feature["computed"] = f"{aggregation.function}{source} over {aggregation.window.describe()}"
    return {
        "entities": [entity.name for entity in view.entities],
        "join_keys": _fields(view.join_keys),
        "source": view.source.name if view.source else None,
        "ttl": format_duration(view.ttl_micros) if view.ttl_micros else None,
        "features": features,
        "input_columns": _fields(view.columns) if view.is_window else [],
        "transform": view.code.path if view.code else None,
        "online": view.online,
        "code": view.code.text if view.code else None,
    }


def _describe_on_demand(view: OnDemandFeatureView) -> dict[str, Any]:
    return {
        "features": _fields(view.features),
        "reads": _references(view.view_inputs),
        "request_fields": _fields(view.request_fields),
        "mode": view.mode,
        "function": view.code.path,
        "code": view.code.text,
    }


def _describe_source(source: Source | RequestSource) -> dict[str, Any]:
    if isinstance(source, RequestSource):
        return {"fields": _fields(source.schema)}
    details: dict[str, Any] = {}
    if isinstance(source, BatchSource):
        if isinstance(source, FileSource):
            details |= {"path": source.path, "file_format": source.file_format or None}
        else:
            details |= {"table": source.table or None, "query": source.query or None}
        details |= {
            "connection": source.connection or None,
            "created_timestamp_column": source.created_timestamp_column or None,
            "field_mapping": source.field_mapping,
        }
    else:
        details["batch_source"] = source.batch_source.name if source.batch_source else None
    if isinstance(source, FileStreamSource):
        details |= {"path": source.path, "arrival_field": source.arrival_field or None}
    details["timestamp_field"] = source.timestamp_field
    if isinstance(source, BatchSource | FileStreamSource) and source.availability_delay:
        details["availability_delay"] = format_duration(delta_micros(source.availability_delay))
    return details


def _users(project: Project, definition: Definition) -> Iterable[str]:
    """Yield the names of views and services that use a definition directly."""
    for view in project.feature_views.values():
        sources = [source for source in (view.batch_source, view.stream_source) if source is not None]
        used: list[Definition] = [*view.entities, *sources]
        if any(item == definition for item in used):
            yield view.name
    for on_demand in project.on_demand_views.values():
        reads = [projection.view for projection in on_demand.view_inputs]
        requests = [source for source in on_demand.sources if isinstance(source, RequestSource)]
        if (isinstance(definition, FeatureView) and definition.name in reads) or definition in requests:
            yield on_demand.name
    if isinstance(definition, FeatureView | OnDemandFeatureView):
        for service in project.services.values():
            if definition.name in [projection.view for projection in service.projections]:
                yield service.name


def _fields(fields: Iterable[Field]) -> list[dict[str, str]]:
    return [{"name": field.name, "type": str(field.dtype), "description": field.description} for field in fields]


def _references(projections: Iterable[Projection]) -> list[str]:
    return [f"{projection.view}:{feature}" for projection in projections for feature in projection.features]


def _typed(fields: Iterable[Field]) -> str:
    return ", ".join(f"{field.name} ({field.dtype})" for field in fields)


def _names(fields: Iterable[Field]) -> str:
    return ", ".join(field.name for field in fields)


def _count(features: tuple[Field, ...]) -> str:
    return _plural(len(features), "feature")


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
