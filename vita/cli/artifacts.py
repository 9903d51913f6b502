"""Artifacts of the store: `vita ls`, `show`, `verify`, `data show`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markdown import Markdown
from rich.table import Table

from vita.cli.app import app, data_app, open_workspace
from vita.cli.trace import Labels
from vita.cli.workspace import Workspace
from vita.spine.console import line, print_table
from vita.spine.errors import StoreError
from vita.spine.store import Artifact

if TYPE_CHECKING:
    from vita.spine.ledger import Run

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
_WIDE = 100
"""Columns from which on `vita ls` shows the time of day."""
Reference = Annotated[str, typer.Argument(help="A name (cat/sft) or the beginning of a digest.")]


@app.command("ls")
def list_artifacts(
    ctx: typer.Context,
    kind: Annotated[str | None, typer.Option(help="Only this kind: model, report, corpus, ...")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the artifacts of the store, with the lifecycle state of each model."""
    workspace = open_workspace(ctx)
    rows = _artifact_rows(workspace, kind)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("kind", "state", "digest", "names", "size", "made", "facts", box=None, pad_edge=False)
    for column in table.columns[:-1]:
        column.no_wrap = True  # facts give way first; names, which are typed into other commands, last
    narrow = workspace.console.is_terminal and workspace.console.width < _WIDE
    moment = "%Y-%m-%d" if narrow else "%Y-%m-%d %H:%M"
    for row in rows:
        state = row["state"] or ""
        if row["served"] and state != "serving":
            state += "\n(served)"
        created = time.strftime(moment, time.localtime(row["made"])) if row["made"] else ""
        names = "\n".join(row["names"])
        facts = _brief(row["facts"])
        table.add_row(row["kind"], state, row["digest"][:12], names, _size(row["bytes"]), created, facts)
    print_table(workspace.console, table)


def _artifact_rows(workspace: Workspace, kind: str | None) -> list[dict[str, Any]]:
    """Return one row per artifact of a kind (default: all kinds), oldest first."""
    from vita.gates.services import all_states, served_models

    names: dict[str, list[str]] = {}
    for name, digest in workspace.ledger.all_names().items():
        names.setdefault(digest, []).append(name)
    created, states, served = (
        workspace.ledger.creation_times(),
        all_states(workspace.ledger),
        served_models(workspace.ledger),
    )
    rows = []
    for digest in workspace.store.digests():
        manifest = workspace.store.manifest(digest)
        if kind in (None, manifest.kind):
            rows.append(
                {
                    "kind": manifest.kind,
                    "digest": digest,
                    "state": states.get(digest, "candidate") if manifest.kind == "model" else None,
                    "served": digest in served,
                    "folder": str(workspace.store.root / "folders" / digest),
                    "names": names.get(digest, []),
                    "bytes": manifest.size,
                    "made": created.get(digest),
                    "facts": dict(manifest.facts),
                }
            )
    return sorted(rows, key=lambda row: row["made"] or 0)


@app.command()
def show(ctx: typer.Context, reference: Reference, as_json: JsonOption = False) -> None:
    """Show an artifact: its facts, its run, its report, and the plan compared with the actual run."""
    workspace = open_workspace(ctx)
    artifact = workspace.find(reference)
    runs = workspace.ledger.find(artifact=artifact.digest, state="done")
    run = runs[-1] if runs else None
    manifest = workspace.store.manifest(artifact.digest)
    if as_json:
        answer = {
            "kind": manifest.kind,
            "digest": artifact.digest,
            "folder": str(artifact.path),
            "state": _state(workspace, artifact),
            "facts": dict(manifest.facts),
            "files": {name: {"sha256": sha, "bytes": size} for name, (sha, size) in manifest.files.items()},
            "run": _run_as_json(workspace, run) if run else None,
        }
        typer.echo(json.dumps(answer, indent=1))
        return
    print_facts(workspace, artifact, reference)
    if state := _state(workspace, artifact):
        workspace.console.print(f"state: {state}")
    if run:
        _print_run(workspace, run)
    _print_plan_table(workspace, artifact)
    report = next(
        (artifact.path / name for name in ("report.md", "report/report.md") if (artifact.path / name).exists()), None
    )
    if report:
        workspace.console.print(Markdown(report.read_text(encoding="utf-8"), hyperlinks=False))


@app.command()
def verify(ctx: typer.Context) -> None:
    """Verify every byte of the store. Corrupt artifacts are moved away, and the next run makes them again."""
    workspace = open_workspace(ctx)
    corrupt = 0
    for digest, manifest, names in workspace.store.verify():
        if names:
            corrupt += 1
            files = ", ".join(names)
            workspace.console.print(line(("corrupt", "red"), f" {manifest.kind} {digest[:12]}: {files}"))
    count = len(workspace.store.digests())
    if corrupt:
        raise StoreError(
            workspace.store.location, f"{corrupt} of {count} artifacts are corrupt", hint="run their lives again"
        )
    workspace.console.print(f"all {count} artifacts are intact")


@data_app.command("show")
def show_data(
    ctx: typer.Context,
    data: Annotated[
        str, typer.Argument(help="A tokens artifact, a file of dialogues, preferences or text, or a life's file.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Model or tokens artifact whose tokenizer, template and context length to use.")
    ] = None,
    step: Annotated[str | None, typer.Option(help="The step of the life whose sources and settings to use.")] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of rows.")] = 3,
    context: Annotated[
        int | None,
        typer.Option(
            "--max-length", "--context", min=2, help="Maximum tokens of a row. Default: the model's context length."
        ),
    ] = None,
    on_long: Annotated[
        str | None, typer.Option(help="Treatment of longer rows: truncate or drop. Default: that of the stage.")
    ] = None,
) -> None:
    """Show rows as the stages read them: trained tokens (coloured), truncated parts, reasons for dropped rows."""
    from vita.cli.data_rows import rows_of_life, rows_of_path

    workspace = open_workspace(ctx)
    settings = {"length": context, "on_long": on_long}
    if step:
        rows = rows_of_life(workspace, data, step=step, model=model, count=count, settings=settings)
    else:
        rows = rows_of_path(workspace, data, model=model, count=count, settings=settings)
    for row in rows:
        workspace.console.print(row)


def print_facts(workspace: Workspace, artifact: Artifact, name: str) -> None:
    """Print an artifact in a few lines."""
    manifest = workspace.store.manifest(artifact.digest)
    workspace.console.print(line((name, "bold"), f"  {manifest.kind} {artifact.digest[:12]}  {_size(manifest.size)}"))
    workspace.console.print(str(artifact.path), style="dim", soft_wrap=True)
    for key, value in manifest.facts.items():
        workspace.console.print(f"  {key}: {_value(value)}", soft_wrap=True)


# -- helpers


def _state(workspace: Workspace, artifact: Artifact) -> str | None:
    """Return the lifecycle state of a model, or None for other artifacts."""
    from vita.gates.services import state_of

    is_model = workspace.store.manifest(artifact.digest).kind == "model"
    return state_of(workspace.ledger, artifact.digest) if is_model else None


def _print_run(workspace: Workspace, run: Run) -> None:
    from vita.spine.progress import clock

    duration, labels = clock(run.seconds or 0), Labels(workspace)
    workspace.console.print(
        line("made by ", (run.stage, "bold"), f" (version {run.version}) in {duration}, step {run.life}/{run.step}")
    )
    for slot, digest in workspace.ledger.inputs(run.id).items():
        workspace.console.print(line(f"  from {slot}: ", labels.title(digest)))
    for name, value in (run.record or {}).items():
        workspace.console.print(f"  {name}: {_value(value)}", style="dim", soft_wrap=True)


def _print_plan_table(workspace: Workspace, artifact: Artifact) -> None:
    """Print the plan of a model beside the actual run."""
    runs = workspace.ledger.find(artifact=artifact.digest, state="done")
    planned = workspace.ledger.inputs(runs[-1].id).get("blueprint") if runs else None
    if runs and planned and runs[-1].stage == "pretrain":
        from vita.stages.design import plan_table
        from vita.stages.kinds import Blueprint

        designed = workspace.ledger.find(artifact=planned, state="done")
        blueprint = workspace.store.open(planned, Blueprint)
        record = designed[-1].record if designed else {}
        workspace.console.print(plan_table(blueprint.path, record or {}, artifact.facts, runs[-1].record or {}))


def _run_as_json(workspace: Workspace, run: Run) -> dict[str, Any]:
    return {
        "key": run.key,
        "life": run.life,
        "step": run.step,
        "stage": run.stage,
        "version": run.version,
        "config": run.config,
        "inputs": workspace.ledger.inputs(run.id),
        "seconds": run.seconds,
        "record": run.record,
    }


def _size(amount: int) -> str:
    value = float(amount)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _brief(facts: Mapping[str, Any]) -> str:
    plain = [f"{name} {_value(value)}" for name, value in facts.items() if isinstance(value, (int, float, str, bool))]
    return ", ".join(plain[:4])


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)
