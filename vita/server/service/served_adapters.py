"""The adapters of a service: cleared by the gates, loaded in all replicas of their base model, and known to the router.

A replica that restarts loads its adapters again before it counts as ready.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx

from vita.gates.clearance import ServingRequest
from vita.server.gateway.routing import Router, ServedVersion
from vita.server.release import MODEL, ReleaseInfo, files_below
from vita.server.service.deploy_checks import ClearRelease
from vita.server.service.replica_process import ReplicaProcess
from vita.spine.config import unknown_name
from vita.spine.errors import ConfigError, ModelError, VitaError, exception_text
from vita.spine.model_files import BASE

LOAD_SECONDS = 600.0
"""Maximum time in which a replica verifies and loads an adapter."""


@dataclass(frozen=True)
class PinnedAdapter:
    """The release of an adapter and the terms of its clearance."""

    release: ReleaseInfo
    terms: ServingRequest
    base: str
    """Id of the version of the base model."""


class ServedAdapters:
    """The adapters of one service; used from one event loop only."""

    def __init__(
        self,
        router: Router,
        *,
        client: httpx.AsyncClient,
        clear: ClearRelease,
        of_version: Callable[[str], list[ReplicaProcess]],
        record: Callable[[ServedVersion, str, float], Awaitable[None]],
        notify: Callable[[str], None],
    ) -> None:
        self._router, self._client, self._clear = router, client, clear
        self._of_version, self._record, self._notify = of_version, record, notify
        self._pinned: dict[str, PinnedAdapter] = {}

    async def add(self, release: ReleaseInfo, *, terms: ServingRequest) -> ServedVersion:
        """Clear an adapter, load it in the replicas of its base, and let requests reach it."""
        if release.id in {**self._router.versions, **self._router.adapters}:
            raise ConfigError("fleet", f"{release.id} is already served", hint="give it another name with --name")
        if release.name in {self._router.service, *(version.name for version in self._router.versions.values())}:
            problem = f"`{release.name}` is the name of the served base model, which requests would no longer reach"
            raise ConfigError("fleet", problem, hint="give the adapter another name with --name")
        base = self._base_version(release)
        clearance = await asyncio.to_thread(self._clear, release, terms)
        release = replace(release, model=clearance.model)
        pinned = PinnedAdapter(release, terms, base.id)
        loaded: list[ReplicaProcess] = []
        try:
            for replica in self._of_version(base.id):
                if replica.backend.ready:
                    await self._load(replica, pinned)
                    loaded.append(replica)
        except VitaError:
            for replica in loaded:
                await self._unload(replica, release.id)
            raise
        self._pinned[release.id] = pinned
        adapter = ServedVersion(
            release.id, release.model, release.digest, name=release.id, created=time.time(),
            gate=clearance.as_json(), weights=clearance.weights, backends=base.backends,
            context=base.context, reproducible=base.reproducible, base=base.id,
        )  # fmt: skip
        self._router.adapters[release.id] = adapter
        await self._record(adapter, "started", 0.0)
        return adapter

    async def remove(self, name: str) -> None:
        """Stop sending requests to an adapter, and remove it from the replicas."""
        adapter = self._router.find(name)
        if adapter is None or adapter.id not in self._router.adapters:
            raise unknown_name("fleet.adapter", name, self._router.adapters)
        del self._router.adapters[adapter.id]
        if adapter.id in self._pinned:  # a retired adapter was unloaded before
            await self.unload(adapter)
            await self._record(adapter, "stopped", 0.0)

    async def unload(self, adapter: ServedVersion) -> None:
        """Remove an adapter from the replicas of its base, which do not load it again; its requests finish."""
        pinned = self._pinned.pop(adapter.id, None)
        if pinned is not None:
            await asyncio.gather(*(self._unload(replica, adapter.id) for replica in self._of_version(pinned.base)))

    async def restore(self, replica: ReplicaProcess) -> None:
        """Load the adapters that a new process of a replica does not have yet."""
        for pinned in list(self._pinned.values()):
            if pinned.base != replica.release.id or pinned.release.id in replica.adapters:
                continue
            try:
                await asyncio.to_thread(self._clear, pinned.release, pinned.terms, record=False)
                await self._load(replica, pinned)
            except VitaError as error:
                replica.adapters.add(pinned.release.id)  # reported once; requests to it get 404 from this replica
                self._notify(f"{replica.name} serves without the adapter {pinned.release.id}: {error}")

    def forget_base(self, version: str) -> list[ServedVersion]:
        """Remove the adapters of a version that is no longer served, and return them."""
        removed = [adapter for adapter in self._router.adapters.values() if adapter.base == version]
        for adapter in removed:
            del self._router.adapters[adapter.id]
            self._pinned.pop(adapter.id, None)
            self._notify(f"the adapter {adapter.id} is removed, because its base {version} is no longer served")
        return removed

    def status(self) -> list[dict[str, Any]]:
        """Return the adapters as JSON values."""
        return [
            {"adapter": adapter.id, "model": adapter.model, "release": adapter.release, "base": adapter.base,
             "gate": dict(adapter.gate)}
            for adapter in self._router.adapters.values()
        ]  # fmt: skip

    def _base_version(self, release: ReleaseInfo) -> ServedVersion:
        """Return the served version whose model is the base of an adapter."""
        base = files_below(release, BASE)
        if not base:
            raise ModelError(f"adapter {release.id}", "is a full model", hint="roll it out with `vita fleet roll`")
        for version in self._router.versions.values():
            replicas = self._of_version(version.id)
            if replicas and files_below(replicas[0].release, MODEL) == base:
                return version
        expected = f"an adapter of {', '.join(self._router.versions)}"
        raise ModelError(
            f"adapter {release.id}", expected=expected, got=f"one of {str(release.content.get('base'))[:12]}",
            hint="serve its base model, or serve the adapter alone",
        )  # fmt: skip

    async def _load(self, replica: ReplicaProcess, pinned: PinnedAdapter) -> None:
        release = pinned.release
        body = {"folder": str(release.folder), "digest": release.digest, "model": release.model}
        await self._post(replica, "/adapters", body)
        replica.adapters.add(release.id)

    async def _unload(self, replica: ReplicaProcess, name: str) -> None:
        replica.adapters.discard(name)
        try:
            await self._post(replica, "/adapters/remove", {"name": name})
        except ModelError as error:
            self._notify(f"{replica.name}: {error}")

    async def _post(self, replica: ReplicaProcess, path: str, body: dict[str, Any]) -> None:
        backend = replica.backend
        try:
            answer = await self._client.post(
                backend.url + path, json=body, headers=backend.auth_headers, timeout=LOAD_SECONDS
            )
        except httpx.HTTPError as error:
            raise ModelError(f"replica {replica.name}", f"does not respond: {exception_text(error)}") from None
        if answer.status_code != 200:
            try:
                problem = str(answer.json()["error"]["message"])
            except (ValueError, KeyError, TypeError):
                problem = f"it responds with {answer.status_code}"
            raise ModelError(f"replica {replica.name}", problem)
