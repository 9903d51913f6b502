"""The trace of a document and the erasure of documents, sources and licences: `vita trace-document`, `vita forget`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.options import RIGHTS, JsonOption, print_json
from vita.cli.workspace import writing
from vita.spine.console import line, print_table
from vita.spine.errors import GateError, StoreError

if TYPE_CHECKING:
    from vita.cli.workspace import Workspace
    from vita.rights.document_trace import DocumentTrace


_MAX_EXCLUDED = 12


@app.command("trace-document", rich_help_panel=RIGHTS)
def trace_document(
    ctx: typer.Context,
    document: Annotated[
        str, typer.Argument(help="The id of a document, or of a request whose feedback was used for training.")
    ],
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only the document of this source, if several documents have the id."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Trace a document: the corpora and models that contain it, its copies, and its use by each."""
    from vita.life import stage
    from vita.rights.artifact_search import trace_records
    from vita.rights.query import RightsQuery

    workspace = open_workspace(ctx)
    trace = trace_records(RightsQuery(document, source), workspace.store, workspace.ledger, find_stage=stage)
    if as_json:
        lists = {"rebuild": [holder.digest for holder in trace.to_rebuild],
                 "retire": [holder.digest for holder in trace.to_retire]}  # fmt: skip
        print_json({"document": document, **_trace_as_json(trace), **lists})
        return
    _print_trace(workspace, trace)
    _print_consequences(workspace, trace)


@app.command(rich_help_panel=RIGHTS)
def forget(
    ctx: typer.Context,
    document: Annotated[str | None, typer.Argument(help="The id of a document.")] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="All documents of this source; with DOCUMENT, the document of this source."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="All documents with this licence, or `not stated`; with --source, only those of the source.",
        ),
    ] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Your name, for the record.")] = None,
    reason: Annotated[str, typer.Option(help="The reason, for the record.")] = "",
    plan: Annotated[
        bool, typer.Option("--plan", help="Only write the plan: record nothing, and let later runs read the documents.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A new folder for plan.json and plan.md. Default: erasure-NUMBER."),
    ] = None,
    allow_absent: Annotated[
        bool, typer.Option("--allow-absent", help="Accept a source or licence that nothing in the store has.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Exclude a document, a source or a licence from later runs, and write the plan of what to rebuild or retire."""
    from vita.life import stage
    from vita.rights.artifact_search import trace_records
    from vita.rights.forgetting import check_request, record_erasure, request_of
    from vita.rights.removal_plan import removal_plan, write_plan
    from vita.spine.erasures import all_erasures

    who = (by or "").strip()
    if not who and not plan:
        raise GateError("forget", "needs --by: the ledger records who erased it", hint="--plan only writes the plan")
    query = request_of(document, source, licence)
    workspace = open_workspace(ctx)
    following = max((erasure.id for erasure in all_erasures(workspace.ledger)), default=0) + 1
    folder = output or Path("erasure-plan" if plan else f"erasure-{following}")
    _check_folder(folder)
    trace = trace_records(query, workspace.store, workspace.ledger, find_stage=stage)
    check_request(trace, allow_absent=allow_absent)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    number = None if plan else record_erasure(trace, workspace.ledger, who=who, reason=reason)
    content = removal_plan(trace, workspace.store, workspace.ledger, erasure=number, who=who, reason=reason)
    with writing(folder):
        write_plan(folder, content)
    if as_json:
        print_json({**content, "folder": str(folder), **_trace_as_json(trace)})
        return
    _print_trace(workspace, trace)
    if number is None:
        text = f"nothing was recorded: later runs still read {query.label}"
    else:
        copies = " and its copies" if query.document is not None else ""
        text = f"erasure {number} is in force: later runs exclude {query.label}{copies}"
    workspace.console.print(text, soft_wrap=True)
    _print_excluded(workspace, trace)
    if not trace.holders:
        workspace.console.print(
            f"no corpus or source contains {query.label}; `vita erasures` lists and withdraws erasures", soft_wrap=True
        )
    _print_consequences(workspace, trace)
    workspace.console.print(f"the plan is in {folder / 'plan.md'} and plan.json", soft_wrap=True)


def _check_folder(folder: Path) -> None:
    """Refuse a folder with other files than those of an earlier plan without an erasure."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if folder.is_file() or (names and not (names == ["plan.json", "plan.md"] and _is_unrecorded(folder / "plan.json"))):
        raise StoreError(str(folder), expected="a new or empty folder", got="an existing one", hint="set --output")


def _is_unrecorded(plan: Path) -> bool:
    """Return True for the plan of `--plan`, which the next plan may replace."""
    try:
        return json.loads(plan.read_text(encoding="utf-8"))["erasure"] is None
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _trace_as_json(trace: DocumentTrace) -> dict[str, Any]:
    return {
        "holders": [holder.as_json() for holder in trace.holders],
        "weights": [weights.as_json() for weights in trace.weights],
        "unread": list(trace.unread),
    }


def _print_trace(workspace: Workspace, trace: DocumentTrace) -> None:
    """Print the artifacts that contain the documents and the use of the documents by each."""
    for problem in trace.unread:
        workspace.console.print(line(("not searched", "yellow"), f": {problem}"), soft_wrap=True)
    if not trace.holders:
        workspace.console.print(f"no artifact contains {trace.query.label}")
        return
    table = Table("kind", "digest", "names", "state", "source", "use", box=None, pad_edge=False)
    for holder in (*trace.holders, *trace.weights):
        use = holder.explanation if holder in trace.holders else f"{holder.explanation}, through {holder.through}"
        table.add_row(holder.kind, holder.digest[:12], ", ".join(holder.names), holder.state, holder.source, use)
    print_table(workspace.console, table)
    if trace.query.document is None and all(holder.use == "not used" for holder in trace.holders):
        text = f"no corpus contains a document of these: curation dropped {trace.query.label}"
        workspace.console.print(text, soft_wrap=True)
    if trace.note:
        workspace.console.print(trace.note)


def _print_excluded(workspace: Workspace, trace: DocumentTrace) -> None:
    """Print the documents with other ids that the erasure excludes, at most `_MAX_EXCLUDED` of them."""
    if trace.excluded:
        names = ", ".join(map(str, trace.excluded[:_MAX_EXCLUDED]))
        more = len(trace.excluded) - _MAX_EXCLUDED
        names += f" and {more:,} more, which the plan lists" if more > 0 else ""
        workspace.console.print(f"the erasure also excludes {names}", soft_wrap=True, markup=False)


def _print_consequences(workspace: Workspace, trace: DocumentTrace) -> None:
    """Print the artifacts to rebuild or retire after an erasure."""
    for action, holders in (("rebuild", trace.to_rebuild), ("retire", trace.to_retire)):
        if holders:
            names = ", ".join(dict.fromkeys(holder.name for holder in holders))
            workspace.console.print(f"to remove it, {action}: {names}", soft_wrap=True)
    if trace.to_rebuild:
        workspace.console.print("`vita live` rebuilds what an erasure concerns; `vita retire` takes weights out of use")
