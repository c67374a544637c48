"""The lookup API as users start it: a repository with definitions and rows, and `featurestore serve` in a process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx

from featurestore.store import FeatureStore
from tests.servers.ports import end, free_port, wait_until_listening

T = TypeVar("T")

COMMAND = [sys.executable, "-c", "import sys; from featurestore.cli.main import main; sys.exit(main())"]
DRIVERS = 50
DEFINITIONS = """
from datetime import timedelta
from featurestore import Aggregation, Entity, FeatureService, FeatureView, Field, PushSource
from featurestore.types import Float64, Int64, String

DRIVER = Entity("driver", value_type=Int64)
TRIPS = PushSource("trips", timestamp_field="ts")
FIELDS = [Field("km", Float64), Field("city", String)]
NEWEST = FeatureView("newest", [DRIVER], FIELDS, TRIPS)
SUM = Aggregation("km", "sum", timedelta(days=30), name="km_30d")
RECENT = FeatureView("recent", [DRIVER], FIELDS, TRIPS, aggregations=[SUM])
ACTIVITY = FeatureService("activity", [NEWEST, RECENT])
"""
WIDER = DEFINITIONS.replace(
    "aggregations=[SUM]", 'aggregations=[SUM, Aggregation("km", "count", timedelta(days=20), name="trips_20d")]'
)
FEATURES = ["newest:km", "newest:city", "recent:km_30d"]


def km(driver: int) -> float:
    """Return what each of a driver's two trips came to."""
    return driver * 1.25


def rows() -> list[dict[str, Any]]:
    """Return two trips of each driver, an hour and two hours ago."""
    now = datetime.now(UTC)
    return [
        {"driver": driver, "ts": now - timedelta(hours=hours), "km": km(driver), "city": f"C{driver}"}
        for driver in range(DRIVERS)
        for hours in (2, 1)
    ]


def make_repository(folder: Path, online: str, *, definitions: str = DEFINITIONS, has_rows: bool = True) -> Path:
    """Write a repository, apply it, and push the rows of `rows`.

    Parameters
    ----------
    online
        What ``online_store`` says, as YAML.
    """
    folder.mkdir(exist_ok=True)
    (folder / "feature_store.yaml").write_text(f"project: taxis\nonline_store: {online}\n", encoding="utf-8")
    (folder / "definitions.py").write_text(definitions, encoding="utf-8")
    with closing(FeatureStore(folder)) as store:
        store.apply()
        if has_rows:
            store.push("trips", rows())
    return folder


def run_command(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line to its end."""
    command = [*COMMAND, "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def lookup(*drivers: Any, features: list[str] = FEATURES) -> dict[str, Any]:
    """Return the body of a lookup."""
    return {"features": features, "entities": {"driver": list(drivers)}}


def values(answer: httpx.Response) -> dict[str, list[Any]]:
    """Return the values of an answer, which must be one, by column."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return {
        name: result["values"] for name, result in zip(body["metadata"]["feature_names"], body["results"], strict=True)
    }


def expected(*drivers: int) -> dict[str, list[Any]]:
    """Return what `lookup` of some drivers must be answered with."""
    return {
        "driver": list(drivers),
        "km": [km(driver) for driver in drivers],
        "city": [f"C{driver}" for driver in drivers],
        "km_30d": [2 * km(driver) for driver in drivers],
    }


def bearer(token: str) -> dict[str, str]:
    """Return the headers that carry a token's secret."""
    return {"authorization": f"Bearer {token}"} if token else {}


def reason(answer: httpx.Response, status: int) -> str:
    """Return the message of an answer that must be an error with this status."""
    assert answer.status_code == status, answer.text
    message: str = answer.json()["error"]["message"]
    return message


def wait_for(ask: Callable[[], T], *, seconds: float = 60) -> T:
    """Return what a question is answered with once that is true; the last answer is in the error where it never is."""
    deadline = time.monotonic() + seconds
    while True:
        found = ask()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {found!r} after {seconds} s")
        time.sleep(0.02)


@dataclass
class ApiServer:
    """A server's process.

    Attributes
    ----------
    http
        A client of it.
    out, err
        What it wrote.
    """

    process: subprocess.Popen[bytes]
    port: int
    http: httpx.Client
    out: Path
    err: Path

    def lookup(self, *drivers: Any, features: list[str] = FEATURES, token: str = "") -> httpx.Response:
        """Look drivers up."""
        body = lookup(*drivers, features=features)
        return self.http.post("/get-online-features", json=body, headers=bearer(token))

    def ready(self) -> dict[str, Any]:
        """Return what it says of its readiness."""
        found: dict[str, Any] = self.http.get("/health/ready").json()
        return found

    def is_ready(self) -> bool:
        """Whether it may be sent requests."""
        return self.http.get("/health/ready").status_code == 200

    def metrics(self, token: str = "") -> dict[str, float]:
        """Return its counts, by name and labels as they are written."""
        text = self.http.get("/metrics", headers=bearer(token)).text
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def memory(self) -> int:
        """Return the most memory that it has held so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) << 10


@contextmanager
def running_api(
    repository: Path, *options: str, scheme: str = "http", environment: Mapping[str, str] | None = None, **client: Any
) -> Iterator[ApiServer]:
    """Start `featurestore serve` with some options, and end it afterwards."""
    port = free_port()
    out, err = repository / f"serve-{port}.out", repository / f"serve-{port}.err"
    command = [*COMMAND, "-C", str(repository), "serve", "--port", str(port), *options]
    with out.open("wb") as to_out, err.open("wb") as to_err:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=to_out, stderr=to_err, env=environment and dict(environment)
        )
    try:
        wait_until_listening(process, port)
        with httpx.Client(base_url=f"{scheme}://127.0.0.1:{port}", timeout=60, **client) as http:
            yield ApiServer(process, port, http, out, err)
    finally:
        end(process)
