"""On-demand feature views: features computed at request time from other features and request fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from featurestore.definitions.code import UserCode
from featurestore.definitions.entity import Field
from featurestore.definitions.feature_view import FeatureView, Projection, project
from featurestore.definitions.naming import check_list, check_name, check_tags, check_text, check_unique
from featurestore.definitions.sources import RequestSource
from featurestore.errors import DefinitionError

_INPUTS = (FeatureView, Projection, RequestSource)
MODES = ("python", "pandas", "arrow")


class OnDemandFeatureView(msgspec.Struct, frozen=True, tag="on_demand_feature_view"):
    """A pure, row-wise function of other features and request fields.

    Parameters
    ----------
    sources
        Feature views, projections of them (``view[["a", "b"]]``) and request sources.
    schema
        The features the function returns.
    function
        In mode ``"python"``: called once a row with a dict of values (None for null), returns a dict of values.
        In modes ``"pandas"`` and ``"arrow"``: called with a DataFrame or an Arrow table of any number of rows, returns
        the same with one row for each; `apply` checks that the number of rows together changes no value.
    """

    name: str
    sources: Any = ()
    schema: Sequence[Field] = ()
    function: Any = None
    mode: str = "python"
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""

    def __post_init__(self) -> None:
        label = f"OnDemandFeatureView {self.name!r}"
        check_name("OnDemandFeatureView", self.name)
        sources: list[Projection | RequestSource] = []
        inputs: list[str] = []
        given = (self.sources,) if isinstance(self.sources, _INPUTS) else self.sources
        for source in check_list(label, "sources", given, "sources=[view, RequestSource(...)]"):
            if isinstance(source, FeatureView):
                source = project(source, tuple(field.name for field in source.features))
            if isinstance(source, Projection):
                if source.name or source.join_key_map:
                    raise DefinitionError(
                        f"{label}: it reads view {source.view!r} under its own name and join keys only"
                    )
                inputs.extend(source.features)
            elif isinstance(source, RequestSource):
                inputs.extend(field.name for field in source.schema)
            elif isinstance(source, dict):  # decoded from the registry
                source = msgspec.convert(source, Projection | RequestSource)
            else:
                raise DefinitionError(f"{label}: sources are feature views, projections and request sources")
            sources.append(source)
        if not sources:
            raise DefinitionError(f"{label}: name its inputs: sources=[view, RequestSource(...)]")
        check_unique(label, "input", inputs)
        schema = check_list(label, "schema", self.schema, "schema=[Field('ratio', Float64)]")
        if not schema or not all(isinstance(field, Field) for field in schema):
            raise DefinitionError(f"{label}: name what it returns: schema=[Field('ratio', Float64)]")
        check_unique(label, "feature", [field.name for field in schema])
        if self.mode not in MODES:
            raise DefinitionError(f"{label}: mode {self.mode!r}: use one of {', '.join(MODES)}")
        if self.function is None:
            raise DefinitionError(f"{label}: give the function, or write it under @on_demand_feature_view(...)")
        force_setattr(self, "sources", tuple(sources))
        force_setattr(self, "schema", schema)
        force_setattr(self, "function", UserCode.of(label, self.function))
        check_tags(label, self.tags)
        check_text(label, description=self.description, owner=self.owner)

    @property
    def code(self) -> UserCode:
        """The function."""
        assert isinstance(self.function, UserCode)  # noqa: S101  (set by the constructor)
        return self.function

    @property
    def features(self) -> tuple[Field, ...]:
        """The features with their types."""
        return tuple(self.schema)

    @property
    def view_inputs(self) -> tuple[Projection, ...]:
        """The features of other views it reads."""
        return tuple(source for source in self.sources if isinstance(source, Projection))

    @property
    def request_fields(self) -> tuple[Field, ...]:
        """The request fields it reads."""
        return tuple(field for source in self.sources if isinstance(source, RequestSource) for field in source.schema)

    def __getitem__(self, names: Sequence[str]) -> Projection:
        """Return the view narrowed to some of its features, for a feature service."""
        if isinstance(names, str):
            raise DefinitionError(f"{self.name}[{names!r}]: give a list: {self.name}[[{names!r}]]")
        return project(self, tuple(names))


def on_demand_feature_view(
    *,
    sources: Sequence[Any],
    schema: Sequence[Field],
    name: str = "",
    mode: str = "python",
    description: str = "",
    tags: dict[str, str] | None = None,
    owner: str = "",
) -> Callable[[Callable[..., Any]], OnDemandFeatureView]:
    """Turn a function into an on-demand feature view named after it."""

    def build(function: Callable[..., Any]) -> OnDemandFeatureView:
        return OnDemandFeatureView(
            name=name or function.__name__,
            sources=sources,
            schema=schema,
            function=function,
            mode=mode,
            description=description or (function.__doc__ or "").strip().split("\n")[0],
            tags=tags or {},
            owner=owner,
        )

    return build
