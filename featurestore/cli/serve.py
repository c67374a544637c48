"""``serve``: the lookup API."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.arguments import pass_settings
from featurestore.cli.output import count
from featurestore.cli.settings import Settings

if TYPE_CHECKING:
    from featurestore.serving.app import Api
    from featurestore.serving.settings import ServeSettings

_WORKER = "FEATURESTORE_SERVE_WORKER"
"""Tells worker processes what they serve."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option("--port", default=6566, show_default=True, type=click.IntRange(0, 65_535), help="0 is any free one.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 128), help="Processes that answer.")
@click.option(
    "--limit-body",
    default=5 << 20,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="The largest body taken.",
)
@click.option(
    "--limit-entities",
    default=10_000,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="ROWS",
    help="The most entity rows in a lookup.",
)
@click.option(
    "--limit-requests",
    default=1_000,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="The most lookups in flight in a worker; more are answered 503.",
)
@click.option(
    "--limit-seconds",
    default=2.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long a lookup waits for the online store; then it is answered 504.",
)
@click.option(
    "--grace-seconds",
    default=10.0,
    show_default=True,
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="How long a shutdown waits for requests in flight.",
)
@click.option("--access-log", is_flag=True, help="Write a line for each request, without values.")
@click.option("--log-values", is_flag=True, help="Write requests and answers down, with the values in them.")
@click.option("--no-auth", is_flag=True, help="Ask for no tokens, also where others can reach the address.")
@click.option("--ssl-certfile", default="", metavar="FILE", help="Certificate (PEM): serve TLS.")
@click.option("--ssl-keyfile", default="", metavar="FILE", help="The certificate's key (PEM).")
@pass_settings
def serve(settings: Settings, /, **options: Any) -> None:
    """Serve features over HTTP: lookups, pushes, health and metrics.

    Requests and answers have the form of Feast's feature server; http://HOST:PORT/docs describes them. On addresses
    that others can reach, callers need tokens (featurestore token create). Definitions that are applied meanwhile are
    served within a second or two, without a restart. SIGTERM and Ctrl-C finish the requests in flight.
    """
    server, serving = _load()
    chosen = serving(**options)
    server.check_tls(chosen)
    server.set_up_logging()
    store = settings.open()
    server.check_address(chosen, store.registry.tokens.any)
    views = [view for view in store.project.feature_views.values() if view.online]
    with server.listen(chosen) as listener:
        click.echo(
            f"Serving project {store.config.project!r}, {count(len(views), 'view')}, at "
            f"{server.url_of(chosen, listener)} (docs at /docs)"
        )
        if chosen.workers == 1:
            from featurestore.serving.app import Api

            server.run_one(Api(store, chosen), chosen, listener)
            return
        store.close()  # a store is not for several processes: each worker opens its own
        with tempfile.TemporaryDirectory(prefix="featurestore-metrics-") as folder:
            _tell_workers(settings.repo, chosen, folder)
            server.run_many("featurestore.cli.serve:application", chosen, listener)


def _load() -> tuple[Any, type[ServeSettings]]:
    """Import what serves, which not every user has."""
    from featurestore.errors import MissingExtraError

    try:
        from featurestore.serving import server
        from featurestore.serving.settings import ServeSettings
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("featurestore"):
            raise
        raise MissingExtraError.for_package(error.name, "serve") from error
    return server, ServeSettings


def _tell_workers(repo: Path, settings: ServeSettings, folder: str) -> None:
    import msgspec

    told = msgspec.structs.asdict(settings) | {"metrics_folder": folder}
    os.environ[_WORKER] = msgspec.json.encode({"repo": str(repo.absolute()), "settings": told}).decode()


def application() -> Api:
    """Return the application of a worker process, as the environment says."""
    import msgspec

    from featurestore.serving.app import Api
    from featurestore.serving.server import set_up_logging
    from featurestore.serving.settings import ServeSettings
    from featurestore.store import FeatureStore

    told = msgspec.json.decode(os.environ[_WORKER])
    set_up_logging()
    threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
    return Api(FeatureStore(told["repo"]), msgspec.convert(told["settings"], ServeSettings))


def _end_with(parent: int) -> None:
    """End this worker, as SIGTERM does, once the process that started it is gone without a word."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
