"""Who comes in: everything that decides about a request before a replica hears of it.

In order, and before the body is read: the service stops (503), the name it was called by (403), the key (401), what the
key may do (403), how fast (429), the declared length (413), the room that is left (429). Then the body, read no
further than it may be long and no longer than it may take.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from typing import Any

from starlette.requests import Request

from vita.server.api import json_object
from vita.server.body import declared_length, read_body
from vita.server.errors import ApiError, invalid, too_busy, too_large, unavailable
from vita.server.gateway.keys import ANYBODY, Key, Keyring
from vita.server.gateway.proxy import FULL
from vita.server.gateway.request_record import Exchange
from vita.server.gateway.telemetry import Telemetry
from vita.server.settings import ServiceSettings


class Admission:
    """The door's keeper: knows the keys, and how much is inside."""

    def __init__(self, keys: Keyring, settings: ServiceSettings, telemetry: Telemetry, *, local: bool) -> None:
        self.keys, self.settings, self.telemetry, self.local = keys, settings, telemetry, local
        self.draining = False
        self.in_flight = self.bytes_held = 0

    def admit(self, request: Request, exchange: Exchange, scopes: tuple[str, ...], *, counted: bool = True) -> None:
        """Everything that can be known before the body is read."""
        if self.draining:
            self._rejected("draining")
            error = unavailable(
                "The service is about to stop and takes no new requests", code="draining", retry_after=2
            )
            error.headers["Connection"] = "close"
            raise error
        self._known_host(request)
        key = exchange.key = self._key(request)
        if scopes and not any(key.allows(scope) for scope in scopes) and not (key is ANYBODY and scopes == ("admin",)):
            self._rejected("scope")
            message = f"This key may not do that; it needs the scope {' or '.join(f'`{one}`' for one in scopes)}."
            raise ApiError(403, message, code="insufficient_scope")
        if not counted:
            return
        self._in_time(key)
        length = declared_length(request)
        if length > self.settings.body_bytes:
            self._rejected("too large")
            raise too_large(self.settings.body_bytes)
        full = self.in_flight >= self.settings.in_flight
        if full or self.bytes_held + length > self.settings.in_flight_bytes:
            self._rejected("full")
            raise too_busy(FULL)
        exchange.consent = _consent(request, key, self.settings)
        exchange.entered = True
        self.in_flight += 1

    def _key(self, request: Request) -> Key:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if self.keys.open and self.local:
            return ANYBODY
        if scheme.lower() != "bearer" or not secret.strip():
            self._rejected("no key")
            message = "This service asks for an API key: send it as `Authorization: Bearer vk-...`."
            raise ApiError(401, message, code="missing_api_key", headers={"WWW-Authenticate": "Bearer"})
        key = self.keys.find(secret.strip())
        if key is None:
            self._rejected("wrong key")
            message = "This API key is unknown, revoked or has run out."
            raise ApiError(401, message, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return key

    def _known_host(self, request: Request) -> None:
        """Without keys, only requests that name this machine by address: a web page of elsewhere, whose name was made
        to point here, does not."""
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        if self.keys.open and name and name != "localhost" and not _is_address(name.strip("[]")):
            self._rejected("host")
            raise ApiError(403, f"This service answers to its address, not to `{name[:100]}`.", code="wrong_host")

    def _in_time(self, key: Key) -> None:
        if key.requests_per_minute is None and self.settings.requests_per_minute is not None:
            key = Key(**{**vars(key), "requests_per_minute": self.settings.requests_per_minute})
        seconds = self.keys.wait(key, now=asyncio.get_running_loop().time())
        if seconds > 0:
            self._rejected("rate")
            wait = max(1, round(seconds + 0.5))
            raise too_busy(f"This key may ask no faster; try again in {wait} s", retry_after=wait)

    async def body(self, request: Request, exchange: Exchange) -> dict[str, Any]:
        """The JSON object of a request, read no further than it may be long; a request without a body has {}."""
        if not declared_length(request) and "transfer-encoding" not in request.headers:
            return {}
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                415, "The body is JSON: send `Content-Type: application/json`.", code="unsupported_media_type"
            )
        settings = self.settings
        try:
            content = await read_body(
                request, max_bytes=settings.body_bytes, max_seconds=settings.body_seconds,
                on_part=lambda count: self._hold(exchange, count),
            )  # fmt: skip
        except ApiError as error:
            if error.status == 413:
                self._rejected("too large")
            raise
        return json_object(content)

    def _hold(self, exchange: Exchange, count: int) -> None:
        exchange.bytes_held += count
        self.bytes_held += count
        if self.bytes_held > self.settings.in_flight_bytes:
            self._rejected("full")
            raise too_busy(FULL)

    def _rejected(self, reason: str) -> None:
        self.telemetry.rejected.labels(reason).inc()

    def leave(self, exchange: Exchange) -> None:
        """It is answered: there is room again."""
        self.bytes_held -= exchange.bytes_held
        exchange.bytes_held = 0
        if exchange.entered:
            exchange.entered = False
            self.in_flight -= 1


def _consent(request: Request, key: Key, settings: ServiceSettings) -> bool:
    """Whether content may be kept: what the request says, else its key, else the service."""
    said = request.headers.get("x-vita-consent", "").strip().lower()
    if said in ("yes", "no"):
        return said == "yes"
    if said:
        raise invalid("`X-Vita-Consent` is `yes` or `no`", "X-Vita-Consent")
    return key.consent or settings.consent


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
