"""Stops the replicas of versions, and unloads adapters, that were retired while the service runs.

A retired version receives no new requests. Its replicas stop when their requests have finished, so that they use no
memory. The version stays known to the router, so that requests to it are refused as requests to a retired model. A
version that keys with the scope `research` can use keeps its replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from vita.server.gateway.routing import Router, ServedVersion
from vita.server.service.replica_process import ReplicaProcess
from vita.server.service.served_adapters import ServedAdapters


class RetiredVersions:
    """The retired versions and adapters of one service that were stopped; used from one event loop only."""

    def __init__(
        self,
        router: Router,
        adapters: ServedAdapters,
        *,
        of_version: Callable[[str], list[ReplicaProcess]],
        stop_replica: Callable[[ReplicaProcess, str], Awaitable[None]],
        record: Callable[[ServedVersion, str, float], Awaitable[None]],
        notify: Callable[[str], None],
    ) -> None:
        self._router, self._adapters, self._of_version = router, adapters, of_version
        self._stop_replica, self._record, self._notify = stop_replica, record, notify
        self._replicas: dict[str, int] = {}

    def __contains__(self, version_id: str) -> bool:
        """Return True for a version or an adapter that was stopped."""
        return version_id in self._replicas

    def replicas(self, version_id: str) -> int:
        """Return the number of replicas that a version had when it was stopped; 0 for other versions."""
        return self._replicas.get(version_id, 0)

    def forget(self, version_id: str) -> None:
        """Forget a version that is removed or started again."""
        self._replicas.pop(version_id, None)

    async def stop(self, is_ended: Callable[[ServedVersion], bool], *, changing: asyncio.Lock) -> None:
        """Drain and stop what is retired; `is_ended` is True for a version that no request can use any more.

        `changing` is the lock of the commands of the operator, which do not wait for the requests to finish.
        """
        if not any(map(is_ended, self._running())):
            return
        async with changing:
            ended = [version for version in self._running() if is_ended(version)]
            replicas = {version.id: self._of_version(version.id) for version in ended if version.base is None}
            for version in ended:
                self._replicas[version.id] = len(replicas.get(version.id, ()))
            unloading = [self._adapters.unload(adapter) for adapter in ended if adapter.base is not None]
            stopping = [
                self._stop_replica(replica, f"The version {replica.release.id} was retired")
                for group in replicas.values()
                for replica in group
            ]
            tasks = [asyncio.ensure_future(work) for work in (*unloading, *stopping)]
            await asyncio.sleep(0)  # the tasks begin: the replicas count as stopping from here on
        for version in ended:
            what = f"stops its {len(replicas[version.id])} replicas" if version.base is None else "is unloaded"
            self._notify(f"{version.id} has been retired and {what}")
        await asyncio.gather(*tasks)
        for version in ended:
            await self._record(version, "stopped", 0.0)

    def _running(self) -> list[ServedVersion]:
        """Return the versions and adapters that have started and were not stopped."""
        served = [*self._router.versions.values(), *self._router.adapters.values()]
        return [version for version in served if version.id not in self and self._has_started(version)]

    def _has_started(self, version: ServedVersion) -> bool:
        return all(replica.start_finished.is_set() for replica in self._of_version(version.base or version.id))
