"""Selects the version and the replica for a request, by traffic shares, load and health.

router = Router("cat"); router.add(ServedVersion(...)); router.share({"cat:1": 0.9, "cat:2": 0.1})
version = router.choose(identity="key 7")             # sticky: the same identity stays on its version
async with router.borrow(version, seconds=10) as backend: ...
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from vita.gates.weights import ModelMatch
from vita.server.gateway.circuit_breaker import Breaker
from vita.server.replica.replica_auth import SECRET_HEADER


class NoReplica(Exception):
    """No replica could take the request in time."""


class Hung(Exception):
    """A replica does not respond to health probes, and another replica can take its request."""


class Watch:
    """A wait for a replica, which raises `Hung` when the request should move to another replica.

    async with Watch(backend, lambda: router.can_move(...)):
        response = await client.send(...)
    """

    def __init__(self, backend: Backend, movable: Callable[[], bool]) -> None:
        """`movable` tells whether another replica can take the request now."""
        self._backend, self._movable = backend, movable
        self._scope = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()
        self._backend.watches.add(self)
        self.look()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._backend.watches.discard(self)
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError:
            if self._scope.expired():
                raise Hung from None
            raise

    def look(self) -> None:
        """End the wait if the replica hangs and another one can take the request."""
        if self._backend.hung and self._movable() and self._scope.when() is None:
            self._scope.reschedule(asyncio.get_running_loop().time())


@dataclass(eq=False)
class Backend:
    """A replica from the view of the gateway."""

    name: str
    url: str
    ready: bool = False
    draining: bool = False
    in_flight: int = 0
    hung: bool = False
    """True when the last health probe timed out."""
    reason: str = ""
    """Why the replica is not ready."""
    stop_cause: str = ""
    """Why the replica stops, for the requests that it does not finish; "" if it does not stop."""
    watches: set[Watch] = field(default_factory=set, repr=False)
    """Waits of the requests at this replica."""
    breaker: Breaker = field(default_factory=Breaker)
    secret: str = field(default="", repr=False)
    """The secret that the replica requires; none when empty."""

    @property
    def auth_headers(self) -> dict[str, str]:
        """Headers that authenticate the gateway to the replica."""
        return {SECRET_HEADER: self.secret} if self.secret else {}

    def takes(self, now: float) -> bool:
        """Return True if the replica accepts a new request."""
        return self.ready and not self.draining and self.breaker.closed(now)


@dataclass(eq=False)
class ServedVersion:
    """One release of a service, and the replicas that serve it."""

    id: str
    """`name:version`, with which a request selects this version."""
    model: str
    """Digest of the model."""
    release: str
    """Digest of the release."""
    name: str = ""
    """The model name of the release."""
    created: float = 0.0
    gate: Mapping[str, Any] = field(default_factory=dict)
    """The gate that approved the model, or the reason for serving it without approval."""
    share: float = 0.0
    """Its fraction of the requests that name only the service."""
    backends: list[Backend] = field(default_factory=list)
    context: int | None = None
    """Context length in tokens, as reported by its replicas."""
    reproducible: bool | None = None
    """True if completions are bitwise independent of other requests, as reported by its replicas."""
    warnings: tuple[str, ...] = ()
    """Warnings of its replicas."""
    backend: str = "vita"
    """The program that computes its answers."""
    backend_details: Mapping[str, Any] = field(default_factory=dict)
    """The version and the digests of that program, and its comparison with the golden answers, as its replicas report
    them."""
    speculation: Mapping[str, Any] | None = None
    """Settings of its speculative decoding."""
    batch_invariance: bool = True
    """False if its release gives up that bits of an answer do not depend on the other requests."""
    weights: Sequence[ModelMatch] = ()
    """The weights of its model, its base model and its draft model; the retirement of a model with the same weights is
    a retirement of this version."""
    base: str | None = None
    """Id of the version of the base model, for an adapter."""
    owed: int = 0
    """Number of requests that wait for capacity after their replica died; they have priority over new requests."""


class Router:
    """The versions of a service; used from one event loop only."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.versions: dict[str, ServedVersion] = {}
        self.adapters: dict[str, ServedVersion] = {}
        """Adapters, which the replicas of their base version serve; only requests that name them reach them."""
        self._changed = asyncio.Event()
        self._borrowed: set[Backend] = set()

    def add(self, version: ServedVersion) -> None:
        self.versions[version.id] = version

    def remove(self, version_id: str) -> None:
        self.versions.pop(version_id, None)
        self.wake()

    def share(self, shares: Mapping[str, float]) -> None:
        """Set the traffic shares by version id; a version that is not named gets none."""
        for version in self.versions.values():
            version.share = shares.get(version.id, 0.0)
        self.wake()

    def find(self, model: str) -> ServedVersion | None:
        """Return the version or adapter with this `name:version`, model digest or digest prefix.

        The name of an adapter without a version means its newest version.
        """
        everything = {**self.adapters, **self.versions}
        if model in everything:
            return everything[model]
        named = [adapter for adapter in self.adapters.values() if adapter.id.rpartition(":")[0] == model]
        if named:
            return max(named, key=lambda adapter: adapter.created)
        if len(model) >= 8:
            matches = [version for version in everything.values() if version.model.startswith(model)]
            return matches[0] if len(matches) == 1 else None
        return None

    def choose(self, identity: str | None, *, exclude: Collection[str] = ()) -> ServedVersion | None:
        """Choose a version by its share; an identity gets the same version as long as the shares do not change."""
        candidates = [version for version in self.versions.values() if version.share > 0 and version.id not in exclude]
        ready = [version for version in candidates if any(backend.ready for backend in version.backends)] or candidates
        total = sum(version.share for version in ready)
        if not ready:
            return None
        point = total * (_unit_hash(f"{self.service}/{identity}") if identity is not None else _random_fraction())
        # The newest comes first, so that an identity stays with it when its share grows.
        for version in sorted(ready, key=lambda version: -version.created):
            point -= version.share
            if point < 0:
                return version
        return ready[0]

    def backends(self) -> list[tuple[ServedVersion, Backend]]:
        return [(version, backend) for version in self.versions.values() for backend in version.backends]

    def served(self) -> list[dict[str, Any]]:
        """Return the versions with a ready replica, as a service reports them to the ledger."""
        return [
            {"version": version.id, "model": version.model, "release": version.release, "share": version.share}
            for version in [*self.versions.values(), *self.adapters.values()]
            if any(backend.ready for backend in list(version.backends))
        ]

    @property
    def ready(self) -> bool:
        """True when a replica of a version with traffic is ready."""
        return any(version.share > 0 and backend.ready and not backend.draining for version, backend in self.backends())

    @property
    def in_flight(self) -> int:
        return sum(backend.in_flight for _, backend in self.backends())

    def wake(self) -> None:
        """Notify the requests that wait for a replica of a change."""
        self._changed.set()
        self._changed = asyncio.Event()
        for backend in list(self._borrowed):  # also removed ones, whose requests can move to other replicas
            if backend.hung:
                for watch in list(backend.watches):
                    watch.look()

    @asynccontextmanager
    async def borrow(
        self, version: ServedVersion, *, seconds: float, exclude: Collection[Backend] = ()
    ) -> AsyncIterator[Backend]:
        """Take the least busy replica of a version, within `seconds`; avoids `exclude` if possible."""
        backend = await self._wait(version, seconds, exclude)
        backend.in_flight += 1
        self._borrowed.add(backend)
        try:
            yield backend
        finally:
            backend.in_flight -= 1
            if not backend.in_flight:
                self._borrowed.discard(backend)
            self.wake()

    async def _wait(self, version: ServedVersion, seconds: float, exclude: Collection[Backend]) -> Backend:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            available = [backend for backend in version.backends if backend.takes(loop.time())]
            if preferred := [backend for backend in available if backend not in exclude] or available:
                return min(preferred, key=lambda backend: backend.in_flight)
            remaining = deadline - loop.time()
            if remaining <= 0 or not version.backends:
                raise NoReplica
            try:
                # A circuit breaker closes by time and sends no notification, so check every half second.
                async with asyncio.timeout(min(remaining, 0.5)):
                    await self._changed.wait()
            except TimeoutError:
                pass


def _unit_hash(text: str) -> float:
    """Hash a text to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _random_fraction() -> float:
    return secrets.randbelow(2**53) / 2**53
