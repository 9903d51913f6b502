"""Proposals after failed re-tests: `vita proposals`. A proposal takes effect only if a person accepts it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.gates import KeyOption, end_of
from vita.cli.options import SERVICES, ByOption, JsonOption, print_json
from vita.cli.people import private_key
from vita.cli.workspace import Workspace
from vita.spine.console import print_table
from vita.spine.errors import GateError

proposals_app = typer.Typer(
    help="List and decide on proposals to roll back or deprecate a version.", no_args_is_help=True
)
app.add_typer(proposals_app, name="proposals", rich_help_panel=SERVICES)

NumberArgument = Annotated[int, typer.Argument(metavar="NUMBER", help="Number of the proposal.")]
DEFAULT_SUNSET = "30d"


@proposals_app.command("list")
def proposals_list(
    ctx: typer.Context,
    service: Annotated[str | None, typer.Option(help="Only proposals for this service.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also list decided proposals.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the open proposals."""
    from vita.gates.proposals import all_proposals

    workspace = open_workspace(ctx)
    rows = [
        _row(proposal, decision)
        for proposal, decision in all_proposals(workspace.ledger, service=service)
        if everything or decision is None
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("proposal", "service", "version", "action", "test", "reason", "state", box=None, pad_edge=False)
    for row in rows:
        who = f" by {row['decided_by']}" if row["decided_by"] else ""
        table.add_row(
            str(row["proposal"]), row["service"], row["version"], row["action"], row["test"], row["reason"],
            row["state"] + who,
        )  # fmt: skip
    print_table(workspace.console, table)


@proposals_app.command("show")
def proposals_show(ctx: typer.Context, number: NumberArgument, as_json: JsonOption = False) -> None:
    """Show a proposal with its figures, their intervals, and the equivalent command."""
    from vita.gates.proposals import decision_on, proposal_of

    workspace = open_workspace(ctx)
    proposal = proposal_of(workspace.ledger, number)
    row = _row(proposal, decision_on(workspace.ledger, proposal))
    if as_json:
        print_json(row)
        return
    console = workspace.console
    day = datetime.fromtimestamp(row["at"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    console.print(f"proposal {number} of {day}: {row['action']} {row['version']} of the service {row['service']}")
    for line in figure_lines(row["figures"]):
        console.print(f"  {line}", soft_wrap=True)
    console.print(f"command: {row['command']}", soft_wrap=True)
    if row["state"] == "open":
        console.print(f"accept: vita proposals accept {number} --by NAME; decline: vita proposals decline {number} ...")
    else:
        reason = f": {row['decision_reason']}" if row["decision_reason"] else ""
        console.print(f"{row['state']} by {row['decided_by']}{reason}", soft_wrap=True)


@proposals_app.command("accept")
def proposals_accept(
    ctx: typer.Context,
    number: NumberArgument,
    by: ByOption,
    reason: Annotated[str, typer.Option(help="Reason for the decision.")] = "",
    sunset: Annotated[
        str, typer.Option(metavar="DATE", help="Last day of the deprecated version: 2027-06-30, or 90d.")
    ] = DEFAULT_SUNSET,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Accept a proposal and apply it. The decision is signed with your key (`vita people add NAME`)."""
    from vita.gates.proposals import decide, decision_on, proposal_of

    workspace = open_workspace(ctx)
    proposal = proposal_of(workspace.ledger, number)
    if (earlier := decision_on(workspace.ledger, proposal)) is not None:
        raise GateError(f"proposal {number}", f"was {earlier.decision} by {earlier.who}")
    personal_key = private_key(workspace, by, key)
    carry_out = _rollback(workspace, proposal) if proposal.action == "rollback" else _deprecation(
        workspace, proposal, sunset=sunset, by=by
    )  # fmt: skip
    decide(workspace.ledger, proposal, "accepted", who=by, key=personal_key, reason=reason)
    carry_out()
    row = _row(proposal, decision_on(workspace.ledger, proposal))
    if as_json:
        print_json(row)
        return
    change = "rolled back" if proposal.action == "rollback" else "deprecated"
    workspace.console.print(f"accepted proposal {number}: {change} {proposal.version}")


@proposals_app.command("decline")
def proposals_decline(
    ctx: typer.Context,
    number: NumberArgument,
    by: ByOption,
    reason: Annotated[str, typer.Option(help="Reason for the decision.")],
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decline a proposal. The service does not change. The decision is signed with your key."""
    from vita.gates.proposals import decide, decision_on, proposal_of

    workspace = open_workspace(ctx)
    proposal = proposal_of(workspace.ledger, number)
    decide(workspace.ledger, proposal, "declined", who=by, key=private_key(workspace, by, key), reason=reason)
    if as_json:
        print_json(_row(proposal, decision_on(workspace.ledger, proposal)))
        return
    workspace.console.print(f"declined proposal {number}")


def propose_change(
    workspace: Workspace, service: str, test: str, result: dict[str, Any], *, can_roll_back: bool
) -> int | None:
    """Record a proposal for a re-test that failed, and return its number; None for one that passed."""
    from vita.gates.proposals import Proposal, propose

    if not result["worse"] and not result["failed"]:
        return None
    figures = {"worse": result["worse"], "failed": result["failed"], "report": result["report"]}
    failures = [f"fails {row['name']}" for row in result["failed"]]
    failures += [f"{row['figure']} is worse than before" for row in result["worse"]]
    more = f" and {len(failures) - 2} more" if len(failures) > 2 else ""
    version = result["version"]
    command = f"vita fleet rollback --service {service}" if can_roll_back else (
        f"vita deprecate {version} --sunset {DEFAULT_SUNSET} --by NAME"
    )  # fmt: skip
    proposal = Proposal(
        service, version, result["model"], "rollback" if can_roll_back else "deprecate", test,
        f"{', '.join(failures[:2])}{more}", command, figures,
    )  # fmt: skip
    return propose(workspace.ledger, proposal)


def figure_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures of a proposal as lines."""
    failed = [f"{row['criterion']}: {row['verdict']} ({row['reason']})" for row in figures.get("failed", ())]
    return failed + [row["message"] for row in figures.get("worse", ())]


def _row(proposal: Any, decision: Any) -> dict[str, Any]:
    """Return a proposal and its decision as plain values."""
    return {
        "proposal": proposal.id, "service": proposal.service, "version": proposal.version, "model": proposal.model,
        "action": proposal.action, "test": proposal.test, "reason": proposal.reason, "command": proposal.command,
        "figures": dict(proposal.figures), "at": proposal.at,
        "state": decision.decision if decision else "open",
        "decided_by": decision.who if decision else None,
        "decision_reason": decision.reason if decision else None,
        "decided_at": decision.at if decision else None,
    }  # fmt: skip


def _rollback(workspace: Workspace, proposal: Any) -> Any:
    """Return the function that rolls the service back, after checking that this stops the proposed version."""
    from vita.server.service.admin import ServiceHandle

    handle = ServiceHandle.find(workspace.store.root / "services", proposal.service)
    versions = handle.call("GET", "/status").json()["versions"]
    if len(versions) < 2 or versions[-1]["model"] != proposal.model:
        hint = f"decline the proposal, or run `vita deprecate {proposal.version}`"
        problem = f"{proposal.version} is no longer the newest of several versions of {proposal.service}"
        raise GateError(f"proposal {proposal.id}", problem, hint=hint)
    return lambda: handle.call("POST", "/rollback")


def _deprecation(workspace: Workspace, proposal: Any, *, sunset: str, by: str) -> Any:
    """Return the function that deprecates the version, after the checks of `vita deprecate`."""
    from vita.gates.weights import index_weights

    day, model = end_of(sunset, option="--sunset"), proposal.model
    if day <= time.time():
        raise GateError(f"proposal {proposal.id}", "the sunset date is not in the future")
    if workspace.ledger.state(model) in ("deprecated", "retired"):
        raise GateError(f"proposal {proposal.id}", f"{model[:12]} is already {workspace.ledger.state(model)}")

    def deprecate() -> None:
        index_weights(workspace.ledger, workspace.store, model)
        workspace.ledger.move(model, "deprecated", who=by, why=proposal.reason, sunset=day, successor=None)

    return deprecate
