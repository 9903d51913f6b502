"""Carrying a request to a replica and its answer back, over as many replicas as it takes.

A request whose replica dies is asked again of another, as long as the client cannot tell: before the first byte always,
and in the middle of a stream because the same seed has the same answer everywhere (`continuation`). Once a replica has
begun it, it is owed an answer: where all others are full it waits for room, before any new request. An answer that
kills its replica is not tried forever: after `DEATHS_ALLOWED` more the request is given up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from vita.server.errors import ApiError, too_busy, unavailable
from vita.server.gateway.continuation import DONE, Continuation, Diverged, Faulted, Stopping, sse_events
from vita.server.gateway.routing import Backend, Hung, NoReplica, Routes, Version, Watch
from vita.server.gateway.telemetry import Telemetry
from vita.server.settings import ServiceSettings

DEATHS_ALLOWED = 2
MOVES_ALLOWED = 2
"""How often a request is taken from a replica that has hung; after that it waits for the one that has it."""
PAUSE_SECONDS = 0.1
"""How long a request that is owed an answer waits before it asks full replicas again."""
FULL = "The service is answering as many requests as it can; try again shortly"
INTERRUPTED = "The answer was interrupted and could not go on"
LOST = "The replica that had begun the answer died, and no other could take it in time"


@dataclass
class ProxiedRequest:
    """A request to a replica, with the state of its attempts."""

    request_id: str
    method: str
    path: str
    body: dict[str, Any] | None
    version: Version
    pinned: bool
    """Whether only this version may answer."""
    gone: frozenset[str] = frozenset()
    """Versions that may not answer in its place."""
    identity: str | None = None
    continuation: Continuation = field(default_factory=lambda: Continuation(wants_usage=False))
    backend: str | None = None
    """The replica that answered, or was the last to be asked."""
    deaths: int = 0
    moves: int = 0
    """How often it was taken from a replica that had hung."""
    complete: bool = False
    avoided: list[Backend] = field(default_factory=list)
    until: float | None = None
    """By the loop's clock, how long it looks for a replica, since one failed it."""

    @property
    def begun(self) -> bool:
        """Whether a replica may have begun the answer, so that one is owed."""
        return self.deaths > 0 or self.moves > 0


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

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
        self, routes: Routes, client: httpx.AsyncClient, telemetry: Telemetry, settings: ServiceSettings
    ) -> None:
        self._routes, self._client, self._telemetry, self._settings = routes, client, telemetry, settings

    async def whole(self, request: ProxiedRequest) -> Reply:
        """The answer in one piece."""
        while True:
            opened = await self._open(request)
            try:
                reply = await self._reply(request, opened)
            except (httpx.TransportError, Hung) as error:
                self._failed(request, opened.backend, error)
                continue
            request.complete = True
            return reply

    async def stream(self, request: ProxiedRequest) -> Reply | AsyncGenerator[bytes]:
        """The events of the answer; or the reply of a replica that will not stream."""
        opened = await self._open(request)
        if opened.response.status_code == 200:
            return self._events(request, opened)
        return await self._reply(request, opened)

    async def _reply(self, request: ProxiedRequest, opened: _Opened) -> Reply:
        """What a replica says in one piece; its own fault is no answer."""
        async with opened.stack, self._watch(request, opened.backend):
            content = await opened.response.aread()
        if opened.response.status_code >= 500:
            self._telemetry.lost.labels("fault").inc()
        return Reply(opened.response.status_code, _kept_headers(opened.response), content)

    async def _events(self, request: ProxiedRequest, opened: _Opened) -> AsyncGenerator[bytes]:
        told, begun = request.continuation, False
        while True:
            try:
                async with opened.stack:
                    async for data in sse_events(self._parts(request, opened)):
                        if data == b"[DONE]":
                            opened.backend.breaker.succeeded()
                            request.complete = True
                            yield DONE
                            return
                        if (event := told.pass_on(data)) is not None:
                            request.pinned = begun = True  # what follows must come from the same weights
                            yield event
                raise httpx.RemoteProtocolError("the stream ended before [DONE]")
            except (httpx.TransportError, Stopping, Hung) as error:
                broken: Exception = error
            except Faulted as fault:
                # The replica lives and says that this request failed; another would say the same.
                self._telemetry.lost.labels("fault").inc()
                yield fault.event
                return
            except (Diverged, ValueError):
                self._telemetry.lost.labels("diverged").inc()
                yield _as_event(ApiError(502, INTERRUPTED, code="stream_diverged"))
                return
            try:
                self._failed(request, opened.backend, broken)
                told.begin_again()
                opened = await self._open(request)
                await self._same(opened)
            except ApiError as refusal:
                if not begun:
                    raise  # the client has heard nothing yet, so that the refusal has a status of its own
                yield _as_event(refusal)
                return
            self._telemetry.resumed.inc()

    async def _parts(self, request: ProxiedRequest, opened: _Opened) -> AsyncIterator[bytes]:
        """The pieces of a streamed response, as they come."""
        parts = opened.response.aiter_raw()
        while True:
            async with self._watch(request, opened.backend):
                part = await anext(parts, None)
            if part is None:
                return
            yield part

    def _watch(self, request: ProxiedRequest, backend: Backend) -> Watch:
        """A wait for a replica that ends when it has hung and another one could answer."""
        return Watch(backend, lambda: self._movable(request, backend))

    def _movable(self, request: ProxiedRequest, backend: Backend) -> bool:
        """Whether a request could be given to another replica than the one that has it."""
        if request.moves >= MOVES_ALLOWED:
            return False
        versions = [request.version]
        if not request.pinned:
            versions += [one for one in self._routes.versions.values() if one.share > 0 and one.id not in request.gone]
        now = asyncio.get_running_loop().time()
        return any(one.takes(now) for version in versions for one in version.backends if one is not backend)

    async def _same(self, opened: _Opened) -> None:
        """The second replica answers, too."""
        if opened.response.status_code != 200:
            await opened.stack.aclose()
            self._telemetry.lost.labels("refused again").inc()
            raise ApiError(502, INTERRUPTED, code="replica_failed")

    async def _open(self, request: ProxiedRequest) -> _Opened:
        """A replica's response as far as its headers."""
        if request.version.owed and not request.begun:
            raise too_busy(FULL)
        while True:
            async with AsyncExitStack() as stack:
                backend = await stack.enter_async_context(self._borrow(request))
                request.backend = backend.name
                try:
                    async with self._watch(request, backend):
                        response = await self._client.send(self._request(request, backend), stream=True)
                except (httpx.TransportError, Hung) as error:
                    self._failed(request, backend, error)
                    continue
                stack.push_async_callback(response.aclose)
                if response.status_code not in (429, 503):
                    if response.status_code < 500:
                        backend.breaker.succeeded()
                    return _Opened(backend, response, stack.pop_all())
            full = response.status_code == 429
            self._avoid(request, backend)
            if not full:
                backend.ready = False  # until it is looked after again
            elif not self._others(request):
                await self._wait_for_room(request)
            self._telemetry.retries.labels("full" if full else "not ready").inc()

    def _request(self, request: ProxiedRequest, backend: Backend) -> httpx.Request:
        headers = {"X-Request-Id": request.request_id, "Accept-Encoding": "identity", **backend.auth_headers}
        content = None
        if request.body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(request.body).encode()
        return self._client.build_request(request.method, backend.url + request.path, content=content, headers=headers)

    @asynccontextmanager
    async def _borrow(self, request: ProxiedRequest) -> AsyncIterator[Backend]:
        """The next replica to try; a request that names no version may go over to another."""
        now = asyncio.get_running_loop().time()
        seconds = self._settings.patience if request.until is None else request.until - now
        async with AsyncExitStack() as stack:
            try:
                borrowed = self._routes.borrow(request.version, seconds=seconds, exclude=request.avoided)
                backend = await stack.enter_async_context(borrowed)
            except NoReplica:
                other = (
                    None
                    if request.pinned
                    else self._routes.choose(request.identity, exclude={request.version.id, *request.gone})
                )
                if other is None:
                    raise self._given_up(request, "no replica") from None
                request.version = other
                try:
                    backend = await stack.enter_async_context(self._routes.borrow(other, seconds=1.0))
                except NoReplica:
                    raise self._given_up(request, "no replica") from None
            yield backend

    def _given_up(self, request: ProxiedRequest, reason: str) -> ApiError:
        """Nobody can answer in time; 503 and 429 are only for what no replica had begun."""
        if not request.begun:
            return no_replica()
        self._telemetry.lost.labels(reason).inc()
        return ApiError(502, LOST, code="replica_failed", headers={"Retry-After": "2"})

    def _avoid(self, request: ProxiedRequest, backend: Backend, *, died: bool = False) -> None:
        """Ask others first from now on; the time for it begins with the first failure, and anew with a death."""
        request.avoided.append(backend)
        if request.until is None or died:
            request.until = asyncio.get_running_loop().time() + self._settings.patience_again

    def _others(self, request: ProxiedRequest) -> bool:
        """Whether a replica takes requests that has not put this one off."""
        now = asyncio.get_running_loop().time()
        return any(one.takes(now) and one not in request.avoided for one in request.version.backends)

    async def _wait_for_room(self, request: ProxiedRequest) -> None:
        """All are full: a new request is told to come again, and one that had been begun waits for its turn."""
        if not request.begun:
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
        """A replica did not answer, or no more; raises when the request has cost enough of them."""
        if isinstance(error, Hung):
            request.moves += 1
            self._avoid(request, backend, died=True)
            if not request.pinned and not self._others(request):
                request.version = (
                    self._routes.choose(request.identity, exclude={request.version.id, *request.gone})
                    or request.version
                )
            self._telemetry.retries.labels("hung").inc()
            return
        backend.breaker.failed(asyncio.get_running_loop().time())
        unreached = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
        self._avoid(request, backend, died=not unreached)
        if isinstance(error, httpx.ReadTimeout):
            self._telemetry.lost.labels("timeout").inc()
            raise ApiError(504, "The answer took too long.", code="timeout") from None
        if unreached:
            backend.ready = False
            self._telemetry.retries.labels("unreachable").inc()
            return
        request.deaths += 1
        self._telemetry.retries.labels("died").inc()
        if request.deaths > DEATHS_ALLOWED:
            self._telemetry.lost.labels("died").inc()
            message = f"{request.deaths} replicas in a row died while they answered this request."
            raise ApiError(502, message, code="replica_failed")


def no_replica() -> ApiError:
    """Nobody can answer now; somebody soon may."""
    return unavailable("No replica is ready to answer; try again shortly", code="not_ready", retry_after=2)


def _kept_headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name in ("content-type", "retry-after")}


def _as_event(refusal: ApiError) -> bytes:
    """An error in the middle of a stream: the status has gone out already, so the body tells it."""
    return b"data: " + json.dumps(refusal.body()).encode() + b"\n\n"
