"""Deployment: `vita deploy`. It replaces the generated command of the stage `deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vita.cli.app import app, open_workspace
from vita.cli.options import SERVICES, JsonOption, print_json
from vita.cli.workspace import Workspace
from vita.spine.errors import ConfigError, StoreError
from vita.spine.plain_text import with_article

if TYPE_CHECKING:
    from vita.deploy.operations import DeploymentContext, DeploymentOutcome
    from vita.deploy.settings import DeploymentSettings
    from vita.server.release import ReleaseInfo


@app.command(rich_help_panel=SERVICES)
def deploy(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Deployment folder.")],
    release: Annotated[
        str | None, typer.Argument(help="A release: a name (cat/release, cat:1), a digest, or a folder.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Target platform: local, compose, kubernetes or ray.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Override a setting, for example replicas=2 or service.in_flight=64."
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="Read settings from a YAML file.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Start the service, or update the running one.")] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Return to the previous version of the deployment.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the service of the deployment.")] = False,
    ungated: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Deploy a model that no gate has approved. The ledger records REASON."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Deploy a release: write the files of a target, and start, update, roll back or stop the service."""
    from vita.deploy import operations

    workspace = open_workspace(ctx)
    if rollback or stop:
        unused = {"RELEASE": release, "--target": target, "--set": assignments, "--config": config}
        _refuse_unused(rollback, stop, [name for name, value in unused.items() if value])
        context = _context(workspace, quiet=as_json)
        if stop:
            stopped = operations.stop(context, folder=out)
            _print_stop(workspace, out, stopped=stopped, as_json=as_json)
            return
        _print(workspace, operations.roll_back(context, folder=out, apply=apply, ungated=ungated), as_json=as_json)
        return
    settings = _settings(target, config, assignments or [])
    if release is None:
        raise ConfigError("deploy", "needs a RELEASE", hint="`vita ls` lists the releases")
    outcome = operations.deploy(
        _context(workspace, quiet=as_json), _release(workspace, release), settings, folder=out, apply=apply,
        ungated=ungated,
    )  # fmt: skip
    _print(workspace, outcome, as_json=as_json)


def _settings(target: str | None, config: str | None, assignments: list[str]) -> DeploymentSettings:
    from vita.deploy.settings import DeploymentSettings
    from vita.spine.config import build, override, read_yaml

    values = read_yaml(config) if config else {}
    if target is not None:
        values["target"] = target
    return build(DeploymentSettings, override(values, assignments), where="deploy")


def _release(workspace: Workspace, reference: str) -> ReleaseInfo:
    """Return the release of a name, a label, a digest or a folder."""
    from vita.server.release import read_release
    from vita.stages.kinds import Release

    if Path(reference).is_dir() and reference not in workspace.ledger.all_names():
        return read_release(Path(reference).resolve())
    digest = workspace.ledger.named(f"release/{reference}") or workspace.digest(reference)
    if (kind := workspace.store.manifest(digest).kind) != Release.kind:
        hint = "create a release with `vita release`"
        raise StoreError(reference, expected="a release", got=with_article(kind), hint=hint)
    return read_release(workspace.store.open(digest, Release).path)


def _context(workspace: Workspace, *, quiet: bool) -> DeploymentContext:
    from vita.deploy.operations import DeploymentContext

    def notify(text: str) -> None:
        if not quiet:
            workspace.console.print(text, soft_wrap=True)

    return DeploymentContext(workspace.ledger, workspace.store, workspace.child_environment(), notify)


def _refuse_unused(rollback: bool, stop: bool, names: list[str]) -> None:
    if rollback and stop:
        raise ConfigError("deploy", "--rollback and --stop cannot be combined")
    if names:
        problem = f"{', '.join(names)} cannot be combined with {'--rollback' if rollback else '--stop'}"
        raise ConfigError("deploy", problem, hint="the deployment folder contains the release and the settings")


def _print_stop(workspace: Workspace, folder: Path, *, stopped: bool, as_json: bool) -> None:
    if as_json:
        print_json({"folder": str(folder), "stopped": stopped})
        return
    workspace.console.print("stopped" if stopped else "the service of this deployment is not running")


def _print(workspace: Workspace, outcome: DeploymentOutcome, *, as_json: bool) -> None:
    current, previous = outcome.current, outcome.previous
    if as_json:
        document: dict[str, Any] = {
            "deployment": current.id, "release": current.release, "label": current.label, "model": current.model,
            "target": current.settings["target"], "folder": str(outcome.folder), "changed": outcome.changed,
            "applied": current.applied, "previous": previous.id if previous else None, "url": outcome.url,
            "files": sorted(current.files),
        }  # fmt: skip
        print_json(document)
        return
    result = "deployed" if current.applied else "wrote the deployment of"
    where = f" at {outcome.url}" if outcome.url else ""
    unchanged = "" if outcome.changed else " (unchanged)"
    print_line = workspace.console.print
    print_line(f"{result} {current.label}{where}: version {current.id}{unchanged} in {outcome.folder}", soft_wrap=True)
    if previous is not None:
        print_line(f"the previous version is {previous.label} ({previous.id}); --rollback returns to it")
