"""How S3 is reached: endpoint, region and credentials, from a connection's settings or the environment."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow import fs

from featurestore.errors import SourceError
from featurestore.materialize.tables import check_settings

_SETTINGS = (
    "endpoint",
    "region",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "profile",
    "anonymous",
    "allow_http",
    "instance_credentials",
)
_CONNECT_SECONDS = 5
_ATTEMPTS = 3


class S3Settings(NamedTuple):
    """How a bucket is reached.

    Attributes
    ----------
    endpoint, region
        Where it is; the endpoint "" is that of AWS.
    key, secret, token
        Credentials; all "" where there are none to send, or AWS is to find them.
    anonymous
        Whether requests go unsigned.
    """

    endpoint: str
    region: str
    key: str
    secret: str
    token: str
    anonymous: bool

    @classmethod
    def of(cls, label: str, connection: str, settings: Mapping[str, Any]) -> S3Settings:
        """Return a connection's settings, completed from the environment.

        Raises
        ------
        SourceError
            Where a setting is not known, or there are no credentials. Nobody is asked for them over the network, unless
            the setting ``instance_credentials`` says so.
        """
        check_settings(label, connection, settings, _SETTINGS)
        where = f"connections.{connection}" if connection else "the environment"
        endpoint = str(settings.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3", ""))
        if endpoint.startswith("http://") and not settings.get("allow_http"):
            raise SourceError(
                f"{label}: the endpoint {endpoint} is not encrypted; allow_http: true in {where} allows it"
            )
        region = settings.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        anonymous = bool(settings.get("anonymous"))
        keys = ("", "", "") if anonymous else _credentials(label, where, settings)
        return cls(endpoint, str(region or "us-east-1"), *keys, anonymous)

    def filesystem(self) -> fs.S3FileSystem:
        """Return the file system; nothing is sent yet."""
        return fs.S3FileSystem(
            access_key=self.key or None,
            secret_key=self.secret or None,
            session_token=self.token or None,
            anonymous=self.anonymous,
            region=self.region,
            endpoint_override=self.endpoint or None,
            connect_timeout=_CONNECT_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        )

    def delta_options(self) -> dict[str, str]:
        """Return the same for deltalake."""
        options = {
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_SESSION_TOKEN": self.token,
            "AWS_ALLOW_HTTP": "true" if self.endpoint.startswith("http://") else "",
            "AWS_SKIP_SIGNATURE": "true" if self.anonymous else "",
        }
        return {name: value for name, value in options.items() if value}


def _credentials(label: str, where: str, settings: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return key, secret and session token; empty ones where AWS is to find them on its own."""
    given = [str(settings.get(name) or "") for name in ("access_key_id", "secret_access_key", "session_token")]
    if not given[0] and not given[1] and not settings.get("profile"):
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        given = [os.environ.get(name, "") for name in names]
    if bool(given[0]) != bool(given[1]):
        raise SourceError(f"{label}: {where} has only one of access_key_id and secret_access_key; give both")
    if given[0]:
        return given[0], given[1], given[2]
    if settings.get("instance_credentials") or "AWS_WEB_IDENTITY_TOKEN_FILE" in os.environ:
        return "", "", ""
    profile = str(settings.get("profile") or os.environ.get("AWS_PROFILE", "default"))
    found = _profile(profile)
    if found is None:
        raise SourceError(
            f"{label}: there are no credentials for S3 in {where}: set access_key_id and secret_access_key, "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, anonymous: true for a public bucket, or "
            "instance_credentials: true for the role of this machine"
        )
    return found


def _profile(name: str) -> tuple[str, str, str] | None:
    """Return the keys that the AWS credentials file has for a profile."""
    path = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(Path(path).expanduser(), encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return None
    if not parser.has_section(name):
        return None
    section = parser[name]
    keys = (section.get("aws_access_key_id", ""), section.get("aws_secret_access_key", ""))
    return (*keys, section.get("aws_session_token", "")) if all(keys) else None
