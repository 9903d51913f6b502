"""The target `local`: `vita serve` in the background on this machine.

A running service takes over a new release with a rolling update. It is started again only if its own settings change;
on another port, the new service is ready before the old one stops.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vita.deploy.background import ServiceProcess, check_port, is_ready, start_service, stop_service
from vita.deploy.folder import RELEASE, RUNNING, SERVICE_LOG, Deployment, DeploymentFolder
from vita.deploy.release_files import drain_seconds, service_assignments, service_name, site_arguments
from vita.deploy.settings import DeploymentSettings
from vita.server.release import ReleaseInfo
from vita.server.service.admin import ServiceHandle
from vita.spine.config import build
from vita.spine.disk import write_atomically
from vita.spine.errors import VitaError

SERVICE_FILE = "service.json"
_ROLLED = ("release", "ungated")
"""Entries of `service.json` that a rolling update changes."""
START_SECONDS = 60
"""Time to start the process, in addition to the time until its replicas are ready."""


def service_file(release: ReleaseInfo, settings: DeploymentSettings, *, ungated: str | None) -> str:
    """Return the description of a service on this machine: `service.json`."""
    description = {
        "release": release.digest,
        "name": service_name(release, settings),
        "host": settings.host,
        "port": settings.port,
        "replicas": settings.replicas,
        "site": site_arguments(settings),
        "settings": service_assignments(settings.service),
        "ungated": ungated,
    }
    return json.dumps(description, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class LocalTarget:
    """Starts, updates and stops the service of a deployment on this machine."""

    environment: Mapping[str, str] = field(repr=False)
    controls: Path
    """The folder in which running services write their handles."""
    notify: Callable[[str], None]

    def check(self, folder: DeploymentFolder, deployment: Deployment) -> None:
        settings = _settings(deployment)
        running = _running(folder)
        if running is None or _address(folder, folder.current) != (settings.host, settings.port):
            check_port(settings.host, settings.port)

    def apply(self, folder: DeploymentFolder, deployment: Deployment) -> str | None:
        url, running = _url(_description(folder, deployment)), _running(folder)
        if running is None or folder.current is None:
            self._start(folder, deployment)
        elif _without_release(folder, folder.current) == _without_release(folder, deployment):
            self._roll(folder, deployment)
        elif _address(folder, folder.current) != _address(folder, deployment):
            self._start(folder, deployment)
            stop_service(running, seconds=drain_seconds(_settings(folder.current).service))
        else:
            self._restart(folder, folder.current, deployment, running)
        return url

    def stop(self, folder: DeploymentFolder) -> bool:
        running = _running(folder)
        if running is None or folder.current is None:
            return False
        stop_service(running, seconds=drain_seconds(_settings(folder.current).service))
        (folder.path / RUNNING).unlink(missing_ok=True)
        return True

    def _start(self, folder: DeploymentFolder, deployment: Deployment) -> None:
        description, settings = _description(folder, deployment), _settings(deployment)
        self.notify(f"starting {deployment.label} at {_url(description)} ...")
        command = [sys.executable, "-m", "vita", *_arguments(folder, deployment)]
        service = start_service(
            command, environment=self.environment, log=folder.path / SERVICE_LOG, url=_url(description),
            seconds=settings.service.ready_seconds + START_SECONDS,
        )  # fmt: skip
        write_atomically(folder.path / RUNNING, json.dumps(asdict(service)).encode())

    def _restart(
        self, folder: DeploymentFolder, current: Deployment, deployment: Deployment, running: ServiceProcess
    ) -> None:
        """Stop the service and start it with other settings; if this fails, start it as before."""
        self.notify("the settings of the service change, so that it is restarted")
        stop_service(running, seconds=drain_seconds(_settings(current).service))
        try:
            self._start(folder, deployment)
        except VitaError:
            self._start(folder, current)
            raise

    def _roll(self, folder: DeploymentFolder, deployment: Deployment) -> None:
        """Update the release of the running service, unless it serves this release with all of the traffic."""
        description = _description(folder, deployment)
        handle = ServiceHandle.find(self.controls, _url(description))
        versions = handle.call("GET", "/status").json()["versions"]
        if any(version["release"] == deployment.release and version["share"] == 1.0 for version in versions):
            return
        self.notify(f"rolling update to {deployment.label} ...")
        release = folder.files_of(deployment).resolve() / RELEASE
        body = {"folder": str(release), "share": 1.0, "ungated": description["ungated"], "research": False}
        handle.call("POST", "/roll", body)


def _settings(deployment: Deployment) -> DeploymentSettings:
    return build(DeploymentSettings, deployment.settings, where="deployment.json.settings")


def _description(folder: DeploymentFolder, deployment: Deployment) -> dict[str, Any]:
    return json.loads((folder.files_of(deployment) / SERVICE_FILE).read_text(encoding="utf-8"))


def _arguments(folder: DeploymentFolder, deployment: Deployment) -> list[str]:
    """Return the arguments of `vita` that serve a version."""
    description = _description(folder, deployment)
    release = folder.files_of(deployment).resolve() / RELEASE
    words = ["serve", str(release), "--digest", description["release"], "--name", description["name"]]
    words += ["--host", description["host"], "--port", str(description["port"])]
    words += ["--replicas", str(description["replicas"]), *description["site"]]
    words += [word for assignment in description["settings"] for word in ("--set", assignment)]
    return [*words, *(("--ungated", description["ungated"]) if description["ungated"] is not None else ())]


def _without_release(folder: DeploymentFolder, deployment: Deployment) -> dict[str, Any]:
    description = _description(folder, deployment)
    return {name: value for name, value in description.items() if name not in _ROLLED}


def _address(folder: DeploymentFolder, deployment: Deployment | None) -> tuple[str, int] | None:
    if deployment is None:
        return None
    settings = _settings(deployment)
    return settings.host, settings.port


def _url(description: Mapping[str, Any]) -> str:
    host = f"[{description['host']}]" if ":" in description["host"] else description["host"]
    return f"http://{host}:{description['port']}"


def _running(folder: DeploymentFolder) -> ServiceProcess | None:
    """Return the process of the service of this deployment, or None if it does not run."""
    try:
        service = ServiceProcess(**json.loads((folder.path / RUNNING).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return service if service.is_alive else None


def is_running(folder: DeploymentFolder) -> bool:
    """Return True if the service of a deployment runs on this machine and is ready."""
    current = folder.current
    return current is not None and _running(folder) is not None and is_ready(_url(_description(folder, current)))
