"""Red-team findings and their handling: `vita findings`."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.workspace import writing
from vita.spine.console import line, print_table
from vita.spine.errors import ConfigError
from vita.spine.plain_text import counted

findings_app = typer.Typer(help="List red-team findings and record their handling.", invoke_without_command=True)
app.add_typer(findings_app, name="findings")

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
LifeOption = Annotated[str | None, typer.Option("--life", metavar="LIFE", help="Only findings of this life.")]
StateOption = Annotated[
    str | None, typer.Option(help="open, triaged, mitigated, retested, closed, accepted or false_positive.")
]
ProbeOption = Annotated[str | None, typer.Option(help="Only findings of this probe.")]
Numbers = Annotated[list[int] | None, typer.Argument(metavar="[NUMBER]...", help="Findings by their numbers.")]
Who = Annotated[str, typer.Option("--by", help="Your name.")]
Reason = Annotated[str, typer.Option("--reason", help="The reason, or the change that mitigates it.")]


@findings_app.callback()
def overview(ctx: typer.Context) -> None:
    """List the open findings when no command is given."""
    if ctx.invoked_subcommand is None:
        _list(ctx, life=None, state=None, probe=None, include_closed=False, as_json=False)


@findings_app.command("list")
def list_findings(
    ctx: typer.Context,
    life: LifeOption = None,
    state: StateOption = None,
    probe: ProbeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List findings."""
    _list(ctx, life=life, state=state, probe=probe, include_closed=True, as_json=as_json)


@findings_app.command()
def show(
    ctx: typer.Context, number: Annotated[int, typer.Argument(help="Its number.")], as_json: JsonOption = False
) -> None:
    """Show a finding: the attack, the answer, and its history."""
    from vita.redteam import findings

    workspace = open_workspace(ctx)
    finding = findings.one(workspace.ledger, number)
    if as_json:
        typer.echo(json.dumps(finding.as_json(), indent=1))
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


@findings_app.command()
def triage(
    ctx: typer.Context,
    who: Who,
    reason: Reason,
    numbers: Numbers = None,
    life: LifeOption = None,
    probe: ProbeOption = None,
) -> None:
    """Confirm a finding."""
    _move(ctx, "triaged", numbers, life, probe, who=who, why=reason)


@findings_app.command()
def mitigate(
    ctx: typer.Context,
    who: Who,
    reason: Reason,
    numbers: Numbers = None,
    life: LifeOption = None,
    probe: ProbeOption = None,
) -> None:
    """Record a mitigation. The next red-team report on other weights closes the finding or keeps it open."""
    _move(ctx, "mitigated", numbers, life, probe, who=who, why=reason)


@findings_app.command()
def accept(
    ctx: typer.Context,
    who: Who,
    reason: Reason,
    expires: Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="The date on which the finding is reopened.")],
    numbers: Numbers = None,
    life: LifeOption = None,
    probe: ProbeOption = None,
) -> None:
    """Accept the risk of a finding until a date."""
    try:
        reopens = datetime.datetime.strptime(expires, "%Y-%m-%d").timestamp()
    except (ValueError, OverflowError):
        raise ConfigError("--expires", expected="a day such as 2030-12-31", got=expires) from None
    _move(ctx, "accepted", numbers, life, probe, who=who, why=reason, expires=reopens)


@findings_app.command()
def close(
    ctx: typer.Context,
    who: Who,
    reason: Reason,
    numbers: Numbers = None,
    life: LifeOption = None,
    probe: ProbeOption = None,
) -> None:
    """Close a finding. It is reopened if the attack succeeds again."""
    _move(ctx, "closed", numbers, life, probe, who=who, why=reason)


@findings_app.command("false-positive")
def false_positive(
    ctx: typer.Context,
    who: Who,
    reason: Reason,
    numbers: Numbers = None,
    life: LifeOption = None,
    probe: ProbeOption = None,
) -> None:
    """Mark a finding as a false positive: the detector was wrong."""
    _move(ctx, "false_positive", numbers, life, probe, who=who, why=reason)


@findings_app.command()
def export(
    ctx: typer.Context,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output file. Default: standard output.")
    ] = None,
    life: LifeOption = None,
    state: StateOption = None,
    probe: ProbeOption = None,
) -> None:
    """Write findings as regression items, for `redteam.regressions`."""

    from vita.redteam import findings

    lines = findings.exported(findings.every(open_workspace(ctx).ledger, life=life, state=_state(state), probe=probe))
    if output is None:
        typer.echo(lines.decode(), nl=False)
    else:
        with writing(output):
            output.write_bytes(lines)
        open_workspace(ctx).console.print(f"{counted(lines.count(10), 'finding')} in {output}")


# -- helpers


def _list(
    ctx: typer.Context, *, life: str | None, state: str | None, probe: str | None, include_closed: bool, as_json: bool
) -> None:
    from vita.redteam import findings

    workspace = open_workspace(ctx)
    matches = findings.every(workspace.ledger, life=life, state=_state(state), probe=probe)
    if not include_closed:
        matches = [finding for finding in matches if finding.state not in ("closed", "false_positive")]
    if as_json:
        typer.echo(json.dumps([finding.as_json() for finding in matches], indent=1))
        return
    table = Table("", "life", "probe", "item", "severity", "state", "since", box=None, pad_edge=False)
    for finding in matches:
        since = datetime.datetime.fromtimestamp(finding.moves[-1].at).strftime("%Y-%m-%d")
        table.add_row(
            str(finding.id), finding.life, finding.probe, finding.item, finding.severity, finding.state, since
        )
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
    who: str,
    why: str,
    expires: float | None = None,
) -> None:
    from vita.redteam import findings

    workspace = open_workspace(ctx)
    chosen = list(numbers or ())
    if not chosen and (life or probe):
        unsettled = ("closed", "false_positive", state)
        matches = findings.every(workspace.ledger, life=life, probe=probe)
        chosen = [finding.id for finding in matches if finding.state not in unsettled]
    if not chosen:
        raise ConfigError("findings", "none was chosen", hint="give numbers, or --life and --probe")
    findings.move(workspace.ledger, chosen, state, who=who, why=why, expires=expires)
    workspace.console.print(f"{counted(len(chosen), 'finding')} now {state}")


def _state(state: str | None) -> str | None:
    from vita.redteam.findings import STATES
    from vita.spine.config import unknown_name

    if state is not None and state not in STATES:
        raise unknown_name("--state", state, STATES)
    return state
