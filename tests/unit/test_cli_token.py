"""``featurestore token``: the secret goes to standard output, once, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from featurestore.cli.main import run
from featurestore.cli.settings import Settings
from featurestore.clock import ManualClock, to_micros
from featurestore.registry import Registry

T0 = datetime(2024, 5, 1, tzinfo=UTC)
Run = Callable[..., int]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(T0)


@pytest.fixture
def token(tmp_path: Path, clock: ManualClock) -> Run:
    (tmp_path / "feature_store.yaml").write_text("project: rides\n")
    return lambda *words: run(["-C", str(tmp_path), "token", *words], Settings(clock=clock))


def test_create_prints_the_secret_alone_and_says_the_rest_beside_it(
    token: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert token("create", "checkout", "--scope", "read", "--scope", "push", "--rate", "100", "--expires", "90d") == 0
    captured = capsys.readouterr()
    secret = captured.out.strip()
    info = Registry(tmp_path / "data" / "registry.db", "rides").tokens.verify(secret, to_micros(T0))
    assert info is not None
    assert (info.name, info.scopes, info.rate) == ("checkout", frozenset({"read", "push"}), 100)
    assert info.expires_at == to_micros(T0 + timedelta(days=90))
    assert captured.err == (
        f"token 'checkout' ({info.id}) may push, read, until 2024-07-30T00:00:00Z; keep its secret, it is not shown "
        "again:\n"
    )
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or secret.encode() not in file.read_bytes()


def test_json_for_scripts(token: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert token("create", "app", "--scope", "read,push", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made.pop("secret").startswith(f"fs_{made['id']}_")
    assert (made["scopes"], made["rate"], made["expires"]) == (["push", "read"], None, None)
    assert token("ls", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [made]
    assert token("revoke", "app", "--json") == 0
    assert json.loads(capsys.readouterr().out) == made | {"state": "revoked", "revoked": "2024-05-01T00:00:00Z"}


def test_ls_says_which_are_good_and_never_a_secret(
    token: Run, clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    token("ls")
    assert "featurestore token create NAME --scope read" in capsys.readouterr().out
    for name, *options in (("a",), ("b", "--expires", "1h"), ("c",)):
        token("create", name, "--scope", "read", *options)
    secrets = capsys.readouterr().out.split()
    assert token("revoke", "c") == 0
    assert "is revoked since 2024-05-01T00:00:00Z" in capsys.readouterr().out
    clock.set(T0 + timedelta(hours=1))
    assert token("ls") == 0
    listed = capsys.readouterr().out
    assert [line.split()[:3:2] for line in listed.splitlines()[1:]] == [
        ["a", "active"],
        ["b", "expired"],
        ["c", "revoked"],
    ]
    assert not any(secret in listed or secret.rpartition("_")[2] in listed for secret in secrets)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("create", "app"), 2, "Missing option '--scope'"),
        (("create", "app", "--scope", "red"), 1, "a token cannot have the scope 'red'; did you mean 'read'"),
        (("create", "app", "--scope", "read", "--expires", "soon"), 2, "'soon' is not a duration"),
        (("create", "app", "--scope", "read", "--expires", "0d"), 1, "would expire before it is made"),
        (("create", "app", "--scope", "read", "--rate", "0"), 1, "cannot have the rate 0"),
        (("create", "taken", "--scope", "read"), 1, "there is a token 'taken' already"),
        (("revoke", "other"), 1, "no token 'other'"),
    ],
)
def test_mistakes_are_explained(
    token: Run, words: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    token("create", "taken", "--scope", "read")
    capsys.readouterr()
    assert token(*words) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
