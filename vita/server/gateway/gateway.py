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
from vita.server.gateway.admission import Admission, Slot
from vita.server.gateway.continuation import Continuation
from vita.server.gateway.event_stream import CUT, EventStream, StartedStream, unless_disconnected
from vita.server.gateway.feedback import read_feedback, store_feedback
from vita.server.gateway.keys import Key, Keyring
from vita.server.gateway.model_states import Catalog, as_header, iso, lifecycle_headers, retired, unknown_model
from vita.server.gateway.proxy import ProxiedRequest, ReplicaProxy, Reply, no_replica
from vita.server.gateway.request_log import Kept, RequestLog
from vita.server.gateway.request_record import RequestRecord
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
"""Timeout of storing feedback, and the maximum number of waiting feedback requests."""
REFRESH_ROWS = 500
"""Number of rows of a table that are read and applied at once while requests are processed."""


class Gateway:
    """The gateway of one service."""

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
        """`local` is true when only this machine can reach the gateway; then no key is required while none exists."""
        self.routes, self.ledger, self.settings, self.research = routes, ledger, settings, research
        self.telemetry = Telemetry()
        self.keys, self.catalog = Keyring(ledger), Catalog(ledger, routes.service)
        self._writers = ThreadPoolExecutor(2, thread_name_prefix="feedback")
        self._feedback_waiting = 0
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ledger refresh")
        self.admission = Admission(self.keys, settings, self.telemetry, local=local)
        self.log = RequestLog(ledger, Kept(settings.log, settings.redact))
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=4.0)
        patience = httpx.Timeout(settings.answer_seconds, connect=5.0, pool=None)
        self.client = client or httpx.AsyncClient(limits=limits, timeout=patience, trust_env=False)
        self._proxy = ReplicaProxy(routes, self.client, self.telemetry, settings)
        self.cut = 0
        """Number of accepted requests that failed because the service stopped."""
        self._patterns = [re.compile(pattern, re.IGNORECASE) for pattern in settings.refusal_patterns]
        self.refresh()

    @property
    def draining(self) -> bool:
        """True when new requests are refused."""
        return self.admission.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self.admission.draining = value

    @property
    def in_flight(self) -> int:
        """Number of requests in progress."""
        return self.admission.in_flight

    # -- upkeep

    def refresh(self) -> None:
        """Read the changes of keys and models from the ledger."""
        self.keys.refresh()
        self.catalog.refresh()

    async def refresh_in_background(self) -> None:
        """Read the changes in a thread and apply them in small batches, while requests are processed."""
        loop = asyncio.get_running_loop()
        rows = REFRESH_ROWS
        while rows >= REFRESH_ROWS:
            self.keys.apply(await loop.run_in_executor(self._reader, self.keys.read))
            changes = await loop.run_in_executor(self._reader, partial(self.catalog.read, limit=REFRESH_ROWS))
            self.catalog.apply(changes)
            rows = changes.count

    async def keep_fresh(self) -> None:
        """Refresh at intervals; while the ledger cannot be read, the last known state holds."""
        while True:
            await asyncio.sleep(self.settings.refresh_seconds)
            try:
                await self.refresh_in_background()
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

    # -- forwarding

    async def forward(self, request: Request, route: ModelRoute) -> Response:
        """Respond to a request with the response of a replica."""
        record, slot = self._open_record(request, route), Slot()
        end = partial(self._end, record, slot)
        streaming = False
        try:
            key = self._admit(request, route, record, slot)
            body = await self.admission.body(request, slot) if route.request is not None else {}
            if route.request is not None:
                read(route.request, body)  # refuses what every replica would refuse
            record.address(self._addressed(body))
            proxied_request = self._proxied_request(record.request_id, route, body, key)
            record.forward(proxied_request)
            if body.get("stream") is True and route.generates:
                response = await unless_disconnected(request.receive, self._start_stream(proxied_request))
                if not isinstance(response, Reply):
                    record.begin_stream()
                    streaming = True
                    return EventStream(
                        response,
                        self._headers(record),
                        stall_seconds=self.settings.stall_seconds,
                        is_complete=lambda: proxied_request.complete,
                        end=end,
                    )
            else:
                response = await unless_disconnected(request.receive, self._proxy.whole(proxied_request))
                record.read_response(response.content)
            end(response.status)
            return Response(response.content, response.status, {**response.headers, **self._headers(record)})
        except ApiError as error:
            end(error.status)
            return error_response(error)
        except asyncio.CancelledError:  # the service stops
            end(CUT)
            return error_response(ApiError(CUT, "The service has stopped", code="stopped"))
        except (ClientLeft, ClientDisconnect):
            end(CLIENT_CLOSED_REQUEST)
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            if not streaming:
                end(500)  # without effect when the request ended above

    def _admit(self, request: Request, route: Route, record: RequestRecord, slot: Slot) -> Key:
        """Check everything that is known before the body is read; returns the API key."""
        key = self.admission.authenticate(request)
        record.identify(key)
        self.admission.authorize(key, route.scopes)
        if route.request is not None or isinstance(route, ModelRoute):
            record.admit(consent=self.admission.enter(request, key, slot))
        return key

    async def _start_stream(self, proxied_request: ProxiedRequest) -> Reply | StartedStream:
        """Wait for the first event, so that an error before it has its own status."""
        stream = await self._proxy.stream(proxied_request)
        return stream if isinstance(stream, Reply) else StartedStream(await anext(stream), stream)

    def _proxied_request(self, request_id: str, route: ModelRoute, body: dict[str, Any], key: Key) -> ProxiedRequest:
        """Create the request to a replica: for one version, and with a seed, so that it can be repeated."""
        identity = self._identity(body, key)
        version, pinned = self._version(body, key, identity, needed=route.generates)
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
        return ProxiedRequest(
            request_id, route.method, route.path, sent, version, pinned, self._gone(), identity, continuation
        )

    def _addressed(self, body: Mapping[str, Any]) -> Version | None:
        """Return the version a request counts for if no replica responds: the one it names, or the main one."""
        name = body.get("model")
        named = self.find(name) if isinstance(name, str) and name != self.routes.service else None
        return named or max(self.routes.versions.values(), key=lambda version: version.share, default=None)

    def _identity(self, body: Mapping[str, Any], key: Key) -> str | None:
        """Return the identity that keeps a client on one version: its key and its `user`; None for a random version."""
        user = body.get("user")
        if isinstance(user, str) and user:
            return f"{key.hint}/{user}"
        return key.hint or None

    # -- models

    def _version(
        self, body: Mapping[str, Any], key: Key, identity: str | None, *, needed: bool
    ) -> tuple[Version, bool]:
        """Return the version for a request, and whether the request names this version."""
        name = body.get("model")
        if name is None and not needed:
            name = self.routes.service
        if not isinstance(name, str) or not name:
            raise invalid("`model` is required and must be a string; GET /v1/models lists the models", "model")
        if name == self.routes.service:
            gone = self._gone()
            chosen = self.routes.choose(identity, exclude=gone)
            if chosen:
                return chosen, False
            if gone:
                newest = max((self.routes.versions[one] for one in gone), key=lambda one: one.created)
                raise retired(name, self._model_state(newest.model))
            raise no_replica()
        version = self.find(name)
        digest = version.model if version else self.catalog.digest(name)
        model_state = self._model_state(digest) if digest else None
        if model_state and model_state.state == "retired" and not (version and self._for_research(key, model_state)):
            raise retired(name, model_state)
        if version is None:
            raise unknown_model(name, self.known())
        return version, True

    def find(self, name: str) -> Version | None:
        """Return the running version with this name, digest or ledger name."""
        if version := self.routes.named(name):
            return version
        digest = self.catalog.digest(name)
        found = [one for one in self.routes.versions.values() if one.model == digest] if digest else []
        return max(found, key=lambda one: one.share) if found else None

    def known(self) -> list[str]:
        """Return the model names that a request can use."""
        return [self.routes.service, *(name for name in self.routes.versions if name not in self._gone())]

    def _model_state(self, model: str) -> ModelState:
        return self.catalog.model_state(model)

    def _gone(self) -> frozenset[str]:
        """Return the retired versions, which only a request that names them can get."""
        return frozenset(
            one.id for one in self.routes.versions.values() if self._model_state(one.model).state == "retired"
        )

    def _for_research(self, key: Key, model_state: ModelState) -> bool:
        """Tell whether the service, the key and the retirement allow research access."""
        return self.research and key.allows("research") and model_state.for_research

    async def models(self, request: Request) -> Response:
        """List the available models."""
        return await self._respond(request, api_routes.MODELS, lambda *_: self._models())

    async def model(self, request: Request) -> Response:
        """Describe a model; a retired one has a tombstone with status 410."""
        return await self._respond(request, api_routes.MODEL, lambda *_: self._model(request.path_params["id"]))

    async def _models(self) -> Response:
        living = [one for one in self.routes.versions.values() if one.id not in self._gone()]
        first = [self._described(self.routes.service, max(living, key=lambda one: one.share))] if living else []
        return json_response({"object": "list", "data": first + [self._described(one.id, one) for one in living]})

    async def _model(self, name: str) -> Response:
        version = self.find(name)
        if version is None and name == self.routes.service and self.routes.versions:
            version = max(self.routes.versions.values(), key=lambda one: one.share)
        digest = version.model if version else self.catalog.digest(name)
        model_state = self._model_state(digest) if digest else ModelState()
        if digest and model_state.state == "retired":
            tombstone = {"id": name, "object": "model", "model": digest, "state": "retired"}
            tombstone |= {
                "retired_at": iso(model_state.since),
                "reason": model_state.why,
                "replacement": model_state.successor,
            }
            return json_response({**tombstone, **retired(name, model_state).body()}, 410)
        if version is None:
            raise unknown_model(name, self.known())
        return json_response(self._described(name, version), headers=lifecycle_headers(model_state))

    def _described(self, name: str, version: Version) -> dict[str, Any]:
        model_state = self._model_state(version.model)
        state = "serving" if model_state.state == "approved" else model_state.state
        more = {"version": version.id, "model": version.model, "release": version.release, "state": state}
        more |= {"gate": dict(version.gate)}
        if model_state.state == "deprecated":
            sunset = None if model_state.sunset is None else iso(model_state.sunset)
            more |= {"deprecated_at": iso(model_state.since), "sunset": sunset, "replacement": model_state.successor}
        told = {"id": name, "object": "model", "created": int(version.created), "owned_by": "vita"}
        more |= {"bitwise_reproducible": version.reproducible, "warnings": list(version.warnings)}
        return {**told, "max_model_len": version.context, "vita": {**more, "share": round(version.share, 6)}}

    # -- feedback and health

    async def feedback(self, request: Request) -> Response:
        """Store feedback on a response."""
        return await self._respond(request, FEEDBACK, lambda key, slot: self._feedback(request, key, slot))

    async def _feedback(self, request: Request, key: Key, slot: Slot) -> Response:
        said = read_feedback(await self.admission.body(request, slot))
        stored = await self._stored_feedback(said, key)
        value = "" if said.value is None else str(said.value)
        if stored["repeated"]:
            return json_response(stored, 200)
        self.telemetry.feedback.labels(stored["version"], said.kind, value).inc()
        if stored["replaces"] is not None:
            self.telemetry.feedback_replaced.labels(stored["version"], said.kind).inc()
        return json_response(stored, 201)

    async def _stored_feedback(self, said: Any, key: Key) -> dict[str, Any]:
        """Store feedback in a thread; refused when the ledger is slow or too much feedback waits."""
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
        if not self.log.flush(FEEDBACK_SECONDS):  # the request may have just ended
            raise LedgerError("feedback", "the request log is not written yet")
        return store_feedback(self.ledger, said, key=key, kept=self.log.kept)

    async def metrics(self, request: Request) -> Response:
        """Return the metrics of the gateway and of all replicas."""
        return await self._respond(request, api_routes.METRICS, lambda *_: self._metrics())

    async def _metrics(self) -> Response:
        return Response(await self.exposition(), media_type=None, headers={"Content-Type": CONTENT_TYPE})

    async def exposition(self) -> bytes:
        """Render all metrics in the text format of Prometheus."""
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
        """Report whether requests are accepted."""
        if self.draining:
            return json_response({"ready": False, "why": "draining"}, 503, headers={"Retry-After": "2"})
        if not self.routes.ready:
            reasons = {backend.name: backend.reason for _, backend in self.routes.backends() if backend.reason}
            told = {"ready": False, "why": "no replica is ready", "replicas": reasons}
            return json_response(told, 503, headers={"Retry-After": "2"})
        return json_response({"ready": True})

    async def _respond(
        self, request: Request, route: Route, work: Callable[[Key, Slot], Awaitable[Response]]
    ) -> Response:
        """Respond to a request that is not forwarded."""
        record, slot = self._open_record(request, route), Slot()
        try:
            response = await work(self._admit(request, route, record, slot), slot)
        except ApiError as error:
            response = error_response(error)
        except ClientDisconnect:
            response = Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            self.admission.leave(slot)
        self.telemetry.requests.labels(route.template, "none", str(response.status_code)).inc()
        return response

    def _open_record(self, request: Request, route: Route) -> RequestRecord:
        return RequestRecord(
            self.routes.service, request.state.request_id, route.template, self.telemetry, self._addressed({})
        )

    def _headers(self, record: RequestRecord) -> dict[str, str]:
        """Return the headers that describe the version of a response."""
        model_state = (
            self._model_state(record.proxied_request.version.model) if record.proxied_request else ModelState()
        )
        headers = {"X-Vita-Version": record.version}
        if model_state.state == "retired":
            headers["X-Vita-Model-State"] = "retired"
        return {name: as_header(value) for name, value in {**headers, **lifecycle_headers(model_state)}.items()}

    def _end(self, record: RequestRecord, slot: Slot, status: int) -> None:
        """Close the record of a request and free its slot; only the first call has an effect."""
        row = record.close(status, self._patterns)
        if row is None:
            return
        if status == CLIENT_CLOSED_REQUEST:
            self.telemetry.cancelled.inc()
        if self.draining and record.proxied_request is not None and status >= 500:
            self.cut += 1
        if record.proxied_request is not None:
            self.log.add(row)
        elif status in SHED or status >= 500:
            self.log.add_refused(row)
        self.admission.leave(slot)
