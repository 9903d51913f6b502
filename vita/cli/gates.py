"""Gates: `vita gate`, `vita approve`, `vita waive`. The exit code of `vita gate` is the verdict."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from vita.cli.app import app, open_workspace
from vita.cli.options import GATES, ByOption, JsonOption, print_json
from vita.cli.people import private_key
from vita.spine.console import line, print_table
from vita.spine.errors import ConfigError

GateOption = Annotated[str, typer.Option("--gate", metavar="LIFE/GATE", help="The gate.")]

KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="Your private key. Default: the key that `vita people add` created."),
]
ModelArgument = Annotated[str, typer.Argument(help="The weights: the name or digest of a model, or of its release.")]
_COLOURS = {"pass": "green", "waived": "yellow", "unsure": "yellow", "fail": "red", "could_not_run": "red"}


@app.command(rich_help_panel=GATES)
def gate(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="LIFE/GATE", help="The gate, such as `cat/release`.")],
    as_json: JsonOption = False,
) -> None:
    """Evaluate a gate. Exit codes: 0 passed, 10 failed, 11 could not run, 12 unsure, 13 approvals missing."""

    from vita.gates import decisions
    from vita.gates.policy import WAITING_FOR_APPROVAL

    workspace = open_workspace(ctx)
    decision = decisions.evaluate_gate_by_name(workspace.ledger, workspace.store, name)
    if as_json:
        print_json(decision.as_json())
        raise typer.Exit(decision.exit_code)
    table = Table("criterion", "verdict", "figure", box=None, pad_edge=False)
    for result in decision.judged.results:
        table.add_row(str(result.criterion), Text(result.verdict, style=_COLOURS[result.verdict]), result.reason)
    print_table(workspace.console, table)
    people = f", approved by {', '.join(decision.approved_by)}" if decision.approved_by else ""
    waits = (
        f", waits for {decision.needed - len(decision.approved_by)} to approve"
        if decision.exit_code == WAITING_FOR_APPROVAL
        else ""
    )
    workspace.console.print(f"{name}: {decision.judged.verdict} for {decision.model[:12]}{people}{waits}")
    for problem in decision.not_counted:
        workspace.console.print(line((problem, "yellow")))
    raise typer.Exit(decision.exit_code)


@app.command(rich_help_panel=GATES)
def approve(
    ctx: typer.Context,
    model: ModelArgument,
    gate: GateOption,
    by: ByOption,
    reason: Annotated[str, typer.Option(help="The reason for the approval.")] = "",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve weights that meet the criteria of a gate. It is signed with your key (`vita people add NAME`)."""

    from vita.gates import decisions

    workspace = open_workspace(ctx)
    digest = workspace.weights(model)
    decisions.evaluate_gate_by_name(workspace.ledger, workspace.store, gate, model=digest)
    decisions.approve(workspace.ledger, gate, digest, who=by, key=private_key(workspace, by, key), reason=reason)
    decision = decisions.evaluate_gate_by_name(workspace.ledger, workspace.store, gate, model=digest)
    if as_json:
        print_json({**decision.as_json(), "state": workspace.ledger.state(digest)})
        return
    people = ", ".join(decision.approved_by)
    workspace.console.print(f"{digest[:12]} is {workspace.ledger.state(digest)}; approved by {people}")


@app.command(rich_help_panel=GATES)
def waive(
    ctx: typer.Context,
    model: ModelArgument,
    gate: GateOption,
    by: ByOption,
    reason: Annotated[str, typer.Option(help="The reason for the waiver.")],
    expires: Annotated[str, typer.Option(metavar="DAY", help="The last day of the waiver: 2027-01-31, or 14d.")],
    bar: Annotated[
        str | None, typer.Option(metavar="STEP:FIGURE", help="One criterion, or `guard`. Default: all.")
    ] = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Waive a criterion for specific weights until a date. State a reason; the waiver is signed with your key."""

    from vita.gates import decisions

    workspace = open_workspace(ctx)
    digest = workspace.weights(model)
    decisions.evaluate_gate_by_name(workspace.ledger, workspace.store, gate, model=digest)
    decisions.waive(
        workspace.ledger, gate, digest, who=by, key=private_key(workspace, by, key), reason=reason,
        expires=end_of(expires, option="--expires"), criterion=bar,
    )  # fmt: skip
    decision = decisions.evaluate_gate_by_name(workspace.ledger, workspace.store, gate, model=digest)
    if as_json:
        print_json({**decision.as_json(), "state": workspace.ledger.state(digest)})
        return
    workspace.console.print(f"{gate}: {decision.judged.verdict}; {digest[:12]} is {workspace.ledger.state(digest)}")


def end_of(day: str, *, option: str) -> float:
    """Return the last second of a day, given as a date or as a number of days from now."""
    try:
        if day.endswith("d"):
            return (datetime.now(UTC) + timedelta(days=int(day[:-1]))).timestamp()
        return datetime.combine(date.fromisoformat(day), time.max, UTC).timestamp()
    except (ValueError, OverflowError):
        raise ConfigError(
            option, expected="a date such as 2027-01-31, or a number of days such as 14d", got=day
        ) from None
