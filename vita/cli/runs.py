"""Training runs: `vita runs` lists, pauses, resumes, stops and forks them, and `vita watch` shows a live page."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.options import LIVES, JsonOption, print_json
from vita.cli.workspace import Workspace, writing
from vita.spine.console import print_table
from vita.spine.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from vita.monitoring.training_runs import TrainingRunFiles

runs_app = typer.Typer(help="List, pause, resume, stop and fork training runs.", invoke_without_command=True)
app.add_typer(runs_app, name="runs", rich_help_panel=LIVES)

RunArgument = Annotated[str, typer.Argument(metavar="LIFE/STEP", help="A training step, such as my/pretrain.")]
WaitOption = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Longest time to wait for the run.")]
_POLL_SECONDS = 0.2


@runs_app.callback()
def runs(ctx: typer.Context) -> None:
    """List the training runs if no other command is given."""
    if ctx.invoked_subcommand is None:
        list_runs(ctx)


@runs_app.command("list")
def list_runs(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the newest run of each training step."""
    from vita.monitoring.training_runs import run_state, training_runs

    workspace = open_workspace(ctx)
    states = [
        run_state(files, workspace.store) for files in training_runs(workspace.ledger, workspace.store, _stages())
    ]
    names = ("run", "stage", "state", "step", "steps", "seconds", "skipped_steps", "figures")
    rows = [{name: state[name] for name in names} for state in states]
    if as_json:
        print_json(rows)
        return
    table = Table("run", "state", "step", "loss", "tokens/s", "skipped", box=None, pad_edge=False)
    for row in rows:
        step = f"{row['step']:,}" + (f" of {row['steps']:,}" if row["steps"] else "")
        figures: dict[str, Any] = row["figures"]
        loss, speed = figures.get("loss"), figures.get("tokens_per_second")
        table.add_row(
            row["run"], row["state"], step, "" if loss is None else f"{loss:.4g}",
            "" if speed is None else f"{speed:,.0f}", str(row["skipped_steps"]),
        )  # fmt: skip
    print_table(workspace.console, table)


@runs_app.command("pause")
def pause(ctx: typer.Context, run: RunArgument, wait: WaitOption = 60.0, as_json: JsonOption = False) -> None:
    """Write a checkpoint at the next step boundary and wait, with the memory of the run, until it is resumed."""
    from vita.train.run_control import request

    workspace = open_workspace(ctx)
    files = _running(workspace, run)
    request(files.folder, "pause")
    state = _wait_for(workspace, run, lambda state: state != "running", seconds=wait)
    if state == "running":
        hint = "it pauses at its next step; repeat the command if it has not begun to train"
        raise StoreError(run, f"has not paused within {wait:g} seconds", hint=hint)
    _print_state(workspace, run, as_json=as_json)


@runs_app.command("resume")
def resume(ctx: typer.Context, run: RunArgument, wait: WaitOption = 60.0, as_json: JsonOption = False) -> None:
    """Continue a paused run. A stopped run continues with the command that started it."""
    from vita.train.run_control import request

    workspace = open_workspace(ctx)
    files = _running(workspace, run)
    request(files.folder, None)
    _wait_for(workspace, run, lambda state: state != "paused", seconds=wait)
    _print_state(workspace, run, as_json=as_json)


@runs_app.command("stop")
def stop(ctx: typer.Context, run: RunArgument, wait: WaitOption = 60.0, as_json: JsonOption = False) -> None:
    """Write a checkpoint at the next step boundary and end the process, as Ctrl-C does."""
    from vita.train.run_control import request

    workspace = open_workspace(ctx)
    files = _running(workspace, run)
    request(files.folder, "stop")
    state = _wait_for(workspace, run, lambda state: state not in ("running", "paused"), seconds=wait)
    if state in ("running", "paused"):
        raise StoreError(run, f"has not stopped within {wait:g} seconds", hint="it stops at its next step")
    _print_state(workspace, run, as_json=as_json)


@runs_app.command("checkpoint")
def checkpoint(
    ctx: typer.Context,
    run: RunArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to create.")],
    as_json: JsonOption = False,
) -> None:
    """Copy the newest checkpoint of an unfinished run, from which another run can start (`--start-from FOLDER`)."""
    from vita.monitoring.training_runs import find_run
    from vita.train.checkpoint import Checkpoints, read
    from vita.train.run_files import CHECKPOINTS

    workspace = open_workspace(ctx)
    files = find_run(workspace.ledger, workspace.store, run)
    folder = Checkpoints(files.folder / CHECKPOINTS).newest_folder()
    if folder is None:
        hint = (
            "a finished run keeps none; a run writes one every `checkpoint_seconds`, and when it is paused or stopped"
        )
        raise StoreError(run, "has no checkpoint", hint=hint)
    if output.exists():
        raise ConfigError("--output", "exists already", got=str(output), hint="choose another folder")
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, output)
    step = read(output).state["step"]
    if as_json:
        print_json({"run": run, "step": step, "folder": str(output)})
        return
    workspace.console.print(f"the checkpoint after step {step:,} of {run} is in {output!s}", soft_wrap=True)


@app.command(rich_help_panel=LIVES)
def watch(
    ctx: typer.Context,
    run: RunArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on. 0 selects a free port.")] = 8021,
    as_json: JsonOption = False,
) -> None:
    """Serve a live page of a training run on 127.0.0.1, until you press Ctrl-C. With --json, print its state once."""
    from vita.monitoring.run_page import run_application
    from vita.monitoring.training_runs import find_run, run_state
    from vita.reporting.web import local_socket, serve_application

    workspace = open_workspace(ctx)
    files = find_run(workspace.ledger, workspace.store, run)
    if as_json:
        print_json(run_state(files, workspace.store))
        return
    application = run_application(lambda: find_run(workspace.ledger, workspace.store, run), workspace.store)
    with local_socket(port, where="watch.port") as listener:
        workspace.console.print(f"{run} is at http://127.0.0.1:{listener.getsockname()[1]}  (Ctrl-C ends the page)")
        serve_application(application, listener)


def _stages() -> frozenset[str]:
    """Return the stages with a training loop."""
    from vita.life import stage, stages

    return frozenset(name for name in stages() if "checkpoint_seconds" in stage(name).config.model_fields)


def _running(workspace: Workspace, run: str) -> TrainingRunFiles:
    """Return a run whose process is alive; refuse others."""
    from vita.monitoring.training_runs import find_run

    files = find_run(workspace.ledger, workspace.store, run)
    if files.state not in ("running", "paused"):
        hint = "" if files.state == "done" else "the command that started it continues from its last checkpoint"
        raise StoreError(run, expected="a run that is running or paused", got=files.state, hint=hint or None)
    if files.run.stage not in _stages():
        raise StoreError(run, expected="a training step", got=f"the stage {files.run.stage}")
    return files


def _wait_for(workspace: Workspace, run: str, reached: Any, *, seconds: float) -> str:
    """Wait until the state of the run satisfies `reached`; return the last state."""
    from vita.monitoring.training_runs import find_run

    until = time.monotonic() + seconds
    while True:
        state = find_run(workspace.ledger, workspace.store, run).state
        if reached(state) or time.monotonic() >= until:
            return state
        time.sleep(_POLL_SECONDS)


def _print_state(workspace: Workspace, run: str, *, as_json: bool) -> None:
    from vita.monitoring.training_runs import find_run, run_state

    state = run_state(find_run(workspace.ledger, workspace.store, run), workspace.store)
    if as_json:
        print_json({name: state[name] for name in ("run", "state", "step", "steps")})
        return
    workspace.console.print(f"{run} is {state['state']} after step {state['step']:,}")
