"""Applies deployments with the command-line tools of their platforms: `docker compose` and `kubectl`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vita.deploy.compose import COMPOSE_FILE, SECRETS_FOLDER, secret_names
from vita.deploy.folder import Deployment, DeploymentFolder
from vita.deploy.kubernetes import MANIFESTS
from vita.deploy.settings import DeploymentSettings
from vita.spine.config import build
from vita.spine.errors import ConfigError, VitaError

LAST_LINES = 3
"""Lines of the output of a failed program that an error shows."""


OPTIONAL_OBJECT = "autoscaling/v2/HorizontalPodAutoscaler"
"""The kind of an optional object, which is deleted if the new version does not have it."""


class ProgramFailed(VitaError):
    """A command of the platform failed; the previous version is still the current one in the deployment folder."""


@dataclass(frozen=True)
class ComposeTarget:
    """Builds the image and starts the services with `docker compose`."""

    notify: Callable[[str], None]

    def check(self, folder: DeploymentFolder, deployment: Deployment) -> None:
        _require_program("docker", hint="install Docker with the Compose plugin, or omit --apply")
        if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
            raise ConfigError("--apply", "`docker compose` does not work", hint="install the Docker Compose plugin")
        for name in secret_names(_settings(deployment)):
            secret = folder.path / Path(SECRETS_FOLDER).name / name
            if not secret.is_file():
                raise ConfigError("--apply", f"the secret `{secret}` does not exist", hint="create this file first")

    def apply(self, folder: DeploymentFolder, deployment: Deployment) -> str | None:
        settings = _settings(deployment)
        file = folder.files_of(deployment) / COMPOSE_FILE
        self.notify(f"building and starting {deployment.label} with docker compose ...")
        seconds = int(settings.service.ready_seconds) + 60
        _run(["docker", "compose", "--file", str(file), "up", "--build", "--detach", "--wait",
              "--wait-timeout", str(seconds)])  # fmt: skip
        return f"http://{settings.host}:{settings.port}"

    def stop(self, folder: DeploymentFolder) -> bool:
        assert folder.current is not None
        _require_program("docker", hint="install Docker with the Compose plugin")
        _run(["docker", "compose", "--file", str(folder.files_of(folder.current) / COMPOSE_FILE), "down"])
        return True


@dataclass(frozen=True)
class KubernetesTarget:
    """Applies the manifests with `kubectl`, in its current context, and waits for the rollout."""

    notify: Callable[[str], None]

    def check(self, folder: DeploymentFolder, deployment: Deployment) -> None:
        _require_program("kubectl", hint="install kubectl, or omit --apply and apply the files with another tool")
        manifests = folder.files_of(deployment) / MANIFESTS
        if manifests.is_dir():
            _run(["kubectl", *_namespace(deployment), "apply", "--dry-run=server", "--filename", str(manifests)])
        else:
            _run(["kubectl", *_namespace(deployment), "version"])

    def apply(self, folder: DeploymentFolder, deployment: Deployment) -> str | None:
        settings, namespace = _settings(deployment), _namespace(deployment)
        manifests = str(folder.files_of(deployment) / MANIFESTS)
        _run(["kubectl", *namespace, "apply", "--filename", manifests, "--prune", "--selector", _objects(deployment),
              "--prune-allowlist", OPTIONAL_OBJECT])  # fmt: skip
        self.notify(f"waiting for the rollout of {deployment.label} ...")
        seconds = int(settings.service.ready_seconds) + 300
        selector = f"vita-lm/release={deployment.release[:16]}"
        _run(["kubectl", *namespace, "rollout", "status", "deployment", "--selector", selector,
              f"--timeout={seconds}s"])  # fmt: skip
        return None

    def stop(self, folder: DeploymentFolder) -> bool:
        assert folder.current is not None
        _require_program("kubectl", hint="install kubectl")
        manifests = str(folder.files_of(folder.current) / MANIFESTS)
        _run(["kubectl", *_namespace(folder.current), "delete", "--ignore-not-found", "--filename", manifests])
        return True


def _settings(deployment: Deployment) -> DeploymentSettings:
    return build(DeploymentSettings, deployment.settings, where="deployment.json.settings")


def _objects(deployment: Deployment) -> str:
    """Return the selector of the objects of a service."""
    return f"app.kubernetes.io/managed-by=vita,app.kubernetes.io/instance={deployment.service}"


def _namespace(deployment: Deployment) -> list[str]:
    namespace = deployment.settings.get("namespace")
    return [] if namespace is None else ["--namespace", str(namespace)]


def _require_program(program: str, *, hint: str) -> None:
    if shutil.which(program) is None:
        raise ConfigError("--apply", f"the program `{program}` is not installed", hint=hint)


def _run(command: Sequence[str]) -> None:
    """Run a command and wait until it exits; raise `ProgramFailed` with its last lines of output."""
    finished = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if finished.returncode:
        lines = [line.strip() for line in (finished.stderr or finished.stdout).splitlines() if line.strip()]
        problem = f"exited with code {finished.returncode}: {' | '.join(lines[-LAST_LINES:])}"
        raise ProgramFailed(" ".join(command[:3]), problem)
