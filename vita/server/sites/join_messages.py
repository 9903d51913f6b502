"""The messages between a network replica and a gateway.

A replica sends a `JoinRequest` when it starts, and again every few seconds. Each one contains a new token, with which
the gateway authenticates its requests to the replica from then on, and the digests of the files that the replica has
verified.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from vita.spine.config import Settings

JOIN_PATH, LEAVE_PATH = "/v1/replicas/join", "/v1/replicas/leave"
RENEW_SECONDS, TOKEN_SECONDS = 5.0, 30.0
"""Interval at which tokens are renewed, and the validity of a token."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def is_address(url: str) -> bool:
    """Return True for `https://HOST:PORT`."""
    try:
        parts = urlsplit(url)
        has_port = parts.port is not None
    except ValueError:
        return False
    others = (parts.username, parts.path, parts.query, parts.fragment)
    return parts.scheme == "https" and bool(parts.hostname) and has_port and not any(others)


class JoinRequest(Settings):
    """A replica joins a gateway with its release, or renews its token."""

    instance: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Random id of the process of the replica."""
    url: str = Field(max_length=300)
    """Address of the replica: `https://HOST:PORT`."""
    release: Digest
    """SHA-256 of release.json, which contains the SHA-256 of every file; the replica has verified all of them."""
    files: Digest
    """Digest of the model, computed from its verified files."""
    site: str = Field(default="", max_length=63)
    """Site of the replica."""
    region: str | None = Field(default=None, max_length=63)
    """Region of the replica."""
    token: str = Field(min_length=32, max_length=200, repr=False)
    """Secret that the gateway sends in its requests to the replica."""
    seconds: float = Field(gt=0, le=3600)
    """Validity of the token."""

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        if not is_address(url):
            raise ValueError("`url` must be https://HOST:PORT without a path")
        return url


class LeaveRequest(Settings):
    """A replica stops: it receives no new requests and finishes those in flight."""

    instance: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Id of the process of the replica."""
