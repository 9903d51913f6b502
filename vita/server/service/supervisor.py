"""Keeps the replicas of a service alive, and changes what it serves while it serves.

Every replica is a process of its own on a loopback port (`process`). One that dies is started again, after a pause that
grows with each failure in a row; one that lives and is not ready for long is ended first. A new version is started
beside the old, gets traffic when it is ready, and the old one leaves when it has answered what it had begun: `roll`,
`promote`, `roll back`.
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

from vita.gates.clearance import Terms
from vita.server.gateway.routing import Backend, Routes, Version
from vita.server.release import ReleaseInfo
from vita.server.service.deploy_checks import ClearRelease
from vita.server.service.journal import Journal
from vita.server.service.replica_process import Command, ReplicaProcess, replica_command
from vita.server.settings import ServiceSettings
from vita.spine.config import unknown_name
from vita.spine.errors import ConfigError, LedgerError, ModelError, VitaError
from vita.spine.ledger import Ledger

FIRST_PAUSE, LONGEST_PAUSE, LONG_LIFE = 0.5, 30.0, 60.0
STARTS_IN_VAIN = 3
"""A replica that was never ready and has ended this often is given up: the release is at fault."""
REFUSALS = range(2, 10)
"""Exit codes of errors that a second start would meet again, as `vita.spine.errors` has them."""
JOURNAL_SECONDS = 2.0
"""How long a change waits until it is recorded in the ledger; then it goes on, and is recorded later."""
GRACE_SECONDS = 5.0
"""How long a process may take to end when nobody waits for its answers any more."""


class Supervisor:
    """The replicas of one service. Everything happens on one event loop."""

    def __init__(
        self,
        routes: Routes,
        ledger: Ledger,
        settings: ServiceSettings,
        *,
        client: httpx.AsyncClient,
        clear: ClearRelease,
        threads: int = 1,
        command: Command = replica_command,
        who: str = "",
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.routes, self._settings, self._client = routes, settings, client
        self._journal = Journal(ledger, tell)
        self._threads, self._command, self._who, self._tell = threads, command, who, tell
        self._clear = clear
        self.replicas: dict[str, ReplicaProcess] = {}
        self._numbers = itertools.count(1)
        self._changing = asyncio.Lock()

    # -- what an operator can do

    async def start(
        self, release: ReleaseInfo, *, replicas: int, share: float = 1.0, terms: Terms | None = None
    ) -> Version:
        """Serve a release by `replicas` processes once it is cleared; returns when all are ready."""
        if release.id in self.routes.versions:
            raise ConfigError("fleet", f"{release.id} is being served already", hint="give the release another version")
        terms = terms or Terms()
        clearance = await asyncio.to_thread(self._clear, release, terms)
        release = replace(release, model=clearance.model)
        version = Version(
            release.id, release.model, release.digest, name=release.name, created=time.time(),
            gate=clearance.as_json(),
        )  # fmt: skip
        self.routes.add(version)
        threads = max(1, self._threads // replicas)
        begun = [self._begin(release, version, threads, terms=terms) for _ in range(replicas)]
        try:
            await self._all_ready(begun)
        except ModelError:
            self.routes.remove(version.id)
            raise
        await self._record(version, "started", share)
        if share >= 1.0 or len(self.routes.versions) == 1:
            self.routes.share({version.id: 1.0})
        else:
            others = {one.id: one.share * (1 - share) for one in self.routes.versions.values() if one is not version}
            self.routes.share({**others, version.id: share})
        return version

    async def roll(self, release: ReleaseInfo, *, share: float = 1.0, terms: Terms | None = None) -> Version:
        """Bring in a new version: the whole of the traffic, or a share of it until it is promoted or rolled back."""
        if not 0 < share <= 1:
            raise ConfigError("fleet.share", expected="a number above 0, up to 1", got=share)
        async with self._changing:
            present = self.of_version(self._stable().id)
            count = max(1, math.ceil(len(present) * share))
            version = await self.start(release, replicas=count, share=share, terms=terms)
            if share >= 1.0:
                await self._retire_all_but(version)
            return version

    async def promote(self, *, terms: Terms | None = None) -> Version:
        """Give the newest version all of the traffic once it is cleared again, and let the others leave."""
        async with self._changing:
            newest, stable = self._newest(), self._stable()
            if newest is stable:
                raise ConfigError("fleet", "there is no second version to promote", hint="vita fleet roll RELEASE")
            missing = len(self.of_version(stable.id)) - len(self.of_version(newest.id))
            present = self.of_version(newest.id)[0]
            terms = replace(terms or Terms(), research=present.terms.research)
            clearance = await asyncio.to_thread(self._clear, present.release, terms)
            newest.gate = clearance.as_json()
            for replica in self.of_version(newest.id):
                replica.terms = terms
            added = [self._begin(present.release, newest, present.threads, terms=terms) for _ in range(missing)]
            await self._all_ready(added)
            self.routes.share({newest.id: 1.0})
            await self._record(newest, "promoted", 1.0)
            await self._retire_all_but(newest)
            return newest

    async def roll_back(self) -> Version:
        """Give the older version all of the traffic, and let the newest leave."""
        async with self._changing:
            newest = self._newest()
            others = [one for one in self.routes.versions.values() if one is not newest]
            if not others:
                raise ConfigError("fleet", "there is no other version to go back to")
            stable = max(others, key=lambda one: (one.share, one.created))
            self.routes.share({stable.id: 1.0})
            await self._record(stable, "rolled back", 1.0)
            await self._retire_all_but(stable)
            return stable

    async def drain(self, name: str, *, again: bool = True) -> None:
        """Let a replica finish what it has begun and stop; a fresh one takes its place first, if `again`.

        The old one stays when no fresh one can be started.
        """
        async with self._changing:
            replica = self.replicas.get(name)
            if replica is None:
                raise unknown_name("fleet.replica", name, self.replicas)
            version = self.routes.versions[replica.release.id]
            if again:
                await asyncio.to_thread(self._clear, replica.release, replica.terms, record=False)
                await self._all_ready([self._begin(replica.release, version, replica.threads, terms=replica.terms)])
            await self._leave(replica)

    async def stop(self, *, seconds: float) -> None:
        """Let every replica stop, and finish what it has if that takes no longer."""
        await asyncio.gather(*(self._leave(one, seconds=seconds) for one in list(self.replicas.values())))
        for version in self.routes.versions.values():
            self._note_deployment(version, "stopped", 0.0)
        await self._journal.close(seconds=JOURNAL_SECONDS)

    def kill(self) -> None:
        """End every process at once."""
        for replica in self.replicas.values():
            replica.kill()

    def status(self) -> dict[str, Any]:
        """What is served by whom."""
        return {
            "service": self.routes.service,
            "versions": [
                {"version": one.id, "model": one.model, "release": one.release, "share": one.share,
                 "gate": dict(one.gate)}
                for one in self.routes.versions.values()
            ],
            "replicas": [
                {"replica": one.name, "version": one.release.id, "state": one.state, "reason": one.backend.reason,
                 "warnings": list(one.warnings), "url": one.backend.url,
                 "pid": one.pid, "in_flight": one.backend.in_flight, "starts": one.starts}
                for one in self.replicas.values()
            ],
        }  # fmt: skip

    def of_version(self, version_id: str) -> list[ReplicaProcess]:
        return [one for one in self.replicas.values() if one.release.id == version_id and not one.leaving]

    # -- versions

    def _newest(self) -> Version:
        return max(self.routes.versions.values(), key=lambda one: one.created)

    def _stable(self) -> Version:
        """The version with the largest share."""
        if not self.routes.versions:
            raise ConfigError("fleet", "nothing is being served")
        return max(self.routes.versions.values(), key=lambda one: (one.share, -one.created))

    async def _retire_all_but(self, kept: Version) -> None:
        gone = [one for one in self.routes.versions.values() if one is not kept]
        leaving = [one for one in self.replicas.values() if one.release.id != kept.id]
        await asyncio.gather(*(self._leave(one) for one in leaving))
        for version in gone:
            self.routes.remove(version.id)
            await self._record(version, "stopped", 0.0)

    async def _record(self, version: Version, action: str, share: float) -> None:
        """Have a change written to the ledger, and wait a little for it; a locked ledger holds up nothing else."""
        self._note_deployment(version, action, share)
        await self._journal.settled(JOURNAL_SECONDS)

    def _note_deployment(self, version: Version, action: str, share: float) -> None:
        row = {"service": self.routes.service, "version": version.id, "model": version.model,
               "release": version.release, "action": action, "share": share, "who": self._who,
               "at": time.time()}  # fmt: skip
        self._journal.add(row)

    # -- one replica

    def _begin(self, release: ReleaseInfo, version: Version, threads: int, *, terms: Terms) -> ReplicaProcess:
        name = f"r{next(self._numbers)}"
        replica = ReplicaProcess(name, release, Backend(name, ""), threads, terms=terms, tell=self._tell)
        self.replicas[name] = replica
        version.backends.append(replica.backend)
        replica.keeper = asyncio.create_task(self._keep(replica))
        return replica

    async def _all_ready(self, begun: Sequence[ReplicaProcess]) -> None:
        """Wait until all of these serve; when one was given up none stays, and its last words are the error."""
        await asyncio.gather(*(one.settled.wait() for one in begun))
        if failed := next((one for one in begun if not one.was_ready), None):
            problem = failed.cause()
            await asyncio.gather(*(self._leave(one) for one in begun))
            raise ModelError(f"replica {failed.name} of {failed.release.id}", problem)

    async def _keep(self, replica: ReplicaProcess) -> None:
        """Start a replica, look after it, and start it again when it has died."""
        while not replica.leaving:
            if replica.starts and not await self._cleared_again(replica):
                replica.state = "stopped"
                replica.settled.set()
                return
            replica.spawn(self._command)
            await self._look_after(replica)
            replica.backend.ready = False
            self.routes.wake()
            if replica.leaving:
                return
            lived = time.monotonic() - replica.began
            replica.failures = 1 if lived > LONG_LIFE else replica.failures + 1
            code = replica.process.poll() if replica.process else None
            if not replica.was_ready and (replica.failures >= STARTS_IN_VAIN or code in REFUSALS):
                replica.state = "stopped"
                replica.backend.reason = replica.cause()
                replica.settled.set()
                return
            # One that had served is started again at once; only failing again and again is answered by waiting.
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (replica.failures - 2)) if replica.failures > 1 else 0.0
            replica.state = "waiting"
            replica.backend.reason = replica.cause()
            self._tell(f"{replica.name} ended ({replica.cause()}); it starts again in {pause:g} s")
            await asyncio.sleep(pause)

    async def _cleared_again(self, replica: ReplicaProcess) -> bool:
        """Clear a release again before its replica restarts; what was cleared holds while the ledger is unreachable."""
        try:
            await asyncio.to_thread(self._clear, replica.release, replica.terms, record=False)
        except LedgerError as error:
            self._tell(f"{replica.name} restarts without a new clearance: {error}")
        except VitaError as error:
            replica.backend.reason = f"it does not restart: {error}"
            self._tell(f"{replica.name} does not restart: {error}")
            return False
        return True

    async def _look_after(self, replica: ReplicaProcess) -> None:
        """Ask again and again whether it is ready, until its process has ended."""
        assert replica.process is not None
        process = replica.process
        while process.poll() is None:
            ready = await self._ready(replica)
            if not replica.leaving:
                self._note(replica, ready)
                if late := self._late(replica):
                    replica.last_words.append(late)
                    process.kill()
            await asyncio.sleep(0.5 if replica.state == "ready" else 0.1)
        self._answers(replica, True)
        if process.stdin is not None:
            process.stdin.close()

    def _note(self, replica: ReplicaProcess, ready: bool) -> None:
        if ready != replica.backend.ready:
            replica.backend.ready = ready
            if ready:
                replica.backend.breaker.succeeded()
            self.routes.wake()
        if ready:
            replica.state, replica.was_ready, replica.ready_at = "ready", True, time.monotonic()
            replica.settled.set()
        elif replica.state == "ready":
            replica.state = "unready"

    def _late(self, replica: ReplicaProcess) -> str | None:
        """Why a replica that is not ready must end: it is silent or refuses for too long, and nobody told it to."""
        starting = replica.state == "starting"
        seconds = self._settings.ready_seconds if starting else self._settings.unready_seconds
        if time.monotonic() - (replica.began if starting else replica.ready_at) <= seconds:
            return None
        return f"it was not ready {'in' if starting else 'for'} {seconds:g} s and was ended"

    async def _ready(self, replica: ReplicaProcess) -> bool:
        """Whether it says that it is ready; one that says nothing in time counts as hung."""
        backend, seconds = replica.backend, self._settings.probe_seconds
        try:
            async with asyncio.timeout(seconds):
                answer = await self._client.get(f"{backend.url}/ready", headers=backend.auth_headers)
        except (TimeoutError, httpx.TimeoutException):
            self._answers(replica, False)
            return False
        except httpx.HTTPError:
            self._answers(replica, True)  # there is no process, or none that listens: it has not hung
            return False
        self._answers(replica, True)
        if answer.status_code != 200:
            backend.reason = _reason(answer)
            return False
        backend.reason = ""
        self._learn(replica, answer)
        return True

    def _learn(self, replica: ReplicaProcess, answer: httpx.Response) -> None:
        """Take over what a ready replica says of itself; its warnings go to the operator, once."""
        try:
            content = answer.json()
            warnings = tuple(str(warning) for warning in content.get("warnings") or ())
            context, reproducible = content.get("max_model_len"), content.get("bitwise_reproducible")
        except (ValueError, AttributeError, TypeError):
            return
        if version := self.routes.versions.get(replica.release.id):
            version.context, version.reproducible, version.warnings = context, reproducible, warnings
        for warning in warnings:
            if warning not in replica.warnings:
                self._tell(f"warning: {replica.name}: {warning}")
        replica.warnings = warnings

    def _answers(self, replica: ReplicaProcess, answers: bool) -> None:
        """Note whether a replica answers its probes; the requests of one that does not go to others."""
        backend = replica.backend
        if backend.hung is not answers:
            return
        backend.hung = not answers
        if backend.hung:
            backend.ready = False
            replica.backend.reason = f"it does not answer within {self._settings.probe_seconds:g} s"
        if replica.was_ready and not replica.leaving:
            self._tell(f"{replica.name} does not answer and is left out" if backend.hung else
                       f"{replica.name} answers again")  # fmt: skip
        self.routes.wake()

    async def _leave(self, replica: ReplicaProcess, *, seconds: float | None = None) -> None:
        """No new requests; then, when the old ones are answered or the time is up, the end of the process."""
        replica.leaving = replica.backend.draining = True
        replica.state = "draining"
        self.routes.wake()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._settings.drain_seconds if seconds is None else seconds)
        while replica.backend.in_flight and loop.time() < deadline:
            await asyncio.sleep(0.05)
        await replica.end(until=deadline + GRACE_SECONDS)
        if replica.keeper is not None:
            replica.keeper.cancel()
            await asyncio.gather(replica.keeper, return_exceptions=True)
        replica.state = "stopped"
        replica.settled.set()
        self.replicas.pop(replica.name, None)
        if (version := self.routes.versions.get(replica.release.id)) and replica.backend in version.backends:
            version.backends.remove(replica.backend)


def _reason(answer: httpx.Response) -> str:
    """Why a replica says that it is not ready."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"it answers {answer.status_code}"
