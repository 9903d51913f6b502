"""Carrying a request to a replica and its answer back, over as many replicas as it takes.

A request whose replica dies is asked again of another, as long as the client cannot tell: before the first byte always,
and in the middle of a stream because the same seed has the same answer everywhere (`continuation`). An answer that
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

from vita.server.continuation import DONE, Continuation, Diverged, sse_events
from vita.server.errors import ApiError, too_busy, unavailable
from vita.server.routing import Backend, NoReplica, Routes, Version
from vita.server.settings import ServiceSettings
from vita.server.telemetry import Telemetry

DEATHS_ALLOWED = 2
FULL = "The service is answering as many requests as it can; try again shortly"
INTERRUPTED = "The answer was interrupted and could not go on"


@dataclass
class Ask:
    """A request on its way."""

    request_id: str
    method: str
    path: str
    body: dict[str, Any] | None
    version: Version
    pinned: bool
    """Whether only this version may answer."""
    identity: str | None = None
    continuation: Continuation = field(default_factory=lambda: Continuation(wants_usage=False))
    backend: str | None = None
    """The replica that answered, or was the last to be asked."""
    deaths: int = 0
    complete: bool = False
    avoided: list[Backend] = field(default_factory=list)


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


class Relay:
    """Between the gateway and the replicas."""

    def __init__(
        self, routes: Routes, client: httpx.AsyncClient, telemetry: Telemetry, settings: ServiceSettings
    ) -> None:
        self._routes, self._client, self._telemetry, self._settings = routes, client, telemetry, settings

    async def whole(self, ask: Ask) -> Reply:
        """The answer in one piece."""
        while True:
            opened = await self._open(ask)
            try:
                async with opened.stack:
                    content = await opened.response.aread()
            except httpx.TransportError as error:
                self._failed(ask, opened.backend, error)
                continue
            ask.complete = True
            return Reply(opened.response.status_code, _kept_headers(opened.response), content)

    async def stream(self, ask: Ask) -> Reply | AsyncGenerator[bytes]:
        """The events of the answer; or the reply of a replica that will not stream."""
        opened = await self._open(ask)
        if opened.response.status_code == 200:
            return self._events(ask, opened)
        async with opened.stack:
            return Reply(opened.response.status_code, _kept_headers(opened.response), await opened.response.aread())

    async def _events(self, ask: Ask, opened: _Opened) -> AsyncGenerator[bytes]:
        told = ask.continuation
        while True:
            try:
                async with opened.stack:
                    async for data in sse_events(opened.response.aiter_raw()):
                        if data == b"[DONE]":
                            opened.backend.breaker.succeeded()
                            ask.complete = True
                            yield DONE
                            return
                        if (event := told.pass_on(data)) is not None:
                            ask.pinned = True  # what follows must come from the same weights
                            yield event
                raise httpx.RemoteProtocolError("the stream ended before [DONE]")
            except httpx.TransportError as error:
                broken: Exception = error
            except (Diverged, ValueError):
                self._telemetry.lost.labels("diverged").inc()
                yield _as_event(ApiError(502, INTERRUPTED, code="stream_diverged"))
                return
            try:
                self._failed(ask, opened.backend, broken)
                told.begin_again()
                opened = await self._open(ask)
                await self._same(opened)
            except ApiError as refusal:
                yield _as_event(refusal)
                return
            self._telemetry.resumed.inc()

    async def _same(self, opened: _Opened) -> None:
        """The second replica answers, too."""
        if opened.response.status_code != 200:
            await opened.stack.aclose()
            self._telemetry.lost.labels("refused again").inc()
            raise ApiError(502, INTERRUPTED, code="replica_failed")

    async def _open(self, ask: Ask) -> _Opened:
        """A replica's response as far as its headers."""
        while True:
            async with AsyncExitStack() as stack:
                backend = await stack.enter_async_context(self._borrow(ask))
                ask.backend = backend.name
                try:
                    response = await self._client.send(self._request(ask, backend), stream=True)
                except httpx.TransportError as error:
                    self._failed(ask, backend, error)
                    continue
                stack.push_async_callback(response.aclose)
                if response.status_code in (429, 503):
                    self._put_off(ask, backend, response.status_code)
                    continue
                if response.status_code < 500:
                    backend.breaker.succeeded()
                return _Opened(backend, response, stack.pop_all())

    def _request(self, ask: Ask, backend: Backend) -> httpx.Request:
        headers = {"X-Request-Id": ask.request_id, "Accept-Encoding": "identity"}
        content = None
        if ask.body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(ask.body).encode()
        return self._client.build_request(ask.method, backend.url + ask.path, content=content, headers=headers)

    @asynccontextmanager
    async def _borrow(self, ask: Ask) -> AsyncIterator[Backend]:
        """The next replica to try; a request that names no version may go over to another."""
        seconds = self._settings.patience_again if ask.deaths or ask.avoided else self._settings.patience
        async with AsyncExitStack() as stack:
            try:
                borrowed = self._routes.borrow(ask.version, seconds=seconds, exclude=ask.avoided)
                backend = await stack.enter_async_context(borrowed)
            except NoReplica:
                other = None if ask.pinned else self._routes.choose(ask.identity, exclude={ask.version.id})
                if other is None:
                    raise self._given_up(ask) from None
                ask.version = other
                try:
                    backend = await stack.enter_async_context(self._routes.borrow(other, seconds=1.0))
                except NoReplica:
                    raise self._given_up(ask) from None
            yield backend

    def _given_up(self, ask: Ask) -> ApiError:
        if ask.deaths:
            self._telemetry.lost.labels("no replica").inc()
        return no_replica()

    def _put_off(self, ask: Ask, backend: Backend, status: int) -> None:
        """A replica is full or about to stop: another may do, and when all are full the client should wait."""
        ask.avoided.append(backend)
        if status == 429:
            now = asyncio.get_running_loop().time()
            if not [one for one in ask.version.backends if one not in ask.avoided and one.takes(now)]:
                raise too_busy(FULL)
        else:
            backend.ready = False  # until it is looked after again
        self._telemetry.retries.labels("full" if status == 429 else "not ready").inc()

    def _failed(self, ask: Ask, backend: Backend, error: Exception) -> None:
        """A replica did not answer, or no more; raises when the request has cost enough of them."""
        backend.breaker.failed(asyncio.get_running_loop().time())
        ask.avoided.append(backend)
        if isinstance(error, httpx.ReadTimeout):
            self._telemetry.lost.labels("timeout").inc()
            raise ApiError(504, "The answer took too long.", code="timeout") from None
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            backend.ready = False
            self._telemetry.retries.labels("unreachable").inc()
            return
        ask.deaths += 1
        self._telemetry.retries.labels("died").inc()
        if ask.deaths > DEATHS_ALLOWED:
            self._telemetry.lost.labels("died").inc()
            message = f"{ask.deaths} replicas in a row died while they answered this request."
            raise ApiError(502, message, code="replica_failed")


def no_replica() -> ApiError:
    """Nobody can answer now; somebody soon may."""
    return unavailable("No replica is ready to answer; try again shortly", code="not_ready", retry_after=2)


def _kept_headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name in ("content-type", "retry-after")}


def _as_event(refusal: ApiError) -> bytes:
    """An error in the middle of a stream: the status has gone out already, so the body tells it."""
    return b"data: " + json.dumps(refusal.body()).encode() + b"\n\n"
