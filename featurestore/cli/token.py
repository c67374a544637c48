"""``token``: who may use the lookup API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.arguments import pass_settings, split_commas
from featurestore.cli.output import emit_json, iso, json_option, print_table
from featurestore.cli.settings import Settings

if TYPE_CHECKING:
    from featurestore.registry import TokenInfo


@click.group()
def token() -> None:
    """Make, list and revoke the tokens that open the lookup API.

    A client sends its token's secret with each request: `Authorization: Bearer fs_...`. A secret is shown when it is
    made and never again; the registry holds only a hash of it.
    """


def _lifetime(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    from featurestore.config import parse_duration
    from featurestore.errors import ConfigError

    try:
        return None if text is None else parse_duration("expires", text)
    except ConfigError as error:
        raise click.BadParameter(str(error), context, parameter) from error


@token.command("create")
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, required=True, metavar="SCOPE", help="read, push or admin (all); repeat it."
)
@click.option("--rate", type=int, metavar="N", help="At most N requests a second; otherwise without limit.")
@click.option(
    "--expires", callback=_lifetime, metavar="DURATION", help="For how long it is good: 12h or 90d; otherwise for ever."
)
@json_option
@pass_settings
def create_token(
    settings: Settings, *, name: str, scopes: Sequence[str], rate: int | None, expires: int | None, as_json: bool
) -> None:
    """Make a token and print its secret.

    The secret alone goes to standard output: SECRET=$(featurestore token create checkout --scope read). It cannot be
    shown again. NAME is free again once its token is revoked or has expired.
    """
    from featurestore.store import user_name

    now = settings.clock.now()
    new = settings.open().registry.tokens.create(
        name,
        split_commas(scopes),
        now=now,
        user=user_name(),
        rate=rate,
        expires=None if expires is None else now + expires,
    )
    if as_json:
        emit_json({"secret": new.secret} | _shown(new.info, now))
        return
    until = f", until {iso(new.info.expires_at)}" if new.info.expires_at else ""
    click.echo(
        f"token {name!r} ({new.info.id}) may {', '.join(sorted(new.info.scopes))}{until}; keep its secret, it is not "
        "shown again:",
        err=True,
    )
    click.echo(new.secret)


@token.command("ls")
@json_option
@pass_settings
def list_tokens(settings: Settings, *, as_json: bool) -> None:
    """List every token, revoked and expired ones too; secrets are not known."""
    now = settings.clock.now()
    rows = [_shown(info, now) for info in settings.open().registry.tokens.ls()]
    if as_json:
        emit_json(rows)
    elif not rows:
        click.echo("There are no tokens yet: featurestore token create NAME --scope read")
    else:
        columns = ["name", "id", "state", "scopes", "rate", "created", "by", "expires"]
        print_table(
            columns,
            [[", ".join(row["scopes"]) if name == "scopes" else row[name] or "" for name in columns] for row in rows],
        )


@token.command("revoke")
@click.argument("name_or_id", metavar="NAME|ID")
@json_option
@pass_settings
def revoke_token(settings: Settings, *, name_or_id: str, as_json: bool) -> None:
    """End a token for good.

    Servers that checked it a moment ago may let it through for some seconds more.
    """
    now = settings.clock.now()
    info = settings.open().registry.tokens.revoke(name_or_id, now)
    if as_json:
        emit_json(_shown(info, now))
    else:
        click.echo(f"token {info.name!r} ({info.id}) is revoked since {iso(info.revoked_at)}")


def _shown(info: TokenInfo, now: int) -> dict[str, Any]:
    return {
        "name": info.name,
        "id": info.id,
        "state": info.state(now),
        "scopes": sorted(info.scopes),
        "rate": info.rate,
        "created": iso(info.created_at),
        "by": info.created_by,
        "expires": iso(info.expires_at),
        "revoked": iso(info.revoked_at),
    }
