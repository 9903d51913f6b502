"""The door of a service: who may ask, what may be asked, which version and replica answers, and what is kept of it.

    gateway = Gateway(routes, ledger, settings); app = gateway_app(gateway)

Only the routes that are listed here exist. A request is refused before its body is read whenever that can be known:
the service stops (503), the key is unknown (401) or may not (403), asks too fast or the service is full (429), the body
is too large (413). What is accepted is answered, even if replicas die on the way (`relay`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from vita.server.api import ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingRequest, TokenizeRequest, read
from vita.server.api import Request as ApiRequest
from vita.server.continuation import Continuation
from vita.server.errors import ApiError, invalid, too_busy, too_large, unavailable
from vita.server.exchange import Exchange
from vita.server.feedback import read_feedback, store_feedback
from vita.server.keys import ANYBODY, Key, Keyring
from vita.server.lifecycle import Catalog, Standing, iso, lifecycle_headers, retired, unknown_model
from vita.server.relay import FULL, Ask, Relay, Reply, no_replica
from vita.server.request_log import Kept, RequestLog
from vita.server.routing import Routes, Version
from vita.server.settings import ServiceSettings
from vita.server.telemetry import CONTENT_TYPE, Telemetry
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger

T = TypeVar("T")

ASKING = ("chat", "completions", "embeddings")


@dataclass(frozen=True)
class Door:
    """A route that is passed on to a replica."""

    method: str
    path: str
    scopes: tuple[str, ...]
    request: type[ApiRequest] | None
    """The form of its body."""
    generates: bool = False
    """Whether its answer depends on a seed, and may be streamed."""


DOORS = (
    Door("POST", "/v1/chat/completions", ("chat",), ChatRequest, generates=True),
    Door("POST", "/v1/completions", ("completions",), CompletionRequest, generates=True),
    Door("POST", "/v1/embeddings", ("embeddings",), EmbeddingRequest),
    Door("POST", "/tokenize", ASKING, TokenizeRequest),
    Door("POST", "/detokenize", ASKING, DetokenizeRequest),
    Door("GET", "/tokenizer_info", ASKING, None),
)


class ClientGone(Exception):
    """The client hung up."""


class Gateway:
    """The state of a service's door, and what it does with each request."""

    def __init__(
        self,
        routes: Routes,
        ledger: Ledger,
        settings: ServiceSettings,
        *,
        local: bool = True,
        research: bool = False,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        """`local` when only this machine can reach it: then, as long as there are no keys, none is asked for."""
        self.routes, self.ledger, self.settings, self.local, self.research = routes, ledger, settings, local, research
        self.telemetry = Telemetry()
        self.keys, self.catalog = Keyring(ledger), Catalog(ledger, routes.service)
        self.log = RequestLog(ledger, Kept(settings.log, settings.redact))
        self.draining = False
        self.in_flight = self.bytes_held = 0
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=4.0)
        patience = httpx.Timeout(settings.answer_seconds, connect=5.0, pool=None)
        self.client = client or httpx.AsyncClient(limits=limits, timeout=patience, trust_env=False)
        self._relay = Relay(routes, self.client, self.telemetry, settings)
        self._patterns = [re.compile(pattern, re.IGNORECASE) for pattern in settings.refusal_patterns]
        self.refresh()

    # -- upkeep

    def refresh(self) -> None:
        """Read keys and states from the ledger."""
        self.keys.refresh()
        self.catalog.refresh()

    async def keep_fresh(self) -> None:
        """Read them again and again; while the ledger cannot be read, what was known holds."""
        while True:
            await asyncio.sleep(self.settings.refresh_seconds)
            try:
                await asyncio.to_thread(self.refresh)
            except VitaError:
                self.telemetry.ledger_errors.inc()

    async def close(self) -> None:
        await self.client.aclose()
        await asyncio.to_thread(self.log.close)

    # -- passing on

    async def pass_on(self, request: Request, door: Door) -> Response:
        """Answer a request through a replica."""
        exchange = self._begin(request, door.path)
        handed_over = False
        try:
            self._admit(request, exchange, door.scopes)
            body = await self._body(request, exchange) if door.request else {}
            if door.request:
                read(door.request, body)  # refuses what no replica would take
            ask = exchange.ask = self._ask(exchange, door, body)
            standing = self.catalog.standing(ask.version.model)
            if body.get("stream") is True and door.generates:
                told = await _unless_gone(request.receive, self._begin_stream(ask, exchange))
                if not isinstance(told, Reply):
                    handed_over = True
                    return EventStream(self, exchange, told, self._headers(exchange, standing))
            else:
                told = await _unless_gone(request.receive, self._relay.whole(ask))
                exchange.read_whole(told.content)
            self.end(exchange, told.status)
            return Response(told.content, told.status, {**told.headers, **self._headers(exchange, standing)})
        except ApiError as error:
            self.end(exchange, error.status)
            return self.refusal(error, exchange.request_id)
        except (ClientGone, ClientDisconnect):
            self.gone(exchange)
            return Response(status_code=499)
        finally:
            if not handed_over:
                self.end(exchange, 500)

    async def _begin_stream(self, ask: Ask, exchange: Exchange) -> Reply | _Begun:
        """Wait for the first event, so that whatever goes wrong before it has a status of its own."""
        told = await self._relay.stream(ask)
        if isinstance(told, Reply):
            return told
        first = await anext(told)
        exchange.first_byte()
        return _Begun(first, told)

    def _ask(self, exchange: Exchange, door: Door, body: dict[str, Any]) -> Ask:
        """What is sent on: for one version, with a seed, so that it can be asked again."""
        assert exchange.key is not None
        identity = self._identity(body, exchange.key)
        version, pinned = self._version(body, exchange.key, identity, needed=door.generates)
        asked = dict(body)
        if "model" in asked:
            asked["model"] = version.name or version.id
        wants_usage = True
        if door.generates:
            if asked.get("seed") is None:
                asked["seed"] = secrets.randbelow(2**31)
            if asked.get("stream") is True:
                options = asked.get("stream_options")
                wants_usage = isinstance(options, Mapping) and options.get("include_usage") is True
                if options is None or isinstance(options, Mapping):
                    asked["stream_options"] = {**(options or {}), "include_usage": True}
        sent = asked if door.request else None
        continuation = Continuation(wants_usage)
        return Ask(exchange.request_id, door.method, door.path, sent, version, pinned, identity, continuation)

    def _identity(self, body: Mapping[str, Any], key: Key) -> str | None:
        """By what a client stays on a version: its key and the `user` it names; chance when there is neither."""
        user = body.get("user")
        if isinstance(user, str) and user:
            return f"{key.hint}/{user}"
        return key.hint or None

    # -- models

    def _version(
        self, body: Mapping[str, Any], key: Key, identity: str | None, *, needed: bool
    ) -> tuple[Version, bool]:
        """The version that answers, and whether the request asked for just this one."""
        name = body.get("model")
        if name is None and not needed:
            name = self.routes.service
        if not isinstance(name, str) or not name:
            raise invalid("`model` is required, and is a text; GET /v1/models lists what there is", "model")
        if name == self.routes.service:
            gone = [one.id for one in self.routes.versions.values() if self._standing(one.model).state == "retired"]
            chosen = self.routes.choose(identity, exclude=gone)
            if chosen:
                return chosen, False
            if gone:
                newest = max((self.routes.versions[one] for one in gone), key=lambda one: one.created)
                raise retired(name, self._standing(newest.model))
            raise no_replica()
        version = self.find(name)
        digest = version.model if version else self.catalog.digest(name)
        standing = self._standing(digest) if digest else None
        if standing and standing.state == "retired" and not (version and self._for_research(key)):
            raise retired(name, standing)
        if version is None:
            raise unknown_model(name, self.known())
        return version, True

    def find(self, name: str) -> Version | None:
        """The running version of this name, digest, or name in the ledger."""
        if version := self.routes.named(name):
            return version
        digest = self.catalog.digest(name)
        found = [one for one in self.routes.versions.values() if one.model == digest] if digest else []
        return max(found, key=lambda one: one.share) if found else None

    def known(self) -> list[str]:
        """What a request may name."""
        living = [one.id for one in self.routes.versions.values() if self._standing(one.model).state != "retired"]
        return [self.routes.service, *living]

    def _standing(self, model: str) -> Standing:
        return self.catalog.standing(model)

    def _for_research(self, key: Key) -> bool:
        return self.research and key.allows("research")

    async def models(self, request: Request) -> Response:
        """The models that can be asked for."""
        return await self._simply(request, "/v1/models", (), self._models)

    async def model(self, request: Request, name: str) -> Response:
        """One model, or the tombstone of one that was retired."""
        return await self._simply(request, "/v1/models/{id}", (), lambda _: self._model(name))

    async def _models(self, _: Exchange) -> Response:
        versions = list(self.routes.versions.values())
        living = [one for one in versions if self._standing(one.model).state != "retired"]
        first = [self._described(self.routes.service, max(living, key=lambda one: one.share))] if living else []
        return JSONResponse({"object": "list", "data": first + [self._described(one.id, one) for one in living]})

    async def _model(self, name: str) -> Response:
        version = self.find(name)
        if version is None and name == self.routes.service and self.routes.versions:
            version = max(self.routes.versions.values(), key=lambda one: one.share)
        digest = version.model if version else self.catalog.digest(name)
        standing = self._standing(digest) if digest else Standing()
        if digest and standing.state == "retired":
            tombstone = {"id": name, "object": "model", "model": digest, "state": "retired"}
            tombstone |= {"retired_at": iso(standing.since), "reason": standing.why, "replacement": standing.successor}
            return JSONResponse({**tombstone, **retired(name, standing).body()}, 410)
        if version is None:
            raise unknown_model(name, self.known())
        return JSONResponse(self._described(name, version), headers=lifecycle_headers(standing))

    def _described(self, name: str, version: Version) -> dict[str, Any]:
        standing = self._standing(version.model)
        more = {"version": version.id, "model": version.model, "release": version.release, "state": standing.state}
        if standing.state == "deprecated":
            sunset = None if standing.sunset is None else iso(standing.sunset)
            more |= {"deprecated_at": iso(standing.since), "sunset": sunset, "replacement": standing.successor}
        told = {"id": name, "object": "model", "created": int(version.created), "owned_by": "vita"}
        return {**told, "vita": {**more, "share": round(version.share, 6)}}

    # -- feedback and health

    async def feedback(self, request: Request) -> Response:
        """Store what a user says of an answer."""
        return await self._simply(request, "/v1/feedback", ("feedback",), lambda ex: self._feedback(request, ex))

    async def _feedback(self, request: Request, exchange: Exchange) -> Response:
        said = read_feedback(await self._body(request, exchange))
        assert exchange.key is not None
        key = exchange.key
        try:
            stored = await asyncio.to_thread(self._store_feedback, said, key)
        except VitaError:
            raise unavailable("The feedback could not be stored; send it again", code="not_stored") from None
        value = "" if said.value is None else str(said.value)
        self.telemetry.feedback.labels(stored["version"], said.kind, value).inc()
        return JSONResponse(stored, 201)

    def _store_feedback(self, said: Any, key: Key) -> dict[str, Any]:
        self.log.flush()  # the request may have ended a moment ago
        return store_feedback(self.ledger, said, key=key, redacted=self.settings.redact)

    async def metrics(self, request: Request) -> Response:
        """The figures of the gateway and of all replicas."""
        return await self._simply(request, "/metrics", ("admin",), lambda _: self._metrics())

    async def _metrics(self) -> Response:
        return Response(await self.exposition(), media_type=None, headers={"Content-Type": CONTENT_TYPE})

    async def exposition(self) -> bytes:
        """Every figure as Prometheus reads it."""
        counts = self.telemetry
        counts.in_flight.set(self.in_flight)
        counts.log_dropped.set(self.log.dropped)
        for gauge in (counts.share, counts.replica_up, counts.replica_in_flight):
            gauge.clear()
        for version in self.routes.versions.values():
            counts.share.labels(version.id).set(version.share)
        for version, backend in self.routes.backends():
            counts.replica_up.labels(version.id, backend.name).set(backend.ready and not backend.draining)
            counts.replica_in_flight.labels(version.id, backend.name).set(backend.in_flight)
        backends = [backend for _, backend in self.routes.backends()]
        texts = await asyncio.gather(*(self._replica_metrics(backend.url) for backend in backends))
        told = {backend.name: text for backend, text in zip(backends, texts, strict=True) if text}
        return counts.render(told)

    async def _replica_metrics(self, url: str) -> str:
        try:
            answer = await self.client.get(f"{url}/metrics", timeout=2.0)
        except httpx.HTTPError:
            return ""
        return answer.text if answer.status_code == 200 else ""

    def ready(self) -> Response:
        """Whether requests are answered now."""
        if self.draining:
            return JSONResponse({"ready": False, "why": "draining"}, 503, headers={"Retry-After": "2"})
        if not self.routes.ready:
            return JSONResponse({"ready": False, "why": "no replica is ready"}, 503, headers={"Retry-After": "2"})
        return JSONResponse({"ready": True})

    async def _simply(
        self, request: Request, route: str, scopes: tuple[str, ...], work: Callable[[Exchange], Awaitable[Response]]
    ) -> Response:
        """A request that the gateway answers by itself."""
        exchange = self._begin(request, route)
        try:
            self._admit(request, exchange, scopes, counted=route == "/v1/feedback")
            response = await work(exchange)
        except ApiError as error:
            response = self.refusal(error, exchange.request_id)
        except ClientDisconnect:
            response = Response(status_code=499)
        finally:
            self._leave(exchange)
        self.telemetry.requests.labels(route, "none", str(response.status_code)).inc()
        response.headers["X-Request-Id"] = exchange.request_id
        return response

    # -- at the door

    def _begin(self, request: Request, route: str) -> Exchange:
        return Exchange(self.routes.service, f"req-{uuid.uuid4().hex}", route, self.telemetry)

    def _admit(self, request: Request, exchange: Exchange, scopes: tuple[str, ...], *, counted: bool = True) -> None:
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
        length = _content_length(request)
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

    async def _body(self, request: Request, exchange: Exchange) -> dict[str, Any]:
        """The JSON object of a request, read no further than it may be long."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                415, "The body is JSON: send `Content-Type: application/json`.", code="unsupported_media_type"
            )
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                async for part in request.stream():
                    parts.append(part)
                    self._hold(exchange, len(part))
        except TimeoutError:
            raise ApiError(
                408, "The body did not arrive in time.", code="timeout", headers={"Connection": "close"}
            ) from None
        return _json_object(b"".join(parts))

    def _hold(self, exchange: Exchange, count: int) -> None:
        exchange.bytes_held += count
        self.bytes_held += count
        if exchange.bytes_held > self.settings.body_bytes:
            self._rejected("too large")
            raise too_large(self.settings.body_bytes)
        if self.bytes_held > self.settings.in_flight_bytes:
            self._rejected("full")
            raise too_busy(FULL)

    def _rejected(self, reason: str) -> None:
        self.telemetry.rejected.labels(reason).inc()

    # -- the way out

    def _headers(self, exchange: Exchange, standing: Standing) -> dict[str, str]:
        headers = {"X-Request-Id": exchange.request_id, "X-Vita-Version": exchange.version}
        if standing.state == "retired":
            headers["X-Vita-Model-State"] = "retired"
        return {name: _ascii(value) for name, value in {**headers, **lifecycle_headers(standing)}.items()}

    def refusal(self, error: ApiError, request_id: str) -> Response:
        return JSONResponse(error.body(), error.status, headers={"X-Request-Id": request_id, **error.headers})

    def gone(self, exchange: Exchange) -> None:
        """Close the account of a request whose client left."""
        if not exchange.closed:
            self.telemetry.cancelled.inc()
        self.end(exchange, 499)

    def end(self, exchange: Exchange, status: int) -> None:
        """Close a request's account; the first word counts."""
        if exchange.closed:
            return
        exchange.closed = True
        row = exchange.row(status, self._patterns)
        if exchange.ask is not None:
            self.log.add(row)
        self._leave(exchange)

    def _leave(self, exchange: Exchange) -> None:
        self.bytes_held -= exchange.bytes_held
        exchange.bytes_held = 0
        if exchange.entered:
            exchange.entered = False
            self.in_flight -= 1


@dataclass(frozen=True)
class _Begun:
    first: bytes
    rest: AsyncIterator[bytes]


class EventStream(Response):
    """Sends events as they come and no faster than they are taken; a client that leaves ends the work for it."""

    def __init__(self, gateway: Gateway, exchange: Exchange, begun: _Begun, headers: Mapping[str, str]) -> None:
        super().__init__(None, 200)
        self._gateway, self._exchange, self._begun = gateway, exchange, begun
        told = {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
        }
        self._told = {**told, **headers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange, gateway = self._exchange, self._gateway
        try:
            await _unless_gone(receive, self._send(send))
            exchange.read_stream()
            gateway.end(exchange, 502)  # unless it had ended well
        except (ClientGone, TimeoutError):
            exchange.read_stream()
            gateway.gone(exchange)
        finally:
            gateway.end(exchange, 500)

    async def _send(self, send: Send) -> None:
        exchange, seconds = self._exchange, self._gateway.settings.stall_seconds
        headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in self._told.items()]
        async with aclosing(self._begun.rest) as rest:  # type: ignore[type-var]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _in_time(send, self._begun.first, seconds)
            async for event in rest:
                if exchange.ask is not None and exchange.ask.complete:
                    exchange.read_stream()  # before the client knows: it may send feedback at once
                    self._gateway.end(exchange, 200)
                await _in_time(send, event, seconds)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _in_time(send: Send, event: bytes, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await send({"type": "http.response.body", "body": event, "more_body": True})


async def _unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """What `work` gives, given up as soon as the client hangs up."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _content_length(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise invalid("The body must be a JSON object")
    return value


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


def _ascii(value: str) -> str:
    """As a header may hold it."""
    return value.encode("ascii", "backslashreplace").decode()
