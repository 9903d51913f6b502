"""Repeated tests of the models in service: `vita retest`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Any

import typer

from vita.cli.app import app, errors_console, open_workspace
from vita.cli.monitor import FIRING, interval
from vita.cli.options import SERVICES, JsonOption, print_json
from vita.cli.proposals import propose_change
from vita.cli.workspace import Workspace
from vita.spine.console import line
from vita.spine.errors import ConfigError, StoreError, VitaError

_AGAIN_SECONDS = 300.0
"""Seconds until a failed test is repeated with --every."""


@app.command(rich_help_panel=SERVICES)
def retest(
    ctx: typer.Context,
    service: Annotated[str, typer.Argument(help="A running service, by name or address.")],
    test: Annotated[str, typer.Argument(metavar="LIFE/STEP", help="The recorded test to repeat.")],
    every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Repeat the test at this interval: 6 h, 1 d, ... Default: test once."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Repeat a test on the served weights. The exit code is 20 if a figure is worse or fails a gate criterion."""
    workspace = open_workspace(ctx)
    if every is None:
        if _print_results(_retest_service(workspace, service, test, quiet=as_json), workspace, as_json=as_json):
            raise typer.Exit(FIRING)
        return
    seconds = interval(every)
    while True:
        time.sleep(max(0.0, _due(workspace, service, test, seconds=seconds) - time.time()))
        try:
            _print_results(_retest_service(workspace, service, test, quiet=as_json), workspace, as_json=as_json)
        except VitaError as error:
            errors_console().print(line(("the re-test could not run", "bold red"), f" {error}"), soft_wrap=True)
            time.sleep(min(seconds, _AGAIN_SECONDS))


def _due(workspace: Workspace, service: str, test: str, *, seconds: float) -> float:
    """Return the time of the next test, counted from the last test in the ledger."""
    from vita.evals.regression import last_retest

    return last_retest(workspace.ledger, f"{service} {test}") + seconds


def _retest_service(workspace: Workspace, service: str, test: str, *, quiet: bool) -> list[dict[str, Any]]:
    """Test every version that has traffic, and record the results in the ledger."""
    from vita.evals.regression import RETESTED
    from vita.server.service.admin import ServiceHandle

    status = ServiceHandle.find(workspace.store.root / "services", service).call("GET", "/status").json()
    name = status.get("service", service)
    versions = [version for version in status["versions"] if version["share"] > 0]
    results = [_retest_version(workspace, version, test, quiet=quiet) for version in versions]
    for result in results:
        is_newest = len(versions) > 1 and result["version"] == versions[-1]["version"]
        result["proposal"] = propose_change(workspace, name, test, result, can_roll_back=is_newest)
    workspace.ledger.log(RETESTED, f"{service} {test}", service=name, versions=results)
    return results


def _retest_version(workspace: Workspace, version: dict[str, Any], test: str, *, quiet: bool) -> dict[str, Any]:
    """Run the recorded test on these weights and compare it with its report."""
    from vita.evals.regression import headline_figures, regressions
    from vita.gates.failed_criteria import failed_criteria
    from vita.rights.recorded_settings import recorded_settings
    from vita.spine.config import build
    from vita.spine.plan import Plan, Step, execute
    from vita.stages.kinds import Model, Report

    previous = workspace.find(test, Report)
    runs = workspace.ledger.find(artifact=previous.digest, state="done", stage="test")
    if not runs:
        raise ConfigError("retest", expected="the report of a step of the stage `test`", got=test)
    if not workspace.store.has(version["model"]):
        raise StoreError(version["version"], f"its weights {version['model'][:12]} are not in this store")
    model = workspace.store.open(version["model"], Model)
    stage, inputs = _test_stage(), workspace.ledger.inputs(runs[-1].id)
    wired = {**inputs, "model": model.digest, "parent": previous.digest}
    name = f"{test.replace('/', '.')}.{model.digest[:8]}"
    step = Step(
        name, stage, build(stage.config, recorded_settings(runs[-1], workspace.ledger), where=test),
        {slot: f"@{digest}" for slot, digest in wired.items()},
    )  # fmt: skip
    events = workspace.events("retests", quiet=quiet)
    try:
        report = execute(
            Plan("retests", (step,)),
            workspace.store,
            workspace.ledger,
            machine=workspace.machine,
            events=events,
            rerun=(name,),
        )[name]
    finally:
        events.close()
    worse = [{**drop.as_json(), "message": str(drop)} for drop in regressions(previous.path, report.path)]
    criteria = failed_criteria(workspace.ledger, test, report.path, digest=report.digest, model=model.digest)
    return {"version": version["version"], "model": model.digest, "report": report.digest, "before": previous.digest,
            "worse": worse, "failed": [result.as_json() for result in criteria],
            "figures": headline_figures(report.path)}  # fmt: skip


def _test_stage() -> Any:
    """Return the test stage without its recording of states and findings, which a re-test does not change."""
    from vita.life import stage

    return replace(stage("test"), record=None)


def _print_results(results: list[dict[str, Any]], workspace: Workspace, *, as_json: bool) -> bool:
    """Print the results; return True if a re-test failed."""
    if as_json:
        print_json(results)
    for result in results:
        for drop in result["worse"]:
            text = f"{result['version']}: {drop['message']}, against report {result['before'][:12]}"
            errors_console().print(line(("alert", "bold red"), f" {text}"), soft_wrap=True)
        for criterion in result["failed"]:
            text = f"{result['version']} fails {criterion['criterion']}: {criterion['reason']}"
            errors_console().print(line(("alert", "bold red"), f" {text}"), soft_wrap=True)
        if result["proposal"] is not None:
            text = f"proposal {result['proposal']} is open: vita proposals show {result['proposal']}"
            errors_console().print(text, soft_wrap=True)
        elif not as_json:
            workspace.console.print(f"{result['version']} is not worse than before: report {result['report'][:12]}")
    return any(result["proposal"] is not None for result in results)
