"""Red-team findings and their handling: `vita findings`."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.options import RIGHTS, ByOption, JsonOption, print_json
from vita.cli.workspace import writing
from vita.spine.console import line, print_table
from vita.spine.errors import ConfigError
from vita.spine.plain_text import counted

findings_app = typer.Typer(help="List red-team findings and record how they were handled.", invoke_without_command=True)
app.add_typer(findings_app, name="findings", rich_help_panel=RIGHTS)

LifeOption = Annotated[str | None, typer.Option("--life", metavar="LIFE", help="Only findings of this life.")]
StateOption = Annotated[
    str | None, typer.Option(help="open, triaged, mitigated, retested, closed, accepted or false_positive.")
]
ProbeOption = Annotated[str | None, typer.Option(help="Only findings of this probe.")]
Numbers = Annotated[list[int] | None, typer.Argument(metavar="[NUMBER]...", help="Numbers of the findings.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="The reason, or the change that mitigates the finding.")]


@findings_app.callback()
def overview(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the open findings when no command is given."""
    if ctx.invoked_subcommand is None:
        _list(ctx, life=None, state=None, probe=None, include_closed=False, as_json=as_json)


@findings_app.command("list")
def list_findings(
    ctx: typer.Context,
    life: LifeOption = None,
    state: StateOption = None,
    probe: ProbeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List findings, including closed ones."""
    _list(ctx, life=life, state=state, probe=probe, include_closed=True, as_json=as_json)


@findings_app.command()
def show(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(help="Number of the finding.")],
    as_json: JsonOption = False,
) -> None:
    """Show a finding: the attack, the answer, and its history."""
    from vita.redteam import findings

    workspace = open_workspace(ctx)
    finding = findings.find_one(workspace.ledger, number)
    if as_json:
        print_json(finding.as_json())
        return
    workspace.console.print(
        line(
            (str(number), "bold"),
            f" {finding.probe}: {finding.item}  ",
            (finding.state, "bold"),
            f"  {finding.severity}",
        )
    )
    workspace.console.print(f"life {finding.life}, {', '.join(finding.taxonomy)}", style="dim")
    workspace.console.print(line(f"\n{finding.prompt}\n\n", ("answer", "bold"), f" {finding.answer}\n"))
    for move in finding.moves:
        day = datetime.datetime.fromtimestamp(move.at).strftime("%Y-%m-%d %H:%M")
        report = f" (report {move.report[:12]})" if move.report else ""
        workspace.console.print(f"  {day}  {move.state} by {move.who}: {move.why}{report}")


def _add_transition(name: str, state: str, summary: str) -> None:
    """Add the command that moves findings to a state."""

    @findings_app.command(name, help=summary)
    def transition(
        ctx: typer.Context,
        by: ByOption,
        reason: ReasonOption,
        numbers: Numbers = None,
        life: LifeOption = None,
        probe: ProbeOption = None,
        as_json: JsonOption = False,
    ) -> None:
        _move(ctx, state, numbers, life, probe, by=by, reason=reason, as_json=as_json)


_add_transition("triage", "triaged", "Confirm findings.")
_add_transition(
    "mitigate",
    "mitigated",
    "Record a mitigation. The next red-team report on other weights closes the findings or keeps them open.",
)
_add_transition("close", "closed", "Close findings. They are reopened if the attack succeeds again.")
_add_transition("false-positive", "false_positive", "Mark findings as false positives: the detector was wrong.")


@findings_app.command()
def accept(
    ctx: typer.Context,
    by: ByOption,
    reason: ReasonOption,
    expires: Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="The date on which the finding is reopened.")],
    numbers: Numbers = None,
    life: LifeOption = None,
    probe: ProbeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Accept the risk of findings until a date."""
    try:
        reopens = datetime.datetime.strptime(expires, "%Y-%m-%d").timestamp()
    except (ValueError, OverflowError):
        raise ConfigError("--expires", expected="a date such as 2030-12-31", got=expires) from None
    _move(ctx, "accepted", numbers, life, probe, by=by, reason=reason, expires=reopens, as_json=as_json)


@findings_app.command()
def export(
    ctx: typer.Context,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Output file. Default: standard output.")
    ] = None,
    life: LifeOption = None,
    state: StateOption = None,
    probe: ProbeOption = None,
) -> None:
    """Export findings as JSON Lines: regression items for the setting `redteam.regressions`."""

    from vita.redteam import findings

    workspace = open_workspace(ctx)
    lines = findings.to_regressions(
        findings.all_findings(workspace.ledger, life=life, state=_valid_state(state), probe=probe)
    )
    if output is None:
        typer.echo(lines.decode(), nl=False)
    else:
        with writing(output):
            output.write_bytes(lines)
        workspace.console.print(f"{counted(lines.count(10), 'finding')} in {output}")


# -- helpers


def _list(
    ctx: typer.Context, *, life: str | None, state: str | None, probe: str | None, include_closed: bool, as_json: bool
) -> None:
    from vita.redteam import findings

    workspace = open_workspace(ctx)
    matches = findings.all_findings(workspace.ledger, life=life, state=_valid_state(state), probe=probe)
    if not include_closed:
        matches = [finding for finding in matches if finding.state not in ("closed", "false_positive")]
    if as_json:
        print_json([finding.as_json() for finding in matches])
        return
    table = Table("", "life", "probe", "item", "severity", "state", "since", box=None, pad_edge=False)
    for finding in matches:
        since = datetime.datetime.fromtimestamp(finding.moves[-1].at).strftime("%Y-%m-%d")
        cells = (finding.life, finding.probe, finding.item, finding.severity, finding.state, since)
        table.add_row(str(finding.id), *cells)
    if matches:
        print_table(workspace.console, table)
    else:
        workspace.console.print("no findings")


def _move(
    ctx: typer.Context,
    state: Any,
    numbers: list[int] | None,
    life: str | None,
    probe: str | None,
    *,
    by: str,
    reason: str,
    expires: float | None = None,
    as_json: bool,
) -> None:
    from vita.redteam import findings

    workspace = open_workspace(ctx)
    selected = list(numbers or ())
    if not selected and (life or probe):
        final_states = ("closed", "false_positive", state)
        matches = findings.all_findings(workspace.ledger, life=life, probe=probe)
        selected = [finding.id for finding in matches if finding.state not in final_states]
    if not selected:
        raise ConfigError("findings", "no finding is selected", hint="give numbers, or --life and --probe")
    findings.move(workspace.ledger, selected, state, who=by, why=reason, expires=expires)
    if as_json:
        print_json({"state": state, "findings": selected})
        return
    workspace.console.print(f"{counted(len(selected), 'finding')} now {state}")


def _valid_state(state: str | None) -> str | None:
    """Return the state of the option `--state`; raises `ConfigError` if there is no such state."""
    from vita.redteam.findings import STATES
    from vita.spine.config import unknown_name

    if state is not None and state not in STATES:
        raise unknown_name("--state", state, STATES)
    return state
