"""Feature services: the named set of features that one model uses."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import force_setattr

from featurestore.definitions.feature_view import FeatureView, Projection, project
from featurestore.definitions.naming import check_list, check_name, check_tags, check_text, check_unique
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.errors import DefinitionError

_FEATURES = (FeatureView, OnDemandFeatureView, Projection)


class FeatureService(msgspec.Struct, frozen=True, tag="feature_service"):
    """A named list of features, in an order.

    Parameters
    ----------
    features
        Views, or projections of them: ``[weather, aircraft[["seats", "engines"]]]``; one may stand alone. A view may be
        there twice under two names: ``[weather.with_name("there").with_join_key_map({"airport": "dest"}), weather]``.
    """

    name: str
    features: Any = ()
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""

    def __post_init__(self) -> None:
        label = f"FeatureService {self.name!r}"
        check_name("FeatureService", self.name)
        projections: list[Projection] = []
        given = (self.features,) if isinstance(self.features, _FEATURES) else self.features
        for item in check_list(label, "features", given, "features=[view, other_view[['a', 'b']]]"):
            if isinstance(item, (FeatureView, OnDemandFeatureView)):
                projections.append(project(item, tuple(field.name for field in item.features)))
            elif isinstance(item, Projection):
                projections.append(item)
            elif isinstance(item, dict):  # decoded from the registry
                projections.append(msgspec.convert(item, Projection))
            else:
                raise DefinitionError(f"{label}: features are views and projections of them: view[['a', 'b']]")
        if not projections:
            raise DefinitionError(f"{label}: name at least one view")
        check_unique(label, "view", [projection.label for projection in projections])
        force_setattr(self, "features", tuple(projections))
        check_tags(label, self.tags)
        check_text(label, description=self.description, owner=self.owner)

    @property
    def projections(self) -> tuple[Projection, ...]:
        """The views and the features taken from each."""
        return tuple(item for item in self.features if isinstance(item, Projection))
