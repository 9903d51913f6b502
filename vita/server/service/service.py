"""A whole service in one process tree: the gateway on the public port, its replicas, and the operators' port.

    await Service(name="cat", release=release, ledger=ledger, ...).run()         # until SIGINT or SIGTERM

When it is told to stop it says so (/ready is 503), finishes what it has accepted up to `drain_seconds`, and takes
its replicas along. A second signal stops at once, whatever it is at by then.
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vita.gates.clearance import Terms
from vita.gates.services import Presence, Reporter
from vita.monitoring.retention import Retention
from vita.server.gateway.app import gateway_app
from vita.server.gateway.gateway import Gateway
from vita.server.gateway.keys import all_keys
from vita.server.gateway.routing import Routes
from vita.server.release import ReleaseInfo
from vita.server.service.admin import ServiceHandle, admin_app
from vita.server.service.deploy_checks import ClearRelease
from vita.server.service.listener import Listener, listener, open_socket
from vita.server.service.pruning import prune_regularly
from vita.server.service.replica_process import Command, replica_command
from vita.server.service.supervisor import Supervisor
from vita.server.settings import ServiceSettings
from vita.spine.errors import ConfigError
from vita.spine.ledger import Ledger


@dataclass(frozen=True)
class Running:
    """A service that runs: where, and by what it can be steered."""

    url: str
    gateway: Gateway
    fleet: Supervisor

    async def settled(self) -> None:
        """Wait until all that was asked so far is in the log."""
        await asyncio.to_thread(self.gateway.log.flush)


@dataclass
class Service:
    """What is served, where, and by how many."""

    name: str
    release: ReleaseInfo
    ledger: Ledger
    controls: Path
    """The folder for the operators' file."""
    clear: ClearRelease
    """Decides whether a release may be served, whenever a replica is started."""
    ungated: str | None = None
    """Why the first release is served without the approval of a gate."""
    settings: ServiceSettings = field(default_factory=ServiceSettings)
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    threads: int = 1
    research: bool = False
    who: str = ""
    command: Command = replica_command
    tell: Callable[[str], None] = lambda _: None
    ready: Callable[[str], None] = lambda _: None
    """Called with the public address when requests are answered."""

    async def run(self) -> int:
        """Serve until told to stop; returns how many accepted requests were cut off."""
        stop = _Stop()
        stop.on_signals()
        async with self._open(stop) as running:
            starting = asyncio.create_task(self._start(running.fleet))
            waiting = asyncio.create_task(stop.asked.wait())
            await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                self.ready(running.url)
                await waiting
            else:
                starting.cancel()
            await self._drain(running.gateway, stop)
        return running.gateway.cut

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Running]:
        """The service while the block lasts, every replica ready; what is in flight at its end is finished."""
        stop = _Stop()
        async with self._open(stop) as running:
            await self._start(running.fleet)
            yield running
            await self._drain(running.gateway, stop)

    async def _start(self, fleet: Supervisor) -> None:
        terms = Terms(self.ungated, self.research)
        await fleet.start(self.release, replicas=self.replicas, terms=terms)

    @asynccontextmanager
    async def _open(self, stop: _Stop) -> AsyncIterator[Running]:
        """The gateway and the operators' port, and no replica yet."""
        local = is_loopback(self.host)
        if not local and not all_keys(self.ledger):
            hint = "make one with `vita keys create NAME`, or serve on 127.0.0.1"
            raise ConfigError("serve.host", f"{self.host} can be reached by others, and there is no API key", hint=hint)
        public, private = open_socket(self.host, self.port), open_socket("127.0.0.1", 0)
        url = f"http://{_shown(self.host)}:{public.getsockname()[1]}"
        gateway = Gateway(Routes(self.name), self.ledger, self.settings, local=local, research=self.research)
        fleet = Supervisor(
            gateway.routes, self.ledger, self.settings, client=gateway.client, clear=self.clear, threads=self.threads,
            command=self.command, who=self.who, tell=self.tell,
        )  # fmt: skip
        control = ServiceHandle.of(self.name, url=url, port=private.getsockname()[1])
        path = control.write(self.controls)
        servers = [self._listener(gateway_app(gateway)), self._listener(admin_app(gateway, fleet, token=control.token))]
        pairs = zip(servers, (public, private), strict=True)
        tasks = [asyncio.create_task(server.serve(sockets=[one])) for server, one in pairs]
        upkeep = [asyncio.create_task(gateway.keep_fresh()), asyncio.create_task(self._prune())]
        reporter = Reporter(Presence(self.ledger, self.name, url), gateway.routes.served)
        try:
            yield Running(url, gateway, fleet)
        finally:
            path.unlink(missing_ok=True)
            await stop.hurrying(fleet.stop(seconds=0), fleet.kill)  # what may take its time had it in `_drain`
            for server in servers:
                await server.stop(at_once=stop.at_once.is_set())
            await asyncio.to_thread(reporter.close)
            for task in upkeep:
                task.cancel()
            await asyncio.gather(*tasks, *upkeep, return_exceptions=True)
            await gateway.close()

    async def _drain(self, gateway: Gateway, stop: _Stop) -> None:
        """Take nothing new and finish the rest, unless the time is up or a second signal comes."""
        gateway.draining = True
        deadline = asyncio.get_running_loop().time() + self.settings.drain_seconds
        if gateway.in_flight:
            self.tell(f"finishing {gateway.in_flight} requests; Ctrl-C again stops at once")
        while gateway.in_flight and not stop.at_once.is_set() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)

    async def _prune(self) -> None:
        """Remove what the settings say is too old, again and again."""
        told = self.settings
        retention = Retention(
            content_days=told.content_days, request_days=told.request_days, request_rows=told.request_rows
        )
        await prune_regularly(self.ledger, retention, seconds=told.prune_seconds, tell=self.tell)

    def _listener(self, app: object) -> Listener:
        told = self.settings
        return listener(
            app,  # type: ignore[arg-type]
            header_seconds=told.header_seconds,
            connections=told.connections,
            drain_seconds=2.0,
        )


class _Stop:
    """What signals ask for: the first to finish and stop, the second to stop at once."""

    def __init__(self) -> None:
        self.asked, self.at_once = asyncio.Event(), asyncio.Event()

    def on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signal)

    def _signal(self) -> None:
        (self.at_once if self.asked.is_set() else self.asked).set()

    async def hurrying(self, work: Coroutine[Any, Any, None], hurry: Callable[[], None]) -> None:
        """Wait for `work`, which `hurry` ends soon when there is no time left for it."""
        working, called = asyncio.create_task(work), asyncio.create_task(self.at_once.wait())
        await asyncio.wait({working, called}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            hurry()
        called.cancel()
        await working


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
