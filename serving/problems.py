"""What is answered where a request cannot be: one JSON shape, the right status code, and a reason."""

from __future__ import annotations

import math

import msgspec

from featurestore.errors import (
    ClockError,
    DefinitionError,
    FeatureNotFoundError,
    FeatureStoreError,
    NotAppliedError,
    NotReadyError,
    OfflineStoreError,
    OnlineStoreError,
    RegistryError,
    RowError,
    StoreUnavailableError,
)

Headers = list[tuple[bytes, bytes]]

RETRY_SECONDS = 1
KINDS: dict[int, tuple[str, str]] = {
    400: ("invalid_request", "The request is not what the endpoint takes; the message says where."),
    401: ("unauthenticated", "The bearer token is missing, unknown, expired or revoked."),
    403: ("forbidden", "The token lacks the scope that this needs."),
    404: ("not_found", "There is no such path, feature, view, service or push source; the nearest name is suggested."),
    405: ("method_not_allowed", "The path is there, and takes another method."),
    408: ("timeout", "The request's body took too long to arrive."),
    413: ("too_large", "The body or the number of entity rows is over the limit."),
    415: ("unsupported_encoding", "The body is compressed; send it plain."),
    429: ("rate_limited", "The token's rate is used up; `Retry-After` says when to try again."),
    500: ("internal", "Something here is broken; the server's log says what."),
    503: ("unavailable", "A store is away, not filled yet or busy, or the server shuts down; try again."),
    504: ("deadline_exceeded", "The online store did not answer in time."),
}
"""By status code, the type of the error, and what it means."""


class Problem(Exception):  # noqa: N818  (an answer, which a handler raises)
    """An answer other than the one asked for.

    Parameters
    ----------
    status
        The HTTP status code, one of `KINDS`.
    message
        What is wrong, where, and what to do.
    retry_after
        Seconds after which to try again, for the ``Retry-After`` header.
    headers
        Further headers.
    """

    def __init__(
        self, status: int, message: str, *, retry_after: float | None = None, headers: Headers | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers: Headers = list(headers or [])
        if retry_after is not None:
            self.headers.append((b"retry-after", b"%d" % max(1, math.ceil(retry_after))))

    def body(self) -> bytes:
        """Return the answer's JSON."""
        return msgspec.json.encode({"error": {"type": KINDS[self.status][0], "message": self.message}})


def unavailable(message: str) -> Problem:
    """Return the problem of something that is away and comes back."""
    return Problem(503, message, retry_after=RETRY_SECONDS)


def problem_of(error: FeatureStoreError) -> Problem:
    """Return how an error of the feature store is answered."""
    message = str(error)
    if isinstance(error, RowError):
        return Problem(400, message)
    if isinstance(error, (FeatureNotFoundError, NotAppliedError)):
        return Problem(404, message)
    if isinstance(error, DefinitionError):
        return Problem(400, message)
    if isinstance(error, (StoreUnavailableError, NotReadyError, ClockError, RegistryError, OfflineStoreError)):
        return unavailable(message)
    if isinstance(error, OnlineStoreError):
        return Problem(500, message)
    return Problem(500, f"{type(error).__name__}: see the server's log")
