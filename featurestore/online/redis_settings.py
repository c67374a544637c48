"""What ``online_store`` may say about Redis, checked; importing this needs no Redis client."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from featurestore.config import parse_duration
from featurestore.errors import ConfigError

DEFAULT_URL = "redis://localhost:6379"
DEFAULT_PREFIX = "fs:"
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,32}:")
_TLS_FILES = ("ca", "cert", "key")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """How to reach a Redis or Valkey server or cluster, and under which keys to store.

    Attributes
    ----------
    host, port
        The server; of a cluster any of its servers, which names the others.
    db
        Number of the database; 0 in a cluster.
    username, password
        An ACL user; None: the default user, without a password.
    tls
        Whether to connect by TLS.
    ca, cert, key
        PEM files: certificates to trust (None: the system's), and the client's own, where the server asks for one.
    cluster
        Whether it is a cluster.
    key_prefix
        What all keys begin with; ends with its only colon, so that no prefix is the beginning of another.
    timeout
        For how many seconds to wait for the server, for a connection as for an answer.
    """

    host: str = "localhost"
    port: int = 6379
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    cluster: bool = False
    key_prefix: str = DEFAULT_PREFIX
    timeout: float = 1.0

    @classmethod
    def read(cls, section: Mapping[str, Any], resolve: Callable[[str], Path] = Path) -> RedisSettings:
        """Check and return what the section ``online_store`` says.

        Parameters
        ----------
        section
            The keys beside ``type``: ``url``, ``cluster``, ``key_prefix``, ``timeout``, ``ca``, ``cert``, ``key``.
        resolve
            Makes a path absolute.

        Raises
        ------
        ConfigError
            Where a value is not usable. It never shows the password.
        """
        values = _parse_url(section.get("url") or DEFAULT_URL)
        cluster = section.get("cluster", False)
        if not isinstance(cluster, bool):
            raise ConfigError(f"online_store.cluster: {cluster!r} is neither true nor false")
        if cluster and values["db"]:
            raise ConfigError(f"online_store.url: a cluster has no database {values['db']}; leave the number out")
        prefix = section.get("key_prefix", DEFAULT_PREFIX)
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise ConfigError(
                f"online_store.key_prefix: {prefix!r} is not 1 to 32 letters, digits, '_', '.' or '-' and a colon at "
                "the end, for example 'rides:'"
            )
        timeout = parse_duration("online_store.timeout", section.get("timeout", "1s")) / 1e6
        if not 0.001 <= timeout <= 600:
            raise ConfigError(f"online_store.timeout: {section['timeout']} is out of bounds; it is from 1ms to 10m")
        files: dict[str, Any] = {
            name: _file(name, section[name], resolve) for name in _TLS_FILES if section.get(name) is not None
        }
        if files and not values["tls"]:
            raise ConfigError(f"online_store.{next(iter(files))}: only for TLS; let the url begin with rediss://")
        if ("cert" in files) != ("key" in files):
            raise ConfigError("online_store.cert and online_store.key: name both, or neither")
        return cls(**values, **files, cluster=cluster, key_prefix=prefix, timeout=timeout)

    @property
    def address(self) -> str:
        """The server, for messages."""
        return f"{self.host}:{self.port}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return what to connect by TLS with, None for no TLS.

        Raises
        ------
        ConfigError
            Where a file cannot be used.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
            if self.cert is not None and self.key is not None:
                context.load_cert_chain(str(self.cert), str(self.key))
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path is not None)
            raise ConfigError(f"online_store: the TLS files {files} cannot be used: {error}") from error
        return context

    def connection_options(self) -> dict[str, Any]:
        """Return what `redis.Connection` (with TLS `redis.SSLConnection`) is made with, host and port left aside."""
        options: dict[str, Any] = {
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.timeout,
            "protocol": 2,
        }
        if self.tls:
            names = (("ca", "ssl_ca_certs"), ("cert", "ssl_certfile"), ("key", "ssl_keyfile"))
            options |= {name: str(path) for attribute, name in names if (path := getattr(self, attribute)) is not None}
        return options


def _parse_url(url: object) -> dict[str, Any]:
    """Return what a URL says; messages never show it, because it may hold a password."""
    example = "write, for example, redis://localhost:6379 or rediss://user:password@host:6379/0"
    if not isinstance(url, str):
        raise ConfigError(f"online_store.url: a {type(url).__name__} is not a URL; {example}")
    parts = urlsplit(url.strip())
    if parts.scheme not in {"redis", "rediss"}:
        raise ConfigError(
            f"online_store.url: it begins with {parts.scheme + ':' if parts.scheme else 'no scheme'!r}; {example}"
        )
    try:
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"online_store.url: its port is not a number from 1 to 65535; {example}") from error
    db = parts.path.strip("/")
    if db and not (db.isascii() and db.isdigit()):
        raise ConfigError(f"online_store.url: the database {db!r} is not a number; {example}")
    if parts.query or parts.fragment:
        raise ConfigError(
            "online_store.url: options after '?' are not read; write them as keys of their own, such as timeout: 1s "
            "(a '?' or '#' in the password is written %3F or %23)"
        )
    return {
        "host": parts.hostname or "localhost",
        "port": port or 6379,
        "db": int(db or 0),
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "tls": parts.scheme == "rediss",
    }


def _file(name: str, value: object, resolve: Callable[[str], Path]) -> Path:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"online_store.{name}: {value!r} is not a path; write, for example, {name}: tls/{name}.pem")
    path = Path(resolve(value))
    if not path.is_file():
        raise ConfigError(f"online_store.{name}: there is no file {path}")
    return path
