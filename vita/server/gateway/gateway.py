"""The gateway of a service: checks requests, forwards them to the replicas of a version, and records them.

    gateway = Gateway(router, ledger, settings); app = gateway_app(gateway)

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
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from vita.gates.model_state import ModelState
from vita.monitoring.request_log import SHED
from vita.server import routes as api_routes
from vita.server.api import read
from vita.server.application import CLIENT_CLOSED_REQUEST
from vita.server.errors import ApiError, ClientLeft
from vita.server.gateway.admission import Admission, AdmissionSlot
from vita.server.gateway.batches import BatchApi
from vita.server.gateway.continuation import StreamContinuation
from vita.server.gateway.event_stream import CUT, EventStream, StartedStream, unless_disconnected
from vita.server.gateway.feedback import FeedbackStore, read_feedback
from vita.server.gateway.keys import Key, Keyring
from vita.server.gateway.model_directory import ModelDirectory
from vita.server.gateway.model_states import Catalog, escape_header, lifecycle_headers
from vita.server.gateway.proxy import ProxiedRequest, ReplicaProxy, ReplicaResponse
from vita.server.gateway.request_log import RequestLog, StoragePolicy
from vita.server.gateway.request_record import RequestRecord
from vita.server.gateway.routes import FEEDBACK
from vita.server.gateway.routing import Backend, Router
from vita.server.gateway.telemetry import CONTENT_TYPE, Telemetry
from vita.server.gateway.translated import translated_content, translated_error_response, translated_stream
from vita.server.json_response import error_response, json_response
from vita.server.routes import ModelRoute, Route
from vita.server.settings import ServiceSettings
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger

log = logging.getLogger(__name__)

REFRESH_ROWS = 500
"""Number of rows of a table that are read and applied at once while requests are processed."""


class Gateway:
    """The gateway of one service."""

    def __init__(
        self,
        router: Router,
        ledger: Ledger,
        settings: ServiceSettings,
        *,
        local: bool = True,
        research: bool = False,
        client: httpx.AsyncClient | None = None,
        batches: Path | None = None,
    ) -> None:
        """`local` is true when only this machine can reach the gateway; then no key is required while none exists.

        `batches` is the folder of uploaded files and batches; without it, there are none.
        """
        self.router, self.ledger, self.settings = router, ledger, settings
        self.telemetry = Telemetry()
        self.keys, self.catalog = Keyring(ledger), Catalog(ledger, router.service)
        self.directory = ModelDirectory(router, self.catalog, research=research)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ledger refresh")
        self.admission = Admission(self.keys, settings, self.telemetry, local=local)
        self.log = RequestLog(ledger, StoragePolicy(settings.log, settings.redact))
        self._feedback_store = FeedbackStore(ledger, self.log)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=4.0)
        patience = httpx.Timeout(settings.answer_seconds, connect=5.0, pool=None)
        self.client = client or httpx.AsyncClient(limits=limits, timeout=patience, trust_env=False)
        self._proxy = ReplicaProxy(router, self.client, self.telemetry, settings)
        self.interrupted = 0
        """Number of accepted requests that failed because the service stopped."""
        self.batch_api = None if batches is None else BatchApi(self.admission, self.forward, batches)
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
        if self.batch_api is not None:
            await self.batch_api.runner.close()
        await self.client.aclose()
        await asyncio.to_thread(self.log.close)
        self._feedback_store.close()
        self._reader.shutdown(wait=False, cancel_futures=True)

    # -- forwarding

    async def forward(self, request: Request, route: ModelRoute) -> Response:
        """Respond to a request with the response of a replica."""
        record, slot = self._open_record(request, route), AdmissionSlot()
        end = partial(self._end, record, slot)
        streaming = False
        try:
            key = self._admit(request, route, record, slot)
            body = await self.admission.body(request, slot) if route.request is not None else {}
            translation, target = None, route
            if route.dialect is not None and route.target is not None:
                translation, target = route.dialect.translate(body), route.target
                body = translation.chat
                record.name_response(translation.id)
            elif route.request is not None:
                read(route.request, body)  # refuses what every replica would refuse
            record.address(self.directory.addressed(body.get("model")))
            proxied_request = self._proxied_request(record.request_id, target, body, key)
            record.forward(proxied_request)
            if body.get("stream") is True and target.generates:
                response = await unless_disconnected(request.receive, self._start_stream(proxied_request))
                if not isinstance(response, ReplicaResponse):
                    record.begin_stream()
                    streaming = True
                    return EventStream(
                        response if translation is None else await translated_stream(response, translation),
                        self._headers(record),
                        stall_seconds=self.settings.stall_seconds,
                        is_complete=lambda: proxied_request.complete,
                        end=end,
                    )
            else:
                response = await unless_disconnected(request.receive, self._proxy.complete_response(proxied_request))
                record.read_response(response.content)
            end(response.status)
            content = response.content
            if route.dialect is not None and translation is not None:
                content = translated_content(content, response.status, route.dialect, translation)
            return Response(content, response.status, {**response.headers, **self._headers(record)})
        except ApiError as error:
            end(error.status)
            return error_response(error) if route.dialect is None else translated_error_response(error, route.dialect)
        except asyncio.CancelledError:  # the service stops
            end(CUT)
            return error_response(ApiError(CUT, "The service has stopped", code="stopped"))
        except (ClientLeft, ClientDisconnect):
            end(CLIENT_CLOSED_REQUEST)
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            if not streaming:
                end(500)  # without effect when the request ended above

    def _admit(self, request: Request, route: Route, record: RequestRecord, slot: AdmissionSlot) -> Key:
        """Check everything that is known before the body is read; returns the API key."""
        key = self.admission.authenticate(request)
        record.identify(key)
        self.admission.authorize(key, route.scopes)
        if route.method == "POST" and (route.upload or route.request is None):
            self.admission.check_origin(request)
        if route.request is not None or isinstance(route, ModelRoute):
            record.admit(consent=self.admission.enter(request, key, slot, upload=route.upload, batched=route.batched))
        return key

    async def _start_stream(self, proxied_request: ProxiedRequest) -> ReplicaResponse | StartedStream:
        """Wait for the first event, so that an error before it has its own status."""
        stream = await self._proxy.stream(proxied_request)
        return stream if isinstance(stream, ReplicaResponse) else StartedStream(await anext(stream), stream)

    def _proxied_request(self, request_id: str, route: ModelRoute, body: dict[str, Any], key: Key) -> ProxiedRequest:
        """Create the request to a replica: for one version, and with a seed, so that it can be repeated."""
        identity = self._identity(body, key)
        version, pinned = self.directory.select(body.get("model"), identity=identity, key=key, required=route.generates)
        fields = dict(body)
        if "model" in fields:
            fields["model"] = version.name or version.id
        wants_usage = True
        if route.generates:
            if fields.get("seed") is None:
                fields["seed"] = secrets.randbelow(2**31)
            if fields.get("stream") is True:
                options = fields.get("stream_options")
                wants_usage = isinstance(options, Mapping) and options.get("include_usage") is True
                if options is None or isinstance(options, Mapping):
                    fields["stream_options"] = {**(options or {}), "include_usage": True}
        sent = fields if route.request is not None else None
        continuation = StreamContinuation(wants_usage)
        retired_ids = self.directory.retired_ids()
        return ProxiedRequest(
            request_id, route.method, route.path, sent, version, pinned, retired_ids, identity, continuation
        )

    def _identity(self, body: Mapping[str, Any], key: Key) -> str | None:
        """Return the identity that keeps a client on one version: its key and its `user`; None for a random version."""
        user = body.get("user")
        if isinstance(user, str) and user:
            return f"{key.hint}/{user}"
        return key.hint or None

    # -- models

    async def models(self, request: Request) -> Response:
        """List the available models."""
        return await self.respond(request, api_routes.MODELS, lambda *_: self._list_models())

    async def _list_models(self) -> Response:
        return self.directory.list_models()

    async def model(self, request: Request) -> Response:
        """Describe a model; a retired one has a tombstone with status 410."""
        return await self.respond(request, api_routes.MODEL, lambda *_: self._describe(request.path_params["id"]))

    async def _describe(self, name: str) -> Response:
        return self.directory.describe(name)

    # -- feedback and health

    async def feedback(self, request: Request) -> Response:
        """Store feedback on a response."""
        return await self.respond(request, FEEDBACK, lambda key, slot: self._feedback(request, key, slot))

    async def _feedback(self, request: Request, key: Key, slot: AdmissionSlot) -> Response:
        feedback = read_feedback(await self.admission.body(request, slot))
        stored = await self._feedback_store.store(feedback, key)
        value = "" if feedback.value is None else str(feedback.value)
        if stored["repeated"]:
            return json_response(stored, 200)
        self.telemetry.feedback.labels(stored["version"], feedback.kind, value).inc()
        if stored["replaces"] is not None:
            self.telemetry.feedback_replaced.labels(stored["version"], feedback.kind).inc()
        return json_response(stored, 201)

    async def metrics(self, request: Request) -> Response:
        """Return the metrics of the gateway and of all replicas."""
        return await self.respond(request, api_routes.METRICS, lambda *_: self._metrics())

    async def _metrics(self) -> Response:
        return Response(await self.exposition(), media_type=None, headers={"Content-Type": CONTENT_TYPE})

    async def exposition(self) -> bytes:
        """Render all metrics in the text format of Prometheus."""
        counts = self.telemetry
        counts.in_flight.set(self.in_flight)
        counts.log_dropped.set(self.log.dropped)
        for gauge in (counts.share, counts.replica_up, counts.replica_in_flight):
            gauge.clear()
        for version in self.router.versions.values():
            counts.share.labels(version.id).set(version.share)
        for version, backend in self.router.backends():
            counts.replica_up.labels(version.id, backend.name).set(backend.ready and not backend.draining)
            counts.replica_in_flight.labels(version.id, backend.name).set(backend.in_flight)
        backends = [backend for _, backend in self.router.backends()]
        texts = await asyncio.gather(*(self._replica_metrics(backend) for backend in backends))
        reasons = {backend.name: text for backend, text in zip(backends, texts, strict=True) if text}
        return counts.render(reasons)

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
        if not self.router.ready:
            reasons = {backend.name: backend.reason for _, backend in self.router.backends() if backend.reason}
            texts_by_replica = {"ready": False, "why": "no replica is ready", "replicas": reasons}
            return json_response(texts_by_replica, 503, headers={"Retry-After": "2"})
        return json_response({"ready": True})

    async def respond(
        self, request: Request, route: Route, work: Callable[[Key, AdmissionSlot], Awaitable[Response]]
    ) -> Response:
        """Respond to a request that is not forwarded."""
        record, slot = self._open_record(request, route), AdmissionSlot()
        try:
            response = await work(self._admit(request, route, record, slot), slot)
        except ApiError as error:
            response = (
                error_response(error) if route.dialect is None else translated_error_response(error, route.dialect)
            )
        except ClientDisconnect:
            response = Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            self.admission.leave(slot)
        self.telemetry.requests.labels(route.template, "none", str(response.status_code)).inc()
        return response

    def _open_record(self, request: Request, route: Route) -> RequestRecord:
        addressed = self.directory.addressed(None)
        return RequestRecord(self.router.service, request.state.request_id, route.template, self.telemetry, addressed)

    def _headers(self, record: RequestRecord) -> dict[str, str]:
        """Return the headers that describe the version of a response."""
        model_state = self.directory.state(record.proxied_request.version) if record.proxied_request else ModelState()
        headers = {"X-Vita-Version": record.version}
        if model_state.state == "retired":
            headers["X-Vita-Model-State"] = "retired"
        return {name: escape_header(value) for name, value in {**headers, **lifecycle_headers(model_state)}.items()}

    def _end(self, record: RequestRecord, slot: AdmissionSlot, status: int) -> None:
        """Close the record of a request and free its slot; only the first call has an effect."""
        row = record.close(status, self._patterns)
        if row is None:
            return
        if status == CLIENT_CLOSED_REQUEST:
            self.telemetry.cancelled.inc()
        if self.draining and record.proxied_request is not None and status >= 500:
            self.interrupted += 1
        if record.proxied_request is not None:
            self.log.add(row)
        elif status in SHED or status >= 500:
            self.log.add_refused(row)
        self.admission.leave(slot)
