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

FeatureRequest = Sequence[str | Projection | FeatureView | OnDemandFeatureView] | str | FeatureService


class Column(NamedTuple):
    """One feature asked for, and the name of its column in the answer."""

    view: str
    feature: str
    name: str
    field: Field


class Read(NamedTuple):
    """One use of a stored view.

    Attributes
    ----------
    name
        What the view is called in this use.
    keys
        For each join key of the view, in order, the column that holds it, with its type.
    """

    name: str
    view: FeatureView
    keys: tuple[Field, ...]


class Request(NamedTuple):
    """What a caller asks for.

    Attributes
    ----------
    columns
        The features in the order they were asked for.
    reads
        The stored views to read, also those that only on-demand views need; one view once for each name it is used by.
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
    reads: tuple[Read, ...]
    on_demand: tuple[OnDemandFeatureView, ...]
    inputs: dict[str, dict[str, ValueType]]
    times: dict[str, ValueType]
    join_keys: dict[str, Field]
    request_fields: dict[str, Field]

    @property
    def views(self) -> tuple[FeatureView, ...]:
        """The stored views to read, each once."""
        return tuple({read.view.name: read.view for read in self.reads}.values())


def resolve(project: Project, features: FeatureRequest, *, full_feature_names: bool = False) -> Request:
    """Resolve ``["view:feature", ...]``, in which a view stands for all its features, a service or a service's name.

    Raises
    ------
    FeatureNotFoundError
        Where a view, feature or service does not exist; the nearest name is suggested.
    DefinitionError
        Where two features would have one column name; `full_feature_names` tells them apart.
    """
    wanted: dict[str, Projection] = {}
    columns = []
    for projection in _projections(project, features):
        label = projection.label
        known = wanted.setdefault(label, projection)
        if (known.view, known.join_key_map) != (projection.view, projection.join_key_map):
            raise DefinitionError(f"{label!r} is asked for in two ways; tell them apart by with_name")
        fields = {field.name: field for field in project.view(projection.view).features}
        for feature in projection.features:
            if feature not in fields:
                raise FeatureNotFoundError(
                    f"view {projection.view!r} has no feature {feature!r}{suggest(feature, fields)}"
                )
            name = f"{label}__{feature}" if full_feature_names else feature
            columns.append(Column(label, feature, name, fields[feature]))
    names = [column.name for column in columns]
    for column in columns:
        if names.count(column.name) > 1:
            raise DefinitionError(
                f"more than one requested feature would be the column {column.name!r}; "
                "ask with full_feature_names=True, or for each feature once"
            )
    stored = {label: use for label, use in wanted.items() if not _derived(project, use)}
    on_demand = tuple(_on_demand(project, use) for label, use in wanted.items() if label not in stored)
    for derived in on_demand:
        for projection in derived.view_inputs:
            if stored.setdefault(projection.view, projection).join_key_map:
                raise DefinitionError(
                    f"on-demand view {derived.name!r} reads view {projection.view!r} by its own join keys; "
                    "give the mapped use a name of its own: with_name"
                )
    reads = tuple(_read(project, label, use) for label, use in stored.items())
    views = tuple(read.view for read in reads)
    keys = _join_keys(reads)
    requested = {field.name: field for view in on_demand for field in view.request_fields}
    inputs = {view.name: input_types(view, views) for view in on_demand}
    types = {column.name: column.field.dtype for column in columns}
    times = {name: dtype for name, dtype in types.items() if "timestamp" in {dtype.kind, dtype.item}}
    return Request(tuple(columns), reads, on_demand, inputs, times, keys, requested)


def as_projection(used: Projection | FeatureView | OnDemandFeatureView) -> Projection:
    """Return a use of a view; a view by itself stands for all its features."""
    if isinstance(used, Projection):
        return used
    return Projection(used.name, tuple(field.name for field in used.features))


def _derived(project: Project, projection: Projection) -> bool:
    return isinstance(project.view(projection.view), OnDemandFeatureView)


def _on_demand(project: Project, projection: Projection) -> OnDemandFeatureView:
    view = project.view(projection.view)
    assert isinstance(view, OnDemandFeatureView)  # noqa: S101  (the caller looked)
    if projection.name or projection.join_key_map:
        raise DefinitionError(f"on-demand view {view.name!r} has one name and no join keys of its own")
    return view


def _read(project: Project, label: str, projection: Projection) -> Read:
    view, mapping = project.feature_view(projection.view), projection.join_key_map
    known = [key.name for key in view.join_keys]
    for key in mapping:
        if key not in known:
            raise DefinitionError(f"with_join_key_map: view {view.name!r} has no join key {key!r}{suggest(key, known)}")
    return Read(label, view, tuple(Field(mapping.get(key.name, key.name), key.dtype) for key in view.join_keys))


def _join_keys(reads: Sequence[Read]) -> dict[str, Field]:
    """Return the columns that hold join keys, by name; two views must agree on the type of one that they share."""
    keys: dict[str, Field] = {}
    for read in reads:
        for key in read.keys:
            known = keys.setdefault(key.name, key)
            if known.dtype != key.dtype:
                raise DefinitionError(
                    f"the column {key.name!r} is wanted as {known.dtype}, and for view {read.name!r} as {key.dtype}; "
                    "take one of them from another column by with_join_key_map"
                )
    return keys


def _projections(project: Project, features: FeatureRequest) -> list[Projection]:
    if isinstance(features, str):
        features = project.service(features)
    if isinstance(features, FeatureService):
        return list(features.projections)
    projections: list[Projection] = []
    for reference in features:
        if isinstance(reference, (Projection, FeatureView, OnDemandFeatureView)):
            projections.append(as_projection(reference))
            continue
        if not isinstance(reference, str) or reference.count(":") != 1:
            raise FeatureNotFoundError(
                f"{reference!r:.100} is not a feature reference; write 'view:feature', or give a view"
            )
        view, feature = reference.split(":")
        projections.append(Projection(view, (feature,)))
    if not projections:
        raise FeatureNotFoundError("no features were asked for; name some as 'view:feature', or a feature service")
    return projections
