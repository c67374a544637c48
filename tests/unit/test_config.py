"""``feature_store.yaml``: what it may say, and what is said about mistakes in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from featurestore.config import Config, load_config, parse_duration
from featurestore.errors import ConfigError
from featurestore.online.redis_settings import RedisSettings

MINUTE = 60_000_000
DAY = 24 * 60 * MINUTE


def write(folder: Path, text: str) -> Path:
    (folder / "feature_store.yaml").write_text(text, encoding="utf-8")
    return folder


def message(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(write(folder, text))
    return str(raised.value)


def test_a_project_name_is_enough(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "project: rides\n"))

    assert config == Config(project="rides", repo_path=tmp_path)
    assert (config.max_clock_skew, config.max_future_skew) == (10 * MINUTE, DAY)
    assert config.registry_location == str(tmp_path / "data/registry.db")
    assert config.resolve(config.offline_path) == tmp_path / "data/offline"


def test_everything_can_be_said(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            """
            project: rides
            registry: postgresql://db/features
            offline_store: {type: delta, path: /srv/offline}
            online_store: {type: memory, path: here}
            max_clock_skew: 90s
            max_future_skew: 0s
            """,
        )
    )

    assert config.registry_location == "postgresql://db/features"
    assert config.resolve(config.offline_path) == Path("/srv/offline")
    assert (config.online_type, config.online_path) == ("memory", "here")
    assert (config.max_clock_skew, config.max_future_skew) == (90_000_000, 0)


def test_the_keys_of_feast_that_mean_nothing_here_are_accepted(tmp_path: Path) -> None:
    text = "project: rides\nprovider: local\nentity_key_serialization_version: 3\nregistry: {path: a.db}\n"

    assert load_config(write(tmp_path, text)).registry == "a.db"


def test_variables_are_filled_in_after_parsing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "a: #b")
    text = "project: rides\nregistry: postgresql://me:${PASSWORD}@db/x\nonline_store: {path: '$${PASSWORD}'}\n"

    config = load_config(write(tmp_path, text))

    assert config.registry == "postgresql://me:a: #b@db/x"
    assert config.online_path == "${PASSWORD}"


def test_a_missing_variable_is_named_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)

    text = message(tmp_path, "project: rides\nonline_store:\n  path: ${NOT_THERE}\n")

    assert "online_store.path: the environment variable 'NOT_THERE' is not set" in text


def test_a_missing_file_says_where_it_was_looked_for_and_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="featurestore init") as raised:
        load_config(tmp_path / "nowhere")

    assert str(tmp_path / "nowhere") in str(raised.value)


def test_broken_yaml_names_file_and_line(tmp_path: Path) -> None:
    text = message(tmp_path, "project: rides\nregistry: [a, b\nmax_clock_skew: 1m\n")

    assert text.startswith(f"{tmp_path / 'feature_store.yaml'}, line 3, column ")
    assert "not valid YAML" in text


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "line 4: the key 'path' is there twice" in message(
        tmp_path, "project: rides\nonline_store:\n  path: a\n  path: b\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the least is: project: my_project"),
        ("- project", "the least is: project: my_project"),
        ("registry: a.db", "the key 'project' is missing"),
        ("project: 7", "project: 7 is not a project name"),
        ("project: my-rides", "project: 'my-rides' is not a project name"),
        ("projct: rides", "unknown key 'projct'; did you mean 'project'?"),
        ("project: rides\nonline_store: {typ: lmdb}", "unknown key 'online_store.typ'; did you mean 'type'?"),
        ("project: rides\nonline_store: lmdb", "online_store: 'lmdb' is not a section"),
        ("project: rides\nonline_store: {type: dynamo}", "'dynamo' is not supported; use 'lmdb', 'memory' or 'redis'"),
        ("project: rides\nonline_store: {type: redis, path: data/online}", "of type 'redis' has no path"),
        ("project: rides\nonline_store: {url: 'redis://db'}", "online_store.url: only for type: redis"),
        ("project: rides\nonline_store: {type: redis, ulr: a}", "'online_store.ulr'; did you mean 'url'?"),
        ("project: rides\nonline_store: https://db", "online_store: 'https://db' is not a section"),
        ("project: rides\noffline_store: {type: spark}", "'spark' is not supported; use 'delta'"),
        ("project: rides\nregistry: 5", "registry: 5 is not a path"),
        ("project: rides\nmax_clock_skew: 10", "max_clock_skew: 10 is not a duration"),
        ("project: rides\nmax_future_skew: 1.5d", "max_future_skew: '1.5d' is not a duration"),
        ("project: rides\nmax_future_skew: 400d", "max_future_skew: 400d is out of bounds"),
    ],
)
def test_mistakes_name_the_file_the_key_and_the_fix(tmp_path: Path, text: str, expected: str) -> None:
    told = message(tmp_path, text)

    assert told.startswith(str(tmp_path / "feature_store.yaml"))
    assert expected in told


@pytest.mark.parametrize(
    ("text", "micros"), [("1us", 1), ("5ms", 5000), ("90s", 90_000_000), ("10m", 10 * MINUTE), ("2 h", 120 * MINUTE)]
)
def test_durations(text: str, micros: int) -> None:
    assert parse_duration("ttl", text) == micros


@pytest.mark.parametrize(
    "values",
    [{"project": ""}, {"max_clock_skew": -1}, {"max_future_skew": True}, {"online_type": ["lmdb"]}, {"registry": ""}],
)
def test_the_constructor_checks_too(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**({"project": "rides"} | values))


# The online store in Redis


@pytest.mark.parametrize(
    ("written", "online"),
    [
        ("redis://db:7000", {"url": "redis://db:7000"}),
        ("rediss://me:${SECRET}@db/2", {"url": "rediss://me:p@db/2"}),
        ("${REDIS_URL}", {"url": "redis://elsewhere"}),
        ("{type: redis}", {}),
        ("{type: redis, url: '${REDIS_URL}', cluster: true}", {"url": "redis://elsewhere", "cluster": True}),
    ],
)
def test_a_redis_is_named_by_its_url_alone_or_in_a_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, online: dict[str, Any]
) -> None:
    monkeypatch.setenv("SECRET", "p")
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    config = load_config(write(tmp_path, f"project: rides\nonline_store: {written}\n"))

    assert config.online_type == "redis"
    assert config.online_settings() == online


def test_the_password_of_a_redis_is_asked_for_only_on_use_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECRET", raising=False)
    config = load_config(write(tmp_path, "project: rides\nonline_store: rediss://me:${SECRET}@db\n"))

    with pytest.raises(ConfigError, match=r"online_store\.url: the environment variable 'SECRET' is not set"):
        config.online_settings()
    monkeypatch.setenv("SECRET", "the password")
    assert "the password" not in repr(config)
    assert "the password" not in repr(RedisSettings.read(config.online_settings()))


def test_a_redis_url_says_where_and_as_whom() -> None:
    settings = RedisSettings.read({"url": "rediss://me:a%3Ab%40c@db.example:7000/3", "timeout": "250ms"})
    assert (settings.host, settings.port, settings.db) == ("db.example", 7000, 3)
    assert (settings.username, settings.password, settings.tls) == ("me", "a:b@c", True)
    assert (settings.timeout, settings.key_prefix, settings.cluster) == (0.25, "fs:", False)
    plain = RedisSettings.read({})
    assert (plain.address, plain.username, plain.password, plain.tls) == ("localhost:6379", None, None, False)
    assert RedisSettings.read({"url": "redis://:only@[::1]"}) == RedisSettings(host="::1", password="only")  # noqa: S106


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"url": "http://db"}, "it begins with 'http:'"),
        ({"url": "db:6379"}, "it begins with 'db:'"),
        ({"url": 6379}, "a int is not a URL"),
        ({"url": "redis://:secret@db:port"}, "its port is not a number"),
        ({"url": "redis://:secret@db/features"}, "the database 'features' is not a number"),
        ({"url": "redis://:secret@db?ssl=true"}, "options after '?' are not read"),
        ({"url": "redis://db/1", "cluster": True}, "a cluster has no database 1"),
        ({"cluster": "yes"}, "'yes' is neither true nor false"),
        ({"key_prefix": "no colon"}, "for example 'rides:'"),
        ({"timeout": "0s"}, "it is from 1ms to 10m"),
        ({"timeout": 5}, "online_store.timeout: 5 is not a duration"),
        ({"ca": "ca.pem"}, "there is no file"),
        ({"url": "redis://db", "ca": __file__}, "let the url begin with rediss://"),
        ({"url": "rediss://db", "cert": __file__}, "name both, or neither"),
    ],
)
def test_mistakes_about_redis_name_the_key_and_the_fix(section: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)) as raised:
        RedisSettings.read(section)
    assert "online_store." in str(raised.value)
    assert "secret" not in str(raised.value)
