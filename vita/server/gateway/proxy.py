"""Forwards requests to replicas and returns their responses, with retries on other replicas.

A request whose replica dies is sent to another one: before the first byte of the response, and also in the middle of a
stream, because the same seed gives the same completion on every replica (`continuation`). A request that a replica has
started has priority: when all replicas are full, it waits for capacity before new requests do. A request that kills
its replica is not retried forever: it fails after `DEATHS_ALLOWED` more replicas.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from vita.server.errors import BACKEND_UNAVAILABLE, ApiError, too_busy, unavailable
from vita.server.gateway.continuation import Diverged, Faulted, Stopping, StreamContinuation, sse_events
from vita.server.gateway.routing import Backend, Hung, NoReplica, Router, ServedVersion, Watch
from vita.server.gateway.telemetry import Telemetry
from vita.server.line_json import DONE, json_event
from vita.server.settings import ServiceSettings
from vita.server.tracing import NO_SPAN, Attribute, TraceSpan

DEATHS_ALLOWED = 2
MOVES_ALLOWED = 2
"""Maximum number of times that a request moves away from a hung replica; after that it waits for its replica."""
NOT_STARTED = (401, 429, 503)
"""Statuses of a replica that has not started a request; 401 is the response to an expired token."""
PAUSE_SECONDS = 0.1
"""Delay before a started request tries full replicas again."""
FULL = "The service is at its capacity; try again shortly"
INTERRUPTED = "The response was interrupted and could not be continued"
DIED = "The replica that worked on the request died"
LOST = "No other replica was available in time"


@dataclass
class ProxiedRequest:
    """A request to a replica, with the state of its attempts."""

    request_id: str
    method: str
    path: str
    body: dict[str, Any] | None
    version: ServedVersion
    pinned: bool
    """True when only this version may respond."""
    retired_versions: frozenset[str] = frozenset()
    """Versions that must not respond instead."""
    identity: str | None = None
    continuation: StreamContinuation = field(default_factory=lambda: StreamContinuation(wants_usage=False))
    backend: str | None = None
    """Name of the replica of the last attempt."""
    deaths: int = 0
    moves: int = 0
    """Number of times that the request moved away from a hung replica."""
    complete: bool = False
    avoided: list[Backend] = field(default_factory=list)
    until: float | None = None
    """Deadline for finding another replica after a failure, on the clock of the event loop."""
    stop_cause: str = ""
    """Why the last replica that failed was stopped; "" if it was not."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers for the replica."""
    span: TraceSpan = NO_SPAN
    """The span of the request, to which each attempt adds one."""

    @property
    def may_have_started(self) -> bool:
        """True when a replica may have started the request, which then has priority over new requests."""
        return self.deaths > 0 or self.moves > 0


@dataclass(frozen=True)
class ReplicaResponse:
    """A complete response."""

    status: int
    headers: dict[str, str]
    content: bytes


@dataclass
class _Opened:
    backend: Backend
    response: httpx.Response
    stack: AsyncExitStack


class ReplicaProxy:
    """Sends requests to replicas and returns their responses."""

    def __init__(
        self, router: Router, client: httpx.AsyncClient, telemetry: Telemetry, settings: ServiceSettings
    ) -> None:
        self._router, self._client, self._telemetry, self._settings = router, client, telemetry, settings

    async def complete_response(self, request: ProxiedRequest) -> ReplicaResponse:
        """Return the complete response."""
        while True:
            opened = await self._open(request)
            try:
                reply = await self._reply(request, opened)
            except (httpx.TransportError, Hung) as error:
                self._failed(request, opened.backend, error)
                continue
            request.complete = True
            return reply

    async def stream(self, request: ProxiedRequest) -> ReplicaResponse | AsyncGenerator[bytes]:
        """Return the events of a streamed response, or the complete response when the replica does not stream."""
        opened = await self._open(request)
        if opened.response.status_code == 200:
            return self._events(request, opened)
        return await self._reply(request, opened)

    async def _reply(self, request: ProxiedRequest, opened: _Opened) -> ReplicaResponse:
        """Read the complete response of a replica."""
        async with opened.stack, self._watch(request, opened.backend):
            content = await opened.response.aread()
        if opened.response.status_code >= 500:
            self._telemetry.lost.labels("fault").inc()
        return ReplicaResponse(opened.response.status_code, _kept_headers(opened.response), content)

    async def _events(self, request: ProxiedRequest, opened: _Opened) -> AsyncGenerator[bytes]:
        continuation, sent_any = request.continuation, False
        while True:
            try:
                async with opened.stack:
                    async for data in sse_events(self._parts(request, opened)):
                        if data == b"[DONE]":
                            continuation.require_end()
                            opened.backend.breaker.succeeded()
                            request.complete = True
                            yield DONE
                            return
                        if (event := continuation.forward(data)) is not None:
                            request.pinned = sent_any = True  # the rest must come from the same weights
                            yield event
                raise httpx.RemoteProtocolError("the stream ended before [DONE]")
            except (httpx.TransportError, Stopping, Hung) as error:
                broken: Exception = error
            except Faulted as fault:
                # The replica works and reports that this request failed; another replica would report the same.
                self._telemetry.lost.labels("fault").inc()
                yield fault.event
                return
            except (Diverged, ValueError):
                self._telemetry.lost.labels("diverged").inc()
                yield json_event(ApiError(502, INTERRUPTED, code="stream_diverged").body())
                return
            try:
                self._failed(request, opened.backend, broken)
                continuation.restart()
                opened = await self._open(request)
                await self._require_success(opened)
            except ApiError as refusal:
                if not sent_any:
                    raise  # the client has received nothing yet, so the error has its own status
                yield json_event(refusal.body())
                return
            self._telemetry.resumed.inc()

    async def _parts(self, request: ProxiedRequest, opened: _Opened) -> AsyncIterator[bytes]:
        """Yield the parts of a streamed response."""
        parts = opened.response.aiter_raw()
        while True:
            async with self._watch(request, opened.backend):
                part = await anext(parts, None)
            if part is None:
                return
            yield part

    def _watch(self, request: ProxiedRequest, backend: Backend) -> Watch:
        """Create a wait that ends when the replica hangs and another one can respond."""
        return Watch(backend, lambda: self._movable(request, backend))

    def _movable(self, request: ProxiedRequest, backend: Backend) -> bool:
        """Return True if another replica can take the request."""
        if request.moves >= MOVES_ALLOWED:
            return False
        versions = [request.version]
        if not request.pinned:
            versions += [
                version
                for version in self._router.versions.values()
                if version.share > 0 and version.id not in request.retired_versions
            ]
        now = asyncio.get_running_loop().time()
        return any(other.takes(now) for version in versions for other in version.backends if other is not backend)

    async def _require_success(self, opened: _Opened) -> None:
        """Require that the next replica also responds with 200."""
        if opened.response.status_code != 200:
            await opened.stack.aclose()
            self._telemetry.lost.labels("refused again").inc()
            raise ApiError(502, INTERRUPTED, code="replica_failed")

    async def _open(self, request: ProxiedRequest) -> _Opened:
        """Send the request to a replica and read the headers of its response."""
        if request.version.owed and not request.may_have_started:
            raise too_busy(FULL)
        while True:
            async with AsyncExitStack() as stack:
                backend = await stack.enter_async_context(self._borrow(request))
                request.backend = backend.name
                attempt = request.span.child(f"{request.method} {request.path}")
                attempt.set(Attribute.REPLICA, backend.name)
                stack.callback(attempt.end)
                try:
                    async with self._watch(request, backend):
                        sent = self._request(request, backend, attempt.headers())
                        response = await self._client.send(sent, stream=True)
                        attempt.set(Attribute.STATUS, response.status_code)
                        stack.push_async_callback(response.aclose)
                        is_final = response.status_code not in NOT_STARTED or await _is_backend_outage(response)
                except (httpx.TransportError, Hung) as error:
                    attempt.fail(type(error).__name__)
                    self._failed(request, backend, error)
                    continue
                if is_final:
                    if response.status_code < 500:
                        backend.breaker.succeeded()
                    return _Opened(backend, response, stack.pop_all())
            full = response.status_code == 429
            self._avoid(request, backend)
            if not full:
                backend.ready = False  # until the next health probe
            elif not self._has_other_replica(request):
                await self._wait_for_room(request)
            self._telemetry.retries.labels("full" if full else "not ready").inc()

    def _request(self, request: ProxiedRequest, backend: Backend, trace: dict[str, str]) -> httpx.Request:
        headers = {"X-Request-Id": request.request_id, "Accept-Encoding": "identity"}
        headers |= {**request.headers, **backend.auth_headers, **trace}
        content = None
        if request.body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(request.body).encode()
        return self._client.build_request(request.method, backend.url + request.path, content=content, headers=headers)

    @asynccontextmanager
    async def _borrow(self, request: ProxiedRequest) -> AsyncIterator[Backend]:
        """Take the next replica; a request that does not name a version may switch to another one."""
        now = asyncio.get_running_loop().time()
        seconds = self._settings.patience if request.until is None else request.until - now
        async with AsyncExitStack() as stack:
            try:
                borrowed = self._router.borrow(request.version, seconds=seconds, exclude=request.avoided)
                backend = await stack.enter_async_context(borrowed)
            except NoReplica:
                other = (
                    None
                    if request.pinned
                    else self._router.choose(request.identity, exclude={request.version.id, *request.retired_versions})
                )
                if other is None:
                    raise self._given_up(request, "no replica") from None
                request.version = other
                try:
                    backend = await stack.enter_async_context(self._router.borrow(other, seconds=1.0))
                except NoReplica:
                    raise self._given_up(request, "no replica") from None
            yield backend

    def _given_up(self, request: ProxiedRequest, reason: str) -> ApiError:
        """Create the error for a request without a replica; 503 only if no replica has started it."""
        if not request.may_have_started:
            return no_replica(request.version)
        self._telemetry.lost.labels(reason).inc()
        message = f"{request.stop_cause or DIED}. {LOST}"
        return ApiError(502, message, code="replica_failed", headers={"Retry-After": "2"})

    def _avoid(self, request: ProxiedRequest, backend: Backend, *, died: bool = False) -> None:
        """Prefer other replicas from now on; the first failure and every death set the deadline."""
        request.avoided.append(backend)
        if request.until is None or died:
            request.until = asyncio.get_running_loop().time() + self._settings.patience_again

    def _has_other_replica(self, request: ProxiedRequest) -> bool:
        """Return True if there is an available replica that has not failed this request."""
        now = asyncio.get_running_loop().time()
        return any(backend.takes(now) and backend not in request.avoided for backend in request.version.backends)

    async def _wait_for_room(self, request: ProxiedRequest) -> None:
        """Wait because all replicas are full; a new request is refused instead."""
        if not request.may_have_started:
            raise too_busy(FULL)
        if request.until is not None and asyncio.get_running_loop().time() >= request.until:
            raise self._given_up(request, "full")
        request.avoided.clear()
        request.version.owed += 1
        try:
            await asyncio.sleep(PAUSE_SECONDS)
        finally:
            request.version.owed -= 1

    def _failed(self, request: ProxiedRequest, backend: Backend, error: Exception) -> None:
        """Handle the failure of a replica; raises `ApiError` when the request must not be retried."""
        request.stop_cause = backend.stop_cause
        if isinstance(error, Hung):
            request.moves += 1
            self._avoid(request, backend, died=True)
            if not request.pinned and not self._has_other_replica(request):
                request.version = (
                    self._router.choose(request.identity, exclude={request.version.id, *request.retired_versions})
                    or request.version
                )
            self._telemetry.retries.labels("hung").inc()
            return
        backend.breaker.failed(asyncio.get_running_loop().time())
        unreached = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
        self._avoid(request, backend, died=not unreached)
        if isinstance(error, httpx.ReadTimeout):
            self._telemetry.lost.labels("timeout").inc()
            raise ApiError(504, "The response took too long.", code="timeout") from None
        if unreached:
            backend.ready = False
            self._telemetry.retries.labels("unreachable").inc()
            return
        request.deaths += 1
        self._telemetry.retries.labels("died").inc()
        if request.deaths > DEATHS_ALLOWED:
            self._telemetry.lost.labels("died").inc()
            message = f"{request.deaths} replicas died while they worked on this request."
            if request.stop_cause:
                message = f"{request.deaths} replicas ended while they worked on this request. {request.stop_cause}."
            raise ApiError(502, message, code="replica_failed")


def no_replica(version: ServedVersion | None = None) -> ApiError:
    """Create the error for a service without a ready replica, with the reasons of the replicas of a version."""
    message = "No replica is ready; try again shortly"
    reasons = sorted({backend.reason for backend in version.backends if backend.reason}) if version else []
    if reasons:
        message += f" ({'; '.join(reasons)})"
    return unavailable(message, code="not_ready", retry_after=2)


async def _is_backend_outage(response: httpx.Response) -> bool:
    """Return True for the error of a replica whose backend is not available, which other replicas would report also."""
    if response.status_code != 503:
        return False
    content = await response.aread()
    try:
        return bool(orjson.loads(content)["error"]["code"] == BACKEND_UNAVAILABLE)
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return False


def _kept_headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name in ("content-type", "retry-after")}
