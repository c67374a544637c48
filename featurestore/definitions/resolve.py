"""From what a caller asks for, feature references or a service, to views, features and the names of columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from featurestore.definitions.entity import Field
from featurestore.definitions.feature_view import FeatureView, Projection
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.definitions.project import Project
from featurestore.definitions.service import FeatureService
from featurestore.errors import DefinitionError, FeatureNotFoundError, suggest
from featurestore.semantics.on_demand import input_types
from featurestore.types import ValueType

FeatureRequest = Sequence[str] | str | FeatureService


class Column(NamedTuple):
    """One feature asked for, and the name of its column in the answer."""

    view: str
    feature: str
    name: str
    field: Field


class Request(NamedTuple):
    """What a caller asks for.

    Attributes
    ----------
    columns
        The features in the order they were asked for.
    views
        The stored views to read, also those that only on-demand views need.
    on_demand
        The on-demand views to run.
    inputs
        By on-demand view, the types of its inputs.
    times
        The columns that hold timestamps, with their types.
    join_keys
        The join keys a row must have, by name.
    request_fields
        The request fields a row must have, by name.
    """

    columns: tuple[Column, ...]
    views: tuple[FeatureView, ...]
    on_demand: tuple[OnDemandFeatureView, ...]
    inputs: dict[str, dict[str, ValueType]]
    times: dict[str, ValueType]
    join_keys: dict[str, Field]
    request_fields: dict[str, Field]


def resolve(project: Project, features: FeatureRequest, *, full_feature_names: bool = False) -> Request:
    """Resolve ``["view:feature", ...]``, a service or a service's name.

    Raises
    ------
    FeatureNotFoundError
        Where a view, feature or service does not exist; the nearest name is suggested.
    DefinitionError
        Where two features would have one column name; `full_feature_names` tells them apart.
    """
    wanted: dict[str, None] = {}
    columns = []
    for view_name, feature in _references(project, features):
        view = project.view(view_name)
        fields = {field.name: field for field in view.features}
        if feature not in fields:
            raise FeatureNotFoundError(f"view {view_name!r} has no feature {feature!r}{suggest(feature, fields)}")
        name = f"{view_name}__{feature}" if full_feature_names else feature
        columns.append(Column(view_name, feature, name, fields[feature]))
        wanted[view_name] = None
    names = [column.name for column in columns]
    for column in columns:
        if names.count(column.name) > 1:
            raise DefinitionError(
                f"more than one requested feature would be the column {column.name!r}; "
                "ask with full_feature_names=True, or for each feature once"
            )
    on_demand = tuple(view for view in map(project.view, wanted) if isinstance(view, OnDemandFeatureView))
    for derived in on_demand:
        wanted.update(dict.fromkeys(projection.view for projection in derived.view_inputs))
    views = tuple(view for view in map(project.view, wanted) if isinstance(view, FeatureView))
    keys = {key.name: key for view in views for key in view.join_keys}
    requested = {field.name: field for view in on_demand for field in view.request_fields}
    inputs = {view.name: input_types(view, views) for view in on_demand}
    types = {column.name: column.field.dtype for column in columns}
    times = {name: dtype for name, dtype in types.items() if "timestamp" in {dtype.kind, dtype.item}}
    return Request(tuple(columns), views, on_demand, inputs, times, keys, requested)


def _references(project: Project, features: FeatureRequest) -> list[tuple[str, str]]:
    if isinstance(features, str):
        features = project.service(features)
    if isinstance(features, FeatureService):
        return [(item.view, feature) for item in features.projections for feature in item.features]
    references: list[tuple[str, str]] = []
    for reference in features:
        if isinstance(reference, Projection):
            references.extend((reference.view, feature) for feature in reference.features)
            continue
        if not isinstance(reference, str) or reference.count(":") != 1:
            raise FeatureNotFoundError(f"{reference!r} is not a feature reference; write 'view:feature'")
        view, feature = reference.split(":")
        references.append((view, feature))
    if not references:
        raise FeatureNotFoundError("no features were asked for; name some as 'view:feature', or a feature service")
    return references
