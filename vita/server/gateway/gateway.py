"""The gateway of a service: checks requests, forwards them to the replicas of a version, and records them.

    gateway = Gateway(routes, ledger, settings); app = gateway_app(gateway)

A request without permission is refused before its body is read (`admission`). An accepted request receives a response
even when replicas die while they work on it (`proxy`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from vita.gates.model_state import ModelState
from vita.monitoring.request_log import SHED
from vita.server import routes as api_routes
from vita.server.api import read
from vita.server.application import CLIENT_CLOSED_REQUEST
from vita.server.errors import ApiError, ClientLeft, invalid, unavailable
from vita.server.gateway.admission import Admission
from vita.server.gateway.continuation import Continuation
from vita.server.gateway.event_stream import CUT, Begun, EventStream, unless_gone
from vita.server.gateway.feedback import read_feedback, store_feedback
from vita.server.gateway.keys import Key, Keyring
from vita.server.gateway.model_states import Catalog, as_header, iso, lifecycle_headers, retired, unknown_model
from vita.server.gateway.proxy import Ask, Relay, Reply, no_replica
from vita.server.gateway.request_log import Kept, RequestLog
from vita.server.gateway.request_record import Exchange
from vita.server.gateway.routes import FEEDBACK
from vita.server.gateway.routing import Backend, Routes, Version
from vita.server.gateway.telemetry import CONTENT_TYPE, Telemetry
from vita.server.json_response import error_response, json_response
from vita.server.routes import ModelRoute, Route
from vita.server.settings import ServiceSettings
from vita.spine.errors import LedgerError, VitaError
from vita.spine.ledger import Ledger

log = logging.getLogger(__name__)

FEEDBACK_SECONDS, FEEDBACK_WAITING = 10.0, 64
"""How long feedback waits for the ledger, and how much of it may wait."""
REFRESH_ROWS = 500
"""Rows of a table that are read and applied at a time while requests are answered."""


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
        self.routes, self.ledger, self.settings, self.research = routes, ledger, settings, research
        self.telemetry = Telemetry()
        self.keys, self.catalog = Keyring(ledger), Catalog(ledger, routes.service)
        self._writers = ThreadPoolExecutor(2, thread_name_prefix="feedback")
        self._feedback_waiting = 0
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ledger refresh")
        self.door = Admission(self.keys, settings, self.telemetry, local=local)
        self.log = RequestLog(ledger, Kept(settings.log, settings.redact))
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=4.0)
        patience = httpx.Timeout(settings.answer_seconds, connect=5.0, pool=None)
        self.client = client or httpx.AsyncClient(limits=limits, timeout=patience, trust_env=False)
        self._relay = Relay(routes, self.client, self.telemetry, settings)
        self.cut = 0
        """Accepted requests that were not answered because the service stopped."""
        self._patterns = [re.compile(pattern, re.IGNORECASE) for pattern in settings.refusal_patterns]
        self.refresh()

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken any more."""
        return self.door.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self.door.draining = value

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        return self.door.in_flight

    # -- upkeep

    def refresh(self) -> None:
        """Read what changed in the ledger about keys and models."""
        self.keys.refresh()
        self.catalog.refresh()

    async def refresh_aside(self) -> None:
        """The same while requests are answered: a thread of its own reads, and this one applies a little at a time."""
        loop = asyncio.get_running_loop()
        rows = REFRESH_ROWS
        while rows >= REFRESH_ROWS:
            self.keys.apply(await loop.run_in_executor(self._reader, self.keys.read))
            changes = await loop.run_in_executor(self._reader, partial(self.catalog.read, limit=REFRESH_ROWS))
            self.catalog.apply(changes)
            rows = changes.count

    async def keep_fresh(self) -> None:
        """Refresh again and again; while the ledger cannot be read, what was known holds."""
        while True:
            await asyncio.sleep(self.settings.refresh_seconds)
            try:
                await self.refresh_aside()
            except VitaError:
                self.telemetry.ledger_errors.inc()
            except Exception:
                self.telemetry.ledger_errors.inc()
                log.exception("the ledger could not be read; keys and models stay as they were")

    async def close(self) -> None:
        await self.client.aclose()
        await asyncio.to_thread(self.log.close)
        for threads in (self._reader, self._writers):
            threads.shutdown(wait=False, cancel_futures=True)

    # -- passing on

    async def forward(self, request: Request, route: ModelRoute) -> Response:
        """Answer a request through a replica."""
        exchange = self._begin(request, route)
        handed_over = False
        try:
            self.door.admit(request, exchange, route.scopes)
            body = await self.door.body(request, exchange) if route.request is not None else {}
            if route.request is not None:
                read(route.request, body)  # refuses what no replica would take
            ask = exchange.ask = self._ask(exchange, route, body)
            if body.get("stream") is True and route.generates:
                told = await unless_gone(request.receive, self._begin_stream(ask, exchange))
                if not isinstance(told, Reply):
                    handed_over = True
                    return EventStream(
                        exchange,
                        told,
                        self._headers(exchange),
                        stall_seconds=self.settings.stall_seconds,
                        end=self.end,
                    )
            else:
                told = await unless_gone(request.receive, self._relay.whole(ask))
                exchange.read_whole(told.content)
            self.end(exchange, told.status)
            return Response(told.content, told.status, {**told.headers, **self._headers(exchange)})
        except ApiError as error:
            self.end(exchange, error.status)
            return error_response(error)
        except asyncio.CancelledError:  # the service stops, and waits for this no longer
            self.end(exchange, CUT)
            return error_response(ApiError(CUT, "The service has stopped", code="stopped"))
        except (ClientLeft, ClientDisconnect):
            self.end(exchange, CLIENT_CLOSED_REQUEST)
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            if not handed_over:
                self.end(exchange, 500)

    async def _begin_stream(self, ask: Ask, exchange: Exchange) -> Reply | Begun:
        """Wait for the first event, so that whatever goes wrong before it has a status of its own."""
        told = await self._relay.stream(ask)
        if isinstance(told, Reply):
            return told
        first = await anext(told)
        exchange.first_byte()
        return Begun(first, told)

    def _ask(self, exchange: Exchange, route: ModelRoute, body: dict[str, Any]) -> Ask:
        """What is sent on: for one version, with a seed, so that it can be asked again."""
        assert exchange.key is not None
        identity = self._identity(body, exchange.key)
        exchange.addressed = self._addressed(body)
        version, pinned = self._version(body, exchange.key, identity, needed=route.generates)
        asked = dict(body)
        if "model" in asked:
            asked["model"] = version.name or version.id
        wants_usage = True
        if route.generates:
            if asked.get("seed") is None:
                asked["seed"] = secrets.randbelow(2**31)
            if asked.get("stream") is True:
                options = asked.get("stream_options")
                wants_usage = isinstance(options, Mapping) and options.get("include_usage") is True
                if options is None or isinstance(options, Mapping):
                    asked["stream_options"] = {**(options or {}), "include_usage": True}
        sent = asked if route.request is not None else None
        continuation = Continuation(wants_usage)
        return Ask(
            exchange.request_id, route.method, route.path, sent, version, pinned, self._gone(), identity, continuation
        )

    def _addressed(self, body: Mapping[str, Any]) -> Version | None:
        """The version that a request is counted for when no replica answers it: the one it names, or the main one."""
        name = body.get("model")
        named = self.find(name) if isinstance(name, str) and name != self.routes.service else None
        return named or max(self.routes.versions.values(), key=lambda version: version.share, default=None)

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
            gone = self._gone()
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
        if standing and standing.state == "retired" and not (version and self._for_research(key, standing)):
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
        return [self.routes.service, *(name for name in self.routes.versions if name not in self._gone())]

    def _standing(self, model: str) -> ModelState:
        return self.catalog.standing(model)

    def _gone(self) -> frozenset[str]:
        """The versions that nobody gets who does not ask for them."""
        return frozenset(
            one.id for one in self.routes.versions.values() if self._standing(one.model).state == "retired"
        )

    def _for_research(self, key: Key, standing: ModelState) -> bool:
        """Whether the service, the key and the way in which the model was retired all allow it."""
        return self.research and key.allows("research") and standing.for_research

    async def models(self, request: Request) -> Response:
        """The models that can be asked for."""
        return await self._simply(request, api_routes.MODELS, self._models)

    async def model(self, request: Request) -> Response:
        """One model, or the tombstone of one that was retired."""
        return await self._simply(request, api_routes.MODEL, lambda _: self._model(request.path_params["id"]))

    async def _models(self, _: Exchange) -> Response:
        living = [one for one in self.routes.versions.values() if one.id not in self._gone()]
        first = [self._described(self.routes.service, max(living, key=lambda one: one.share))] if living else []
        return json_response({"object": "list", "data": first + [self._described(one.id, one) for one in living]})

    async def _model(self, name: str) -> Response:
        version = self.find(name)
        if version is None and name == self.routes.service and self.routes.versions:
            version = max(self.routes.versions.values(), key=lambda one: one.share)
        digest = version.model if version else self.catalog.digest(name)
        standing = self._standing(digest) if digest else ModelState()
        if digest and standing.state == "retired":
            tombstone = {"id": name, "object": "model", "model": digest, "state": "retired"}
            tombstone |= {"retired_at": iso(standing.since), "reason": standing.why, "replacement": standing.successor}
            return json_response({**tombstone, **retired(name, standing).body()}, 410)
        if version is None:
            raise unknown_model(name, self.known())
        return json_response(self._described(name, version), headers=lifecycle_headers(standing))

    def _described(self, name: str, version: Version) -> dict[str, Any]:
        standing = self._standing(version.model)
        state = "serving" if standing.state == "approved" else standing.state
        more = {"version": version.id, "model": version.model, "release": version.release, "state": state}
        more |= {"gate": dict(version.gate)}
        if standing.state == "deprecated":
            sunset = None if standing.sunset is None else iso(standing.sunset)
            more |= {"deprecated_at": iso(standing.since), "sunset": sunset, "replacement": standing.successor}
        told = {"id": name, "object": "model", "created": int(version.created), "owned_by": "vita"}
        more |= {"bitwise_reproducible": version.reproducible, "warnings": list(version.warnings)}
        return {**told, "max_model_len": version.context, "vita": {**more, "share": round(version.share, 6)}}

    # -- feedback and health

    async def feedback(self, request: Request) -> Response:
        """Store what a user says of an answer."""
        return await self._simply(request, FEEDBACK, lambda ex: self._feedback(request, ex))

    async def _feedback(self, request: Request, exchange: Exchange) -> Response:
        said = read_feedback(await self.door.body(request, exchange))
        assert exchange.key is not None
        key = exchange.key
        stored = await self._stored_feedback(said, key)
        value = "" if said.value is None else str(said.value)
        if stored["repeated"]:
            return json_response(stored, 200)
        self.telemetry.feedback.labels(stored["version"], said.kind, value).inc()
        if stored["replaces"] is not None:
            self.telemetry.feedback_replaced.labels(stored["version"], said.kind).inc()
        return json_response(stored, 201)

    async def _stored_feedback(self, said: Any, key: Key) -> dict[str, Any]:
        """Store feedback in a thread; one that waits long for the ledger is refused, and so is one too many."""
        problem = unavailable("The feedback could not be stored; send it again", code="not_stored")
        if self._feedback_waiting >= FEEDBACK_WAITING:
            raise problem
        self._feedback_waiting += 1
        storing = asyncio.get_running_loop().run_in_executor(self._writers, self._store_feedback, said, key)
        try:
            return await asyncio.wait_for(storing, FEEDBACK_SECONDS)
        except (VitaError, TimeoutError):
            raise problem from None
        finally:
            self._feedback_waiting -= 1

    def _store_feedback(self, said: Any, key: Key) -> dict[str, Any]:
        if not self.log.flush(FEEDBACK_SECONDS):  # the request may have ended a moment ago
            raise LedgerError("feedback", "the request log is not written yet")
        return store_feedback(self.ledger, said, key=key, kept=self.log.kept)

    async def metrics(self, request: Request) -> Response:
        """The figures of the gateway and of all replicas."""
        return await self._simply(request, api_routes.METRICS, lambda _: self._metrics())

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
        texts = await asyncio.gather(*(self._replica_metrics(backend) for backend in backends))
        told = {backend.name: text for backend, text in zip(backends, texts, strict=True) if text}
        return counts.render(told)

    async def _replica_metrics(self, backend: Backend) -> str:
        try:
            answer = await self.client.get(f"{backend.url}/metrics", headers=backend.auth_headers, timeout=2.0)
        except httpx.HTTPError:
            return ""
        return answer.text if answer.status_code == 200 else ""

    def ready(self) -> Response:
        """Whether requests are answered now."""
        if self.draining:
            return json_response({"ready": False, "why": "draining"}, 503, headers={"Retry-After": "2"})
        if not self.routes.ready:
            reasons = {backend.name: backend.reason for _, backend in self.routes.backends() if backend.reason}
            told = {"ready": False, "why": "no replica is ready", "replicas": reasons}
            return json_response(told, 503, headers={"Retry-After": "2"})
        return json_response({"ready": True})

    async def _simply(
        self, request: Request, route: Route, work: Callable[[Exchange], Awaitable[Response]]
    ) -> Response:
        """A request that the gateway answers by itself."""
        exchange = self._begin(request, route)
        try:
            self.door.admit(request, exchange, route.scopes, counted=route.request is not None)
            response = await work(exchange)
        except ApiError as error:
            response = error_response(error)
        except ClientDisconnect:
            response = Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            self.door.leave(exchange)
        self.telemetry.requests.labels(route.template, "none", str(response.status_code)).inc()
        return response

    def _begin(self, request: Request, route: Route) -> Exchange:
        exchange = Exchange(self.routes.service, request.state.request_id, route.template, self.telemetry)
        exchange.addressed = self._addressed({})
        return exchange

    def _headers(self, exchange: Exchange) -> dict[str, str]:
        """What every answer bears, of the version that gave it."""
        standing = self._standing(exchange.ask.version.model) if exchange.ask else ModelState()
        headers = {"X-Vita-Version": exchange.version}
        if standing.state == "retired":
            headers["X-Vita-Model-State"] = "retired"
        return {name: as_header(value) for name, value in {**headers, **lifecycle_headers(standing)}.items()}

    def end(self, exchange: Exchange, status: int) -> None:
        """Close a request's account; the first word counts."""
        if exchange.closed:
            return
        exchange.closed = True
        if status == CLIENT_CLOSED_REQUEST:
            self.telemetry.cancelled.inc()
        if self.draining and exchange.ask is not None and status >= 500:
            self.cut += 1
        row = exchange.row(status, self._patterns)
        if exchange.ask is not None:
            self.log.add(row)
        elif status in SHED or status >= 500:
            self.log.add_refused(row)
        self.door.leave(exchange)
