"""Definitions as one whole: what does not fit together, what is not there, and fingerprints."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from featurestore.definitions import (
    Aggregation,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    OnDemandFeatureView,
    Project,
    RequestSource,
    decode,
    encode,
)
from featurestore.definitions.project import feature_fingerprint, fingerprint, row_fingerprint
from featurestore.errors import DefinitionError, FeatureNotFoundError
from featurestore.types import Float64, Int64, String
from tests.unit import registry_samples as samples


def test_entities_and_sources_of_views_are_taken_along() -> None:
    assert list(Project([samples.window_view()]).objects) == [
        ("entity", "driver"),
        ("source", "trips"),
        ("feature_view", "earnings"),
    ]


def test_two_things_of_one_name_are_refused() -> None:
    other = Entity("driver", join_keys=["driver_id"], value_type=String)
    with pytest.raises(DefinitionError, match="two different objects of kind entity are named 'driver'"):
        Project([samples.state_view(), other])
    with pytest.raises(DefinitionError, match="two different objects of kind feature_view are named 'profile'"):
        Project([samples.state_view(), samples.state_view(ttl=None)])


def test_what_is_no_definition_is_refused() -> None:
    with pytest.raises(DefinitionError, match="'driver' is not a definition such as an Entity or a FeatureView"):
        Project(["driver"])  # type: ignore[list-item]


def test_a_service_of_a_view_that_is_not_there_suggests_the_nearest() -> None:
    ghost = FeatureView("profiles", entities=[samples.driver], schema=[Field("a", Int64)], source=samples.trips)
    with pytest.raises(
        DefinitionError, match=r"^FeatureService 's': feature view 'profiles' does not exist; did you mean 'profile'\?$"
    ):
        Project([samples.state_view(), FeatureService("s", features=[ghost])])


def test_a_service_of_a_feature_that_went_away_is_refused() -> None:
    service = FeatureService("s", features=[samples.state_view()[["rating"]]])
    changed = samples.state_view(schema=[Field("ratings", Float64)])
    message = r"^FeatureService 's': view 'profile' has no feature 'rating'; did you mean 'ratings'\?$"
    with pytest.raises(DefinitionError, match=message):
        Project([changed, service])


def test_an_on_demand_view_reads_no_other() -> None:
    rated = samples.on_demand_view()
    second = OnDemandFeatureView(
        "second", sources=[rated[["ratio"]]], schema=[Field("z", Float64)], function=samples.ratio
    )
    with pytest.raises(DefinitionError, match="'second' reads the on-demand view 'rated'; read the views behind it"):
        Project([samples.state_view(), rated, second])


def test_looking_up_what_is_not_there_suggests_the_nearest() -> None:
    project = samples.project()
    with pytest.raises(FeatureNotFoundError, match="feature view 'profle' does not exist; did you mean 'profile'"):
        project.view("profle")
    with pytest.raises(FeatureNotFoundError, match="feature service 'x' does not exist; there are: model"):
        project.service("x")
    with pytest.raises(FeatureNotFoundError, match="'rated' is an on-demand view: it is computed at request time"):
        project.feature_view("rated")
    assert issubclass(FeatureNotFoundError, LookupError)


def test_json_is_the_same_for_equal_definitions_whatever_the_order_of_their_tags() -> None:
    one = samples.state_view(tags={"a": "1", "b": "2"})
    two = samples.state_view(tags={"b": "2", "a": "1"})
    assert encode(one) == encode(two)
    assert fingerprint(one) == fingerprint(two)


def test_stored_code_is_text_that_is_never_run() -> None:
    again = decode(encode(samples.window_view()))
    assert isinstance(again, FeatureView)
    assert again.code is not None
    assert again.code == samples.window_view().code
    with pytest.raises(DefinitionError, match=r"the code of .*:clean is not loaded; open the store with its repo_path"):
        again.code({"fare": 1.0})


SAME_ROWS: list[tuple[str, FeatureView]] = [
    ("another window", samples.window_view([Aggregation("fare", "max", timedelta(days=1))])),
    ("prose", samples.window_view(description="x", owner="y", tags={"a": "b"})),
    (
        "prose of the source",
        samples.window_view(source=FileSource("trips", path="data/trips.parquet", timestamp_field="ts", owner="me")),
    ),
    (
        "name",
        FeatureView(
            "other",
            entities=[samples.driver],
            schema=[Field("fare", Float64)],
            source=samples.trips,
            transform=samples.clean,
        ),
    ),
]
OTHER_ROWS: list[tuple[str, FeatureView]] = [
    ("path", samples.window_view(source=FileSource("trips", path="b.parquet", timestamp_field="ts"))),
    (
        "delay",
        samples.window_view(
            source=FileSource("trips", path="data/trips.parquet", timestamp_field="ts", availability_delay=samples.HOUR)
        ),
    ),
    ("transform", samples.window_view(transform=samples.ratio)),
    ("column", samples.window_view(schema=[Field("fare", Float64), Field("tip", Float64)])),
    ("key", samples.window_view(entities=[Entity("rider", value_type=Int64)])),
]


@pytest.mark.parametrize("case", SAME_ROWS, ids=lambda case: case[0])
def test_views_of_the_same_rows_share_a_log(case: tuple[str, FeatureView]) -> None:
    assert row_fingerprint(case[1]) == row_fingerprint(samples.window_view())


@pytest.mark.parametrize("case", OTHER_ROWS, ids=lambda case: case[0])
def test_other_rows_have_another_log(case: tuple[str, FeatureView]) -> None:
    assert row_fingerprint(case[1]) != row_fingerprint(samples.window_view())
    assert feature_fingerprint(case[1]) != feature_fingerprint(samples.window_view())


@pytest.mark.parametrize(
    ("view", "same"),
    [
        (samples.window_view(description="x", owner="y", tags={"a": "b"}), True),
        (samples.window_view([Aggregation("fare", "sum", samples.HOUR, slide_interval=samples.HOUR)]), False),
        (samples.window_view([Aggregation("fare", "sum", samples.HOUR, name="total")]), False),
        (samples.window_view(schema=[Field("fare", Float64, description="In dollars")]), True),
    ],
)
def test_values_mean_the_same_where_only_prose_differs(view: FeatureView, same: bool) -> None:
    assert (feature_fingerprint(view) == feature_fingerprint(samples.window_view())) is same
    assert fingerprint(view) != fingerprint(samples.window_view())


def test_a_mapped_column_named_like_prose_counts() -> None:
    def view(mapping: dict[str, str]) -> FeatureView:
        source = FileSource("trips", path="t.csv", timestamp_field="ts", field_mapping=mapping)
        return samples.state_view(source=source)

    assert row_fingerprint(view({"owner": "city"})) != row_fingerprint(view({"owner": "rating"}))


def test_a_request_source_is_found_by_name() -> None:
    sources: dict[str, Any] = samples.project().sources
    assert isinstance(sources["ask"], RequestSource)
