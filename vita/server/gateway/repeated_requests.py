"""Requests with an `Idempotency-Key`: a repetition, at any site, receives the completion of the first request.

    idempotent = repeated.read(request, route, body, key)              # None without the header
    await repeated.pin(idempotent, proxied_request, record, key)       # the version of the first response

A repetition is computed again, by the same version with the same seed. With `Last-Event-ID`, a stream continues after
the event with this id. A repetition with another body is refused with 422, and one whose version this site does not
serve with 410. A request that is refused because of missing capacity (429, 503) leaves no record.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from vita.monitoring.request_log import SHED
from vita.server.errors import ApiError, invalid
from vita.server.gateway.event_ids import LAST_EVENT_ID, continued_stream, model_gone
from vita.server.gateway.keys import Key
from vita.server.gateway.model_directory import ModelDirectory
from vita.server.gateway.proxy import ProxiedRequest
from vita.server.gateway.request_record import RequestRecord
from vita.server.routes import ModelRoute
from vita.server.sites.idempotency import (
    IdempotencyClaim,
    IdempotencyRecord,
    IdempotencyRecords,
    body_hash,
    derived_seed,
    record_token,
)
from vita.server.sites.residency import is_permitted
from vita.server.sites.site import Site

IDEMPOTENCY_KEY = "Idempotency-Key"
STATE_HEADER, REPEAT_HEADER = "X-Vita-Idempotency", "X-Vita-Repeat-Of"
"""Response headers: `recorded`, `repeated` or `unrecorded`, and the id of the first request."""
_VALID_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class IdempotentRequest:
    """The idempotency key of a request, and what follows from it."""

    token: str
    body: str
    """Hash of the body."""
    seed: int
    last_event_id: str | None


class RepeatedRequests:
    """Recognizes repeated requests by the records that all sites of a service share."""

    def __init__(
        self, records: IdempotencyRecords, directory: ModelDirectory, site: Site, *, ledger_region: str | None
    ) -> None:
        self._records, self._directory, self._site = records, directory, site
        self._ledger_region = ledger_region

    def read(self, request: Request, route: ModelRoute, body: Mapping[str, Any], key: Key) -> IdempotentRequest | None:
        """Return the idempotency key of a request; raises `ApiError` 400 for headers that are not valid."""
        idempotency_key, last_event_id = request.headers.get(IDEMPOTENCY_KEY), request.headers.get(LAST_EVENT_ID)
        if last_event_id is not None:
            streams = body.get("stream") is True and route.generates and route.dialect is None
            if idempotency_key is None or not streams:
                message = f"`{LAST_EVENT_ID}` continues a stream of chat or completions that has an `{IDEMPOTENCY_KEY}`"
                raise invalid(message, LAST_EVENT_ID)
        if idempotency_key is None:
            return None
        if not _VALID_KEY.fullmatch(idempotency_key):
            raise invalid(f"`{IDEMPOTENCY_KEY}` must have 1 to 255 visible ASCII characters", IDEMPOTENCY_KEY)
        token, digest = record_token(key.hint, idempotency_key), body_hash(route.template, body)
        return IdempotentRequest(token, digest, derived_seed(key.hash, token, digest), last_event_id)

    async def pin(
        self, idempotent: IdempotentRequest, proxied_request: ProxiedRequest, record: RequestRecord, key: Key
    ) -> None:
        """Let the version of the first response answer a request, and continue its stream."""
        claim = await self._claim(idempotent, proxied_request, record, key)
        earlier = claim.earlier
        if earlier is not None:
            if earlier.body != idempotent.body:
                message = f"This {IDEMPOTENCY_KEY} was used for another request; use a new one for each request"
                raise ApiError(422, message, param=IDEMPOTENCY_KEY, code="idempotency_key_reused")
            self._select_version(earlier, proxied_request, key)
            record.repeat(earlier.request)
            record.headers[REPEAT_HEADER] = earlier.request
        state = "repeated" if earlier else "recorded" if claim.recorded else "unrecorded"
        record.headers[STATE_HEADER] = state
        proxied_request.pinned = True  # the record names the version
        if idempotent.last_event_id is not None:
            wants_usage = proxied_request.continuation.wants_usage
            model = proxied_request.version.model
            proxied_request.continuation = continued_stream(idempotent.last_event_id, model, wants_usage=wants_usage)

    def release(self, idempotent: IdempotentRequest, record: RequestRecord, status: int) -> None:
        """Let any version answer the repetition of a request that was refused before a replica started it."""
        request = record.proxied_request
        is_new = record.headers.get(STATE_HEADER) == "recorded"
        if is_new and status in SHED and request is not None and not request.may_have_started:
            self._records.release(idempotent.token, record.request_id)

    async def _claim(
        self, idempotent: IdempotentRequest, proxied_request: ProxiedRequest, record: RequestRecord, key: Key
    ) -> IdempotencyClaim:
        if not is_permitted(record.regions, self._ledger_region):
            return IdempotencyClaim(recorded=False)
        version, request = proxied_request.version, record.request_id
        first = IdempotencyRecord(
            idempotent.token, key.hint, record.route, idempotent.body, version.id, version.model,
            request=request, latest=request, site=self._site.name, at=time.time(),
            regions=None if record.regions is None else sorted(record.regions),
        )  # fmt: skip
        return await self._records.claim(first)

    def _select_version(self, earlier: IdempotencyRecord, proxied_request: ProxiedRequest, key: Key) -> None:
        """Send a request to the version with the weights of the first response, and to no other one."""
        try:
            version, _ = self._directory.select(earlier.version, identity=None, key=key)
        except ApiError as error:
            if error.status != 404:
                raise
            raise model_gone(earlier.model, earlier.version) from None
        if version.model != earlier.model:
            raise model_gone(earlier.model, earlier.version)
        proxied_request.version = version
        if proxied_request.body is not None and "model" in proxied_request.body:
            proxied_request.body["model"] = version.name or version.id
