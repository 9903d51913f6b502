"""A service in one process tree: the gateway on the public port, its replicas, and the administration interface.

    await Service(name="cat", release=release, ledger=ledger, ...).run()         # until SIGINT or SIGTERM

On a signal, `/ready` returns 503, accepted requests have up to `drain_seconds` to finish, and the replicas are stopped.
A second signal stops immediately.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vita.gates.clearance import ServingRequest
from vita.gates.services import ServicePresence, ServiceReporter
from vita.monitoring.retention import Retention
from vita.server.gateway.app import gateway_app
from vita.server.gateway.batches import BatchApi
from vita.server.gateway.gateway import Gateway
from vita.server.gateway.keys import all_keys
from vita.server.gateway.routing import Router
from vita.server.release import ReleaseInfo
from vita.server.service.admin import ServiceHandle, admin_app, slug
from vita.server.service.deploy_checks import ClearRelease
from vita.server.service.folder_lock import LockedFolder
from vita.server.service.join_app import join_app
from vita.server.service.listener import Listener, listener, open_socket
from vita.server.service.measured_drift import export_drift
from vita.server.service.monitoring_thread import MonitoringThread
from vita.server.service.pruning import prune_regularly
from vita.server.service.replica_process import Command, replica_command
from vita.server.service.replica_use import ReplicaUse
from vita.server.service.supervisor import Supervisor
from vita.server.settings import ServiceSettings
from vita.server.sites.credentials import Credentials
from vita.server.sites.site import Site
from vita.spine import machine
from vita.spine.errors import ConfigError
from vita.spine.ledger import Ledger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningService:
    """A running service: its URL, its gateway and its supervisor."""

    url: str
    gateway: Gateway
    fleet: Supervisor
    join_url: str | None = None
    """Address at which network replicas join."""

    async def flush_log(self) -> None:
        """Wait until all finished requests are in the request log."""
        await asyncio.to_thread(self.gateway.log.flush)


@dataclass
class Service:
    """The configuration of a service; `run` starts it."""

    name: str
    release: ReleaseInfo
    ledger: Ledger
    controls: Path
    """The folder for the file with the address and token of the administration interface."""
    clear: ClearRelease
    """Decides whether a release may be served; called whenever a replica is started."""
    ungated: str | None = None
    """The reason for serving the first release without the approval of a gate."""
    settings: ServiceSettings = field(default_factory=ServiceSettings)
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    threads: int = 1
    research: bool = False
    who: str = ""
    site: Site = field(default_factory=Site)
    credentials: Credentials | None = None
    """Certificate of the gateway; network replicas can join only with it."""
    join_port: int = 0
    """Port on which network replicas join."""
    command: Command = replica_command
    notify: Callable[[str], None] = lambda _: None
    ready: Callable[[str], None] = lambda _: None
    """Called with the public URL when the service accepts requests."""

    async def run(self) -> int:
        """Serve until a signal; returns the number of accepted requests that were interrupted."""
        stop = _Stop()
        stop.on_signals()
        async with self._open(stop) as running:
            starting = asyncio.create_task(self._start(running.fleet))
            waiting = asyncio.create_task(stop.requested.wait())
            await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                self.ready(running.url)
                await waiting
            else:
                starting.cancel()
            await self._drain(running.gateway, stop)
        return running.gateway.interrupted

    @asynccontextmanager
    async def served(self) -> AsyncIterator[RunningService]:
        """Run the service during a `with` block, with all replicas ready; requests in flight at its end finish."""
        stop = _Stop()
        async with self._open(stop) as running:
            await self._start(running.fleet)
            yield running
            await self._drain(running.gateway, stop)

    def _batch_folder(self) -> LockedFolder | None:
        """Return the folder of the service's files and batches; None if another process of the service has it."""
        folder = LockedFolder.take(self.controls / "batches" / slug(self.name))
        if folder is None:
            self.notify(
                f"another service `{self.name}` runs with this store; this one has no /v1/files and /v1/batches"
            )
        return folder

    async def _start(self, fleet: Supervisor) -> None:
        terms = ServingRequest(self.ungated, self.research)
        await fleet.start(self.release, replicas=self.replicas, terms=terms)

    @asynccontextmanager
    async def _open(self, stop: _Stop) -> AsyncIterator[RunningService]:
        """Open the gateway and the administration interface, without replicas."""
        local = is_loopback(self.host)
        if not local and not all_keys(self.ledger):
            hint = "create one with `vita keys create NAME`, or serve on 127.0.0.1"
            problem = f"other machines can reach {self.host}, and there is no API key"
            raise ConfigError("serve.host", problem, hint=hint)
        if self.settings.trace_endpoint is not None:
            machine.set_trace_endpoint(self.settings.trace_endpoint)
        public, private = open_socket(self.host, self.port), open_socket("127.0.0.1", 0)
        joining = open_socket(self.host, self.join_port) if self.credentials is not None else None
        url = f"http://{_bracketed(self.host)}:{public.getsockname()[1]}"
        batches = self._batch_folder()
        gateway = Gateway(
            Router(self.name), self.ledger, self.settings, local=local, research=self.research,
            batches=batches.path if batches else None, site=self.site,
            tls=self.credentials.client_context() if self.credentials else None,
        )  # fmt: skip
        fleet = Supervisor(
            gateway.router, self.ledger, self.settings, client=gateway.client, clear=self.clear, threads=self.threads,
            command=self.command, who=self.who, site=self.site, notify=self.notify,
        )  # fmt: skip
        control = ServiceHandle.of(self.name, url=url, port=private.getsockname()[1])
        path = control.write(self.controls)
        servers = [self._listener(gateway_app(gateway)), self._listener(admin_app(gateway, fleet, token=control.token))]
        sockets, join_url = [public, private], None
        if joining is not None and self.credentials is not None:
            fleet.network.in_use = self.replicas == 0
            servers.append(self._listener(join_app(fleet.network), tls=self.credentials.server_context()))
            sockets.append(joining)
            join_url = f"https://{_bracketed(self.host)}:{joining.getsockname()[1]}"
            self.notify(f"network replicas join at {join_url}")
            if self.credentials.warning is not None:
                self.notify(f"warning: {self.credentials.warning}")
        pairs = zip(servers, sockets, strict=True)
        tasks = [asyncio.create_task(server.serve(sockets=[sock])) for server, sock in pairs]
        upkeep = [asyncio.create_task(work) for work in (gateway.keep_fresh(), self._prune())]
        upkeep.append(asyncio.create_task(self._stop_retired(gateway, fleet)))
        if gateway.batch_api is not None:
            gateway.batch_api.runner.start()
            upkeep.append(asyncio.create_task(self._prune_files(gateway.batch_api)))
        use = ReplicaUse(
            gateway.router, gateway.telemetry, self.ledger, price=self.settings.price_per_replica_hour
        )  # fmt: skip
        monitoring = MonitoringThread(use, partial(export_drift, gateway.telemetry, self.ledger, self.name))
        reporter = ServiceReporter(ServicePresence(self.ledger, self.name, url), gateway.router.served)
        try:
            yield RunningService(url, gateway, fleet, join_url)
        finally:
            path.unlink(missing_ok=True)
            await asyncio.to_thread(monitoring.close)
            await stop.wait_or_kill(fleet.stop(seconds=0), fleet.kill)  # requests had their time in `_drain`
            for server in servers:
                await server.stop(at_once=stop.at_once.is_set())
            await asyncio.to_thread(reporter.close)
            for task in upkeep:
                task.cancel()
            await asyncio.gather(*tasks, *upkeep, return_exceptions=True)
            await gateway.close()
            if batches is not None:
                batches.close()

    async def _drain(self, gateway: Gateway, stop: _Stop) -> None:
        """Refuse new requests, and wait for those in flight until the deadline or a second signal."""
        gateway.draining = True
        deadline = asyncio.get_running_loop().time() + self.settings.drain_seconds
        if gateway.in_flight:
            self.notify(f"finishing {gateway.in_flight} requests; Ctrl-C again stops at once")
        while gateway.in_flight and not stop.at_once.is_set() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)

    async def _prune(self) -> None:
        """Remove expired rows at intervals."""
        settings = self.settings
        retention = Retention(
            content_days=settings.content_days, request_days=settings.request_days, request_rows=settings.request_rows
        )
        await prune_regularly(
            self.ledger, retention, seconds=settings.prune_seconds, notify=self.notify,
            idempotency_hours=settings.idempotency_hours,
        )  # fmt: skip

    async def _stop_retired(self, gateway: Gateway, fleet: Supervisor) -> None:
        """Stop the replicas of versions that were retired, at the interval at which the states are read."""
        while True:
            await asyncio.sleep(self.settings.refresh_seconds)
            try:
                await fleet.stop_retired(gateway.directory.is_ended)
            except Exception:
                log.exception("the replicas of retired versions could not be stopped")

    async def _prune_files(self, batches: BatchApi) -> None:
        """Delete expired files and batches at intervals."""
        while True:
            await asyncio.to_thread(batches.prune)
            await asyncio.sleep(self.settings.prune_seconds)

    def _listener(self, app: object, *, tls: ssl.SSLContext | None = None) -> Listener:
        settings = self.settings
        return listener(
            app,  # type: ignore[arg-type]
            header_seconds=settings.header_seconds,
            connections=settings.connections,
            drain_seconds=2.0,
            tls=tls,
        )


class _Stop:
    """The signals received so far: the first requests a graceful stop, the second an immediate one."""

    def __init__(self) -> None:
        self.requested, self.at_once = asyncio.Event(), asyncio.Event()

    def on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signal)

    def _signal(self) -> None:
        (self.at_once if self.requested.is_set() else self.requested).set()

    async def wait_or_kill(self, work: Coroutine[Any, Any, None], kill: Callable[[], None]) -> None:
        """Wait for `work`; on a second signal call `kill`, which ends it soon."""
        working, second_signal = asyncio.create_task(work), asyncio.create_task(self.at_once.wait())
        await asyncio.wait({working, second_signal}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            kill()
        second_signal.cancel()
        await working


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
