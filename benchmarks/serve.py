"""HTTP lookups of 20 features from Redis: ours, a handler written by hand, and Feast's server, one worker each."""

from __future__ import annotations

import json
import random
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.data import SPAN, START, WIDE, Inputs, Shape, make
from benchmarks.options import Options, progress
from benchmarks.race import Contestant, finish, race
from benchmarks.report import Row
from benchmarks.servers import Server, http_server, redis_server

KEYS = 10_000
CONNECTIONS = 16
SECONDS = 5.0
PATH = "/get-online-features"
SHARES = {1: 0.8, 100: 0.5}
"""By entities in a request, the share of the rate of the handler written by hand that ours must reach."""
FEAST_RATIO = 20
TAIL = 3
"""How many times the median the slowest hundredth may take, at half the greatest rate."""


@dataclass(frozen=True)
class Measured:
    """The best load on one server: requests a second, latencies, CPU seconds a request, and what was wrong."""

    rate: float
    figures: Mapping[str, float]
    cpu: float
    wrong: str


def run(options: Options) -> list[Row]:
    """Fill Redis three times with the same rows, then load each server with the same requests."""
    inputs = make(options, Shape("wide", rows=KEYS, labels=1, keys=KEYS))
    table = pq.read_table(inputs.features)
    values = dict(zip(table["id"].to_pylist(), table["f00"].to_pylist(), strict=True))
    rows = []
    with options.workspace() as folder, redis_server() as port:
        servers = _filled(options, inputs, folder, port)
        for entities, share in SHARES.items():
            bodies = write_bodies(folder, entities)
            measured = {}
            for name, server in servers.items():
                with server() as running:
                    measured[name] = _load(name, running, bodies, values)
                    if name == "ours":
                        steady = _steady(running, bodies, measured[name].rate / 2)
            rows += _rows(entities, share, measured, steady)
    return rows


def _filled(options: Options, inputs: Inputs, folder: Path, port: int) -> dict[str, Any]:
    shared = {"features": inputs.features, "redis": port}
    finish("fill ours", Contestant("benchmarks.ours:load", {**shared, "project": folder / "ours", "kind": "wide"}))
    finish("fill by hand", Contestant("benchmarks.handwritten:redis_sets", {**shared, "columns": WIDE}))
    served = "import sys; from featurestore.cli.main import main; sys.exit(main())"
    ours = [sys.executable, "-c", served, "-C", folder / "ours", "serve", "--port", "{port}"]
    bare = [sys.executable, "-m", "uvicorn", "benchmarks.bare_server:app", "--port", "{port}", "--no-access-log"]

    servers = {
        "ours": lambda: http_server(ours, "/health/ready"),
        "handwritten": lambda: http_server([*bare, "--log-level", "warning"], "/", env={"BARE_REDIS_PORT": str(port)}),
    }
    if options.feast:
        project = folder / "feast"
        feast = {**shared, "project": project, "columns": WIDE, "start": START, "end": START + SPAN}
        load = Contestant("benchmarks.feast_peer:load_redis", feast, python=options.feast_python)
        if failure := race({"fill Feast": load})["fill Feast"].failure:
            progress(f"Feast is left out: {failure}")
        else:
            command = [options.feast_python.with_name("feast"), "-c", project, "serve", "--host", "127.0.0.1"]
            servers["Feast"] = lambda: http_server(
                [*command, "--port", "{port}", "--workers", "1", "--no-access-log"], "/health"
            )
    return servers


def write_bodies(folder: Path, entities: int) -> Path:
    """Write 500 requests of some entities each, and return their file."""
    chooser = random.Random(entities)
    asked = [chooser.sample(range(KEYS), entities) for _ in range(500)]
    features = [f"wide:{name}" for name in WIDE]
    path = folder / f"bodies-{entities}.json"
    path.write_text(json.dumps([json.dumps({"features": features, "entities": {"id": ids}}) for ids in asked]))
    return path


def _load(name: str, server: Server, bodies: Path, values: Mapping[int, float]) -> Measured:
    wrong = _check(server, bodies, values)
    before = server.cpu_seconds()
    figures = _figures(name, server, bodies, None)
    requests = figures["rate"] * SECONDS * 1.2
    return Measured(figures["rate"], figures, (server.cpu_seconds() - before) / requests, wrong)


def _steady(server: Server, bodies: Path, rate: float) -> Mapping[str, float]:
    return _figures("ours at half that rate", server, bodies, rate)


def _figures(name: str, server: Server, bodies: Path, rate: float | None) -> dict[str, float]:
    arguments = {"port": server.port, "path": PATH, "bodies": bodies, "connections": CONNECTIONS, "seconds": SECONDS}
    return race({name: Contestant("benchmarks.load:post", {**arguments, "rate": rate})})[name].figures


def _check(server: Server, bodies: Path, values: Mapping[int, float]) -> str:
    """Return how the answers to some requests differ from what was put in."""
    for body in json.loads(bodies.read_text())[:20]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.port}{PATH}", body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.loads(answer.read())
        names = found["metadata"]["feature_names"]
        got = found["results"][names.index("f00")]["values"]
        expected = [values[key] for key in json.loads(body)["entities"]["id"]]
        if got != expected:
            return f"f00 of {len(expected)} entities: {got[:3]} instead of {expected[:3]}"
    return ""


def _rows(entities: int, share: float, measured: Mapping[str, Measured], steady: Mapping[str, float]) -> Iterator[Row]:
    ours, bare, feast = measured["ours"], measured["handwritten"], measured.get("Feast")
    bar = 1 / bare.rate / share
    if feast is not None:
        bar = min(bar, 1 / feast.rate / FEAST_RATIO)
    notes = [f"{name}: {_shown(each)}{each.wrong and ', WRONG: ' + each.wrong}" for name, each in measured.items()]
    case = f"HTTP lookup, Redis, {entities} entities, {len(WIDE)} features, {CONNECTIONS} connections"
    agree = not ours.wrong and not ours.figures["failed"]
    yield Row(
        f"{case}: time a request", 1 / ours.rate, feast and 1 / feast.rate, 1 / bare.rate, bar, agree, "s", tuple(notes)
    )
    yield Row(
        f"{case}: slowest hundredth at half the rate, beside the median",
        steady["p99"],
        None,
        steady["p50"],
        TAIL * steady["p50"],
        not steady["failed"],
    )


def _shown(measured: Measured) -> str:
    tail = ", ".join(f"{name} {measured.figures[name] * 1000:.2f} ms" for name in ("p50", "p99", "p999"))
    return f"{measured.rate:,.0f} requests/s, {tail}, {measured.cpu * 1e6:.0f} us of CPU a request"
