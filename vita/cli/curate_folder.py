"""`vita curate IN... --out FOLDER`: curation into a folder of the user, without a life and its store.

The work in progress is in `FOLDER/.vita-work`; the same command continues it after a crash.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import typer

from vita.cli.workspace import Workspace, writing
from vita.spine.config import unknown_name
from vita.spine.console import line
from vita.spine.errors import ConfigError, StoreError
from vita.spine.store import Artifact

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
        typer.Option("--shards", metavar="FORM", help="With --out: jsonl (compressed with zstd) or parquet."),
    ),
    "workers": (
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Maximum number of processes. Default: the cores."),
    ),
}
"""Additional options of `vita curate`."""


def limit_workers(workspace: Workspace, workers: int | None) -> None:
    """Limit the number of processes of a run."""
    if workers:
        workspace.machine = replace(workspace.machine, threads=workers)


def folder_workspace(out: Path, shards: str | None) -> Workspace:
    """Return the workspace inside an output folder; a folder with other content is refused."""
    from vita.data.curation.shard_export import ShardForm

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
    return Workspace(str(out / WORK / "store"), None)


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
    workspace.ledger.close()
    shutil.rmtree(out / WORK)
    counts = artifact.facts["documents"]
    text = f"{counts['train']:,} training, {counts['held_out']:,} held-out, {counts['dropped']:,} dropped documents"
    workspace.console.print(line((str(out), "bold"), f": {text}; see report.html"))
