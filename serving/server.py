"""Running the API under uvicorn: one worker in this process, or several over one socket, and a clean end."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from featurestore.errors import ConfigError, RegistryError
from featurestore.serving.app import Api
from featurestore.serving.protocol import LookupProtocol
from featurestore.serving.settings import ServeSettings

LOG = logging.getLogger("featurestore.serving")
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75
"""Longer than load balancers keep idle connections, so that none sends a request into one that closes just then."""
_HEARTBEAT_SECONDS = 30
_NOT_STARTED = 3
"""How uvicorn's workers exit where the application does not start."""


def set_up_logging() -> None:
    """Send what the API and uvicorn have to say to standard error; requests are no part of it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("featurestore.serving", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


def check_address(settings: ServeSettings, has_tokens: Callable[[], bool]) -> None:
    """Refuse to answer strangers without tokens.

    Raises
    ------
    ConfigError
        Where others can reach the address, there are no tokens, and nobody said that this is meant.
    """
    if settings.no_auth or _is_loopback(settings.host) or has_tokens():
        return
    raise ConfigError(
        f"others can reach {settings.host}, and there are no tokens yet, so that anybody could read features and push "
        "rows: make one with 'featurestore token create', serve on 127.0.0.1, or say --no-auth if that is meant"
    )


def check_tls(settings: ServeSettings) -> None:
    """Refuse a certificate or key that cannot be used, before anything listens.

    Raises
    ------
    ConfigError
        Where one is named without the other, or they cannot be read or do not belong together.
    """
    if not (settings.ssl_certfile or settings.ssl_keyfile):
        return
    if not (settings.ssl_certfile and settings.ssl_keyfile):
        raise ConfigError("TLS needs both --ssl-certfile and --ssl-keyfile")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, _no_password)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"--ssl-certfile {settings.ssl_certfile}, --ssl-keyfile {settings.ssl_keyfile}: cannot be used ({error}); "
            "name a PEM file of the certificate and those that vouch for it, and one of its key, without a password"
        ) from error


def _no_password() -> str:
    """Stand in for a terminal, which a server has none of."""
    return ""


def listen(settings: ServeSettings) -> socket.socket:
    """Return a socket that listens.

    Raises
    ------
    ConfigError
        Where the address cannot be listened on.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host {settings.host}: no such address ({error.strerror})") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {settings.host}, port {settings.port} ({error.strerror}); choose another with --port, "
            "or end what listens there"
        ) from error
    listener.set_inheritable(True)
    return listener


def url_of(settings: ServeSettings, listener: socket.socket) -> str:
    """Return where the API is found."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.ssl_certfile else 'http'}://{host}:{listener.getsockname()[1]}"


def run_one(api: Api, settings: ServeSettings, listener: socket.socket) -> None:
    """Answer in this process until a signal; requests in flight are finished within the grace period.

    Raises
    ------
    RegistryError
        Where it could not start; the log says why.
    """
    server = _Server(_config(api, settings))
    try:
        server.run([listener])
    except SystemExit as error:  # uvicorn's way of saying that the application did not start
        raise RegistryError("the API could not be started; what is wrong is said above") from error


def run_many(application: str, settings: ServeSettings, listener: socket.socket) -> None:
    """Answer in several processes until a signal; one that dies is replaced.

    Parameters
    ----------
    application
        ``module:function`` of what makes the application in a worker, called without arguments.

    Raises
    ------
    RegistryError
        Where a worker could not start; the log says why.
    """
    supervisor = _Supervisor(_config(application, settings, factory=True), sockets=[listener])
    supervisor.run()
    if any(process.process.exitcode == _NOT_STARTED for process in supervisor.processes):
        raise RegistryError("a worker could not be started; what is wrong is said above")


def _config(app: Any, settings: ServeSettings, *, factory: bool = False) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=factory,
        workers=settings.workers,
        http=LookupProtocol,
        ws="none",
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
        timeout_worker_healthcheck=_HEARTBEAT_SECONDS,
        ssl_certfile=settings.ssl_certfile or None,
        ssl_keyfile=settings.ssl_keyfile or None,
    )


class _Server(uvicorn.Server):
    """A server whose end by a signal is a success: uvicorn's own raises the signal again once all is done."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.should_exit:  # asked twice: now
            self.force_exit = True
        self.should_exit = True


class _Supervisor(Multiprocess):
    """Starts workers, replaces those that die, and ends them; no new connection waits for workers that are ending."""

    def init_processes(self) -> None:
        super().init_processes()
        self._let_go()

    def keep_subprocess_alive(self) -> None:
        super().keep_subprocess_alive()
        self._let_go()

    def _let_go(self) -> None:
        """Close the workers' ends of the pipes here, so that one that dies while it is asked is not waited for."""
        for process in self.processes:
            process.child_conn.close()

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        return False
    return packed[0] == 127 if len(packed) == 4 else packed == b"\x00" * 15 + b"\x01"
