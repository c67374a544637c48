"""What Redis clients raise, as errors of ours: which server, what is wrong, what to do."""

from __future__ import annotations

import re
import ssl

from redis import exceptions as theirs

from featurestore.errors import OnlineStoreError, StoreUnavailableError

_VERSION = re.compile(r"FSVERSION (\d+) of (\d+)")


class WireError(Exception):
    """A request to one server failed; `translate` says what that means.

    Attributes
    ----------
    address
        The server.
    cause
        What the client raised.
    """

    def __init__(self, address: str, cause: BaseException) -> None:
        super().__init__(f"{address}: {cause}")
        self.address = address
        self.cause = cause


def translate(error: WireError, timeout: float) -> OnlineStoreError:
    """Return the error of ours that stands for one of the client's."""
    cause, server = error.cause, f"the Redis server {error.address}"
    for kinds, is_transient, message in _MEANINGS:
        if isinstance(cause, kinds):
            made = StoreUnavailableError if is_transient else OnlineStoreError
            return made(message.format(server=server, timeout=timeout, cause=_text(cause)))
    if isinstance(cause, ssl.SSLError) or "SSL" in str(cause) or "certificate" in str(cause).lower():
        return OnlineStoreError(
            f"{server} and this client do not agree on TLS: {_text(cause)}; check online_store's url (rediss:// for "
            "TLS, redis:// without), its ca, and its cert and key where the server wants a certificate"
        )
    if isinstance(cause, (theirs.ConnectionError, OSError)):
        return StoreUnavailableError(
            f"{server} cannot be reached: {_text(cause)}; is it running, and is online_store's url right?"
        )
    return _of_reply(server, cause)


def _of_reply(server: str, cause: BaseException) -> OnlineStoreError:
    """Return the error that stands for a server's own words."""
    text = _text(cause)
    version = _VERSION.search(text)
    if version:
        return OnlineStoreError(
            f"a stored value has format version {version[1]}, this release writes version {version[2]}: upgrade this "
            "process"
        )
    if _WANTS_NONE in text:
        return OnlineStoreError(_UNKNOWN_USER.format(server=server, cause=text))
    if any(words in text for words in _DENIED):
        return OnlineStoreError(_NOT_PERMITTED.format(server=server, cause=text))
    for words, message in _REPLIES:
        if words in text:
            return StoreUnavailableError(message.format(server=server, cause=text))
    return OnlineStoreError(f"{server} answers: {text}")


def _text(cause: BaseException) -> str:
    return " ".join(str(cause).split()).rstrip(".") or type(cause).__name__


_LATE = (
    "{server} does not answer within {timeout:g} s: it or the network is slow, or the url says rediss:// and it does "
    "not speak TLS; see its SLOWLOG, or raise online_store.timeout"
)
_REPLICA = (
    "{server} is a replica and takes no writes: a failover may be under way; else let online_store's url name the "
    "primary"
)
_FULL = "{server} is out of memory and refuses writes: raise its maxmemory, or remove what it need not hold"
_UNKNOWN_USER = "{server} does not accept the user or the password of online_store's url: {cause}"
_NOT_PERMITTED = (
    "{server} does not permit this user what the online store needs: {cause}; docs/redis.md lists the commands"
)
_LOST = (
    "the cluster of {server} does not answer: {cause}; see its CLUSTER INFO, and whether online_store's cluster should "
    "be true"
)
_MEANINGS: tuple[tuple[tuple[type[BaseException], ...], bool, str], ...] = (
    ((theirs.TimeoutError, TimeoutError), True, _LATE),
    ((theirs.AuthenticationError,), False, _UNKNOWN_USER),
    ((theirs.NoPermissionError,), False, _NOT_PERMITTED),
    ((theirs.BusyLoadingError,), True, "{server} is still loading its data: try again"),
    ((theirs.OutOfMemoryError,), True, _FULL),
    ((theirs.ReadOnlyError,), True, _REPLICA),
    ((theirs.RedisClusterException,), True, _LOST),
    ((theirs.ClusterError,), True, "the cluster of {server} is not whole: {cause}; see its CLUSTER INFO"),
    ((theirs.TryAgainError,), True, "{server} is moving these keys to another server: try again"),
    (
        (theirs.AskError, theirs.ClusterCrossSlotError),
        False,
        "{server} is part of a cluster: say cluster: true under online_store",
    ),
)
"""By class of the client's error, the first that fits: whether it may pass, and what to say."""

_WANTS_NONE = "AUTH <password> called without"
"""What a server says to a password where it wants none."""

_DENIED = ("NOPERM", "ACL failure in script", "executing the script can't")
"""What a server says where a script does what its user may not; it differs by version."""

_REPLIES = (
    ("OOM ", _FULL),
    ("READONLY ", _REPLICA),
    ("MISCONF ", "{server} refuses writes because it cannot save its snapshots: {cause}"),
    ("NOREPLICAS ", "{server} refuses writes because it has too few replicas: {cause}"),
    ("BUSY ", "{server} is busy with a script: {cause}"),
    ("UNBLOCKED ", "{server} has changed its role: {cause}"),
)
"""What other errors that may pass say, scripts with their own words before it."""
