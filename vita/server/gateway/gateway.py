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
import ssl
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
from vita.server.errors import ApiError, ClientLeft, invalid
from vita.server.gateway.admission import Admission, AdmissionSlot
from vita.server.gateway.batches import BatchApi
from vita.server.gateway.continuation import StreamContinuation
from vita.server.gateway.event_ids import with_ids
from vita.server.gateway.event_stream import CUT, EventStream, StartedStream, unless_disconnected
from vita.server.gateway.feedback import FeedbackStore, read_feedback
from vita.server.gateway.keys import Key, Keyring
from vita.server.gateway.model_directory import ModelDirectory
from vita.server.gateway.model_states import Catalog, escape_header, lifecycle_headers
from vita.server.gateway.proxy import ProxiedRequest, ReplicaProxy, ReplicaResponse
from vita.server.gateway.repeated_requests import RepeatedRequests
from vita.server.gateway.request_log import RequestLog, StoragePolicy
from vita.server.gateway.request_record import RequestRecord
from vita.server.gateway.request_span import end_request_span, operation
from vita.server.gateway.routes import FEEDBACK, STORED_PATHS
from vita.server.gateway.routing import Backend, Router
from vita.server.gateway.telemetry import CONTENT_TYPE, Telemetry
from vita.server.gateway.translated import translated_content, translated_error_response, translated_stream
from vita.server.json_response import error_response, json_response
from vita.server.routes import ModelRoute, Route
from vita.server.settings import ServiceSettings
from vita.server.sites.idempotency import IdempotencyRecords
from vita.server.sites.residency import REGION_HEADER, is_permitted, request_regions
from vita.server.sites.site import DIGEST_HEADER, Site
from vita.server.tracing import Attribute, open_tracing
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
        site: Site | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`local` is true when only this machine can reach the gateway; then no key is required while none exists.

        `batches` is the folder of uploaded files and batches; without it, there are none. `tls` are the settings of
        connections to network replicas.
        """
        self.router, self.ledger, self.settings, self.site = router, ledger, settings, site or Site()
        self.telemetry, self.tracing = Telemetry(), open_tracing(router.service)
        self.keys, self.catalog = Keyring(ledger), Catalog(ledger, router.service)
        self.directory = ModelDirectory(router, self.catalog, research=research)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ledger refresh")
        self.admission = Admission(self.keys, settings, self.telemetry, local=local, site=self.site)
        self.log = RequestLog(ledger, StoragePolicy(settings.log, settings.redact))
        self._feedback_store = FeedbackStore(ledger, self.log, region=self.site.region)
        self._records = IdempotencyRecords(
            ledger, seconds=settings.idempotency_seconds, hours=settings.idempotency_hours
        )
        self._repeated = RepeatedRequests(
            self._records, self.directory, self.site, ledger_region=settings.ledger_region
        )
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=4.0)
        patience = httpx.Timeout(settings.answer_seconds, connect=5.0, pool=None)
        self.client = client or httpx.AsyncClient(limits=limits, timeout=patience, trust_env=False, verify=tls or True)
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
        self._records.close()
        self._reader.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.tracing.close)

    # -- forwarding

    async def forward(self, request: Request, route: ModelRoute) -> Response:
        """Respond to a request with the response of a replica."""
        record, slot = self._open_record(request, route), AdmissionSlot()
        record.span = self.tracing.span(operation(route.template), kind="server", parent=request.headers)
        end = partial(self._end, record, slot)
        streaming, idempotent = False, None
        try:
            key = self._admit(request, route, record, slot)
            body = await self.admission.body(request, slot) if route.request is not None else {}
            idempotent = self._repeated.read(request, route, body, key)
            translation, target = None, route
            if route.dialect is not None and route.target is not None:
                translation, target = route.dialect.translate(body), route.target
                body = translation.chat
                record.name_response(translation.id)
            elif route.request is not None:
                read(route.request, body)  # refuses what every replica would refuse
            record.address(self.directory.addressed(body.get("model")))
            seed = None if idempotent is None else idempotent.seed
            proxied_request = self._proxied_request(record.request_id, target, body, key, seed=seed)
            record.span.set(Attribute.REQUEST_MODEL, str(body.get("model") or self.router.service))
            proxied_request.span = record.span
            record.forward(proxied_request)
            if idempotent is not None:
                await self._repeated.pin(idempotent, proxied_request, record, key)
            if record.regions is not None:
                proxied_request.headers[REGION_HEADER] = ", ".join(sorted(record.regions))
            if body.get("stream") is True and target.generates:
                response = await unless_disconnected(
                    request.receive, self._start_stream(proxied_request, with_event_ids=idempotent is not None)
                )
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
            if idempotent is not None:
                self._repeated.release(idempotent, record, error.status)
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
        record.limit(self.admission.regions(request, key))
        self.admission.authorize(key, route.scopes)
        if route.method == "POST" and (route.upload or route.request is None):
            self.admission.check_origin(request)
        if route.request is not None or isinstance(route, ModelRoute):
            record.admit(consent=self.admission.enter(request, key, slot, upload=route.upload, batched=route.batched))
        return key

    async def _start_stream(
        self, proxied_request: ProxiedRequest, *, with_event_ids: bool
    ) -> ReplicaResponse | StartedStream:
        """Wait for the first event, so that an error before it has its own status."""
        stream = await self._proxy.stream(proxied_request)
        if isinstance(stream, ReplicaResponse):
            return stream
        if with_event_ids:
            stream = with_ids(stream, proxied_request.continuation, lambda: proxied_request.version.model)
        return StartedStream(await anext(stream), stream)

    def _proxied_request(
        self, request_id: str, route: ModelRoute, body: dict[str, Any], key: Key, *, seed: int | None
    ) -> ProxiedRequest:
        """Create the request to a replica: for one version, and with a seed, so that it can be repeated.

        The seed is that of the body, else `seed`, else a random one.
        """
        identity = self._identity(body, key)
        version, pinned = self.directory.select(body.get("model"), identity=identity, key=key, required=route.generates)
        fields = dict(body)
        if "model" in fields:
            fields["model"] = version.name or version.id
        wants_usage = True
        if route.generates:
            if fields.get("seed") is None:
                fields["seed"] = secrets.randbelow(2**31) if seed is None else seed
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
        self._require_ledger_region(request, key)
        feedback = read_feedback(await self.admission.body(request, slot))
        stored = await self._feedback_store.store(feedback, key)
        value = "" if feedback.value is None else str(feedback.value)
        if stored["repeated"]:
            return json_response(stored, 200)
        self.telemetry.feedback.labels(stored["version"], feedback.kind, value).inc()
        if stored["replaces"] is not None:
            self.telemetry.feedback_replaced.labels(stored["version"], feedback.kind).inc()
        return json_response(stored, 201)

    def _require_ledger_region(self, request: Request, key: Key) -> None:
        """Raise `ApiError` 403 if feedback is limited to regions and the ledger is in another or an unknown one."""
        regions = request_regions(key.regions, request.headers.get(REGION_HEADER))
        if not is_permitted(regions, self.settings.ledger_region):
            message = "This feedback is limited to regions, and the ledger of this service is not in one of them."
            raise ApiError(403, message, code="wrong_region")

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
            key = self._admit(request, route, record, slot)
            if REGION_HEADER in request.headers and route.path.startswith(STORED_PATHS):
                message = f"Files and batches have the regions of their API key, and not those of `{REGION_HEADER}`"
                raise invalid(message, REGION_HEADER)
            response = await work(key, slot)
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
        return RequestRecord(
            self.router.service, request.state.request_id, route.template, self.telemetry, self.site.name, addressed
        )

    def _headers(self, record: RequestRecord) -> dict[str, str]:
        """Return the headers that describe the version of a response."""
        model_state = self.directory.state(record.proxied_request.version) if record.proxied_request else ModelState()
        headers = {"X-Vita-Version": record.version, **record.headers}
        if record.proxied_request is not None:
            headers[DIGEST_HEADER] = record.proxied_request.version.model
        if model_state.state == "retired":
            headers["X-Vita-Model-State"] = "retired"
        return {name: escape_header(value) for name, value in {**headers, **lifecycle_headers(model_state)}.items()}

    def _end(self, record: RequestRecord, slot: AdmissionSlot, status: int) -> None:
        """Close the record of a request and free its slot; only the first call has an effect."""
        row = record.close(status, self._patterns)
        if row is None:
            return
        end_request_span(
            record.span, row, self.log.policy, content=self.settings.trace_content and record.regions is None
        )
        if status == CLIENT_CLOSED_REQUEST:
            self.telemetry.cancelled.inc()
        if self.draining and record.proxied_request is not None and status >= 500:
            self.interrupted += 1
        if not is_permitted(record.regions, self.settings.ledger_region):
            self.telemetry.not_logged.inc()
        elif record.proxied_request is not None:
            self.log.add(row)
        elif status in SHED or status >= 500:
            self.log.add_refused(row)
        self.admission.leave(slot)
