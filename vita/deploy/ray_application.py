"""The application of Ray Serve: replicas that verify, clear and serve one release.

Ray pickles `RayReplica` and calls `build` in each replica. Every replica verifies the SHA-256 of all files of the
release and checks its clearance in the ledger, so that no replica of a retired release starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vita.deploy.ray_access import RayAccess
from vita.gates.clearance import ServingRequest
from vita.server.release import read_release
from vita.server.service.deploy_checks import ledger_clearance
from vita.server.settings import ServiceSettings
from vita.server.sites.site import Site, SiteHeader
from vita.spine import machine
from vita.spine.errors import ConfigError, StoreError
from vita.spine.ledger import Ledger
from vita.spine.store import Store

DEPLOYMENT = "replica"
HEALTH_SECONDS = 10.0


@dataclass(frozen=True)
class RayReplica:
    """The release that a replica serves, and the terms on which it serves it."""

    folder: str
    """The folder of the release, which every node can read."""
    digest: str
    service: str
    settings: ServiceSettings
    local: bool
    ungated: str | None = None
    site: Site = field(default_factory=Site)
    threads: int = 1
    gpus: int = 0

    def build(self) -> Any:
        """Verify and clear the release, load and test its model, and return its ASGI application."""
        import torch

        from vita.server.replica.main import open_app

        torch.set_num_threads(self.threads)
        release = read_release(Path(self.folder))
        if release.digest != self.digest:
            raise StoreError(self.folder, expected=f"the release {self.digest}", got=release.digest)
        ledger, store = _ledger_and_store()
        clear = ledger_clearance(ledger, store)
        clearance = clear(release, ServingRequest(self.ungated), record=False)
        app = open_app(
            release.folder, digest=release.digest, model=clearance.model, threads=self.threads,
            device="cuda" if self.gpus else "cpu",
        )  # fmt: skip
        access = RayAccess(
            app, release, clearance, ledger=ledger, service=self.service, settings=self.settings, local=self.local,
            site=self.site,
        )  # fmt: skip
        return SiteHeader(access, self.site)


def _ledger_and_store() -> tuple[Ledger, Store]:
    """Open the ledger and the store that the environment of the node names; the URL of a ledger can be a secret."""
    store_location, ledger_location = machine.store_location(), machine.ledger_location()
    if store_location is None or ledger_location is None:
        expected = "VITA_STORE, and VITA_LEDGER or VITA_LEDGER_FILE, in the environment of each Ray node"
        raise ConfigError("deploy.target", expected=expected)
    return Ledger(ledger_location), Store(store_location, cache=machine.cache_folder())


def ray_application(replica: RayReplica, *, replicas: int, max_replicas: int | None, cpus: float, queue: int) -> Any:
    """Return the Ray Serve application of a release, which a rolling update replaces.

    A new replica starts before an old one stops (`max_surge_percent`).
    """
    from ray import serve  # pyright: ignore[reportMissingImports]

    release = read_release(Path(replica.folder))
    rows, waiting = release.limit("max_batch_size"), release.limit("max_queue_size")

    def build() -> Any:  # Ray calls functions only, and pickles this one with the replica
        return replica.build()

    count: dict[str, Any] = {"num_replicas": replicas}
    if max_replicas is not None:
        limits = {"min_replicas": replicas, "max_replicas": max_replicas, "target_ongoing_requests": rows + queue}
        count = {"autoscaling_config": limits}
    drain = math.ceil(replica.settings.drain_seconds)
    deployment = serve.deployment(
        serve.ingress(build)(),
        name=DEPLOYMENT,
        ray_actor_options={"num_cpus": cpus, "num_gpus": replica.gpus},
        max_ongoing_requests=rows + waiting,
        max_queued_requests=replica.settings.in_flight,
        graceful_shutdown_timeout_s=drain + 5,
        health_check_period_s=HEALTH_SECONDS,
        max_constructor_retry_count=1,
        max_surge_percent=100,
        **count,
    )
    return deployment.bind()
