"""`vita erasures`: documents that later runs exclude, and the withdrawal of an erasure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.spine.console import print_table
from vita.spine.errors import GateError

if TYPE_CHECKING:
    from vita.spine.erasures import Erasure

erasures_app = typer.Typer(
    help="List and withdraw erasures: documents that later runs exclude.", invoke_without_command=True
)
app.add_typer(erasures_app, name="erasures")


@erasures_app.callback()
def list_erasures(
    ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """List the erasures of `vita trace-document ID --erase`; withdraw one that was a mistake."""
    if ctx.invoked_subcommand is not None:
        return
    from vita.spine.erasures import all_erasures

    workspace = open_workspace(ctx)
    erasures = all_erasures(workspace.ledger)
    if as_json:
        typer.echo(json.dumps([_as_json(erasure) for erasure in erasures], indent=1))
        return
    if not erasures:
        workspace.console.print("no erasures")
        return
    table = Table("", "document", "source", "day", "by", "reason", "state", box=None, pad_edge=False)
    for erasure in erasures:
        table.add_row(str(erasure.id), erasure.document, erasure.source or "any", _day(erasure.at), erasure.who,
                      erasure.reason, _state(erasure))  # fmt: skip
    print_table(workspace.console, table)


@erasures_app.command("withdraw")
def withdraw(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(help="The number of the erasure.")],
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Your name.")],
    reason: Annotated[str, typer.Option(help="The reason for which the document may be used again.")],
) -> None:
    """Withdraw an erasure: later runs read the document again, and results from before the erasure are reused."""
    from vita.spine.erasures import withdraw_erasure

    for option, value in (("--by", by), ("--reason", reason)):
        if not value.strip():
            raise GateError("erasures withdraw", f"needs {option}: the ledger keeps who withdrew it and why")
    workspace = open_workspace(ctx)
    erasure = withdraw_erasure(workspace.ledger, number, who=by, reason=reason)
    workspace.console.print(
        f"erasure {number} is withdrawn: later runs read `{erasure.document}` again", soft_wrap=True
    )


def _as_json(erasure: Erasure) -> dict[str, object]:
    return {
        "number": erasure.id, "document": erasure.document, "source": erasure.source, "by": erasure.who,
        "reason": erasure.reason, "at": erasure.at, "withdrawn_at": erasure.withdrawn_at,
        "withdrawn_by": erasure.withdrawn_by, "withdrawn_why": erasure.withdrawn_why,
    }  # fmt: skip


def _state(erasure: Erasure) -> str:
    if erasure.withdrawn_at is None:
        return "in force"
    return f"withdrawn by {erasure.withdrawn_by} on {_day(erasure.withdrawn_at)}: {erasure.withdrawn_why}"


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
