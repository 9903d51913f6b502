"""Artifacts of the store: `vita ls`, `show`, `verify`, `data show`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from vita.cli.app import app, data_app, open_workspace
from vita.cli.options import RESULTS, JsonOption, print_json
from vita.cli.trace import Labels
from vita.cli.workspace import Workspace
from vita.spine.console import line, print_table
from vita.spine.errors import StoreError
from vita.spine.store import Artifact

if TYPE_CHECKING:
    from vita.spine.ledger import Run

_MIN_WIDTH_FOR_FACTS = 120
"""Width of a terminal in columns from which on `vita ls` shows facts and the time of day."""
Reference = Annotated[str, typer.Argument(help="A name (cat/sft) or the beginning of a digest.")]


@app.command("ls", rich_help_panel=RESULTS)
def list_artifacts(
    ctx: typer.Context,
    kind: Annotated[
        str | None, typer.Option(help="Show only artifacts of this kind: model, report, corpus, ...")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the artifacts in the store and the lifecycle state of each model."""
    workspace = open_workspace(ctx)
    rows = _artifact_rows(workspace, kind)
    if as_json:
        print_json(rows)
        return
    narrow = workspace.console.is_terminal and workspace.console.width < _MIN_WIDTH_FOR_FACTS
    print_table(workspace.console, _artifact_table(rows, narrow=narrow))


def _artifact_table(rows: Sequence[Mapping[str, Any]], *, narrow: bool) -> Table:
    """Return one row per artifact; a narrow table has no facts, so that the other columns stay on one line."""
    columns = ["name", "kind", "state", "digest", "size", "created", *([] if narrow else ["facts"])]
    table = Table(*columns, box=None, pad_edge=False)
    for column in table.columns[1:6]:
        column.no_wrap = True  # only names and facts are folded
    for row in rows:
        state = row["state"] or ""
        if row["served"] and state != "serving":
            state += "\n(served)"
        time_format = "%Y-%m-%d" if narrow else "%Y-%m-%d %H:%M"
        created = time.strftime(time_format, time.localtime(row["created"])) if row["created"] else ""
        cells = ["\n".join(row["names"]), row["kind"], state, row["digest"][:12], _size(row["bytes"]), created]
        table.add_row(*cells, *([] if narrow else [_brief(row["facts"])]))
    return table


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
                    "created": created.get(digest),
                    "facts": dict(manifest.facts),
                }
            )
    return sorted(rows, key=lambda row: row["created"] or 0)


@app.command(rich_help_panel=RESULTS)
def show(ctx: typer.Context, reference: Reference, as_json: JsonOption = False) -> None:
    """Show an artifact: its metadata, the run that created it, and its report."""
    workspace = open_workspace(ctx)
    artifact = workspace.find(reference)
    if as_json:
        print_json(artifact_as_json(workspace, artifact))
        return
    run = _last_run(workspace, artifact)
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
        from rich.markdown import Markdown

        workspace.console.print(Markdown(report.read_text(encoding="utf-8"), hyperlinks=False))


@app.command(rich_help_panel=RESULTS)
def verify(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Verify the checksums of all files in the store. Corrupt artifacts are moved away; the next run recreates them."""
    workspace = open_workspace(ctx)
    corrupt = [
        {"kind": manifest.kind, "digest": digest, "files": list(names)}
        for digest, manifest, names in workspace.store.verify()
        if names
    ]
    count = len(workspace.store.digests())
    if as_json:
        print_json({"artifacts": count, "corrupt": corrupt})
    else:
        for artifact in corrupt:
            text = f" {artifact['kind']} {artifact['digest'][:12]}: {', '.join(artifact['files'])}"
            workspace.console.print(line(("corrupt", "red"), text))
    if corrupt:
        problem = f"{len(corrupt)} of {count} artifacts are corrupt"
        raise StoreError(workspace.store.location, problem, hint="run their lives again")
    if not as_json:
        workspace.console.print(f"all {count} artifacts are intact")


@data_app.command("show")
def show_data(
    ctx: typer.Context,
    data: Annotated[
        str,
        typer.Argument(help="A tokens artifact, a file of dialogues, preferences or text, or a life file with --step."),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Model or tokens artifact that provides the tokenizer, chat template and context length."),
    ] = None,
    step: Annotated[str | None, typer.Option(help="Step of the life file; its sources and settings are used.")] = None,
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
    as_json: JsonOption = False,
) -> None:
    """Show rows as the stages read them: trained tokens in colour, truncated parts, and reasons for dropped rows."""
    from vita.cli.data_rows import rows_of_life, rows_of_path

    workspace = open_workspace(ctx)
    settings = {"length": context, "on_long": on_long}
    if step:
        rows = rows_of_life(workspace, data, step=step, model=model, count=count, settings=settings)
    else:
        rows = rows_of_path(workspace, data, model=model, count=count, settings=settings)
    if as_json:
        print_json([_row_as_json(row) for row in rows])
        return
    for row in rows:
        workspace.console.print(row)


def artifact_as_json(workspace: Workspace, artifact: Artifact) -> dict[str, Any]:
    """Return the facts, files and run of an artifact as JSON values."""
    manifest, run = workspace.store.manifest(artifact.digest), _last_run(workspace, artifact)
    return {
        "kind": manifest.kind,
        "digest": artifact.digest,
        "folder": str(artifact.path),
        "state": _state(workspace, artifact),
        "facts": dict(manifest.facts),
        "files": {name: {"sha256": sha, "bytes": size} for name, (sha, size) in manifest.files.items()},
        "run": _run_as_json(workspace, run) if run else None,
    }


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


def _last_run(workspace: Workspace, artifact: Artifact) -> Run | None:
    """Return the last run that created an artifact."""
    runs = workspace.ledger.find(artifact=artifact.digest, state="done")
    return runs[-1] if runs else None


def _print_run(workspace: Workspace, run: Run) -> None:
    from vita.spine.progress import clock

    duration, labels = clock(run.seconds or 0), Labels(workspace)
    workspace.console.print(
        line("created by ", (run.stage, "bold"), f" (version {run.version}) in {duration}, step {run.life}/{run.step}")
    )
    for slot, digest in workspace.ledger.inputs(run.id).items():
        workspace.console.print(line(f"  from {slot}: ", labels.title(digest)))
    for name, value in (run.record or {}).items():
        workspace.console.print(f"  {name}: {_value(value)}", style="dim", soft_wrap=True)


def _print_plan_table(workspace: Workspace, artifact: Artifact) -> None:
    """Print the plan of a model beside the actual run."""
    runs = workspace.ledger.find(artifact=artifact.digest, state="done")
    from vita.design.plan_vs_actual import memory_vs_actual

    planned = workspace.ledger.inputs(runs[-1].id).get("blueprint") if runs else None
    if runs and not planned and (rows := memory_vs_actual(runs[-1].record or {})):
        table = Table("", "predicted", "actual", "error", title="plan and actual run", title_justify="left")
        for row in rows:
            table.add_row(row.figure, row.predicted, row.actual, row.error)
        print_table(workspace.console, table)
    if runs and planned and runs[-1].stage == "pretrain":
        from vita.stages.design import plan_table
        from vita.stages.kinds import Blueprint

        designed = workspace.ledger.find(artifact=planned, state="done")
        blueprint = workspace.store.open(planned, Blueprint)
        record = designed[-1].record if designed else {}
        workspace.console.print(plan_table(blueprint.path, record or {}, artifact.facts, runs[-1].record or {}))


def _row_as_json(row: Text) -> dict[str, Any]:
    """Return the text of a line and the parts that training learns, as [start, end] in characters."""
    from vita.data.tokens.inspect import LEARNED

    learned = [[span.start, span.end] for span in row.spans if str(span.style) == LEARNED]
    return {"text": row.plain, "learned": learned}


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
