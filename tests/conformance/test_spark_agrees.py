"""Spark answers as the reference does, to the bit: hundreds of generated cases a job, and frames of every kind."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from featurestore.definitions.project import Project
from featurestore.definitions.resolve import resolve
from featurestore.offline.log import RowLog
from featurestore.offline.plan import KnownAt
from featurestore.offline.spark.retrieval import SparkRetrievalJob
from featurestore.offline.table_rows import TableRows
from featurestore.testing.conformance import case_frame, feature_differences, fill_log, offline_differences
from featurestore.testing.generate import Case, merged_case, random_cases
from tests.servers.spark import Spark

VIEWS = 12
CASES_A_VIEW = 100


def spark_job(case: Case, log: RowLog, known_at: KnownAt) -> SparkRetrievalJob:
    names = [f"{case.view.name}:{field.name}" for field in case.view.features]
    request = resolve(Project([case.view]), names, full_feature_names=True)
    return SparkRetrievalJob(case_frame(case), request, lambda _: log, lambda _: case.cuts, known_at)


@pytest.mark.parametrize("known_at", ["event", "arrival"])
@pytest.mark.parametrize("seed", range(VIEWS))
def test_spark_answers_as_the_reference(seed: int, known_at: KnownAt, spark: Spark, tmp_path: Path) -> None:
    case = merged_case(7000 + seed, CASES_A_VIEW)
    log = RowLog(tmp_path, case.view)
    fill_log(log, case.view, case.rows, portions=1 + seed % 3)
    features = spark_job(case, log, known_at).features
    answer = {name: feature for (_, name), feature in features.items()}
    differences = list(feature_differences(case, answer, known_at=known_at))
    assert not differences, f"{differences[0]} of {case.view!r}, cuts {case.cuts}"


@pytest.mark.parametrize("seed", range(4))
def test_rows_at_hand_answer_as_the_reference(seed: int, tmp_path: Path) -> None:
    """What a worker does with the rows that it is given, without Spark, for views with keys of every type."""
    for number, case in enumerate(random_cases(8000 + seed, 100)):
        log = RowLog(tmp_path / str(number), case.view)
        fill_log(log, case.view, case.rows)
        rows = pa.Table.from_batches(list(log.sorted_rows()), log.schema)
        for known_at in ("event", "arrival"):
            differences = list(offline_differences(case, log, known_at=known_at, source=TableRows(rows)))
            assert not differences, f"{differences[0]} of {case.view!r}, cuts {case.cuts}"
