"""Supervises the replicas of a service: starts, restarts and drains them, and rolls out new versions.

Each replica is a process on a loopback port (`replica_process`). A replica that dies is restarted, after a pause that
grows with consecutive failures; a replica that stays unready for too long is killed and restarted. A new version starts
beside the old one and receives traffic when it is ready; the old one finishes its requests and stops (`roll`,
`promote`, `roll_back`).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx

from vita.gates.clearance import ServingRequest
from vita.server.backend_settings import release_backend
from vita.server.decoding_options import has_batch_invariance
from vita.server.gateway.routing import Backend, Router, ServedVersion
from vita.server.release import ReleaseInfo
from vita.server.service.deploy_checks import ClearRelease
from vita.server.service.journal import Journal
from vita.server.service.network_replicas import NetworkReplica, NetworkReplicas
from vita.server.service.readiness_probe import ReadinessProbe
from vita.server.service.replica_clearance import clear_replacement, clear_restart
from vita.server.service.replica_process import Command, ReplicaProcess, replica_command
from vita.server.service.retired_versions import RetiredVersions
from vita.server.service.served_adapters import ServedAdapters
from vita.server.settings import ServiceSettings
from vita.server.sites.site import Site
from vita.spine.config import unknown_name
from vita.spine.errors import ConfigError, ModelError
from vita.spine.ledger import Ledger

FIRST_PAUSE, MAX_PAUSE, STABLE_SECONDS = 0.5, 30.0, 60.0
"""First and longest pause before a restart; a process that ran for `STABLE_SECONDS` resets the failure count."""
MAX_FAILED_STARTS = 3
"""A replica that was never ready is not restarted after this number of failures: the release is at fault."""
PERMANENT_ERRORS = range(2, 10)
"""Exit codes of errors that a restart does not resolve (`vita.spine.errors`)."""
JOURNAL_SECONDS = 2.0
"""Maximum time to wait until a change is recorded in the ledger; the change continues, and is recorded later."""
GRACE_SECONDS = 5.0
"""Maximum time for a drained process to end."""


class Supervisor:
    """The replicas of one service; used from one event loop only."""

    def __init__(
        self,
        router: Router,
        ledger: Ledger,
        settings: ServiceSettings,
        *,
        client: httpx.AsyncClient,
        clear: ClearRelease,
        threads: int = 1,
        command: Command = replica_command,
        who: str = "",
        site: Site | None = None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.router, self._settings, self._client = router, settings, client
        self._journal = Journal(ledger, notify)
        self._threads, self._command, self._who, self._notify = threads, command, who, notify
        self._clear = clear
        self.replicas: dict[str, ReplicaProcess] = {}
        self._numbers = itertools.count(1)
        self._changing = asyncio.Lock()
        self.adapters = ServedAdapters(
            router, client=client, clear=clear, of_version=self.of_version, record=self._record, notify=notify
        )
        self._probe = ReadinessProbe(
            router, client=client, settings=settings, restore=self.adapters.restore, notify=notify
        )
        self.network = NetworkReplicas(
            router, self.replicas, self._probe, clear=clear, settings=settings, stop_replica=self._stop_replica,
            site=site or Site(), is_retired=lambda version: version in self.retired, notify=notify,
        )  # fmt: skip
        self.retired = RetiredVersions(
            router, self.adapters, of_version=self.of_version, stop_replica=self._stop_replica, record=self._record,
            notify=notify,
        )  # fmt: skip

    # -- commands of the operator

    async def start(
        self, release: ReleaseInfo, *, replicas: int, share: float = 1.0, terms: ServingRequest | None = None
    ) -> ServedVersion:
        """Clear a release and start `replicas` processes for it; returns when all are ready."""
        if release.id in self.router.versions and release.id not in self.retired:
            raise ConfigError("fleet", f"{release.id} is already served", hint="give the release another version")
        terms = terms or ServingRequest()
        clearance = await asyncio.to_thread(self._clear, release, terms)
        release = replace(release, model=clearance.model)
        version = ServedVersion(
            release.id, release.model, release.digest, name=release.name, created=time.time(),
            gate=clearance.as_json(), weights=clearance.weights, backend=release_backend(release.content).program,
            speculation=release.content.get("speculation"), batch_invariance=has_batch_invariance(release.content),
        )  # fmt: skip
        self.router.add(version)
        self.retired.forget(version.id)
        threads = max(1, self._threads // max(1, replicas))
        started = [self._launch(release, version, threads, terms=terms) for _ in range(replicas)]
        try:
            await self._all_ready(started)
            self.network.offer(release, version, terms=terms)
            await self.network.settle(version, is_alone=not replicas and len(self.router.versions) > 1)
        except ModelError:
            self.network.forget(version.id)
            joined = [replica for replica in self.of_version(version.id) if isinstance(replica, NetworkReplica)]
            cause = f"The version {version.id} could not be started"
            await asyncio.gather(*(self._stop_replica(replica, cause) for replica in joined))
            self.router.remove(version.id)
            raise
        await self._record(version, "started", share)
        if share >= 1.0 or len(self.router.versions) == 1:
            self.router.share({version.id: 1.0})
        else:
            shares = {served.id: served.share * (1 - share) for served in self.router.versions.values()}
            self.router.share({**shares, version.id: share})
        return version

    async def roll(
        self, release: ReleaseInfo, *, share: float = 1.0, terms: ServingRequest | None = None
    ) -> ServedVersion:
        """Start a new version with all of the traffic, or with a share of it until it is promoted or rolled back."""
        if not 0 < share <= 1:
            raise ConfigError("fleet.share", expected="a number above 0, up to 1", got=share)
        async with self._changing:
            fewest = 0 if self.network.in_use else 1
            count = max(fewest, math.ceil(self._replicas_of(self._stable()) * share))
            version = await self.start(release, replicas=count, share=share, terms=terms)
            if share >= 1.0:
                await self._retire_all_but(version)
            return version

    async def promote(self, *, terms: ServingRequest | None = None) -> ServedVersion:
        """Clear the newest version again, send it all of the traffic, and drain the other versions."""
        async with self._changing:
            newest, stable = self._newest(), self._stable()
            if newest is stable:
                raise ConfigError("fleet", "there is no second version to promote", hint="vita fleet roll RELEASE")
            if newest.id in self.retired:
                problem = f"{newest.id} has been retired and its replicas were stopped"
                raise ConfigError("fleet", problem, hint="go back with `vita fleet rollback`")
            if not (current := self.of_version(newest.id)):
                problem = f"all replicas of {newest.id} were drained"
                raise ConfigError("fleet", problem, hint="go back with `vita fleet rollback`")
            missing, template = self._replicas_of(stable) - self._replicas_of(newest), current[0]
            terms = replace(terms or ServingRequest(), research=template.terms.research)
            clearance = await asyncio.to_thread(self._clear, template.release, terms)
            newest.gate, newest.weights = clearance.as_json(), clearance.weights
            for replica in self.of_version(newest.id):
                replica.terms = terms
            self.network.update_terms(newest.id, terms)
            threads = max(1, template.threads or self._threads // max(1, missing))
            added = [self._launch(template.release, newest, threads, terms=terms) for _ in range(missing)]
            await self._all_ready(added)
            self.router.share({newest.id: 1.0})
            await self._record(newest, "promoted", 1.0)
            await self._retire_all_but(newest)
            return newest

    async def roll_back(self) -> ServedVersion:
        """Send all of the traffic to the older version, and drain the newest."""
        async with self._changing:
            newest = self._newest()
            others = [version for version in self.router.versions.values() if version is not newest]
            candidates = [version for version in others if version.id not in self.retired]
            if not candidates:
                raise ConfigError("fleet", "there is no other version to go back to")
            stable = max(candidates, key=lambda version: (version.share, version.created))
            self.router.share({stable.id: 1.0})
            await self._record(stable, "rolled back", 1.0)
            await self._retire_all_but(stable)
            return stable

    async def add_adapter(self, release: ReleaseInfo, *, terms: ServingRequest | None = None) -> ServedVersion:
        """Clear an adapter and load it in all replicas of its base model, without a restart."""
        async with self._changing:
            self.network.refuse_adapters()
            return await self.adapters.add(release, terms=terms or ServingRequest())

    async def remove_adapter(self, name: str) -> None:
        """Remove an adapter from all replicas; its requests in flight finish."""
        async with self._changing:
            await self.adapters.remove(name)

    async def stop_retired(self, is_ended: Callable[[ServedVersion], bool]) -> None:
        """Drain and stop the replicas of retired versions; `is_ended` is True for those that no request can use."""
        await self.retired.stop(is_ended, changing=self._changing)

    async def drain(self, name: str, *, restart: bool = True) -> str | None:
        """Drain a replica: it finishes its requests and stops. With `restart`, a new replica is started first.

        If the new replica does not start, the old one continues. A replica with retired weights stops without a
        replacement; the reason is returned.
        """
        async with self._changing:
            replica = self.replicas.get(name)
            if replica is None:
                raise unknown_name("fleet.replica", name, self.replicas)
            if isinstance(replica, NetworkReplica):
                return await self.network.drain(replica)
            version = self.router.versions[replica.release.id]
            retirement = await clear_replacement(self._clear, replica) if restart else None
            if restart and retirement is None:
                await self._all_ready([self._launch(replica.release, version, replica.threads, terms=replica.terms)])
            await self._stop_replica(replica, f"The replica {name} was drained")
            return retirement

    async def stop(self, *, seconds: float) -> None:
        """Stop all replicas; requests in flight have `seconds` to finish."""
        replicas = list(self.replicas.values())
        stops = [self._stop_replica(replica, "The service was stopped", seconds=seconds) for replica in replicas]
        await asyncio.gather(*stops)
        for version in [*self.router.versions.values(), *self.router.adapters.values()]:
            if version.id not in self.retired:
                self._note_deployment(version, "stopped", 0.0)
        await self._journal.close(seconds=JOURNAL_SECONDS)

    def kill(self) -> None:
        """Kill all processes."""
        for replica in self.replicas.values():
            replica.kill()

    def status(self) -> dict[str, Any]:
        """Return the versions and replicas of the service as JSON values."""
        return {
            "service": self.router.service,
            "adapters": self.adapters.status(),
            "versions": [
                {"version": version.id, "model": version.model, "release": version.release, "share": version.share,
                 "gate": dict(version.gate), "backend": version.backend,
                 "backend_details": dict(version.backend_details)}
                for version in self.router.versions.values()
            ],
            "replicas": [
                {"replica": replica.name, "version": replica.release.id, "state": replica.state,
                 "reason": replica.backend.reason, "warnings": list(replica.warnings), "url": replica.backend.url,
                 "host": replica.host, "site": replica.site,
                 "pid": replica.pid, "in_flight": replica.backend.in_flight, "starts": replica.starts}
                for replica in self.replicas.values()
            ],
        }  # fmt: skip

    def of_version(self, version_id: str) -> list[ReplicaProcess]:
        replicas = self.replicas.values()
        return [replica for replica in replicas if replica.release.id == version_id and not replica.stopping]

    # -- versions

    def _replicas_of(self, version: ServedVersion) -> int:
        """Return the number of local replicas of a version, also of a retired one that was stopped."""
        local = [replica for replica in self.of_version(version.id) if not isinstance(replica, NetworkReplica)]
        return len(local) or self.retired.replicas(version.id)

    def _newest(self) -> ServedVersion:
        return max(self.router.versions.values(), key=lambda version: version.created)

    def _stable(self) -> ServedVersion:
        """The version with the largest share."""
        if not self.router.versions:
            raise ConfigError("fleet", "no version is served")
        return max(self.router.versions.values(), key=lambda version: (version.share, -version.created))

    async def _retire_all_but(self, version_kept: ServedVersion) -> None:
        removed = [version for version in self.router.versions.values() if version is not version_kept]
        for version in removed:
            self.network.forget(version.id)  # before its replicas are drained, so that none joins again
        stopping = [replica for replica in self.replicas.values() if replica.release.id != version_kept.id]
        stops = [
            self._stop_replica(replica, f"The version {replica.release.id} was replaced by {version_kept.id}")
            for replica in stopping
        ]
        await asyncio.gather(*stops)
        for version in removed:
            self.router.remove(version.id)
            for ended in (*self.adapters.forget_base(version.id), version):
                if ended.id not in self.retired:
                    await self._record(ended, "stopped", 0.0)
                self.retired.forget(ended.id)

    async def _record(self, version: ServedVersion, action: str, share: float) -> None:
        """Record a change in the ledger, and wait for it at most `JOURNAL_SECONDS`, since the ledger may be locked."""
        self._note_deployment(version, action, share)
        await self._journal.flush(JOURNAL_SECONDS)

    def _note_deployment(self, version: ServedVersion, action: str, share: float) -> None:
        row = {"service": self.router.service, "version": version.id, "model": version.model,
               "release": version.release, "action": action, "share": share, "who": self._who,
               "at": time.time()}  # fmt: skip
        self._journal.add(row)

    # -- one replica

    def _launch(
        self, release: ReleaseInfo, version: ServedVersion, threads: int, *, terms: ServingRequest
    ) -> ReplicaProcess:
        name = next(name for number in self._numbers if (name := f"r{number}") not in self.replicas)
        replica = ReplicaProcess(name, release, Backend(name, ""), threads, terms=terms, notify=self._notify)
        self.replicas[name] = replica
        version.backends.append(replica.backend)
        replica.keep_task = asyncio.create_task(self._keep_alive(replica))
        return replica

    async def _all_ready(self, replicas: Sequence[ReplicaProcess]) -> None:
        """Wait until all replicas are ready; if one has failed, stop all and raise an error with its last output."""
        await asyncio.gather(*(replica.start_finished.wait() for replica in replicas))
        if failed := next((replica for replica in replicas if not replica.was_ready), None):
            problem = failed.cause()
            await asyncio.gather(*(self._stop_replica(replica, "Another replica failed") for replica in replicas))
            raise ModelError(f"replica {failed.name} of {failed.release.id}", problem)

    async def _keep_alive(self, replica: ReplicaProcess) -> None:
        """Start a replica, probe it, and restart it when it dies."""
        while not replica.stopping:
            if replica.starts and not await clear_restart(self._clear, replica):
                replica.state = "stopped"
                replica.start_finished.set()
                return
            replica.spawn(self._command)
            await self._probe_until_exit(replica)
            replica.backend.ready = False
            self.router.wake()
            if replica.stopping:
                return
            lived = time.monotonic() - replica.started_at
            replica.failures = 1 if lived > STABLE_SECONDS else replica.failures + 1
            code = replica.process.poll() if replica.process else None
            if not replica.was_ready and (replica.failures >= MAX_FAILED_STARTS or code in PERMANENT_ERRORS):
                replica.state = "stopped"
                replica.backend.reason = replica.cause()
                replica.start_finished.set()
                return
            # The first restart of a replica that was ready is immediate; only repeated failures are delayed.
            pause = min(MAX_PAUSE, FIRST_PAUSE * 2 ** (replica.failures - 2)) if replica.failures > 1 else 0.0
            replica.state = "waiting"
            replica.backend.reason = replica.cause()
            self._notify(f"{replica.name} ended ({replica.cause()}); it starts again in {pause:g} s")
            await asyncio.sleep(pause)

    async def _probe_until_exit(self, replica: ReplicaProcess) -> None:
        """Probe the readiness of a replica until its process ends."""
        assert replica.process is not None
        process = replica.process
        while process.poll() is None:
            ready = await self._probe.is_ready(replica)
            if not replica.stopping:
                self._probe.update(replica, ready)
                if timeout := self._timeout_reason(replica):
                    replica.last_lines.append(timeout)
                    process.kill()
            await asyncio.sleep(0.5 if replica.state == "ready" else 0.1)
        self._probe.set_responding(replica, True)
        if process.stdin is not None:
            process.stdin.close()

    def _timeout_reason(self, replica: ReplicaProcess) -> str | None:
        """Return the reason to kill a replica that was not ready for too long, or None."""
        starting = replica.state == "starting"
        seconds = self._settings.ready_seconds if starting else self._settings.unready_seconds
        if time.monotonic() - (replica.started_at if starting else replica.ready_at) <= seconds:
            return None
        return f"it was not ready {'within' if starting else 'for'} {seconds:g} s and was killed"

    async def _stop_replica(self, replica: ReplicaProcess, cause: str, *, seconds: float | None = None) -> None:
        """Drain a replica: send it no new requests, wait for those in flight until the deadline, end its process.

        `cause` is named in the errors of requests that do not finish in time.
        """
        replica.stopping = replica.backend.draining = True
        limit = f", and the request did not finish within {self._settings.drain_seconds:g} s (`drain_seconds`)"
        replica.backend.stop_cause = cause + (limit if seconds is None else "")
        replica.state = "draining"
        self.router.wake()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._settings.drain_seconds if seconds is None else seconds)
        while replica.backend.in_flight and loop.time() < deadline:
            await asyncio.sleep(0.05)
        await replica.end(until=deadline + GRACE_SECONDS)
        if replica.keep_task is not None:
            replica.keep_task.cancel()
            await asyncio.gather(replica.keep_task, return_exceptions=True)
        replica.state = "stopped"
        replica.start_finished.set()
        if self.replicas.get(replica.name) is replica:
            del self.replicas[replica.name]
        if (version := self.router.versions.get(replica.release.id)) and replica.backend in version.backends:
            version.backends.remove(replica.backend)
