"""Removal of old data: `vita clean`."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.options import RESULTS, JsonOption, print_json
from vita.cli.workspace import Workspace

_DAYS = "DAYS"


@app.command(rich_help_panel=RESULTS)
def clean(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed without removing it.")] = False,
    content_days: Annotated[
        float, typer.Option(min=0, metavar=_DAYS, help="Retention of prompts, answers and feedback texts.")
    ] = 90.0,
    request_days: Annotated[
        float, typer.Option(min=0, metavar=_DAYS, help="Retention of request metadata and ratings.")
    ] = 400.0,
    request_rows: Annotated[
        int | None, typer.Option(min=0, metavar="NUMBER", help="Maximum number of requests to keep.")
    ] = None,
    event_days: Annotated[float, typer.Option(min=0, metavar=_DAYS, help="Retention of superseded events.")] = 400.0,
    scratch_days: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar=_DAYS,
            help="Retention of scratch folders of failed runs. Default: VITA_SCRATCH_DAYS, else 14.",
        ),
    ] = None,
    log_days: Annotated[
        float, typer.Option(min=0, metavar=_DAYS, help="Retention of event logs after their last line.")
    ] = 90.0,
    as_json: JsonOption = False,
) -> None:
    """Delete old requests, events, logs, and scratch folders of failed runs. Artifacts and audit records are kept."""
    from vita.monitoring.retention import Retention, outdated, prune
    from vita.spine import machine
    from vita.spine.cleanup import leftovers, remove

    workspace = open_workspace(ctx)
    retention = Retention(
        content_days=content_days, request_days=request_days, request_rows=request_rows, event_days=event_days
    )
    rows: Counter[str] = Counter()
    if dry_run:
        rows.update(outdated(workspace.ledger, retention))
    else:
        for step in prune(workspace.ledger, retention):
            rows.update(step)
    days = machine.scratch_days() if scratch_days is None else scratch_days
    candidates = list(leftovers(workspace.store, workspace.ledger, days=days, log_days=log_days))
    removed = [item for item in candidates if dry_run or remove(item, workspace.ledger)]
    _show(workspace, rows, removed, dry_run=dry_run, as_json=as_json)


def _show(workspace: Workspace, rows: Counter[str], removed: list[Any], *, dry_run: bool, as_json: bool) -> None:
    files = [{"path": str(item.path), "bytes": item.size, "reason": item.reason} for item in removed]
    if as_json:
        print_json({"dry_run": dry_run, "rows": dict(rows), "files": files})
        return
    table = Table("removed", "rows or bytes", "reason", box=None, pad_edge=False)
    for table_name, number in rows.items():
        if number:
            table.add_row(table_name, f"{number:,}", "over the age or number limit")
    for file in files:
        table.add_row(file["path"], f"{file['bytes']:,}", file["reason"])
    if table.row_count:
        workspace.console.print(table)
    size = sum(item.size for item in removed)
    verb = "would be removed" if dry_run else "removed"
    workspace.console.print(
        f"{sum(rows.values()):,} rows and {len(removed):,} files or folders ({size:,} bytes) {verb}"
    )
