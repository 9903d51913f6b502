"""Drift of the prompts of a service: `vita drift reference`, `vita drift check`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from vita.cli.app import app, errors_console, open_workspace
from vita.cli.monitor import FIRING, interval
from vita.cli.options import SERVICES, JsonOption, print_json
from vita.cli.workspace import Workspace
from vita.spine.console import line
from vita.spine.errors import ConfigError, DataError, StoreError, VitaError
from vita.spine.plain_text import counted

drift_app = typer.Typer(help="Compare the prompts of a service with a reference.", no_args_is_help=True)
app.add_typer(drift_app, name="drift", rich_help_panel=SERVICES)

_REFERENCE = "drift"
"""First part of the name of a reference; the second is the beginning of the digest of its model."""
ServiceArgument = Annotated[str, typer.Argument(help="Name of a service.")]


@drift_app.command("reference")
def drift_reference(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="The model, or a release such as cat:1.")],
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="File with prompts: one per line, or JSON Lines with `text`. Can be repeated."),
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="Use the prompts that this service has logged with consent instead of files.")
    ] = None,
    most: Annotated[int, typer.Option("--max-prompts", min=40, help="Maximum number of prompts.")] = 1000,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Create the reference of a model from prompts that it is meant for. It contains their features, but no texts."""
    from vita.monitoring.drift import DriftReference, new_prompts
    from vita.spine.store import Draft
    from vita.stages.kinds import Reference

    workspace = open_workspace(ctx)
    if bool(prompts) == bool(service):
        raise ConfigError(
            "drift reference", expected="one of --prompts and --service", got="both" if prompts else "none"
        )
    digest, last = workspace.weights(model), 0
    if prompts:
        texts = _prompts_of(prompts, most, seed)
    else:
        logged = new_prompts(workspace.ledger, service=service, model=digest, after=0, limit=most, seed=seed)
        texts, last = logged.texts, logged.last
    reference = DriftReference.of(_features(workspace, digest, texts), seed=seed)
    with workspace.store.temporary("reference") as folder:
        reference.save(folder)
        facts = {"prompts": len(texts), "model": digest, "last_request": last}
        artifact = workspace.store.commit(Draft(Reference, folder, facts))
    name = _name(digest)
    workspace.ledger.name(name, artifact.digest)
    workspace.ledger.log("drift reference", digest, reference=artifact.digest, prompts=len(texts))
    if as_json:
        print_json({"reference": artifact.digest, "name": name, "model": digest, "prompts": len(texts)})
        return
    workspace.console.print(f"created the reference {name} of {digest[:12]} from {counted(len(texts), 'prompt')}")


@drift_app.command("check")
def drift_check(
    ctx: typer.Context,
    service: ServiceArgument,
    level: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Probability of a false alarm over all checks with a reference.")
    ] = 0.01,
    least: Annotated[int, typer.Option("--min-prompts", min=2, help="Minimum number of new prompts for a check.")] = 50,
    most: Annotated[int, typer.Option("--max-prompts", min=2, help="Maximum number of prompts in a check.")] = 500,
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="Repeat the check at this interval: 1 h, 6 h, ... Default: once.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the new prompts of each version with its reference. The exit code is 20 if drift is detected."""
    workspace = open_workspace(ctx)
    if every is None:
        if _check_service(workspace, service, level=level, least=least, most=most, as_json=as_json):
            raise typer.Exit(FIRING)
        return
    seconds = interval(every)
    while True:
        try:
            _check_service(workspace, service, level=level, least=least, most=most, as_json=as_json)
        except VitaError as error:
            errors_console().print(line(("the check failed", "bold red"), f" {error}"), soft_wrap=True)
        time.sleep(seconds)


def _check_service(workspace: Workspace, service: str, *, level: float, least: int, most: int, as_json: bool) -> bool:
    """Check every version of a service with a reference, and print the results; return True if one has drifted."""
    from vita.monitoring.drift import logged_models

    versions = logged_models(workspace.ledger, service=service)
    with_reference = {model: version for model, version in versions.items() if workspace.ledger.named(_name(model))}
    if not with_reference:
        problem = "no version of this service has a reference" if versions else "no prompts were logged with consent"
        hint = (
            "create one with `vita drift reference MODEL --prompts FILE`"
            if versions
            else "see Feedback in docs/operations.md"
        )
        raise DataError(f"service {service}", problem, hint=hint)
    checks = [
        _check_version(workspace, service, version, model, least=least, most=most)
        for model, version in with_reference.items()
    ]
    if as_json:
        print_json(checks)
    drifted = False
    for check in checks:
        has_drifted = check["drift_p_value"] is not None and check["drift_p_value"] <= level
        drifted = drifted or has_drifted
        _print_check(workspace, check, has_drifted=has_drifted, least=least, as_json=as_json)
    return drifted


def _check_version(
    workspace: Workspace, service: str, version: str, model: str, *, least: int, most: int
) -> dict[str, Any]:
    """Measure the drift of the prompts since the last check, and record it; too few prompts wait for the next one."""
    from vita.monitoring.drift import DriftReference, measure_drift, new_prompts
    from vita.monitoring.drift_checks import DRIFT_FIGURES, add_check, checks_of
    from vita.stages.kinds import Reference

    artifact = workspace.store.open(str(workspace.ledger.named(_name(model))), Reference)
    checks = checks_of(workspace.ledger, service=service, model=model)
    last = max([check["state"]["last_request"] for check in checks], default=artifact.facts["last_request"])
    earlier = [check["state"]["tests"] for check in checks if check["reference"] == artifact.digest]
    now, number = time.time(), len(earlier) + 1
    prompts = new_prompts(workspace.ledger, service=service, model=model, after=last, limit=most, seed=number)
    identity = {"service": service, "version": version, "model": model, "reference": artifact.digest}
    check = {**identity, "prompts": len(prompts.texts), **dict.fromkeys(DRIFT_FIGURES)}
    if len(prompts.texts) < least:
        return check
    features = _features(workspace, model, prompts.texts)
    measured = measure_drift(DriftReference.load(artifact.path), features, earlier, seed=number)
    row = {**identity, "number": number, "prompts": len(prompts.texts), "at": now, "figures": measured.figures(),
           "since": checks[-1]["at"] if checks else 0.0, "until": now,
           "state": {"tests": measured.state, "last_request": prompts.last}}  # fmt: skip
    add_check(workspace.ledger, row)
    return {**check, **measured.figures()}


def _print_check(workspace: Workspace, check: dict[str, Any], *, has_drifted: bool, least: int, as_json: bool) -> None:
    from vita.stats.intervals import Interval

    version = check["version"]
    if check["drift_p_value"] is None:
        if not as_json:
            workspace.console.print(f"{version}: {counted(check['prompts'], 'new prompt')}; a check needs {least}")
        return
    drift, shift = (Interval.from_json(check[name]) for name in ("prompt_drift", "logprob_shift"))
    p_value = f"p = {check['drift_p_value']:.2g}"
    text = f"{version}: prompt drift {drift}, log-probability shift {shift} nats per token, {p_value}"
    if has_drifted:
        errors_console().print(line(("alert", "bold red"), f" {text}"), soft_wrap=True)
    elif not as_json:
        workspace.console.print(f"{text}, from {counted(check['prompts'], 'prompt')}", soft_wrap=True)


def _features(workspace: Workspace, model: str, texts: list[str]) -> Any:
    """Return the features of prompts in a model of the store."""
    from vita.infer.engine import Engine
    from vita.infer.prompt_features import prompt_features
    from vita.infer.text_model import model_task
    from vita.stages.kinds import Model

    if not workspace.store.has(model):
        raise StoreError(model[:12], "the weights are not in this store")
    folder = workspace.store.open(model, Model).path
    if task := model_task(folder):
        raise ConfigError("drift", expected="a model that generates text", got=f"a model for {task}")
    return prompt_features(Engine.open(folder, device=workspace.machine.device), texts)


def _prompts_of(paths: list[Path], most: int, seed: int) -> list[str]:
    """Return a random sample of the texts of files."""
    import random

    from vita.data.sources.read import documents
    from vita.data.sources.source import Source

    sources = [Source.model_validate({"path": str(path), "cut_at": "lines"}) for path in paths]
    texts = [text for source in sources for document in documents(source) if (text := document.text.strip())]
    return random.Random(seed).sample(texts, most) if len(texts) > most else texts


def _name(model: str) -> str:
    """Return the name of the reference of a model."""
    return f"{_REFERENCE}/{model[:16]}"
