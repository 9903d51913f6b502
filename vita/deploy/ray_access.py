"""The access rules of a service in Ray Serve, where no gateway of Vita is in front of the replicas.

Each replica checks the route, the API key, the region, the rate limit and the state of the model, as a gateway does.
Keys and states are read from the ledger every second, so requests never wait for it. There are no operator routes.
"""

from __future__ import annotations

import logging
import threading
import time

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vita.gates.clearance import Clearance
from vita.server import routes
from vita.server.errors import ApiError, no_such_route
from vita.server.gateway.admission import Admission, AdmissionSlot
from vita.server.gateway.keys import Keyring
from vita.server.gateway.model_directory import ModelDirectory
from vita.server.gateway.model_states import Catalog, retired
from vita.server.gateway.routing import Router, ServedVersion
from vita.server.gateway.telemetry import Telemetry
from vita.server.json_response import error_response
from vita.server.release import ReleaseInfo
from vita.server.settings import ServiceSettings
from vita.server.sites.site import DIGEST_HEADER, Site
from vita.spine.ledger import Ledger

log = logging.getLogger(__name__)

ROUTES = (*routes.MODEL_ROUTES, routes.MODELS, routes.HEALTH, routes.READY, routes.METRICS)
_BY_NAME = {(route.method, route.path): route for route in ROUTES}
VERSION_HEADER = "X-Vita-Version"


class RayAccess:
    """Admits requests to the application of a replica."""

    def __init__(
        self, app: ASGIApp, release: ReleaseInfo, clearance: Clearance, *, ledger: Ledger, service: str,
        settings: ServiceSettings, local: bool, site: Site,
    ) -> None:  # fmt: skip
        """`local` is True if only this machine can reach the service."""
        self._app, self._release, self._ledger, self._settings = app, release, ledger, settings
        self._keys, self._catalog = Keyring(ledger), Catalog(ledger, service)
        self._admission = Admission(self._keys, settings, Telemetry(), local=local, site=site)
        self._version = ServedVersion(
            release.id, clearance.model, release.digest, name=release.name, created=time.time(),
            gate=clearance.as_json(), weights=clearance.weights,
        )  # fmt: skip
        router = Router(service)
        router.add(self._version)
        self._directory = ModelDirectory(router, self._catalog)
        self._refresh()
        threading.Thread(target=self._keep_fresh, name="ledger reader", daemon=True).start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, slot = Request(scope, receive), AdmissionSlot()
        try:
            self._admit(request, slot)
        except ApiError as error:
            self._admission.leave(slot)
            await error_response(error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, self._with_headers(send))
        finally:
            self._admission.leave(slot)

    def _admit(self, request: Request, slot: AdmissionSlot) -> None:
        """Raise an `ApiError` unless the request is admitted; a request to a model takes a slot."""
        path = request.scope["path"]  # the path that selects the route; `request.url` depends on the Host header
        route = _BY_NAME.get((request.method, path))
        if route is None and request.method == "GET" and path.startswith(f"{routes.MODELS.path}/"):
            route = routes.MODEL
        if route is None:
            raise no_such_route(request.method, path)
        if route.public:
            return
        key = self._admission.authenticate(request)
        self._admission.regions(request, key)
        self._admission.authorize(key, route.scopes)
        if route in routes.MODEL_ROUTES:
            if self._directory.is_ended(self._version):
                raise retired(self._release.id, self._directory.state(self._version))
            self._admission.enter(request, key, slot)

    def _with_headers(self, send: Send) -> Send:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[VERSION_HEADER], headers[DIGEST_HEADER] = self._release.id, self._version.model
            await send(message)

        return send_with_headers

    def _refresh(self) -> None:
        self._keys.refresh()
        self._catalog.refresh()

    def _keep_fresh(self) -> None:
        """Read the keys and the model states at intervals; while this fails, the last known ones are used."""
        while True:
            time.sleep(self._settings.refresh_seconds)
            try:
                self._refresh()
            except Exception as error:  # noqa: BLE001 - the thread must not end
                log.warning("the ledger cannot be read; using the last known keys and model states: %s", error)
