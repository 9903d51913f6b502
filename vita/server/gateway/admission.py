"""Admission control: the checks of a request before it is forwarded to a replica.

Checks before the body is read, in this order: shutdown (503), host name (403), API key (401), region (403), scope of
the key (403), rate limit (429), declared length of the body (413), capacity of the gateway (429). Then the body is
read, within its limits of size and time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from vita.server.api import json_object
from vita.server.batches.upload import UPLOAD_FORM_BYTES
from vita.server.body import declared_length, read_body
from vita.server.errors import ApiError, invalid, too_busy, too_large, unavailable
from vita.server.gateway.keys import ANONYMOUS_KEY, Key, Keyring
from vita.server.gateway.proxy import FULL
from vita.server.gateway.telemetry import Telemetry
from vita.server.settings import ServiceSettings
from vita.server.sites.residency import REGION_HEADER, request_regions, require_region
from vita.server.sites.site import Site

LONGEST_BODY_SECONDS = 600.0
"""Maximum time to receive a body of many requests."""
INTERNAL_KEY = "vita.key"
"""Name in the scope of a request that the service sends to itself: the key of the request."""


@dataclass
class AdmissionSlot:
    """The share of the gateway's capacity that one request takes; only `Admission` changes it."""

    entered: bool = False
    bytes_held: int = 0


class Admission:
    """Checks requests and counts those in progress."""

    def __init__(
        self, keys: Keyring, settings: ServiceSettings, telemetry: Telemetry, *, local: bool, site: Site | None = None
    ) -> None:
        self.keys, self.settings, self.telemetry, self.local = keys, settings, telemetry, local
        self._site = site or Site()
        self.draining = False
        self.in_flight = self.bytes_held = 0

    def authenticate(self, request: Request) -> Key:
        """Return the API key of a request."""
        if self.draining:
            self._rejected("draining")
            error = unavailable(
                "The service is shutting down and accepts no new requests", code="draining", retry_after=2
            )
            error.headers["Connection"] = "close"
            raise error
        self._check_host(request)
        return self._key(request)

    def regions(self, request: Request, key: Key) -> frozenset[str] | None:
        """Return the regions that a request is limited to; raises `ApiError` 403 if this site is in another one."""
        regions = request_regions(key.regions, request.headers.get(REGION_HEADER))
        try:
            require_region(regions, self._site.region)
        except ApiError:
            self._rejected("region")
            raise
        return regions

    def authorize(self, key: Key, scopes: tuple[str, ...]) -> None:
        """Require that the key has one of the scopes; with no scopes, any key is enough."""
        if key is ANONYMOUS_KEY and scopes == ("admin",):
            return
        if scopes and not any(key.allows(scope) for scope in scopes):
            self._rejected("scope")
            message = f"This API key does not have the required scope {' or '.join(f'`{scope}`' for scope in scopes)}."
            raise ApiError(403, message, code="insufficient_scope")

    def enter(
        self, request: Request, key: Key, slot: AdmissionSlot, *, upload: bool = False, batched: bool = False
    ) -> bool:
        """Take a slot for a request; returns whether its content may be stored.

        The body of an upload is written to disk as it arrives. It has a limit of its own, as a body of many requests.
        """
        self._check_rate(key)
        limit = self.settings.file_bytes if upload or batched else self.settings.body_bytes
        length = declared_length(request)
        if length > limit + (UPLOAD_FORM_BYTES if upload else 0):
            self._rejected("too large")
            raise too_large(limit)
        full = self.in_flight >= self.settings.in_flight
        if full or (not upload and self.bytes_held + length > self.settings.in_flight_bytes):
            self._rejected("full")
            raise too_busy(FULL)
        consent = _consent(request, key, self.settings)
        slot.entered = True
        self.in_flight += 1
        return consent

    def _key(self, request: Request) -> Key:
        if INTERNAL_KEY in request.scope:
            return request.scope[INTERNAL_KEY]
        # Clients of the Messages API send the key in a header of its own.
        header = request.headers.get("authorization") or f"Bearer {request.headers.get('x-api-key', '')}"
        scheme, _, secret = header.partition(" ")
        if self.keys.open and self.local:
            return ANONYMOUS_KEY
        if scheme.lower() != "bearer" or not secret.strip():
            self._rejected("no key")
            message = "This service requires an API key: send it as `Authorization: Bearer vk-...`."
            raise ApiError(401, message, code="missing_api_key", headers={"WWW-Authenticate": "Bearer"})
        key = self.keys.find(secret.strip())
        if key is None:
            self._rejected("wrong key")
            message = "This API key is unknown, revoked or expired."
            raise ApiError(401, message, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return key

    def _check_host(self, request: Request) -> None:
        """Require, while there are no API keys, that the request names the server by an address or as localhost.

        This prevents DNS rebinding: a web page whose host name resolves to this machine sends its own host name.
        """
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        if self.keys.open and name and name != "localhost" and not _is_address(name.strip("[]")):
            self._rejected("host")
            raise ApiError(
                403,
                f"This service accepts its IP address and `localhost` as host name, got `{name[:100]}`.",
                code="wrong_host",
            )

    def check_origin(self, request: Request) -> None:
        """Require, while there are no API keys, that a web page that sends a request is one of this service or allowed.

        A browser sends a form, or a request without a body, for every page without asking the server.
        """
        origin = request.headers.get("origin")
        if not self.keys.open or origin is None or origin in self.settings.cors_origins:
            return
        if origin.partition("://")[2] != request.headers.get("host", ""):
            self._rejected("origin")
            message = f"Web pages of `{origin[:100]}` may not use this service; see the setting `cors_origins`."
            raise ApiError(403, message, code="wrong_origin")

    def _check_rate(self, key: Key) -> None:
        if key.requests_per_minute is None and self.settings.requests_per_minute is not None:
            key = Key(**{**vars(key), "requests_per_minute": self.settings.requests_per_minute})
        seconds = self.keys.wait(key, now=asyncio.get_running_loop().time())
        if seconds > 0:
            self._rejected("rate")
            wait = max(1, round(seconds + 0.5))
            raise too_busy(f"The rate limit of this API key is exceeded; try again in {wait} s", retry_after=wait)

    async def body(self, request: Request, slot: AdmissionSlot) -> dict[str, Any]:
        """Read the JSON object in the body of a request; {} for a request without a body."""
        content = await self.content(request, slot, max_bytes=self.settings.body_bytes)
        return json_object(content) if content else {}

    async def content(self, request: Request, slot: AdmissionSlot, *, max_bytes: int) -> bytes:
        """Read the bytes of a JSON body; b"" for a request without a body."""
        if not declared_length(request) and "transfer-encoding" not in request.headers:
            return b""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                415, "The body must be JSON: send `Content-Type: application/json`.", code="unsupported_media_type"
            )
        seconds = self.settings.body_seconds * max(1.0, max_bytes / self.settings.body_bytes)
        try:
            return await read_body(
                request, max_bytes=max_bytes, max_seconds=min(seconds, LONGEST_BODY_SECONDS),
                on_part=lambda count: self._hold(slot, count),
            )  # fmt: skip
        except ApiError as error:
            if error.status == 413:
                self._rejected("too large")
            raise

    def _hold(self, slot: AdmissionSlot, count: int) -> None:
        slot.bytes_held += count
        self.bytes_held += count
        if self.bytes_held > self.settings.in_flight_bytes:
            self._rejected("full")
            raise too_busy(FULL)

    def _rejected(self, reason: str) -> None:
        self.telemetry.rejected.labels(reason).inc()

    def leave(self, slot: AdmissionSlot) -> None:
        """Free the slot of a request that has ended."""
        self.bytes_held -= slot.bytes_held
        slot.bytes_held = 0
        if slot.entered:
            slot.entered = False
            self.in_flight -= 1


def _consent(request: Request, key: Key, settings: ServiceSettings) -> bool:
    """Return whether content may be stored: from the request, else its key, else the settings of the service."""
    choice = request.headers.get("x-vita-consent", "").strip().lower()
    if choice in ("yes", "no"):
        return choice == "yes"
    if choice:
        raise invalid("`X-Vita-Consent` is `yes` or `no`", "X-Vita-Consent")
    return key.consent or settings.consent


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
