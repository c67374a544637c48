"""Fixtures that all tests may ask for, real servers started when the first test needs one; and who runs which test."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.servers.bigquery import bigquery
from tests.servers.hive import hive
from tests.servers.postgres import postgres
from tests.servers.s3 import s3
from tests.servers.spark import spark

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadGroupScheduling

__all__ = ["bigquery", "hive", "postgres", "s3", "spark"]

_TOGETHER = {"spark": re.compile(r"test_\w*(hive|spark)\w*\.py"), "bigquery": re.compile(r"test_\w*bigquery\w*\.py")}
"""Test files that run in one worker, by name: their servers take long to start, and much memory."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadGroupScheduling:
    """Spread tests over the workers, those that share slow servers to one."""
    from xdist.scheduler import LoadGroupScheduling

    class Scheduling(LoadGroupScheduling):  # type: ignore[misc]
        """Groups by file name: the marks that xdist has for it do nothing under pytest 9.2."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0].rpartition("/")[2]
            return next((name for name, files in _TOGETHER.items() if files.fullmatch(file)), nodeid)

    return Scheduling(config, log)
