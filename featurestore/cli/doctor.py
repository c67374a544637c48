"""``doctor``: what is wrong with a project, and how to fix it."""

from __future__ import annotations

from dataclasses import asdict

import click

from featurestore.cli.output import emit_json, json_option
from featurestore.cli.settings import Settings


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check configuration, registry, definitions, sources and stores.

    Nothing is changed. The exit code is 1 if anything is wrong.
    """
    from featurestore.cli.checks import run_checks

    checks = list(run_checks(context.ensure_object(Settings)))
    broken = [check for check in checks if not check.ok]
    if as_json:
        emit_json({"ok": not broken, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            click.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}{f': {check.detail}' if check.detail else ''}")
            if not check.ok and check.fix:
                click.echo(f"      fix: {check.fix}")
        click.echo(f"\n{len(checks) - len(broken)} of {len(checks)} checks passed.")
    context.exit(1 if broken else 0)
