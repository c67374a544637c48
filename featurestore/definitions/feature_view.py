"""Feature views: features of one entity that come from one source and are computed in one way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

import msgspec
from msgspec.structs import force_setattr, replace

from featurestore.clock import delta_micros
from featurestore.definitions.aggregation import Aggregation
from featurestore.definitions.code import UserCode
from featurestore.definitions.entity import Entity, Field
from featurestore.definitions.naming import (
    check_case,
    check_column,
    check_list,
    check_name,
    check_tags,
    check_text,
    check_unique,
    duration,
)
from featurestore.definitions.sources import BatchSource, FileStreamSource, PushSource, Source, StreamSource
from featurestore.errors import DefinitionError, suggest
from featurestore.semantics.windows import DAY


class FeatureView(msgspec.Struct, frozen=True, tag="feature_view"):
    """Features of an entity: the newest row (a state view), or aggregates over windows of rows.

    Parameters
    ----------
    entities
        The entities whose join keys, in order, identify a row; none for features of the whole world.
    schema
        The input columns and their types. Of a state view they are the features.
    source
        A batch source, or a stream source; one with a ``batch_source`` makes a batch-and-stream (lambda) view.
    ttl
        For state views: how old the newest row may be; ``None`` means any age.
    aggregations
        The window aggregates; with them the view is a window view and they are its features.
    transform
        ``f(record) -> row or None``: maps one record (a dict of the source's columns) to one row with the join keys
        and the schema's columns, or to none. It must be a pure function of the record.
    """

    name: str
    entities: Sequence[Entity] = ()
    schema: Sequence[Field] = ()
    source: Source | None = None
    ttl: timedelta | None = None
    aggregations: Sequence[Aggregation] = ()
    transform: Any = None
    online: bool = True
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""

    def __post_init__(self) -> None:
        label = f"FeatureView {self.name!r}"
        check_name("FeatureView", self.name)
        given = (self.entities,) if isinstance(self.entities, Entity) else self.entities
        entities = check_list(label, "entities", given, "entities=[driver]")
        if not all(isinstance(entity, Entity) for entity in entities):
            raise DefinitionError(f"{label}: entities is a list of Entity objects: entities=[driver]")
        schema = check_list(label, "schema", self.schema, "schema=[Field('amount', Float64)]")
        if not all(isinstance(field, Field) for field in schema):
            raise DefinitionError(f"{label}: schema is a list of fields: schema=[Field('amount', Float64)]")
        if not isinstance(self.source, (BatchSource, PushSource, FileStreamSource)):
            raise DefinitionError(
                f"{label}: source must be a FileSource, PushSource, FileStreamSource or another source, "
                f"not {self.source!r:.40}"
            )
        force_setattr(self, "entities", entities)
        aggregations = check_list(label, "aggregations", self.aggregations, "aggregations=[Aggregation(...)]")
        force_setattr(self, "aggregations", aggregations)
        keys = [key.name for entity in entities for key in entity.keys]
        check_unique(label, "join key", keys)
        check_unique(label, "column", [field.name for field in schema])
        typed = {key.name: key.dtype for entity in entities for key in entity.keys}
        for field in schema:
            if field.name in typed and field.dtype != typed[field.name]:
                raise DefinitionError(
                    f"{label}: {field.name!r} is a {field.dtype} in the schema and a join key of type "
                    f"{typed[field.name]}; join keys need not stand in the schema"
                )
        force_setattr(self, "schema", tuple(field for field in schema if field.name not in typed))
        check_case(label, [*keys, *(field.name for field in self.schema)])
        self._check_features(label)
        if self.transform is not None:
            force_setattr(self, "transform", UserCode.of(label, self.transform))
        if not isinstance(self.online, bool):
            raise DefinitionError(f"{label}: online is True or False")
        check_tags(label, self.tags)
        check_text(label, description=self.description, owner=self.owner)

    def _check_features(self, label: str) -> None:
        if self.ttl is not None:
            duration(label, "ttl", self.ttl, positive=True)
        if not self.aggregations:
            if not self.schema:
                raise DefinitionError(
                    f"{label}: a view without aggregations needs a schema; its fields are the features"
                )
            return
        if self.ttl is not None:
            raise DefinitionError(f"{label}: windows bound what an aggregate sees; leave ttl out")
        if not all(isinstance(aggregation, Aggregation) for aggregation in self.aggregations):
            raise DefinitionError(f"{label}: aggregations is a list of Aggregation objects")
        check_unique(label, "feature", [aggregation.name for aggregation in self.aggregations])
        keys = [key.name for key in self.join_keys]
        check_unique(label, "feature or join key", [*keys, *(aggregation.name for aggregation in self.aggregations)])
        columns = {field.name: field.dtype for field in (*self.schema, *self.join_keys)}
        for aggregation in self.aggregations:
            if aggregation.column is None:
                continue
            if aggregation.column not in columns:
                raise DefinitionError(
                    f"{label}: {aggregation.name!r} aggregates the unknown column {aggregation.column!r}"
                    f"{suggest(aggregation.column, columns)}; columns are declared in schema=[...]"
                )
            aggregation.check_type(label, columns[aggregation.column])
        hops = self.hops
        for smaller, larger in pairwise(hops):
            if larger % smaller:
                raise DefinitionError(
                    f"{label}: the slide_intervals of one view must divide each other; "
                    f"{timedelta(microseconds=smaller)} does not divide {timedelta(microseconds=larger)}"
                )

    @property
    def join_keys(self) -> tuple[Field, ...]:
        """The join keys of all entities, in order."""
        return tuple(key for entity in self.entities for key in entity.keys)

    @property
    def columns(self) -> tuple[Field, ...]:
        """The input columns a row has beside its join keys, sorted by name."""
        return tuple(sorted(self.schema, key=lambda field: field.name))

    @property
    def features(self) -> tuple[Field, ...]:
        """The features with their types, in the order of their definition."""
        if not self.aggregations:
            return tuple(self.schema)
        types = {field.name: field.dtype for field in (*self.schema, *self.join_keys)}
        return tuple(
            Field(aggregation.name, aggregation.result_type(types.get(aggregation.column or "")))
            for aggregation in self.aggregations
        )

    @property
    def is_window(self) -> bool:
        """Whether the features are window aggregates."""
        return bool(self.aggregations)

    @property
    def hops(self) -> tuple[int, ...]:
        """The distinct hops of the windows in microseconds, ascending."""
        return tuple(sorted({aggregation.window.hop for aggregation in self.aggregations}))

    @property
    def cut_step(self) -> int:
        """What the cut of a lambda view is a multiple of: the largest hop, or one day; in microseconds."""
        return max(self.hops, default=DAY)

    @property
    def ttl_micros(self) -> int | None:
        """The ttl in microseconds."""
        return None if self.ttl is None else delta_micros(self.ttl)

    @property
    def code(self) -> UserCode | None:
        """The transform, where there is one."""
        return self.transform if isinstance(self.transform, UserCode) else None

    @property
    def batch_source(self) -> BatchSource | None:
        """The batch source: the source itself or the one behind the stream source."""
        source = self.source
        return source if source is None or isinstance(source, BatchSource) else source.batch_source

    @property
    def stream_source(self) -> StreamSource | None:
        """The stream source, where the view has one."""
        return None if isinstance(self.source, BatchSource) else self.source

    @property
    def is_lambda(self) -> bool:
        """Whether rows come from a batch source before the cut and from a stream after it."""
        return self.batch_source is not None and self.stream_source is not None

    def __getitem__(self, names: Sequence[str]) -> Projection:
        """Return the view narrowed to some of its features, for a feature service."""
        if isinstance(names, str):
            raise DefinitionError(f"{self.name}[{names!r}]: give a list: {self.name}[[{names!r}]]")
        return project(self, tuple(names))

    def with_name(self, name: str) -> Projection:
        """Return all features under another name, so that one view can be used twice in a request."""
        return self._whole().with_name(name)

    def with_join_key_map(self, join_key_map: dict[str, str]) -> Projection:
        """Return all features with some join keys taken from columns of other names.

        Examples
        --------
        >>> origin = weather.with_name("origin_weather").with_join_key_map(
        ...     {"airport": "origin"}
        ... )  # doctest: +SKIP
        """
        keys = [key.name for key in self.join_keys]
        for key in join_key_map:
            if key not in keys:
                raise DefinitionError(
                    f"with_join_key_map: view {self.name!r} has no join key {key!r}{suggest(key, keys)}"
                )
        return self._whole().with_join_key_map(join_key_map)

    def _whole(self) -> Projection:
        return project(self, tuple(field.name for field in self.features))


class Projection(msgspec.Struct, frozen=True, tag="projection"):
    """Some features of a view, in an order, under the view's name or another.

    Attributes
    ----------
    view
        The view's name.
    name
        What the view is called in this use of it; by default its own name.
    join_key_map
        Join key of the view to the name of the column, or of the entity row's field, that holds it in this use.
    """

    view: str
    features: tuple[str, ...]
    name: str = ""
    join_key_map: dict[str, str] = {}

    def __hash__(self) -> int:
        return hash((self.view, self.features, self.name, *sorted(self.join_key_map.items())))

    @property
    def label(self) -> str:
        """The name in this use."""
        return self.name or self.view

    def with_name(self, name: str) -> Projection:
        """Return the projection under another name, so that one view can be used twice in a request."""
        return replace(self, name=check_name("FeatureView", name))

    def with_join_key_map(self, join_key_map: dict[str, str]) -> Projection:
        """Return the projection with some join keys taken from columns of other names."""
        for column in join_key_map.values():
            check_column(f"with_join_key_map of view {self.view!r}", column)
        return replace(self, join_key_map=dict(join_key_map))


def project(view: Any, names: tuple[str, ...]) -> Projection:
    """Return the projection of a view onto ``names``, refusing unknown and repeated ones."""
    known = [field.name for field in view.features]
    for name in names:
        if name not in known:
            raise DefinitionError(f"view {view.name!r} has no feature {name!r}{suggest(name, known)}")
    check_unique(f"view {view.name!r}", "feature", names)
    return Projection(view.name, names)
