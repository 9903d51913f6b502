"""The interface of the programs that apply deployments, one for each target."""

from __future__ import annotations

from typing import Protocol

from vita.deploy.folder import Deployment, DeploymentFolder


class TargetProgram(Protocol):
    """Starts, replaces and stops the service of a deployment."""

    def check(self, folder: DeploymentFolder, deployment: Deployment) -> None:
        """Raise `VitaError` if the deployment cannot be applied on this machine. Nothing is changed."""

    def apply(self, folder: DeploymentFolder, deployment: Deployment) -> str | None:
        """Start a version, replacing the current one; returns the URL of the service if it is known."""

    def stop(self, folder: DeploymentFolder) -> bool:
        """Stop the service; returns False if it was not running."""
        ...
