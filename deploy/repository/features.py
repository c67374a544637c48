"""What docker-compose.yml serves until FEATURE_REPOSITORY names another folder: shoppers and their purchases."""

from __future__ import annotations

from datetime import timedelta

from featurestore import Aggregation, Entity, FeatureService, FeatureView, Field, PushSource
from featurestore.types import Float64, Int64, String

shopper = Entity("shopper", join_keys=["shopper_id"], value_type=Int64)
purchases = PushSource("purchases", timestamp_field="bought_at")

last_purchase = FeatureView(
    "last_purchase",
    entities=[shopper],
    schema=[Field("amount", Float64), Field("category", String)],
    source=purchases,
)
spending = FeatureView(
    "spending",
    entities=[shopper],
    schema=[Field("amount", Float64)],
    source=purchases,
    aggregations=[
        Aggregation("amount", "sum", timedelta(days=1), name="spent_1d"),
        Aggregation("amount", "count", timedelta(days=1), name="purchases_1d"),
    ],
)
shopper_features = FeatureService("shopper_features", features=[last_purchase, spending])
