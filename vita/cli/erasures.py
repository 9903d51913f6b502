"""`vita erasures`: documents, sources and licences that later runs exclude, and the withdrawal of an erasure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.options import RIGHTS, ByOption, JsonOption, print_json
from vita.spine.console import print_table
from vita.spine.errors import GateError

if TYPE_CHECKING:
    from vita.spine.erasures import Erasure

erasures_app = typer.Typer(
    help="List or withdraw erasures. Later runs exclude an erased document, source or licence.",
    invoke_without_command=True,
)
app.add_typer(erasures_app, name="erasures", rich_help_panel=RIGHTS)


@erasures_app.callback()
def overview(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the erasures when no command is given."""
    if ctx.invoked_subcommand is None:
        list_erasures(ctx, as_json)


@erasures_app.command("list")
def list_erasures(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the erasures that `vita forget` created, including withdrawn ones."""
    from vita.spine.erasures import all_erasures

    workspace = open_workspace(ctx)
    erasures = all_erasures(workspace.ledger)
    if as_json:
        print_json([_as_json(erasure) for erasure in erasures])
        return
    if not erasures:
        workspace.console.print("no erasures")
        return
    table = Table("", "document", "source", "licence", "date", "by", "reason", "state", box=None, pad_edge=False)
    for erasure in erasures:
        table.add_row(str(erasure.id), erasure.document or "all", erasure.source or "any", erasure.licence or "any",
                      _day(erasure.at), erasure.who, erasure.reason, _state(erasure))  # fmt: skip
    print_table(workspace.console, table)


@erasures_app.command("withdraw")
def withdraw(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(help="The number of the erasure.")],
    by: ByOption,
    reason: Annotated[str, typer.Option(help="The reason why the documents may be used again.")],
    as_json: JsonOption = False,
) -> None:
    """Withdraw an erasure: later runs read the document again, and results from before the erasure are reused."""
    from vita.spine.erasures import withdraw_erasure

    for option, value in (("--by", by), ("--reason", reason)):
        if not value.strip():
            raise GateError("erasures withdraw", f"{option} is empty: the ledger records who withdrew it and why")
    workspace = open_workspace(ctx)
    erasure = withdraw_erasure(workspace.ledger, number, who=by, reason=reason)
    if as_json:
        print_json(_as_json(erasure))
        return
    workspace.console.print(f"erasure {number} is withdrawn: later runs read `{erasure.label}` again", soft_wrap=True)


def _as_json(erasure: Erasure) -> dict[str, object]:
    return {
        "number": erasure.id, "document": erasure.document, "source": erasure.source,
        "licence": erasure.licence, "by": erasure.who,
        "reason": erasure.reason, "at": erasure.at, "withdrawn_at": erasure.withdrawn_at,
        "withdrawn_by": erasure.withdrawn_by, "withdrawn_reason": erasure.withdrawn_why,
    }  # fmt: skip


def _state(erasure: Erasure) -> str:
    if erasure.withdrawn_at is None:
        return "in force"
    return f"withdrawn by {erasure.withdrawn_by} on {_day(erasure.withdrawn_at)}: {erasure.withdrawn_why}"


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
