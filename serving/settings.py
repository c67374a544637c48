"""How the API is run: where it listens, what it accepts, and what it writes down."""

from __future__ import annotations

import msgspec

DEFAULT_PORT = 6566


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of ``featurestore serve``; every worker has the same.

    Attributes
    ----------
    host, port
        Where it listens; port 0 is any free one.
    workers
        How many processes answer.
    limit_body
        The greatest size of a request's body, in bytes; a larger one is answered 413.
    limit_entities
        The greatest number of entity rows of a request; more are answered 413.
    limit_requests
        How many lookups a worker holds at once; further ones are answered 503.
    limit_seconds
        How long a lookup may wait for the online store; then it is answered 504.
    grace_seconds
        How long a shutdown waits for requests in flight.
    poll_seconds
        How often a worker looks for new definitions and at the stores' health.
    token_seconds
        For how long a worker remembers a token it has verified; a revoked one is refused after that at the latest.
    no_auth
        Whether to answer without tokens on an address that others can reach.
    access_log
        Whether to write a line for each request, without values.
    log_values
        Whether to write down request and answer bodies, which hold feature values.
    ssl_certfile, ssl_keyfile
        PEM files; empty: no TLS.
    metrics_folder
        Folder through which workers share their counts; empty: this worker has no others.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    workers: int = 1
    limit_body: int = 5 << 20
    limit_entities: int = 10_000
    limit_requests: int = 1_000
    limit_seconds: float = 2.0
    grace_seconds: float = 10.0
    poll_seconds: float = 1.0
    token_seconds: float = 5.0
    no_auth: bool = False
    access_log: bool = False
    log_values: bool = False
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    metrics_folder: str = ""
