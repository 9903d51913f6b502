"""Deploy a release: write the files of a target, and with `apply` start the service.

The files are the artifact of the stage. With `folder`, they also become the current version of a deployment folder.
This happens each time the life runs, so that a stopped service is started again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import model_validator

from vita.deploy import operations
from vita.deploy.folder import Deployment
from vita.deploy.release_files import check_backend, service_name
from vita.deploy.settings import DeploymentSettings
from vita.gates.clearance import ServingRequest
from vita.server.release import read_release
from vita.server.service.deploy_checks import ledger_clearance
from vita.spine import machine
from vita.spine.config import neutral, operational
from vita.spine.disk import confined, write_atomically
from vita.spine.events import Emit
from vita.spine.ledger import Ledger
from vita.spine.plan import Context, Draft
from vita.spine.store import Store
from vita.stages.kinds import DeploymentFiles, Release

VERSION = 1
ADMITS_CACHED = True
"""A release can lose its approval, or be retired, after its files were written."""
DESCRIPTION = "description.json"


class Config(DeploymentSettings):
    """The target, its settings, and the folder of the deployment."""

    ungated: str | None = neutral(None)
    """Reason for deploying a model that no gate has approved."""
    folder: str | None = operational(None)
    """Deployment folder with the record and the previous versions, relative to the working folder."""
    apply: bool = operational(False)
    """Start the service, or update the running one."""

    @model_validator(mode="after")
    def _applies_in_a_folder(self) -> Config:
        if self.apply and self.folder is None:
            raise ValueError("`apply` needs `folder`, the folder of the deployment")
        return self

    @property
    def deployment_settings(self) -> DeploymentSettings:
        """Return the settings without those of the stage."""
        names = DeploymentSettings.model_fields.keys() & self.model_fields_set
        return DeploymentSettings.model_validate({name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Inputs:
    release: Release


def admit(config: Config, inputs: Inputs, ledger: Ledger, store: Store) -> None:
    """Reject a release that is not cleared, and a backend that the target cannot run."""
    release = read_release(inputs.release.path)
    check_backend(release, config.deployment_settings)
    ledger_clearance(ledger, store)(release, ServingRequest(config.ungated), record=False)


def run(config: Config, inputs: Inputs, context: Context) -> Draft[DeploymentFiles]:
    release, settings = read_release(inputs.release.path), config.deployment_settings
    files = operations.deployment_files(release, settings, ungated=config.ungated)
    service = service_name(release, settings)
    deployment = Deployment.of(
        release, release.model, settings.record(), files, service=service, ungated=config.ungated
    )
    folder = context.draft_folder()
    for name, data in files.items():
        write_atomically(confined(folder, name), data)
    description = {"deployment": deployment.id, "release": release.digest, "settings": settings.record()}
    write_atomically(folder / DESCRIPTION, json.dumps(description, indent=1, sort_keys=True).encode())
    facts = {"target": settings.target, "release": release.id, "deployment": deployment.id, "files": len(files)}
    return Draft(DeploymentFiles, folder, facts)


def apply(config: Config, inputs: Inputs, ledger: Ledger, store: Store, emit: Emit) -> None:
    """Make the files the current version of the deployment folder, and start the service with `apply`."""
    if config.folder is None:
        return
    environment = machine.environment_of_vita(store=store.location, ledger=ledger.url)
    context = operations.DeploymentContext(ledger, store, environment, lambda text: emit("note", text=text))
    outcome = operations.deploy(
        context, read_release(inputs.release.path), config.deployment_settings, folder=Path(config.folder),
        apply=config.apply, ungated=config.ungated,
    )  # fmt: skip
    where = f" at {outcome.url}" if outcome.url else ""
    emit("note", text=f"{'deployed' if config.apply else 'wrote the deployment of'} {outcome.current.label}{where}")
