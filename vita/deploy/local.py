"""The target `local`: `vita serve` in the background, updated through its administration interface."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from vita.deploy.background import ServiceProcess
from vita.deploy.background_target import BackgroundTarget, service_description, service_url
from vita.deploy.folder import RELEASE, Deployment, DeploymentFolder
from vita.server.service.admin import ServiceHandle


@dataclass(frozen=True)
class LocalTarget(BackgroundTarget):
    """Runs `vita serve` in the background."""

    controls: Path
    """The folder in which running services write their handles."""

    def command(self, folder: DeploymentFolder, deployment: Deployment) -> list[str]:
        description = service_description(folder, deployment)
        release = folder.files_of(deployment).resolve() / RELEASE
        options = {
            "--digest": description["release"],
            "--name": description["name"],
            "--host": description["host"],
            "--port": description["port"],
            "--replicas": description["replicas"],
            "--site": description["site"],
            "--region": description["region"],
            "--ungated": description["ungated"],
        }
        words = [text for option, value in options.items() if value is not None for text in (option, str(value))]
        words += [word for assignment in description["settings"] for word in ("--set", assignment)]
        return [sys.executable, "-m", "vita", "serve", str(release), *words]

    def update(self, folder: DeploymentFolder, deployment: Deployment, running: ServiceProcess) -> None:
        """Perform a rolling update to the release, unless it already receives all traffic."""
        handle = ServiceHandle.find(self.controls, service_url(folder, deployment))
        versions = handle.call("GET", "/status").json()["versions"]
        if any(version["release"] == deployment.release and version["share"] == 1.0 for version in versions):
            return
        self.notify(f"rolling update to {deployment.label} ...")
        release = folder.files_of(deployment).resolve() / RELEASE
        ungated = service_description(folder, deployment)["ungated"]
        handle.call("POST", "/roll", {"folder": str(release), "share": 1.0, "ungated": ungated, "research": False})
