"""Who gets in: tokens of the registry, TLS, and an address that strangers can reach."""

from __future__ import annotations

import ssl
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from featurestore.errors import ConfigError
from featurestore.serving.server import check_tls
from featurestore.serving.settings import ServeSettings
from featurestore.store import FeatureStore
from tests.servers.api import (
    ApiServer,
    bearer,
    expected,
    make_repository,
    reason,
    run_command,
    running_api,
    values,
    wait_for,
)
from tests.servers.certificates import Authority

EVERYWHERE = "0.0.0.0"  # noqa: S104  (what is refused)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repository", "{type: lmdb}")


def token(repository: Path, *arguments: str) -> str:
    """Run `featurestore token` and return what it prints."""
    done = run_command(repository, "token", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_tokens_open_what_their_scopes_say_until_they_are_revoked(repository: Path) -> None:
    with running_api(repository, "--access-log") as api:
        assert values(api.lookup(1)) == expected(1)  # on a loopback address, as long as there are none
        secrets = {"reader": token(repository, "create", "reader", "--scope", "read")}
        with closing(FeatureStore(repository)) as store:
            now = store.clock.now()
            secrets["pusher"] = store.registry.tokens.create("pusher", ["push"], now=now).secret
            secrets["slow"] = store.registry.tokens.create("slow", ["read"], now=now, rate=2).secret
        wait_for(lambda: api.lookup(1).status_code == 401)  # at the next look at the registry
        _check_scopes(api, secrets)
        _check_rate(api, secrets)
        token(repository, "revoke", "reader")
        wait_for(lambda: api.lookup(1, token=secrets["reader"]).status_code == 401)
        assert reason(api.lookup(1), 401)
        kept = [path.read_bytes() for path in (repository / "data").glob("registry.db*")]
        kept += [api.out.read_bytes(), api.err.read_bytes()]
        assert not [name for name, secret in secrets.items() for text in kept if secret.encode() in text]


def _check_scopes(api: ApiServer, secrets: dict[str, str]) -> None:
    def push(token: str) -> httpx.Response:
        return api.http.post("/push", json={"push_source_name": "trips", "df": {}}, headers=bearer(token))

    assert api.lookup(1).headers["www-authenticate"].startswith("Bearer")
    assert "not known" in reason(api.lookup(1, token=secrets["reader"] + "x"), 401)
    assert values(api.lookup(1, token=secrets["reader"])) == expected(1)
    assert "'push'" in reason(push(secrets["reader"]), 403)
    assert "'read'" in reason(api.lookup(1, token=secrets["pusher"]), 403)
    assert push(secrets["pusher"]).status_code == 200
    for path in ("/features", "/metrics"):
        assert api.http.get(path).status_code == 401
        assert api.http.get(path, headers=bearer(secrets["reader"])).status_code == 200
    for path in ("/health/live", "/health/ready", "/docs"):
        assert api.http.get(path).status_code == 200


def _check_rate(api: ApiServer, secrets: dict[str, str]) -> None:
    answers = [api.lookup(1, token=secrets["slow"]) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert "2 requests a second" in reason(refused[0], 429)
    assert refused[0].headers["retry-after"] == "1"
    assert api.metrics(secrets["reader"])["featurestore_rate_limited_total"] == len(refused)


def test_strangers_are_not_answered_without_tokens(repository: Path) -> None:
    refused = run_command(repository, "serve", "--host", EVERYWHERE, "--port", "0")
    assert refused.returncode == 1
    assert "featurestore token create" in refused.stderr
    assert "--no-auth" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_tls(repository: Path, tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    file, key = authority.sign("api")
    nowhere = ServeSettings(ssl_certfile=str(file), ssl_keyfile="nowhere.key")
    other = ServeSettings(ssl_certfile=str(key), ssl_keyfile=str(file))
    for settings, words in ((ServeSettings(ssl_certfile=str(file)), "both"), (nowhere, "nowhere.key"), (other, "PEM")):
        with pytest.raises(ConfigError, match=words):
            check_tls(settings)
    files = ("--ssl-certfile", str(file), "--ssl-keyfile", str(key))
    trusted = ssl.create_default_context(cafile=authority.file)
    with running_api(repository, *files, scheme="https", verify=trusted) as api:
        assert values(api.lookup(1, 2)) == expected(1, 2)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{api.port}/health/live")
        with pytest.raises(httpx.ConnectError, match="certificate"):
            httpx.get(f"https://127.0.0.1:{api.port}/health/live")
