"""The ``featurestore`` command: loads the command asked for, runs it, and turns errors into messages and exit codes.

Nothing but click is imported until a command is known, so that ``--help`` is instant.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from featurestore.cli.settings import Settings
from featurestore.errors import FeatureStoreError, suggest

EXIT_FAILURE = 1
EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130
DEBUG_VARIABLE = "FEATURESTORE_DEBUG"

# Name, the module of this package that holds the function of the same name ("-" becomes "_"), and one line of help.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("init", "Make a new project: a working sample, or one for a file of your own."),
    "plan": ("plan", "Show what apply would change, and what that means for stored data."),
    "apply": ("plan", "Put the definitions of this repository into the registry."),
    "ls": ("catalog", "List what is applied: entities, sources, views and services."),
    "describe": ("catalog", "Show one applied object in full."),
    "source": ("source", "Check sources, and look into them: as defined here, applied or not."),
    "materialize": ("materialize", "Load a range of event time from batch sources, offline and online."),
    "materialize-incremental": ("materialize", "Load what is new in batch sources since the last job."),
    "historical": ("historical", "Build a point-in-time training set for a file of entities and times."),
    "dataset": ("dataset", "List, show and reproduce saved training sets."),
    "push": ("push", "Push rows of a file of JSON lines into a push source."),
    "stream": ("stream", "Replay stream sources into the offline and online stores."),
    "serve": ("serve", "Serve features over HTTP: lookups, pushes, health and metrics."),
    "lookup": ("lookup", "Look features up online, for one entity or many."),
    "verify": ("verify", "Recompute served values offline and compare them, bit by bit."),
    "token": ("token", "Make, list and revoke the tokens that open the lookup API."),
    "compact": ("maintenance", "Put small files of row logs together, by event time."),
    "vacuum": ("maintenance", "Remove files that only old versions of row logs need."),
    "delete-entity": (
        "maintenance",
        "Erase a key from logs, their history, dead letters, online state and saved training sets.",
    ),
    "doctor": ("doctor", "Check configuration, registry, definitions, sources and stores."),
    "demo": ("demo", "Run an example on real data from definitions to proven online features."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command runs, and helps without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        """Return the names in the order of `COMMANDS`, which is the order they are used in."""
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  (click's signature)
        cmd_name: str,
    ) -> click.Command | None:
        """Import and return a command, or None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"featurestore.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name, suggesting the nearest where there is none."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}{suggest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002  (click's signature)
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "-C",
    "--repo",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="PATH",
    help="The folder that holds feature_store.yaml (default: this one).",
)
@click.version_option(None, "--version", package_name="featurestore", message="featurestore %(version)s")
@click.pass_context
def cli(context: click.Context, repo: Path) -> None:
    """Define features once, train on them and serve them, with proof that both see the same values."""
    context.ensure_object(Settings).repo = repo


def run(arguments: Sequence[str] | None = None, settings: Settings | None = None) -> int:
    """Run one command line and return its exit code.

    0 is success, 1 a failure that the message explains, 2 a wrong command line, 70 a bug, 130 an interruption.
    """
    try:
        result: Any = cli.main(arguments, prog_name="featurestore", standalone_mode=False, obj=settings or Settings())
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except FeatureStoreError as error:
        _show_traceback()
        click.echo(f"error: {error}", err=True)
        return EXIT_FAILURE
    except BrokenPipeError:
        # The reader (head, say) has seen enough; keep the interpreter from flushing into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE  # as click does
    except Exception as error:  # noqa: BLE001  (the outermost edge: whatever arrives here is a bug, reported as one)
        if not _show_traceback():
            click.echo(
                f"internal error: {type(error).__name__}: {' '.join(str(error).split())}; this is a bug: please "
                f"report it with the output of the same command run with {DEBUG_VARIABLE}=1",
                err=True,
            )
        return EXIT_INTERNAL
    return result if isinstance(result, int) else 0


def _show_traceback() -> bool:
    """Print the current exception's traceback where the user asked for it, and tell whether that was so."""
    asked = os.environ.get(DEBUG_VARIABLE, "") not in {"", "0"}
    if asked:
        traceback.print_exc()
    return asked


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    sys.exit(run())
