"""The target `ray`: a Ray Serve application, run by a process in the background (`vita.deploy.ray_service`)."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.deploy.background import POLL_SECONDS, ServiceFailed, ServiceProcess
from vita.deploy.background_target import BackgroundTarget, service_url, settings_of
from vita.deploy.folder import ANSWERED, REQUESTED, Deployment, DeploymentFolder
from vita.spine.disk import write_atomically
from vita.spine.errors import MissingExtra

UPDATE_SECONDS = 300.0
"""Time for a rolling update, in addition to the time until a replica is ready."""


def has_ray_serve() -> bool:
    """Return True if Ray Serve can be imported; Ray without the extra `serve` contains it without its dependencies.

    Another process imports it, because `ray` reads its environment variables at the import.
    """
    if importlib.util.find_spec("ray") is None:
        return False
    return subprocess.run([sys.executable, "-c", "import ray.serve"], capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class RayTarget(BackgroundTarget):
    """Runs the application of a deployment in Ray Serve."""

    def check(self, folder: DeploymentFolder, deployment: Deployment) -> None:
        if not has_ray_serve():
            raise MissingExtra("deploy.target", "ray-serve")
        super().check(folder, deployment)

    def command(self, folder: DeploymentFolder, deployment: Deployment) -> list[str]:
        _request(folder, deployment)
        return [sys.executable, "-m", "vita.deploy.ray_service", str(folder.path.resolve())]

    def update(self, folder: DeploymentFolder, deployment: Deployment, running: ServiceProcess) -> None:
        if folder.current is not None and folder.current.id == deployment.id:
            return
        self.notify(f"rolling update to {deployment.label} ...")
        number, where = _request(folder, deployment), f"service {service_url(folder, deployment)}"
        os.kill(running.number, signal.SIGHUP)
        deadline = time.monotonic() + settings_of(deployment).service.ready_seconds + UPDATE_SECONDS
        while (answer := _answer(folder.path)).get("number") != number:
            if not running.is_alive:
                raise ServiceFailed(where, "exited during the update", hint=f"see {folder.path / 'service.log'}")
            if time.monotonic() > deadline:
                raise ServiceFailed(where, "was not updated in time", hint=f"see {folder.path / 'service.log'}")
            time.sleep(POLL_SECONDS)
        if problem := answer.get("problem"):
            raise ServiceFailed(where, f"{deployment.label} did not start: {problem}")


def _request(folder: DeploymentFolder, deployment: Deployment) -> int:
    """Write the version that the process is to run; returns the number of the request."""
    number = int(_answer(folder.path).get("number") or 0) + 1
    write_atomically(folder.path / REQUESTED, json.dumps({"number": number, "id": deployment.id}).encode())
    return number


def _answer(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / ANSWERED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
