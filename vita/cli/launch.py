"""Job files for clusters: `vita launch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita.cli.app import app, open_workspace
from vita.cli.job_files import SCHEDULERS, SUBMIT, SUFFIXES, ClusterJob
from vita.cli.options import LIVES, JsonOption, print_json
from vita.spine.disk import write_atomically
from vita.spine.errors import ConfigError


@app.command(rich_help_panel=LIVES)
def launch(
    ctx: typer.Context,
    life: Annotated[str, typer.Argument(help="Path of a life file, or the name of a built-in recipe.")],
    slurm: Annotated[bool, typer.Option("--slurm", help="Write a batch script for sbatch.")] = False,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="Write a job for kubectl.")] = False,
    skypilot: Annotated[bool, typer.Option("--skypilot", help="Write a task for SkyPilot.")] = False,
    machines: Annotated[int, typer.Option(min=1, help="Number of machines.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Processes per machine: one per accelerator.")] = 8,
    restarts: Annotated[int, typer.Option(min=0, help="Restarts after a failure.")] = 3,
    name: Annotated[str, typer.Option(help="Name of the job.")] = "vita",
    image: Annotated[str | None, typer.Option(help="Container image with Vita (Kubernetes).")] = None,
    claim: Annotated[str | None, typer.Option(help="Volume claim that holds the store (Kubernetes).")] = None,
    accelerator: Annotated[str | None, typer.Option(help="Name of the accelerators (SkyPilot).")] = None,
    output: Annotated[Path | None, typer.Option(help="Path of the job file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a job file that runs a life on a cluster with torchrun. Nothing is submitted."""
    chosen = [key for key, value in {"slurm": slurm, "kubernetes": kubernetes, "skypilot": skypilot}.items() if value]
    if len(chosen) != 1:
        got = " and ".join(f"--{key}" for key in chosen) or "none"
        raise ConfigError("launch", expected="one of --slurm, --kubernetes and --skypilot", got=got)
    workspace, scheduler = open_workspace(ctx), chosen[0]
    store = str(Path(workspace.store_location).absolute())
    path = Path(life)
    job = ClusterJob(
        life=str(path.absolute()) if path.exists() else life,
        store=store,
        machines=machines,
        processes=processes,
        restarts=restarts,
        name=name,
        image=image,
        claim=claim,
        accelerator=accelerator,
    )
    target = output or Path(f"{name}{SUFFIXES[scheduler]}")
    write_atomically(target, SCHEDULERS[scheduler](job).encode())
    if as_json:
        print_json({"path": str(target), "scheduler": scheduler, "processes": machines * processes})
        return
    workspace.console.print(f"{target}: submit it with `{SUBMIT[scheduler]} {target}`", soft_wrap=True, markup=False)
