"""What users write: frozen values that describe entities, sources, views and services, and check themselves."""

from featurestore.definitions.aggregation import FUNCTIONS, Aggregation
from featurestore.definitions.code import UserCode
from featurestore.definitions.entity import Entity, Field
from featurestore.definitions.feature_view import FeatureView, Projection
from featurestore.definitions.on_demand import OnDemandFeatureView, on_demand_feature_view
from featurestore.definitions.project import Definition, Project, decode, encode
from featurestore.definitions.service import FeatureService
from featurestore.definitions.sources import (
    BatchSource,
    FileSource,
    FileStreamSource,
    PushSource,
    RequestSource,
    Source,
    StreamSource,
)
from featurestore.definitions.warehouse import BigQuerySource, HiveSource, SqlSource

__all__ = [
    "FUNCTIONS",
    "Aggregation",
    "BatchSource",
    "BigQuerySource",
    "Definition",
    "Entity",
    "FeatureService",
    "FeatureView",
    "Field",
    "FileSource",
    "FileStreamSource",
    "HiveSource",
    "OnDemandFeatureView",
    "Project",
    "Projection",
    "PushSource",
    "RequestSource",
    "Source",
    "SqlSource",
    "StreamSource",
    "UserCode",
    "decode",
    "encode",
    "on_demand_feature_view",
]
