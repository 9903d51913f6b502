"""Probes whether a replica is ready, and what it serves.

    ready = await probe.is_ready(replica); probe.update(replica, ready)

A replica that does not respond in time counts as hung: it receives no requests, and its requests move to others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx

from vita.server.gateway.routing import Router
from vita.server.service.replica_process import ReplicaProcess
from vita.server.settings import ServiceSettings
from vita.spine.errors import exception_text


class ReadinessProbe:
    """Probes the replicas of one service; used from one event loop only."""

    def __init__(
        self,
        router: Router,
        *,
        client: httpx.AsyncClient,
        settings: ServiceSettings,
        restore: Callable[[ReplicaProcess], Awaitable[None]],
        notify: Callable[[str], None],
    ) -> None:
        """`restore` prepares a replica that has responded, before it counts as ready."""
        self._router, self._client, self._settings = router, client, settings
        self._restore, self._notify = restore, notify

    async def is_ready(self, replica: ReplicaProcess) -> bool:
        """Return True if a replica reports that it is ready."""
        backend, seconds = replica.backend, self._settings.probe_seconds
        try:
            async with asyncio.timeout(seconds):
                answer = await self._client.get(f"{backend.url}/ready", headers=backend.auth_headers)
        except (TimeoutError, httpx.TimeoutException):
            self.set_responding(replica, False)
            return False
        except httpx.HTTPError as error:
            self.set_responding(replica, True)  # the connection was refused: the process has ended, it does not hang
            if replica.files is not None:  # this service has no process of it, whose end would be the reason
                backend.reason = f"it cannot be reached: {exception_text(error)}"
            return False
        self.set_responding(replica, True)
        if answer.status_code != 200:
            backend.reason = _reason(answer)
            return False
        if not self._read_status(replica, answer):
            return False
        backend.reason = ""
        await self._restore(replica)
        return True

    def update(self, replica: ReplicaProcess, ready: bool) -> None:
        """Store the result of a probe."""
        if ready != replica.backend.ready:
            replica.backend.ready = ready
            if ready:
                replica.backend.breaker.succeeded()
            self._router.wake()
        if ready:
            replica.state, replica.was_ready, replica.ready_at = "ready", True, time.monotonic()
            replica.start_finished.set()
        elif replica.state == "ready":
            replica.state = "unready"

    def _read_status(self, replica: ReplicaProcess, answer: httpx.Response) -> bool:
        """Read the properties and the warnings that a ready replica reports; each warning is printed once.

        Returns False if the replica reports other weights than those that it joined with.
        """
        try:
            content = answer.json()
            warnings = tuple(str(warning) for warning in content.get("warnings") or ())
            context, reproducible = content.get("max_model_len"), content.get("bitwise_reproducible")
            backend, digest = dict(content.get("backend") or {}), content.get("digest")
        except (ValueError, AttributeError, TypeError):
            return replica.files is None
        if replica.files is not None and digest != replica.files:
            replica.backend.reason = f"it serves the model {str(digest)[:12]} instead of {replica.files[:12]}"
            return False
        if version := self._router.versions.get(replica.release.id):
            version.context, version.reproducible, version.warnings = context, reproducible, warnings
            version.backend_details = backend
        for warning in warnings:
            if warning not in replica.warnings:
                self._notify(f"warning: {replica.name}: {warning}")
        replica.warnings = warnings
        return True

    def set_responding(self, replica: ReplicaProcess, responding: bool) -> None:
        """Store whether a replica responds to probes; the requests of a hung replica move to others."""
        backend = replica.backend
        if backend.hung is not responding:
            return
        backend.hung = not responding
        if backend.hung:
            backend.ready = False
            replica.backend.reason = f"it does not respond within {self._settings.probe_seconds:g} s"
        if replica.was_ready and not replica.stopping:
            self._notify(f"{replica.name} does not respond and receives no requests" if backend.hung else
                       f"{replica.name} responds again")  # fmt: skip
        self._router.wake()


def _reason(answer: httpx.Response) -> str:
    """Return the reason that a replica reports for not being ready."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"it responds with {answer.status_code}"
