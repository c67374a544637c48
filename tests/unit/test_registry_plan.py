"""What a plan says: what is added, changed and removed, and what that means for stored data."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from featurestore.definitions import Aggregation, Entity, FeatureService, FeatureView, Field, FileSource, Project
from featurestore.errors import DefinitionError
from featurestore.registry import Change, Plan, Registry
from featurestore.types import Float32, Float64, Int64, String
from tests.unit import registry_samples as samples


def plan_change(before: Project, after: Project) -> Plan:
    """Return the plan from one project to another, through a registry in memory."""
    registry = Registry("sqlite://", "test")
    registry.apply(registry.plan(before), samples.NOW)
    return registry.plan(after)


def change_of(plan: Plan, name: str) -> Change:
    (found,) = [change for change in plan.changes if change.name == name]
    return found


def test_first_plan_adds_everything_in_the_order_it_builds_on() -> None:
    plan = Registry("sqlite://", "test").plan(samples.project())
    assert [(change.action, change.kind, change.name) for change in plan.changes] == [
        ("added", "entity", "driver"),
        ("added", "source", "ask"),
        ("added", "source", "trips"),
        ("added", "feature_view", "earnings"),
        ("added", "feature_view", "profile"),
        ("added", "feature_view", "rated"),
        ("added", "feature_service", "model"),
    ]
    assert plan.base_revision == 0
    assert not plan.is_empty


def test_same_definitions_give_an_empty_plan() -> None:
    plan = plan_change(samples.project(), samples.project())
    assert plan.is_empty
    assert plan.to_text() == "Project 'test', revision 1: nothing to change, the definitions are already applied"
    assert plan.to_dict() == {"project": "test", "base_revision": 1, "is_empty": True, "changes": []}


def test_new_window_view_shows_the_true_span_of_each_window() -> None:
    view = samples.window_view(
        [
            Aggregation("fare", "sum", samples.HOUR),
            Aggregation("fare", "mean", timedelta(days=30)),
            Aggregation("fare", "max", samples.HOUR, offset=timedelta(days=1)),
            Aggregation(function="count", name="rides"),
        ]
    )
    change = change_of(Registry("sqlite://", "test").plan(samples.project(view)), "earnings")
    assert change.windows == (
        "sum_fare_1h  1h: 60m to 65m",
        "mean_fare_30d  30d: 30d to 31d",
        "max_fare_1h_lag_1d  1h: whole hops of 5m, 1d ago",
        "rides  all history",
    )
    spans = "      windows span 1h: 60m to 65m; 30d: 30d to 31d; 1h: whole hops of 5m, 1d ago; all history"
    assert spans in change.to_text().splitlines()
    assert change.effect == "new: new log, must be materialized"


@pytest.mark.parametrize(
    ("changed", "effect"),
    [
        (samples.state_view(description="About drivers"), "description only: nothing is rebuilt"),
        (samples.state_view(owner="ops", tags={"team": "growth"}), "description only: nothing is rebuilt"),
        (
            samples.state_view(ttl=timedelta(days=1)),
            "state changes: online state will be rebuilt from the log; the log stays",
        ),
        (
            samples.state_view(schema=[Field("rating", Float32), Field("city", String)]),
            "rows change: new log, must be materialized again",
        ),
        (
            samples.window_view([Aggregation("fare", "sum", 2 * samples.HOUR)]),
            "window state changes: online state will be rebuilt from the log; the log stays",
        ),
        (samples.window_view(transform=None), "rows change: new log, must be materialized again"),
        (
            samples.state_view(source=samples.push_source()),
            "rows change: new log, filled as rows arrive from now on",
        ),
        (
            samples.on_demand_view(lambda row: {"ratio": 1.0}),
            "values change from the next request on: it is computed at request time, nothing is rebuilt",
        ),
    ],
)
def test_effect_of_a_changed_view(changed: Any, effect: str) -> None:
    change = change_of(plan_change(samples.project(), samples.project(changed)), changed.name)
    assert (change.action, change.effect) == ("changed", effect)


def test_a_view_with_the_rows_of_an_applied_one_needs_no_new_log() -> None:
    profile = samples.state_view()
    twin = FeatureView("twin", entities=[samples.driver], schema=profile.schema, source=samples.trips)
    plan = plan_change(samples.project(), samples.project(twin))
    assert change_of(plan, "twin").effect == (
        "new: reads the log that profile already writes; its online state is filled from that"
    )


def test_changed_attributes_are_shown_old_and_new() -> None:
    changed = samples.state_view(
        ttl=timedelta(days=1), schema=[Field("rating", Float32), Field("age", Int64)], description="New"
    )
    unused = FeatureService("model", features=[samples.window_view()])
    before = Project([samples.state_view(), unused, samples.window_view()])
    change = change_of(plan_change(before, Project([changed, unused, samples.window_view()])), "profile")
    assert [(d.attribute, d.old, d.new) for d in change.differences] == [
        ("schema.rating", "float64", "float32"),
        ("schema.city", "string", None),
        ("ttl", "7d", "1d"),
        ("schema.age", None, "int64"),
        ("description", None, "'New'"),
    ]
    lines = change.to_text().splitlines()
    assert lines[0] == "  ~ feature_view profile"
    assert "      ~ ttl: 7d -> 1d" in lines
    assert "      - schema.city: string" in lines
    assert "      + schema.age: int64" in lines
    assert lines[-1] == "      => rows change: new log, must be materialized again"


def test_changed_source_is_shown_where_it_is_and_in_the_views_that_read_it() -> None:
    moved = FileSource("trips", path="data/new.parquet", timestamp_field="ts")
    after = samples.project(samples.state_view(source=moved), samples.window_view(source=moved))
    plan = plan_change(samples.project(), after)
    difference = change_of(plan, "earnings").differences[0]
    assert (difference.attribute, difference.old, difference.new) == (
        "source.path",
        "'data/trips.parquet'",
        "'data/new.parquet'",
    )
    assert change_of(plan, "trips").effect == "nothing of its own is stored: see the feature views that use it"


def test_another_order_of_features_is_a_difference() -> None:
    fields = [Field("city", String), Field("rating", Float64)]
    change = change_of(plan_change(samples.project(), samples.project(samples.state_view(schema=fields))), "profile")
    assert [(d.attribute, d.old, d.new) for d in change.differences] == [
        ("schema order", "rating, city", "city, rating")
    ]


def test_changed_code_is_shown_line_by_line() -> None:
    def clean(record: dict[str, Any]) -> dict[str, Any] | None:
        return record if record["fare"] else None

    clean.__qualname__, clean.__module__ = samples.clean.__qualname__, samples.clean.__module__
    plan = plan_change(samples.project(), samples.project(samples.window_view(transform=clean)))
    text = change_of(plan, "earnings").to_text()
    assert '          -    return record if record["fare"] is not None else None' in text
    assert '          +    return record if record["fare"] else None' in text


def test_a_mapped_column_named_like_prose_changes_the_rows() -> None:
    def source(column: str) -> FileSource:
        return FileSource("trips", path="t.csv", timestamp_field="ts", field_mapping={"owner": column})

    fields = [Field("rating", Float64), Field("city", String)]
    before = Project([samples.state_view(source=source("city"), schema=fields)])
    after = Project([samples.state_view(source=source("rating"), schema=fields)])
    assert change_of(plan_change(before, after), "profile").effect.startswith("rows change")


def test_removed_definitions() -> None:
    plan = plan_change(samples.project(), Project([samples.driver]))
    assert plan.count("removed") == 6
    assert change_of(plan, "profile").effect == (
        "no longer written or served; its log and online state are left where they are"
    )
    assert change_of(plan, "model").to_text().startswith("  - feature_service model\n")
    assert change_of(plan, "profile").spec == ""


def test_changed_kind_of_view() -> None:
    stored = FeatureView("rated", entities=[samples.driver], schema=[Field("ratio", Float64)], source=samples.trips)
    plan = plan_change(samples.project(), samples.project(stored))
    change = change_of(plan, "rated")
    assert ("type", "OnDemandFeatureView", "FeatureView") in [(d.attribute, d.old, d.new) for d in change.differences]
    assert change.effect.startswith("becomes a stored view: new log")
    assert change_of(plan_change(samples.project(stored), samples.project()), "rated").effect == (
        "becomes on-demand: its log and online state are no longer used"
    )


def test_service_changes() -> None:
    service = FeatureService("model", features=[samples.state_view()])
    change = change_of(plan_change(samples.project(), samples.project(service)), "model")
    assert change.effect == "other features or another order from the next request on; nothing is rebuilt"
    assert [(d.attribute, d.old, d.new) for d in change.differences] == [
        ("features.profile", "rating", "rating, city"),
        ("features.rated", "ratio", None),
    ]


def test_text_of_a_plan_counts_and_marks() -> None:
    text = plan_change(Project([Entity("a", value_type=Int64)]), Project([Entity("b", value_type=Int64)])).to_text()
    assert text == (
        "Project 'test', revision 1: 1 to add, 0 to change, 1 to remove\n\n"
        "  - entity a\n      join_keys.a: int64\n\n"
        "  + entity b\n      join_keys.b: int64"
    )


def test_plan_refuses_a_function_that_apply_must_refuse() -> None:
    def broken(row: dict[str, Any]) -> dict[str, Any]:
        return {"ratio": row["rate"]}

    with pytest.raises(DefinitionError, match=r"error on every sample row, on the first: KeyError: 'rate' \(line \d+"):
        Registry("sqlite://", "test").plan(samples.project(samples.on_demand_view(broken)))


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    Registry(tmp_path / "registry.db", "test").plan(samples.project())
    assert list(tmp_path.iterdir()) == []
