"""What docs/redis.md tells to write into feature_store.yaml is read as it says there."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from featurestore.config import load_config
from featurestore.online.redis_settings import DEFAULT_PREFIX, DEFAULT_URL, RedisSettings

DOCUMENT = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")
YAML = re.findall(r"```yaml\n(.*?)```", DOCUMENT, flags=re.DOTALL)
TABLE = re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", DOCUMENT, flags=re.MULTILINE)


@pytest.mark.parametrize("text", YAML)
def test_what_stands_there_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "p")
    tmp_path.joinpath("tls").mkdir()
    tmp_path.joinpath("tls", "ca.pem").touch()
    tmp_path.joinpath("feature_store.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path)
    settings = RedisSettings.read(config.online_settings(), config.resolve)
    assert settings.cluster == ("cluster: true" in text)
    assert settings.tls == ("rediss:" in text)
    assert settings.password == ("p" if "PASSWORD" in text else None)
    assert settings.ca == (tmp_path / "tls" / "ca.pem" if "ca:" in text else None)


def test_the_table_names_every_setting_and_its_default() -> None:
    named = {name: default.strip().strip("`") for names, default in TABLE for name in re.findall(r"`(\w+)`", names)}
    of_the_url = {"host", "port", "db", "username", "password", "tls"}
    assert set(named) == {field.name for field in fields(RedisSettings)} - of_the_url | {"url"}
    assert (named["url"], named["key_prefix"], named["timeout"]) == (DEFAULT_URL, DEFAULT_PREFIX, "1s")
    assert RedisSettings.read({}) == RedisSettings.read({"url": named["url"], "timeout": named["timeout"]})
