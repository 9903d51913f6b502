"""Repeated tests of the models in service: `vita retest`."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Annotated, Any

import typer

from vita.cli.app import app, errors_console, workspace
from vita.cli.monitor import FIRING, interval
from vita.cli.workspace import Workspace
from vita.spine.console import line
from vita.spine.errors import ConfigError, StoreError, VitaError

_AGAIN_SECONDS = 300.0
"""How soon a test that could not be carried out is tried again, with --every."""


@app.command()
def retest(
    ctx: typer.Context,
    service: Annotated[str, typer.Argument(help="A running service, by name or address.")],
    test: Annotated[str, typer.Argument(metavar="LIFE/STEP", help="The test that the release was let out with.")],
    every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Repeat the test at this interval: 6 h, 1 d, ... Default: test once."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Repeat a test on the weights in service. The exit code is 20 if a figure is worse than before."""
    here = workspace(ctx)
    if every is None:
        if _tell(_retested(here, service, test, quiet=as_json), here, as_json=as_json):
            raise typer.Exit(FIRING)
        return
    seconds = interval(every)
    while True:
        time.sleep(max(0.0, _due(here, service, test, seconds=seconds) - time.time()))
        try:
            _tell(_retested(here, service, test, quiet=as_json), here, as_json=as_json)
        except VitaError as error:
            errors_console().print(line(("could not test", "bold red"), f" {error}"), soft_wrap=True)
            time.sleep(min(seconds, _AGAIN_SECONDS))


def _due(here: Workspace, service: str, test: str, *, seconds: float) -> float:
    """Return the time of the next test, counted from the last test in the ledger."""
    from vita.evals.regression import last_retest

    return last_retest(here.ledger, f"{service} {test}") + seconds


def _retested(here: Workspace, service: str, test: str, *, quiet: bool) -> list[dict[str, Any]]:
    """Test every version that has traffic, and record the results in the ledger."""
    from vita.evals.regression import RETESTED
    from vita.server.service.admin import ServiceHandle

    status = ServiceHandle.find(here.store.root / "services", service).call("GET", "/status").json()
    found = [_one(here, one, test, quiet=quiet) for one in status["versions"] if one["share"] > 0]
    here.ledger.log(RETESTED, f"{service} {test}", versions=found)
    return found


def _one(here: Workspace, version: dict[str, Any], test: str, *, quiet: bool) -> dict[str, Any]:
    """Run the recorded test on these weights and compare it with its report."""
    from vita.evals.regression import drops
    from vita.rights.recorded_settings import recorded_settings
    from vita.spine.config import build
    from vita.spine.plan import Plan, Step, execute
    from vita.stages.kinds import Model, Report

    before = here.find(test, Report)
    runs = here.ledger.find(artifact=before.digest, state="done", stage="test")
    if not runs:
        raise ConfigError("retest", expected="the report of a step of the stage `test`", got=test)
    if not here.store.has(version["model"]):
        raise StoreError(version["version"], f"its weights {version['model'][:12]} are not in this store")
    model = here.store.open(version["model"], Model)
    stage, inputs = _test_stage(), here.ledger.inputs(runs[-1].id)
    taken = {**inputs, "model": model.digest, "parent": before.digest}
    name = f"{test.replace('/', '.')}.{model.digest[:8]}"
    step = Step(
        name, stage, build(stage.config, recorded_settings(runs[-1], here.ledger), where=test),
        {slot: f"@{digest}" for slot, digest in taken.items()},
    )  # fmt: skip
    events = here.events("retests", quiet=quiet)
    try:
        made = execute(
            Plan("retests", (step,)), here.store, here.ledger, machine=here.machine, events=events, fresh=(name,)
        )[name]
    finally:
        events.close()
    worse = [{**one.as_json(), "said": str(one)} for one in drops(before.path, made.path)]
    return {"version": version["version"], "model": model.digest, "report": made.digest, "before": before.digest,
            "worse": worse}  # fmt: skip


def _test_stage() -> Any:
    """Return the test stage without states and findings: a retest changes neither."""
    from vita.life import stage

    return replace(stage("test"), record=None)


def _tell(found: list[dict[str, Any]], here: Workspace, *, as_json: bool) -> bool:
    """Print the results; return True if a figure is worse."""
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    for one in found:
        for drop in one["worse"]:
            said = f"{one['version']}: {drop['said']}, against report {one['before'][:12]}"
            errors_console().print(line(("alert", "bold red"), f" {said}"), soft_wrap=True)
        if not one["worse"] and not as_json:
            here.console.print(f"{one['version']} is as good as it was: report {one['report'][:12]}")
    return any(one["worse"] for one in found)
