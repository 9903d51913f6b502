"""Which replica answers: versions with their shares of the traffic, replicas with their load and their health.

routes = Routes("cat"); routes.add(Version(...)); routes.share({"cat:1": 0.9, "cat:2": 0.1})
version = routes.choose(identity="key 7")             # sticky: the same identity stays on its version
async with routes.borrow(version, seconds=10) as backend: ...
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from vita.server.gateway.circuit_breaker import Breaker
from vita.server.replica.replica_auth import SECRET_HEADER


class NoReplica(Exception):
    """No replica could take the request in time."""


class Hung(Exception):
    """A replica answers no health probe while a request waits for it, and another replica can take the request."""


class Watch:
    """A wait for something from a replica, which ends with `Hung` when another replica should be asked instead.

    async with Watch(backend, lambda: routes.can_move(...)):
        response = await client.send(...)
    """

    def __init__(self, backend: Backend, movable: Callable[[], bool]) -> None:
        """`movable` says whether another replica could take the request now."""
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
        """End the wait if the replica has hung and another one could take the request."""
        if self._backend.hung and self._movable() and self._scope.when() is None:
            self._scope.reschedule(asyncio.get_running_loop().time())


@dataclass(eq=False)
class Backend:
    """A replica as the gateway sees it."""

    name: str
    url: str
    ready: bool = False
    draining: bool = False
    in_flight: int = 0
    hung: bool = False
    """Whether its last health probe was not answered in time."""
    reason: str = ""
    """Why it is not ready, in its own words or those of its supervisor."""
    watches: set[Watch] = field(default_factory=set, repr=False)
    """Requests that wait for something from it."""
    breaker: Breaker = field(default_factory=Breaker)
    secret: str = field(default="", repr=False)
    """What the replica asks of whoever asks it; nothing when empty."""

    @property
    def auth_headers(self) -> dict[str, str]:
        """The header that opens the replica."""
        return {SECRET_HEADER: self.secret} if self.secret else {}

    def takes(self, now: float) -> bool:
        """Whether a new request may go there."""
        return self.ready and not self.draining and self.breaker.closed(now)


@dataclass(eq=False)
class Version:
    """One release of a service, and the replicas that serve it."""

    id: str
    """`name:version`, by which a request can ask for just this one."""
    model: str
    """Digest of the model."""
    release: str
    """Digest of the release."""
    name: str = ""
    """What the release calls its model."""
    created: float = 0.0
    gate: Mapping[str, Any] = field(default_factory=dict)
    """Which gate approved the model, or why it is served without an approval."""
    share: float = 0.0
    """Its part of the requests that name the service only."""
    backends: list[Backend] = field(default_factory=list)
    context: int | None = None
    """Tokens of a prompt and its answer together, as its replicas say."""
    reproducible: bool | None = None
    """Whether its replicas found that answers do not depend on the other requests, to the last bit."""
    warnings: tuple[str, ...] = ()
    """What its replicas found when they started."""
    owed: int = 0
    """Requests that were begun by a replica that died and wait for room; new ones come after them."""


class Routes:
    """The versions of a service. Everything happens on one event loop."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.versions: dict[str, Version] = {}
        self._changed = asyncio.Event()

    def add(self, version: Version) -> None:
        self.versions[version.id] = version

    def remove(self, version_id: str) -> None:
        self.versions.pop(version_id, None)
        self.wake()

    def share(self, shares: Mapping[str, float]) -> None:
        """Shares of the traffic by version id; whoever is not named gets none."""
        for version in self.versions.values():
            version.share = shares.get(version.id, 0.0)
        self.wake()

    def named(self, model: str) -> Version | None:
        """The version that `model` names exactly: `name:version`, or the digest of the model or its beginning."""
        if model in self.versions:
            return self.versions[model]
        if len(model) >= 8:
            found = [one for one in self.versions.values() if one.model.startswith(model)]
            return found[0] if len(found) == 1 else None
        return None

    def choose(self, identity: str | None, *, exclude: Collection[str] = ()) -> Version | None:
        """A version by its share; an identity falls on the same one as long as the shares stay."""
        candidates = [one for one in self.versions.values() if one.share > 0 and one.id not in exclude]
        able = [one for one in candidates if any(backend.ready for backend in one.backends)] or candidates
        total = sum(one.share for one in able)
        if not able:
            return None
        point = total * (_place(f"{self.service}/{identity}") if identity is not None else _chance())
        # The newest first: when its share grows, whoever has met it stays with it.
        for version in sorted(able, key=lambda one: -one.created):
            point -= version.share
            if point < 0:
                return version
        return able[0]

    def backends(self) -> list[tuple[Version, Backend]]:
        return [(version, backend) for version in self.versions.values() for backend in version.backends]

    def served(self) -> list[dict[str, Any]]:
        """The versions with a ready replica, as a service reports them to the ledger."""
        return [
            {"version": version.id, "model": version.model, "release": version.release, "share": version.share}
            for version in list(self.versions.values())
            if any(backend.ready for backend in list(version.backends))
        ]

    @property
    def ready(self) -> bool:
        """Whether some replica that gets traffic is ready."""
        return any(version.share > 0 and backend.ready and not backend.draining for version, backend in self.backends())

    @property
    def in_flight(self) -> int:
        return sum(backend.in_flight for _, backend in self.backends())

    def wake(self) -> None:
        """Something changed; whoever waits for a replica looks again."""
        self._changed.set()
        self._changed = asyncio.Event()
        for _, backend in self.backends():
            if backend.hung:
                for watch in list(backend.watches):
                    watch.look()

    @asynccontextmanager
    async def borrow(
        self, version: Version, *, seconds: float, exclude: Collection[Backend] = ()
    ) -> AsyncIterator[Backend]:
        """The least busy replica of a version, waited for up to `seconds`; none of `exclude` where another is."""
        backend = await self._wait(version, seconds, exclude)
        backend.in_flight += 1
        try:
            yield backend
        finally:
            backend.in_flight -= 1
            self.wake()

    async def _wait(self, version: Version, seconds: float, exclude: Collection[Backend]) -> Backend:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            taking = [one for one in version.backends if one.takes(loop.time())]
            if found := [one for one in taking if one not in exclude] or taking:
                return min(found, key=lambda one: one.in_flight)
            left = deadline - loop.time()
            if left <= 0 or not version.backends:
                raise NoReplica
            try:
                # A breaker closes by the clock, which wakes nobody; hence the look every half second.
                async with asyncio.timeout(min(left, 0.5)):
                    await self._changed.wait()
            except TimeoutError:
                pass


def _place(text: str) -> float:
    """A point in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _chance() -> float:
    return secrets.randbelow(2**53) / 2**53
