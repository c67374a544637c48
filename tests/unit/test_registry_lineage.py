"""Lineage: what an object stands on, and what stands on it."""

from __future__ import annotations

import pytest

from featurestore.definitions import FeatureView, Field, FileSource, Project, PushSource
from featurestore.errors import FeatureNotFoundError
from featurestore.registry.lineage import downstream, upstream
from featurestore.types import Float64
from tests.unit import registry_samples as samples


def test_everything_downstream_nearest_first() -> None:
    assert downstream(samples.project(), "source", "trips") == [
        ("feature_view", "profile"),
        ("feature_view", "earnings"),
        ("feature_view", "rated"),
        ("feature_service", "model"),
    ]


def test_everything_upstream() -> None:
    assert set(upstream(samples.project(), "feature_service", "model")) == {
        ("feature_view", "profile"),
        ("feature_view", "rated"),
        ("source", "ask"),
        ("source", "trips"),
        ("entity", "driver"),
    }
    assert upstream(samples.project(), "entity", "driver") == []


def test_a_batch_source_behind_a_stream_is_upstream() -> None:
    batch = FileSource("history", path="h.csv", timestamp_field="ts")
    view = FeatureView(
        "live", entities=[samples.driver], schema=[Field("a", Float64)], source=PushSource("push", batch_source=batch)
    )
    project = Project([view])
    assert upstream(project, "feature_view", "live") == [
        ("entity", "driver"),
        ("source", "push"),
        ("source", "history"),
    ]
    assert downstream(project, "source", "history") == [("source", "push"), ("feature_view", "live")]


def test_an_unknown_object_suggests_the_nearest() -> None:
    with pytest.raises(FeatureNotFoundError, match="feature view 'profil' does not exist; did you mean 'profile'"):
        upstream(samples.project(), "feature_view", "profil")
