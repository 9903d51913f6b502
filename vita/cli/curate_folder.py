"""`vita curate IN... --out FOLDER`: curation into a folder of the user, without a life and its store.

The work in progress is in `FOLDER/.vita-work`; the same command continues it after a crash.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer

from vita.cli.workspace import Workspace, writing
from vita.spine.config import unknown_name
from vita.spine.console import line
from vita.spine.errors import ConfigError, StoreError
from vita.spine.events import Events
from vita.spine.plain_text import counted
from vita.spine.store import Artifact

if TYPE_CHECKING:
    from vita.spine.plan import Step

WORK = ".vita-work"
FOLDER_OPTIONS: dict[str, tuple[Any, Any]] = {
    "out": (
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Write documents, dropped documents and the report to FOLDER instead of a life. "
            "The same command continues after a crash.",
        ),
    ),
    "shards": (
        str | None,
        typer.Option("--shards", metavar="FORMAT", help="With --out: jsonl (compressed with zstd) or parquet."),
    ),
    "workers": (
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Maximum number of processes. Default: the cores."),
    ),
    "ray": (
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Run on a Ray cluster: `local` to start one on this machine, or HOST:PORT of a running one, whose "
            "nodes share the folder. The output has the same bytes.",
        ),
    ),
    "task": (
        str | None,
        typer.Option(
            "--task",
            metavar="K/N",
            help="Filter only share K of N, for job arrays of a cluster. The same command without --task then writes "
            "the output.",
        ),
    ),
    "race": (
        Path | None,
        typer.Option(
            "--race",
            metavar="RACE.yaml",
            help="Compare data settings by training runs instead, as `vita race RACE.yaml`; only --output and --json "
            "apply.",
        ),
    ),
    "output": (
        Path | None,
        typer.Option(
            "--output", metavar="FILE.yaml", help="With --race: life file to write with the settings of the winner."
        ),
    ),
}
"""Additional options of `vita curate`."""


def set_workers(workspace: Workspace, workers: int | None, ray: str | None) -> None:
    """Set the number of processes of a run, and the Ray cluster that takes their place."""
    if workers and ray:
        hint = "limit the CPUs of the cluster instead: `ray start --num-cpus N`"
        raise ConfigError("curate: --workers", "cannot be used with --ray", hint=hint)
    if workers:
        workspace.machine = replace(workspace.machine, threads=workers)
    if ray:
        workspace.machine = replace(workspace.machine, ray=ray)


def run_race(ctx: typer.Context, options: Mapping[str, Any]) -> None:
    """Run the race of a file as `vita race` does; other options are refused, because the file has all settings."""
    from vita.cli.race import race

    others = [name for name, value in options.items() if value and name not in ("race", "output", "as_json")]
    if others:
        name = others[0].removeprefix("set_").removeprefix("former_").replace("_", "-")
        name = "set" if name == "assignments" else name
        problem = "DATA cannot be used with it" if name == "sources" else f"--{name} cannot be used with it"
        hint = "write the settings into the race file; `--output LIFE.yaml` writes the winner"
        raise ConfigError("curate: --race", problem, hint=hint)
    race(ctx, options["race"], output=options["output"], as_json=options["as_json"])


def run_task(workspace: Workspace, step: Step, task: str, events: Events) -> None:
    """Filter one share of the sources: `2/8` is the second of eight."""
    from vita.spine.plan import shared_work
    from vita.stages.curate import Config, filter_share

    first, separator, second = task.partition("/")
    if not (separator and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise ConfigError("curate: --task", expected="K/N with K from 1 to N, such as 2/8", got=task)
    assert isinstance(step.config, Config)
    with shared_work(step, workspace.store, workspace.ledger, machine=workspace.machine, events=events) as context:
        if context is None:
            workspace.console.print(line("The corpus is finished; there is nothing to filter."))
            return
        slices = filter_share(step.config, context, number=int(first), of=int(second))
    text = f"Task {task}: {counted(slices, 'slice')} filtered. The same command without --task writes the output."
    workspace.console.print(line(text))


def folder_workspace(out: Path, shards: str | None, *, erasures_of: Workspace) -> Workspace:
    """Return the workspace inside an output folder; a folder with other content is refused.

    It has the erasures of the workspace `erasures_of`, if that exists.
    """
    from vita.data.curation.shard_export import ShardForm
    from vita.spine.erasures import copy_erasures

    if shards is not None and shards not in get_args(ShardForm):
        raise unknown_name("curate: --shards", shards, get_args(ShardForm))
    if out.exists() and not out.is_dir():
        raise ConfigError("curate: --out", expected="a folder", got=str(out))
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if names and WORK not in names:
        hint = "choose a new folder, or remove this one"
        raise StoreError(str(out), expected="a new or empty folder", got=f"one with {', '.join(names[:3])}", hint=hint)
    with writing(out):
        (out / WORK).mkdir(parents=True, exist_ok=True)
    workspace = Workspace(str(out / WORK / "store"), None)
    if erasures_of.has_ledger:
        copy_erasures(erasures_of.ledger, workspace.ledger)
        erasures_of.ledger.close()
    return workspace


def copy_approvals(user_workspace: Workspace, folder_workspace: Workspace) -> None:
    """Copy the approvals of curation policies from the ledger of the user to that of an output folder."""
    from vita.gates.curation_approvals import copy_policy_approvals

    copy_policy_approvals(user_workspace.ledger, folder_workspace.ledger)


def write_folder(workspace: Workspace, artifact: Artifact, out: Path, shards: str | None) -> None:
    """Write the corpus to the output folder, then remove the work in progress."""
    from vita.data.curation.shard_export import export_corpus
    from vita.reporting.figures import read_report

    draft = out / WORK / "out"
    with writing(out):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        form = "parquet" if shards == "parquet" else "jsonl"
        export_corpus(artifact.path, draft, form=form, report=read_report(artifact.path).details)
        for path in sorted(draft.iterdir()):
            target = out / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    workspace.close()
    shutil.rmtree(out / WORK)
    counts = artifact.facts["documents"]
    text = f"{counts['train']:,} training, {counts['held_out']:,} held-out, {counts['dropped']:,} dropped documents"
    workspace.console.print(line((str(out), "bold"), f": {text}; see report.html"))
