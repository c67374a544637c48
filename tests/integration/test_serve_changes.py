"""`featurestore apply` beside a server under load: no lookup fails, blanks or changes, and the new window is served."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from tests.servers.api import (
    DRIVERS,
    WIDER,
    ApiServer,
    expected,
    lookup,
    make_repository,
    reason,
    run_command,
    running_api,
    values,
    wait_for,
)
from tests.servers.redis import running_redis

NEW = ["recent:km_30d", "recent:trips_20d"]


class Load:
    """Clients that look drivers up, one request after the other, and keep what is not as it must be."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._stop = threading.Event()
        self.answered = 0
        self.wrong: list[Any] = []

    def run(self, first: int) -> None:
        """Look up until told to stop."""
        with httpx.Client(base_url=self._api.http.base_url, timeout=30) as http:
            driver = first
            while not self._stop.is_set():
                driver = (driver + 1) % DRIVERS
                answer = http.post("/get-online-features", json=lookup(driver))
                if answer.status_code != 200 or values(answer) != expected(driver):
                    self.wrong.append((driver, answer.status_code, answer.text))
                self.answered += 1

    def stop(self) -> None:
        """Let the clients end."""
        self._stop.set()


def test_a_window_is_added_under_live_lookups(tmp_path: Path) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis())
        repository = make_repository(tmp_path / "repository", redis.url)
        api = stack.enter_context(running_api(repository, "--workers", "2"))
        clients = stack.enter_context(ThreadPoolExecutor(3))
        wait_for(api.is_ready)
        load = Load(api)
        running = [clients.submit(load.run, first) for first in (0, 17, 34)]
        try:
            wait_for(lambda: load.answered > 50)
            assert "trips_20d" in reason(api.lookup(1, features=NEW), 404)
            (repository / "definitions.py").write_text(WIDER, encoding="utf-8")
            applied = run_command(repository, "apply")
            assert applied.returncode == 0, applied.stderr
            found = wait_for(lambda: _found(api))
            assert found == {"driver": [1, 999], "km_30d": [2.5, None], "trips_20d": [2, 0]}
            before = load.answered
            wait_for(lambda: load.answered > before + 50)
        finally:
            load.stop()
        for client_run in running:
            client_run.result()
        assert load.wrong == []
        wait_for(lambda: set(_revisions(api)) == {2})
        assert api.ready()["status"] == "ready"


def _found(api: ApiServer) -> dict[str, list[Any]] | None:
    answer = api.lookup(1, 999, features=NEW)
    if answer.status_code == 200:
        return values(answer)
    assert answer.status_code in {404, 503}, answer.text  # not known yet, or not filled yet: never a null
    return None


def _revisions(api: ApiServer) -> list[float]:
    return [value for name, value in api.metrics().items() if name.startswith("featurestore_revision")]
