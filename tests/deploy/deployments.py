"""Releases and settings for the tests of deployments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.server.releases import release_folder
from vita.deploy.operations import deployment_files
from vita.deploy.settings import DeploymentSettings
from vita.server.release import ReleaseInfo, read_release
from vita.spine.config import build


def settings(target: str, **values: Any) -> DeploymentSettings:
    defaults = {"store": "s3://models/vita"} if target == "kubernetes" else {}
    return build(DeploymentSettings, {"target": target, **defaults, **values}, where="deploy")


def release(folder: Path, **options: Any) -> ReleaseInfo:
    return read_release(release_folder(folder, **options))


def texts(release_info: ReleaseInfo, target: str, *, ungated: str | None = None, **values: Any) -> dict[str, str]:
    """Return the text files of a deployment."""
    files = deployment_files(release_info, settings(target, **values), ungated=ungated)
    return {name: data.decode() for name, data in files.items()}
