"""Deploying a release and rolling back: validation, clearance, files, application and the entry in the ledger.

    outcome = deploy(context, release, settings, folder=Path("mine"), apply=True)
    outcome = roll_back(context, folder=Path("mine"))

The settings are validated, the release is cleared, and the target checks that it can apply the deployment before
anything is written. A version becomes current only after it was applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vita.deploy.background_target import SERVICE_FILE, service_file
from vita.deploy.compose import compose_files
from vita.deploy.container_tools import ComposeTarget, KubernetesTarget
from vita.deploy.folder import Deployment, DeploymentFolder
from vita.deploy.kubernetes import kubernetes_files
from vita.deploy.local import LocalTarget
from vita.deploy.ray_target import RayTarget
from vita.deploy.release_files import check_backend, service_name
from vita.deploy.settings import DeploymentSettings, Target
from vita.deploy.targets import TargetProgram
from vita.gates.clearance import ServingRequest
from vita.server.release import ReleaseInfo
from vita.server.service.deploy_checks import ledger_clearance
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError
from vita.spine.ledger import Ledger
from vita.spine.store import Store

DEPLOYED, ROLLED_BACK, WRITTEN = "deployment applied", "deployment rolled back", "deployment written"
"""Events of the ledger; the subject is the digest of the model."""


@dataclass(frozen=True)
class DeploymentContext:
    """The ledger and the store of a deployment, and the environment of the services that it starts."""

    ledger: Ledger
    store: Store
    environment: Mapping[str, str] = field(repr=False)
    notify: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class DeploymentOutcome:
    """The result of a deployment or a rollback."""

    folder: Path
    current: Deployment
    previous: Deployment | None
    changed: bool
    """False if this version was current before."""
    url: str | None = None
    """The address of a service that was started on this machine."""


def deploy(
    context: DeploymentContext,
    release: ReleaseInfo,
    settings: DeploymentSettings,
    *,
    folder: Path,
    apply: bool = False,
    ungated: str | None = None,
) -> DeploymentOutcome:
    """Write the deployment of a release to a folder, and with `apply` start or update the service."""
    check_backend(release, settings)
    opened = DeploymentFolder.open(folder)
    _check_same_service(opened, release, settings)
    clear, terms = ledger_clearance(context.ledger, context.store), ServingRequest(ungated)
    clearance = clear(release, terms, record=False)
    program = target_program(settings, context)
    files = deployment_files(release, settings, ungated=ungated)
    deployment = Deployment.of(
        release,
        clearance.model,
        settings.record(),
        files,
        service=service_name(release, settings),
        ungated=clearance.reason,
    )
    if apply:
        program.check(opened, deployment)
    if clearance.status == "ungated":
        clear(release, terms)  # records the reason
    with opened.locked() as target:
        changed = target.current is None or target.current.id != deployment.id
        was_applied = target.current is not None and target.current.applied
        target.write(deployment, release, files)
        url = program.apply(target, deployment) if apply else None
        previous = target.previous if not changed else (*target.previous, *_present(target.current))
        applied = apply or (was_applied and not changed)
        target.activate(replace(deployment, applied=applied), previous=previous)
    _record(context, DEPLOYED if apply else WRITTEN, deployment, folder)
    return DeploymentOutcome(folder, replace(deployment, applied=applied), _last(previous), changed, url)


def roll_back(
    context: DeploymentContext, *, folder: Path, apply: bool = False, ungated: str | None = None
) -> DeploymentOutcome:
    """Make the previous version of a deployment current again, and start it if the current one was started.

    Its files are verified, and its clearance is checked again, because the release may have been retired.
    """
    opened = DeploymentFolder.open(folder)
    if opened.current is None:
        raise DataError("--rollback", f"`{folder}` is not a deployment")
    if not opened.previous:
        raise DataError("--rollback", f"`{folder}` has no previous version")
    deployment = opened.previous[-1]
    opened.verify(deployment)
    release = opened.release_of(deployment)
    terms = ServingRequest(ungated if ungated is not None else deployment.ungated)
    clearance = ledger_clearance(context.ledger, context.store)(release, terms)
    settings = build(DeploymentSettings, deployment.settings, where="deployment.json.settings")
    program, apply = target_program(settings, context), apply or opened.current.applied
    if apply:
        program.check(opened, deployment)
    with opened.locked() as target:
        if target.current != opened.current:
            raise DataError("--rollback", f"another command has changed `{folder}`", hint="try again")
        url = program.apply(target, deployment) if apply else None
        restored = replace(deployment, applied=apply, ungated=clearance.reason)
        previous = target.previous[:-1]
        target.activate(restored, previous=previous)
    _record(context, ROLLED_BACK, deployment, folder, replaced=opened.current.id)
    return DeploymentOutcome(folder, restored, _last(previous), True, url)


def stop(context: DeploymentContext, *, folder: Path) -> bool:
    """Stop the service of a deployment; returns False if it was not running."""
    opened = DeploymentFolder.open(folder)
    if opened.current is None:
        raise DataError("--stop", f"`{folder}` is not a deployment")
    settings = build(DeploymentSettings, opened.current.settings, where="deployment.json.settings")
    with opened.locked() as target:
        assert target.current is not None
        stopped = target_program(settings, context).stop(target)
        target.activate(replace(target.current, applied=False), previous=target.previous)
    _record(context, "deployment stopped", opened.current, folder)
    return stopped


def deployment_files(release: ReleaseInfo, settings: DeploymentSettings, *, ungated: str | None) -> dict[str, bytes]:
    """Return the files of a version, without its release: the same bytes for the same arguments."""
    check_backend(release, settings)
    if settings.target == "compose":
        texts = compose_files(release, settings, ungated=_reason_without_gates(settings, ungated))
    elif settings.target == "kubernetes":
        texts = kubernetes_files(release, settings, ungated=ungated)
    else:
        texts = {SERVICE_FILE: service_file(release, settings, ungated=ungated)}
    files = {name: text.encode() for name, text in texts.items()}
    if settings.wheel is not None:
        wheel = Path(settings.wheel)
        if not wheel.is_file() or wheel.suffix != ".whl":
            raise ConfigError("deploy.wheel", expected="a wheel of vita-lm", got=str(wheel))
        files[wheel.name] = wheel.read_bytes()
    return files


def target_program(settings: DeploymentSettings, context: DeploymentContext) -> TargetProgram:
    """Return the program that applies the deployments of a target."""
    programs: Mapping[Target, Callable[[DeploymentContext], TargetProgram]] = {
        "local": lambda context: LocalTarget(context.environment, context.notify, context.store.root / "services"),
        "compose": lambda context: ComposeTarget(context.notify),
        "kubernetes": lambda context: KubernetesTarget(context.notify),
        "ray": lambda context: RayTarget(_environment(context), context.notify),
    }
    return programs[settings.target](context)


def _environment(context: DeploymentContext) -> dict[str, str]:
    """Return the environment with the absolute locations of store and ledger, for processes in other folders."""
    location = context.store.location if context.store.is_remote else str(context.store.root)
    return {**context.environment, "VITA_STORE": location, "VITA_LEDGER": context.ledger.url}


def _reason_without_gates(settings: DeploymentSettings, ungated: str | None) -> str | None:
    """Return the reason with which a service without the shared ledger serves a release.

    Its own ledger does not contain the approval, which is checked when the deployment is written.
    """
    return "approved when it was deployed" if settings.store is None and ungated is None else ungated


def _check_same_service(folder: DeploymentFolder, release: ReleaseInfo, settings: DeploymentSettings) -> None:
    """Raise `ConfigError` if the folder has a service with another target, name or namespace, which would continue."""
    if (current := folder.current) is None:
        return
    present = (current.settings["target"], current.service, current.settings.get("namespace"))
    requested = (settings.target, service_name(release, settings), settings.namespace)
    for name, before, after in zip(("target", "name", "namespace"), present, requested, strict=True):
        if before != after:
            problem = f"`{folder.path}` is a deployment with the {name} `{before}`"
            raise ConfigError(f"deploy.{name}", problem, got=after, hint="choose another folder")


def _present(deployment: Deployment | None) -> tuple[Deployment, ...]:
    return () if deployment is None else (deployment,)


def _last(previous: tuple[Deployment, ...]) -> Deployment | None:
    return previous[-1] if previous else None


def _record(
    context: DeploymentContext, event: str, deployment: Deployment, folder: Path, *, replaced: str | None = None
) -> None:
    context.ledger.log(
        event, deployment.model, deployment=deployment.id, release=deployment.release, label=deployment.label,
        target=deployment.settings["target"], folder=str(folder.resolve()), replaced=replaced,
    )  # fmt: skip
