"""The network replicas of a service: processes on other hosts that join its gateway.

A network replica verifies the files of a release and sends their digests when it joins (`sites.join_messages`). It
receives requests only if this service serves exactly this release, the release is cleared, and the replica is in the
region of the site. It is then probed, drained and removed like a local replica. It renews its token every few seconds;
without a renewal it receives no requests, and is removed after `unready_seconds`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from vita.gates.clearance import RetiredModelError, ServingRequest
from vita.gates.weights import model_digest
from vita.server.errors import ApiError
from vita.server.gateway.routing import Backend, Router, ServedVersion
from vita.server.release import MODEL, ReleaseInfo, files_below
from vita.server.service.deploy_checks import ClearRelease
from vita.server.service.readiness_probe import ReadinessProbe
from vita.server.service.replica_process import ReplicaProcess
from vita.server.settings import ServiceSettings
from vita.server.sites.credentials import PeerIdentity
from vita.server.sites.join_messages import JoinRequest
from vita.server.sites.site import Site
from vita.spine.errors import ConfigError, ModelError, VitaError

READY_PAUSE, UNREADY_PAUSE = 0.5, 0.1
"""Pauses between two probes, in seconds."""
RETRY_SECONDS = 1.0
"""Time after which a replica whose release is not served tries to join again."""


@dataclass(eq=False, kw_only=True)
class NetworkReplica(ReplicaProcess):
    """A replica on another host, whose process this service does not control."""

    instance: str
    """Random id of its process."""
    expires: float
    """Expiry of its token, on the clock of the event loop."""


@dataclass(frozen=True)
class OfferedRelease:
    """A release that network replicas may serve here."""

    release: ReleaseInfo
    version: ServedVersion
    terms: ServingRequest
    files: str
    """Digest of the model, computed from its verified files."""


class NetworkReplicas:
    """The network replicas of one service; used from one event loop only."""

    def __init__(
        self,
        router: Router,
        replicas: dict[str, ReplicaProcess],
        probe: ReadinessProbe,
        *,
        clear: ClearRelease,
        settings: ServiceSettings,
        stop_replica: Callable[..., Awaitable[None]],
        site: Site,
        is_retired: Callable[[str], bool],
        notify: Callable[[str], None],
    ) -> None:
        """`replicas` are all replicas of the service by name; joined replicas are added to them.

        `is_retired` is True for the id of a version that was stopped because its model was retired.
        """
        self._router, self._replicas, self._probe, self._clear = router, replicas, probe, clear
        self._settings, self._stop_replica, self._site, self._notify = settings, stop_replica, site, notify
        self._is_retired = is_retired
        self.in_use = False
        """True if network replicas may be the only ones."""
        self._offered: dict[str, OfferedRelease] = {}
        self._drained: set[str] = set()
        self._waiting: dict[str, tuple[str, float]] = {}
        self._joining: set[str] = set()
        self._stops: set[asyncio.Future[None]] = set()

    # -- versions

    def offer(self, release: ReleaseInfo, version: ServedVersion, *, terms: ServingRequest) -> None:
        """Let network replicas serve a cleared release."""
        folder = release.folder / MODEL
        files = {name: (sha, (folder / name).stat().st_size) for name, sha in files_below(release, MODEL).items()}
        self._offered[version.id] = OfferedRelease(release, version, terms, model_digest(files))

    def update_terms(self, version_id: str, terms: ServingRequest) -> None:
        """Clear replicas of a version that join from now on under other terms."""
        if version_id in self._offered:
            self._offered[version_id] = replace(self._offered[version_id], terms=terms)

    def forget(self, version_id: str) -> None:
        """Stop accepting network replicas of a version that is no longer served."""
        self._offered.pop(version_id, None)

    async def settle(self, version: ServedVersion, *, is_alone: bool) -> None:
        """Wait until the network replicas that wait for a new version are ready.

        With `is_alone`, the version has no local replicas, and `ModelError` is raised if no network replica is ready
        within `ready_seconds`.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.ready_seconds
        while loop.time() < until:
            ready = any(backend.ready for backend in version.backends)
            if (ready or not is_alone) and not self._is_expected(version):
                return
            await asyncio.sleep(UNREADY_PAUSE)
        if is_alone and not any(backend.ready for backend in version.backends):
            hint = "start `vita replica` with this release on a host first"
            problem = f"no network replica was ready within {self._settings.ready_seconds:g} s"
            raise ModelError(version.id, problem, hint=hint)

    def _is_expected(self, version: ServedVersion) -> bool:
        """Return True if a replica of this version waits to join or is not ready yet."""
        now = asyncio.get_running_loop().time()
        self._waiting = {
            instance: entry for instance, entry in self._waiting.items() if now - entry[1] < 5 * RETRY_SECONDS
        }
        waiting = any(release == version.release for release, _ in self._waiting.values())
        joined = [replica for replica in self._all() if replica.release.id == version.id and not replica.stopping]
        return waiting or any(not replica.was_ready for replica in joined)

    def refuse_adapters(self) -> None:
        """Raise `ConfigError` if there are network replicas: they read only the release that they were started with."""
        if names := [replica.name for replica in self._all()]:
            problem = f"network replicas ({', '.join(names)}) cannot load adapters"
            raise ConfigError("fleet.adapter", problem, hint="serve the adapter as a separate release")

    # -- replicas

    async def join(self, peer: PeerIdentity, request: JoinRequest) -> dict[str, Any]:
        """Let a replica join, or renew its token; raises `ApiError` with the reason otherwise."""
        if request.region != self._site.region:
            here, region = self._site.region or "none", request.region or "none"
            raise ApiError(
                403,
                f"The region of this site is {here}, but the region of the replica is {region}",
                code="wrong_region",
            )
        if request.instance in self._drained:
            raise ApiError(410, "The replica was drained by the operator of this gateway", code="drained")
        offered = self._find(request)
        replica = self._of_instance(request.instance)
        if replica is None:
            replica = await self._admit(peer, request, offered)
        elif replica.stopping or replica.release.digest != request.release:
            raise ApiError(409, "The replica is being stopped", code="stopping")
        replica.backend.url, replica.backend.secret = request.url, request.token
        replica.expires = asyncio.get_running_loop().time() + request.seconds
        return {"replica": replica.name, "version": offered.version.id}

    async def leave(self, instance: str) -> None:
        """Remove a replica that stops; its requests in flight finish."""
        replica = self._of_instance(instance)
        if replica is not None and not replica.stopping:
            self._notify(f"{replica.name} on {replica.host} is leaving")
            await self._stop_replica(replica, f"The replica {replica.name} was stopped")

    async def drain(self, replica: NetworkReplica) -> str:
        """Drain a replica, which then exits on its host; returns a note, because it is not replaced."""
        self._drained.add(replica.instance)
        await self._stop_replica(replica, f"The replica {replica.name} was drained")
        return f"{replica.name} on {replica.host} was drained; start another `vita replica` to replace it"

    async def _admit(self, peer: PeerIdentity, request: JoinRequest, offered: OfferedRelease) -> NetworkReplica:
        """Clear the release again, and add the replica to the fleet."""
        if request.instance in self._joining:
            raise ApiError(409, "The replica is already joining", code="joining")
        self._joining.add(request.instance)
        try:
            await asyncio.to_thread(self._clear, offered.release, offered.terms, record=False)
        except RetiredModelError as error:
            raise ApiError(410, str(error), code="retired") from None
        except VitaError as error:
            raise ApiError(409, f"The release is not cleared: {error}", code="not_cleared") from None
        finally:
            self._joining.discard(request.instance)
        self._find(request)  # it may have been replaced in the meantime
        name = peer.name if peer.name not in self._replicas else f"{peer.name}-{request.instance[:6]}"
        replica = NetworkReplica(
            name, offered.release, Backend(name, request.url, secret=request.token, reason="it is joining"), 0,
            terms=offered.terms, notify=self._notify, host=str(urlsplit(request.url).hostname), site=request.site,
            files=offered.files, instance=request.instance, starts=1, expires=0.0,
        )  # fmt: skip
        self._waiting.pop(request.instance, None)
        self._replicas[name] = replica
        offered.version.backends.append(replica.backend)
        replica.keep_task = asyncio.create_task(self._keep(replica))
        self._notify(f"{name} on {replica.host} joined with {offered.version.id}")
        return replica

    def _find(self, request: JoinRequest) -> OfferedRelease:
        """Return the served release with exactly the digests that a replica reports."""
        matches = [offered for offered in self._offered.values() if offered.release.digest == request.release]
        if not matches:
            now = asyncio.get_running_loop().time()
            self._waiting[request.instance] = (request.release, now)
            served = ", ".join(f"{id} ({offered.release.digest[:12]})" for id, offered in self._offered.items())
            message = f"This gateway does not serve the release {request.release[:12]}; it serves {served or 'none'}"
            raise ApiError(409, message, code="not_served", headers={"Retry-After": f"{RETRY_SECONDS:g}"})
        offered = matches[0]
        if self._is_retired(offered.version.id):
            raise ApiError(410, f"The model of {offered.version.id} has been retired", code="retired")
        if request.files != offered.files:
            message = (
                f"The verified files of the replica have the digest {request.files[:12]}, not {offered.files[:12]}"
            )
            raise ApiError(403, message, code="other_weights")
        if any(adapter.base == offered.version.id for adapter in self._router.adapters.values()):
            raise ApiError(409, f"{offered.version.id} has adapters, which need local replicas", code="has_adapters")
        return offered

    async def _keep(self, replica: NetworkReplica) -> None:
        """Probe a replica until it stops; remove it if it is unready for too long."""
        loop = asyncio.get_running_loop()
        ready_at = loop.time()
        while not replica.stopping:
            valid = loop.time() < replica.expires
            ready = valid and await self._probe.is_ready(replica)
            if not valid:
                replica.backend.reason = "its token has expired"
            if ready:
                ready_at = loop.time()
            if not replica.stopping:
                self._probe.update(replica, ready)
                if loop.time() - ready_at > self._settings.unready_seconds:
                    self._remove(replica)
                    return
            await asyncio.sleep(READY_PAUSE if ready else UNREADY_PAUSE)

    def _remove(self, replica: NetworkReplica) -> None:
        """Remove a replica that was not ready for too long; it can join again."""
        self._notify(f"{replica.name} on {replica.host} was removed: {replica.backend.reason}")
        replica.keep_task = None  # this task, which ends now
        cause = f"The replica {replica.name} did not respond"
        stop = asyncio.ensure_future(self._stop_replica(replica, cause, seconds=0.0))
        self._stops.add(stop)
        stop.add_done_callback(self._stops.discard)

    def _of_instance(self, instance: str) -> NetworkReplica | None:
        return next((replica for replica in self._all() if replica.instance == instance), None)

    def _all(self) -> list[NetworkReplica]:
        return [replica for replica in self._replicas.values() if isinstance(replica, NetworkReplica)]

    def waiting(self) -> Mapping[str, str]:
        """Return the replicas whose release is not served here: instance -> digest of the release."""
        return {instance: release for instance, (release, _) in self._waiting.items()}
