"""Counts: the sum over workers, which never goes back, in a form that Prometheus reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from featurestore.serving.metrics import BOUNDS, Metrics, observe

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.expose().decode())
        for sample in family.samples
    }


def workers(folder: Path, number: int) -> list[Metrics]:
    made = [Metrics(folder) for _ in range(number)]
    for place, metrics in enumerate(made):
        metrics.worker = place + 1
    return made


def test_whichever_worker_is_asked_answers_for_all(tmp_path: Path) -> None:
    first, second = workers(tmp_path, 2)
    first.add("featurestore_requests", "lookup", "200", value=3)
    second.add("featurestore_requests", "lookup", "200", value=4)
    second.add("featurestore_requests", "push", "400")
    second.flush()
    lookups = ("featurestore_requests_total", (("code", "200"), ("route", "lookup")))
    assert samples(first)[lookups] == 7
    second.add("featurestore_requests", "lookup", "200")
    assert samples(second)[lookups] == 8
    assert samples(first)[lookups] == 8
    assert samples(first)["featurestore_requests_total", (("code", "400"), ("route", "push"))] == 1


def test_counters_never_go_back_whoever_is_asked(tmp_path: Path) -> None:
    both = workers(tmp_path, 2)
    seen = 0.0
    for turn in range(20):
        both[turn % 2].add("featurestore_shed", value=turn)
        found = samples(both[(turn // 3) % 2])["featurestore_shed_total", ()]
        assert found >= seen
        seen = found


def test_of_a_worker_that_died_counters_stay_and_gauges_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, living = workers(tmp_path, 2)
    now = 1_000_000.0
    monkeypatch.setattr("featurestore.serving.metrics.time.time", lambda: now)
    for metrics in (dead, living):
        metrics.add("featurestore_shed", value=2)
        metrics.set("featurestore_in_flight", str(metrics.worker), value=5)
        metrics.flush()
    now += 60
    found = samples(living)
    assert found["featurestore_shed_total", ()] == 4
    assert ("featurestore_in_flight", (("worker", "1"),)) not in found
    assert found["featurestore_in_flight", (("worker", "2"),)] == 5


def test_histograms_count_what_is_at_or_below_each_bound(tmp_path: Path) -> None:
    metrics = Metrics()
    cell = metrics.cell("featurestore_request_seconds", "lookup", "s")
    for seconds in (0.0001, 0.001, 0.0011, 99.0):
        observe(cell, BOUNDS, seconds)
    found = samples(metrics)
    labels = (("route", "lookup"), ("service", "s"))

    def below(bound: str) -> float:
        return found["featurestore_request_seconds_bucket", (("le", bound), *labels)]

    assert [below(bound) for bound in ("0.0005", "0.001", "0.002", "5.0", "+Inf")] == [1, 2, 3, 3, 4]
    assert found["featurestore_request_seconds_count", labels] == 4
    assert found["featurestore_request_seconds_sum", labels] == pytest.approx(99.0022)
