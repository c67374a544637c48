"""What docs/serving.md shows is true: its requests are answered as it says, and its tables name all that there is."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from featurestore.cli.serve import serve
from featurestore.config import Config
from featurestore.serving.metrics import FAMILIES
from featurestore.serving.problems import KINDS
from featurestore.serving.routes import PATHS
from featurestore.serving.settings import ServeSettings
from featurestore.store import FeatureStore
from tests.unit.serving_bench import in_loop, serving

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


def shown() -> list[tuple[list[str], str]]:
    """Return the curl commands whose answers are shown, in words, with these answers."""
    found = []
    for block in blocks("console"):
        for part in block.split("$ ")[1:]:
            command, _, answer = part.partition("\n")
            if command.startswith("curl") and answer:
                found.append((shlex.split(command)[1:], answer.strip()))
    return found


@in_loop
async def test_requests_are_answered_as_shown(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(blocks("python")[0], names)  # noqa: S102  (the page's definitions)
    store = FeatureStore(config=Config(project="taxis", repo_path=tmp_path, online_type="memory"))
    store.apply([names["NEWEST"], names["ACTIVITY"]])
    assert len(shown()) == 4
    async with serving(store) as client:
        for (url, *words), answer in shown():
            path = url.removeprefix("localhost:6566")
            options = list(zip(words[::2], words[1::2], strict=True))
            headers = dict(value.split(": ") for option, value in options if option == "-H")
            (body,) = [value for option, value in options if option == "-d"]
            got = await client.http.post(path, content=body, headers=headers)
            assert json.loads(got.text) == json.loads(answer)
    store.close()


def test_tables_name_all_routes_codes_metrics_and_limits() -> None:
    assert all(f" {path}`" in DOCUMENT for path in PATHS)
    assert {int(code): word for code, word in re.findall(r"^\| (\d+) \| `(\w+)`", DOCUMENT, flags=re.MULTILINE)} == {
        code: word for code, (word, _) in KINDS.items()
    }
    for name, family in FAMILIES.items():
        assert f"`{name}{'_total' if family.kind == 'counter' else ''}`" in DOCUMENT
    options = {option for parameter in serve.params for option in parameter.opts if option.startswith("--limit")}
    assert all(f"| `{option}` |" in DOCUMENT for option in options)
    settings = ServeSettings()
    assert f"{settings.limit_body:,} bytes" in DOCUMENT
    assert f"{settings.limit_entities:,} rows" in DOCUMENT
    assert f"{settings.limit_requests:,} lookups" in DOCUMENT
