"""A small project for tests of the registry, and variations of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from featurestore.definitions import (
    Aggregation,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    OnDemandFeatureView,
    Project,
    PushSource,
    RequestSource,
)
from featurestore.types import Float64, Int64, String

HOUR = timedelta(hours=1)
NOW = 1_700_000_000_000_000

driver = Entity("driver", join_keys=["driver_id"], value_type=Int64)
trips = FileSource("trips", path="data/trips.parquet", timestamp_field="ts")
request = RequestSource("ask", schema=(Field("distance", Float64),))


def clean(record: dict[str, Any]) -> dict[str, Any] | None:
    return record if record["fare"] is not None else None


def ratio(row: dict[str, Any]) -> dict[str, Any]:
    return {"ratio": None if not row["distance"] or row["rating"] is None else row["rating"] / row["distance"]}


def state_view(**changes: Any) -> FeatureView:
    """Return a state view of the driver; keyword arguments replace its parts."""
    parts = {"entities": [driver], "schema": [Field("rating", Float64), Field("city", String)], "source": trips}
    return FeatureView("profile", **{**parts, "ttl": timedelta(days=7), **changes})


def window_view(aggregations: Sequence[Aggregation] | None = None, **changes: Any) -> FeatureView:
    """Return a window view of the driver; keyword arguments replace its parts."""
    return FeatureView(
        "earnings",
        **{
            "entities": [driver],
            "schema": [Field("fare", Float64)],
            "source": trips,
            "transform": clean,
            "aggregations": aggregations or [Aggregation("fare", "sum", HOUR)],
            **changes,
        },
    )


def on_demand_view(function: Any = ratio, **changes: Any) -> OnDemandFeatureView:
    """Return an on-demand view of the driver's rating and the request; keyword arguments replace its parts."""
    parts = {"sources": [state_view()[["rating"]], request], "schema": [Field("ratio", Float64)]}
    return OnDemandFeatureView("rated", **{**parts, "function": function, **changes})


def project(*changed: Any) -> Project:
    """Return the sample project; definitions given replace those of the same name."""
    profile, earnings, rated = state_view(), window_view(), on_demand_view()
    names = {definition.name for definition in changed}
    kept = [definition for definition in (profile, earnings, rated) if definition.name not in names]
    service = FeatureService("model", features=[profile[["rating"]], rated])
    return Project([*kept, *changed, *([] if "model" in names else [service])])


def push_source(name: str = "clicks") -> PushSource:
    """Return a push source without history."""
    return PushSource(name, timestamp_field="ts")
