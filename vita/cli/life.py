"""Lives: `vita live`, `vita plan`, `vita recipes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vita.cli import life_summary
from vita.cli.app import app, open_workspace
from vita.cli.options import LIVES, TRACKER_HELP, JsonOption, print_json
from vita.cli.plan_layout import layout_lines, planned_layout, trains_in_parallel
from vita.cli.plan_memory import memory_line, planned_memory
from vita.cli.plan_quality import gpu_line, planned_gpu_time, planned_pretraining, planned_quality, quality_lines
from vita.cli.workspace import Workspace
from vita.spine.config import read_yaml, unknown_name
from vita.spine.console import print_table

if TYPE_CHECKING:
    from vita.gates import decisions

WorldSizeOption = Annotated[
    int | None, typer.Option(min=1, help="Forecast memory and communication of the training steps per process.")
]
GpuOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Estimate the time of pretraining on one GPU, such as H100.")
]
LifeArgument = Annotated[str, typer.Argument(help="Path of a life file (life.yaml), or the name of a built-in recipe.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override a setting, for example --set sft.steps=500."),
]
UntilOption = Annotated[str | None, typer.Option(metavar="STEP", help="Stop after this step.")]


@app.command(rich_help_panel=LIVES)
def live(
    ctx: typer.Context,
    life: LifeArgument,
    set_: SetOption = None,
    until: UntilOption = None,
    rerun: Annotated[
        list[str] | None, typer.Option(metavar="STEP", help="Run this step again, even if it is finished.")
    ] = None,
    rerun_all: Annotated[bool, typer.Option("--rerun-all", help="Run all steps again.")] = False,
    tracker: Annotated[list[str] | None, typer.Option(help=TRACKER_HELP)] = None,
    as_json: JsonOption = False,
) -> None:
    """Run all steps of a life file. Finished steps are skipped, and interrupted steps are resumed."""

    from vita.gates import decisions
    from vita.life import read_life
    from vita.spine.plan import execute

    workspace = open_workspace(ctx)
    read = read_life(life, assignments=set_ or (), until=until, find=workspace.find_in_store)
    steps = [step.name for step in read.plan.steps]
    for name in rerun or ():
        if name not in steps:
            raise unknown_name("--rerun", name, steps)
    events = workspace.events(read.name, trackers=tuple(tracker or ()), quiet=as_json, notes=False)
    gates = {f"{read.name}/{name}": policy for name, policy in read.file.gates.items()}
    if workspace.machine.leads:
        for gate, policy in gates.items():
            decisions.record_policy(workspace.ledger, gate, policy)
    try:
        artifacts = execute(
            read.plan, workspace.store, workspace.ledger, machine=workspace.machine, events=events,
            rerun=steps if rerun_all else rerun or (), check_gate=lambda gate: _pass(workspace, gate),
        )  # fmt: skip
    finally:
        events.close()
    if workspace.machine.leads:
        decided = (
            []
            if until
            else [decisions.evaluate_gate_by_name(workspace.ledger, workspace.store, gate) for gate in gates]
        )
        life_summary.print_summary(workspace, read, artifacts, decided, as_json=as_json)
        for decision in decided:
            _check(decision)


def _pass(workspace: Workspace, gate: str) -> None:
    """Raise `GateError` unless the gate passes."""

    from vita.gates import decisions

    _check(decisions.evaluate_gate_by_name(workspace.ledger, workspace.store, gate))


def _check(decision: decisions.GateDecision) -> None:
    if not decision.passed:
        raise decision.refusal()


@app.command(rich_help_panel=LIVES)
def plan(
    ctx: typer.Context,
    life: LifeArgument,
    set_: SetOption = None,
    until: UntilOption = None,
    world_size: WorldSizeOption = None,
    gpu: GpuOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which steps of a life file would run and why, their memory, and the quality to expect. Nothing is run.

    With --world-size, memory and communication per process are forecast for this number of processes. With --gpu, the
    time of pretraining on one GPU is estimated.
    """

    from vita.gates.feasibility import warnings
    from vita.life import read_life
    from vita.spine.plan import forecast

    workspace = open_workspace(ctx)
    read = read_life(life, assignments=set_ or (), until=until, find=workspace.find_in_store)
    predictions = forecast(read.plan, workspace.store, workspace.ledger)
    artifacts = {prediction.step.name: prediction.artifact for prediction in predictions if prediction.artifact}
    advice = warnings(read.plan, read.file.gates, known=artifacts, store=workspace.store)
    advice += [
        f"{prediction.step.name}: would be refused now: {prediction.refusal}"
        for prediction in predictions
        if prediction.refusal
    ]
    machine = workspace.machine
    memory = {
        prediction.step.name: planned
        for prediction in predictions
        if prediction.runs and (planned := planned_memory(prediction.step, artifacts, workspace.store, machine=machine))
    }
    layouts = {
        prediction.step.name: planned_layout(
            prediction.step, artifacts, workspace.store, processes=world_size, machine=machine
        )
        for prediction in predictions
        if world_size and trains_in_parallel(prediction.step)
    }
    pretraining = {
        prediction.step.name: planned
        for prediction in predictions
        if prediction.runs
        and (planned := planned_pretraining(read.plan, prediction.step, artifacts, workspace.store, machine=machine))
    }
    quality = {name: known for name, planned in pretraining.items() if (known := planned_quality(planned))}
    gpu_times = {name: planned_gpu_time(planned, gpu) for name, planned in pretraining.items()} if gpu else {}
    if as_json:
        rows = [
            {"step": prediction.step.name, "stage": prediction.step.stage.name, "runs": prediction.runs,
             "quality": quality[prediction.step.name].as_json() if prediction.step.name in quality else None,
             "gpu_time": vars(gpu_times[prediction.step.name]) if prediction.step.name in gpu_times else None,
             "memory": memory.get(prediction.step.name),
             "layout": vars(layout) if (layout := layouts.get(prediction.step.name)) else None,
             "reason": prediction.reason, "key": prediction.key, "artifact": prediction.artifact,
             "warnings": [warning for warning in advice if warning.startswith(f"{prediction.step.name}: ")]}
            for prediction in predictions
        ]  # fmt: skip
        print_json(rows)
        return
    table = Table("step", "stage", "", "reason", box=None, pad_edge=False)
    for prediction in predictions:
        verdict = Text("runs", style="green") if prediction.runs else Text("skipped", style="dim")
        reason = prediction.reason if prediction.runs else f"{prediction.reason} ({(prediction.artifact or '')[:12]})"
        table.add_row(prediction.step.name, prediction.step.stage.name, verdict, reason)
    print_table(workspace.console, table)
    running = sum(prediction.runs for prediction in predictions)
    workspace.console.print(
        f"{running} of {len(predictions)} steps would run" if running else "nothing to do: all steps have a result"
    )
    for name, expectation in quality.items():
        for text in quality_lines(name, expectation):
            workspace.console.print(text, soft_wrap=True)
    for name, estimate in gpu_times.items():
        workspace.console.print(gpu_line(name, estimate), soft_wrap=True)
    for name, planned in memory.items():
        workspace.console.print(memory_line(name, planned), soft_wrap=True)
    for name, layout in layouts.items():
        unknown = [f"{name}: no forecast of {world_size} processes before its blueprint or its model exists"]
        for line in layout_lines(name, layout) if layout else unknown:
            workspace.console.print(line, soft_wrap=True)
    for doubt in advice:
        workspace.console.print(Text(f"warning: {doubt}", style="yellow"), soft_wrap=True)


@app.command("recipes", rich_help_panel=LIVES)
def list_recipes(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the built-in life files."""

    from vita.life import recipes

    rows = [
        {"name": name, "about": str(read_yaml(path).get("about", "")), "path": str(path)}
        for name, path in recipes().items()
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("recipe", "about", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["name"], row["about"])
    print_table(open_workspace(ctx).console, table)
