"""A feature store that proves that what it serves is what it trains on.

Everything a user needs is here; each name is loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.definitions import (
        Aggregation,
        BigQuerySource,
        Entity,
        FeatureService,
        FeatureView,
        Field,
        FileSource,
        FileStreamSource,
        HiveSource,
        OnDemandFeatureView,
        PushSource,
        RequestSource,
        SqlSource,
        on_demand_feature_view,
    )
    from featurestore.errors import FeatureStoreError
    from featurestore.store import FeatureStore

__version__ = "0.1.0"

_HOMES = {
    "FeatureStore": "featurestore.store",
    "FeatureStoreError": "featurestore.errors",
    **dict.fromkeys(
        [
            "Aggregation",
            "BigQuerySource",
            "Entity",
            "FeatureService",
            "FeatureView",
            "Field",
            "FileSource",
            "FileStreamSource",
            "HiveSource",
            "OnDemandFeatureView",
            "PushSource",
            "RequestSource",
            "SqlSource",
            "on_demand_feature_view",
        ],
        "featurestore.definitions",
    ),
}

__all__ = [
    "Aggregation",
    "BigQuerySource",
    "Entity",
    "FeatureService",
    "FeatureStore",
    "FeatureStoreError",
    "FeatureView",
    "Field",
    "FileSource",
    "FileStreamSource",
    "HiveSource",
    "OnDemandFeatureView",
    "PushSource",
    "RequestSource",
    "SqlSource",
    "__version__",
    "on_demand_feature_view",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'featurestore' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
