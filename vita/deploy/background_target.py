"""A target whose service is a background process on this machine: start, update, restart and stop.

A running service switches to a new release with a rolling update. It is restarted only if its settings change. If its
address changes, the new service is ready before the old one stops.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vita.deploy.background import ServiceProcess, check_port, start_service, stop_service
from vita.deploy.folder import RUNNING, SERVICE_LOG, Deployment, DeploymentFolder
from vita.deploy.release_files import drain_seconds, service_assignments, service_name
from vita.deploy.settings import DeploymentSettings
from vita.server.release import ReleaseInfo
from vita.spine.config import build
from vita.spine.disk import write_atomically
from vita.spine.errors import VitaError

SERVICE_FILE = "service.json"
_UPDATED = ("release", "ungated")
"""Entries of `service.json` that a rolling update changes."""
START_SECONDS = 120
"""Time to start the process, in addition to the time until its replicas are ready."""


def service_file(release: ReleaseInfo, settings: DeploymentSettings, *, ungated: str | None) -> str:
    """Return the description of a service on this machine: `service.json`."""
    description: dict[str, Any] = {
        "release": release.digest,
        "name": service_name(release, settings),
        "host": settings.host,
        "port": settings.port,
        "replicas": settings.replicas,
        "site": settings.site,
        "region": settings.region,
        "settings": service_assignments(settings.service),
        "ungated": ungated,
    }
    if settings.target == "ray":
        names = ("cpus", "gpus", "max_replicas", "queue_depth", "ray_address")
        description |= {name: getattr(settings, name) for name in names}
    return json.dumps(description, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class BackgroundTarget(ABC):
    """Starts, updates and stops the service of a deployment on this machine."""

    environment: Mapping[str, str] = field(repr=False)
    """The environment of the service, with its store and its ledger."""
    notify: Callable[[str], None]

    @abstractmethod
    def command(self, folder: DeploymentFolder, deployment: Deployment) -> list[str]:
        """Return the command line of the service."""

    @abstractmethod
    def update(self, folder: DeploymentFolder, deployment: Deployment, running: ServiceProcess) -> None:
        """Replace the release of the running service with a rolling update; raise `VitaError` if it does not start."""

    def check(self, folder: DeploymentFolder, deployment: Deployment) -> None:
        settings = settings_of(deployment)
        if running_service(folder) is None or _address(folder.current) != (settings.host, settings.port):
            check_port(settings.host, settings.port)

    def apply(self, folder: DeploymentFolder, deployment: Deployment) -> str | None:
        running, current = running_service(folder), folder.current
        if running is None or current is None:
            self._start(folder, deployment)
        elif _without_release(folder, current) == _without_release(folder, deployment):
            self.update(folder, deployment, running)
        elif _address(current) != _address(deployment):
            self._start(folder, deployment)
            stop_service(running, seconds=drain_seconds(settings_of(current).service))
        else:
            self._restart(folder, current, deployment, running)
        return service_url(folder, deployment)

    def stop(self, folder: DeploymentFolder) -> bool:
        running = running_service(folder)
        if running is None or folder.current is None:
            return False
        stop_service(running, seconds=drain_seconds(settings_of(folder.current).service))
        (folder.path / RUNNING).unlink(missing_ok=True)
        return True

    def _start(self, folder: DeploymentFolder, deployment: Deployment) -> None:
        settings, url = settings_of(deployment), service_url(folder, deployment)
        self.notify(f"starting {deployment.label} at {url} ...")
        service = start_service(
            self.command(folder, deployment), environment=self.environment, log=folder.path / SERVICE_LOG, url=url,
            seconds=settings.service.ready_seconds + START_SECONDS,
        )  # fmt: skip
        write_atomically(folder.path / RUNNING, json.dumps(asdict(service)).encode())

    def _restart(
        self, folder: DeploymentFolder, current: Deployment, deployment: Deployment, running: ServiceProcess
    ) -> None:
        """Stop the service and start it with the new settings; if this fails, start it with the previous ones."""
        self.notify("the service settings have changed; restarting the service ...")
        stop_service(running, seconds=drain_seconds(settings_of(current).service))
        try:
            self._start(folder, deployment)
        except VitaError:
            self._start(folder, current)
            raise


def settings_of(deployment: Deployment) -> DeploymentSettings:
    """Return the settings of a version."""
    return build(DeploymentSettings, deployment.settings, where="deployment.json.settings")


def service_description(folder: DeploymentFolder, deployment: Deployment) -> dict[str, Any]:
    """Return the content of the `service.json` of a version."""
    return json.loads((folder.files_of(deployment) / SERVICE_FILE).read_text(encoding="utf-8"))


def service_url(folder: DeploymentFolder, deployment: Deployment) -> str:
    """Return the address of the service of a version."""
    description = service_description(folder, deployment)
    host = f"[{description['host']}]" if ":" in description["host"] else description["host"]
    return f"http://{host}:{description['port']}"


def running_service(folder: DeploymentFolder) -> ServiceProcess | None:
    """Return the process of the service of this deployment, or None if it is not running."""
    try:
        service = ServiceProcess(**json.loads((folder.path / RUNNING).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return service if service.is_alive else None


def _without_release(folder: DeploymentFolder, deployment: Deployment) -> dict[str, Any]:
    description = service_description(folder, deployment)
    return {name: value for name, value in description.items() if name not in _UPDATED}


def _address(deployment: Deployment | None) -> tuple[str, int] | None:
    if deployment is None:
        return None
    settings = settings_of(deployment)
    return settings.host, settings.port
