"""Monitoring of services: `vita monitor`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vita.cli.app import app, errors_console, open_workspace
from vita.cli.options import SERVICES, JsonOption, print_json
from vita.cli.workspace import Workspace
from vita.spine.console import line
from vita.spine.errors import ConfigError, VitaError
from vita.spine.plain_text import counted

if TYPE_CHECKING:
    from vita.monitoring.alerts import Alert, AlertRule

FIRING = 20
"""Exit code when an alert fires; errors have 1 to 9, verdicts of a gate 10 to 14."""

RETESTS_SHOWN, FIGURES_SHOWN = 5, 3
"""Number of re-tests, and of figures of each, that are shown."""

_LONGEST_INTERVAL = 366 * 86_400.0


@app.command(rich_help_panel=SERVICES)
def monitor(
    ctx: typer.Context,
    service: Annotated[str | None, typer.Argument(help="Name or address of a service. Default: all services.")] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, max=10_000_000, help="Time window of the metrics, in minutes.")
    ] = 60.0,
    alerts: Annotated[
        Path | None, typer.Option(help="File with alert rules. The exit code is 20 if an alert fires.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh the output until you press Ctrl-C.")] = False,
    every: Annotated[
        str, typer.Option(metavar="TIME", help="Refresh interval of --watch, for example 2 s or 1 min.")
    ] = "2 s",
    write: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write a Prometheus configuration and a Grafana dashboard instead."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Scrape target for --write. Default: the running service."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show load, latency, errors, feedback and cost for each version of a service."""
    from vita.monitoring.alerts import read_rules

    workspace = open_workspace(ctx)
    if write is not None:
        from vita.cli.monitoring_files import write_files

        write_files(workspace, service, write, target=target, alerts=alerts, as_json=as_json)
        return
    if target is not None:
        raise ConfigError("--target", "requires --write")
    if watch and as_json:
        raise ConfigError("--watch", "cannot be combined with --json", hint="call `vita monitor --json` repeatedly")
    rules = read_rules(alerts) if alerts else ()
    seconds_between = interval(every)
    if watch:
        with Live(console=workspace.console, refresh_per_second=4) as live:
            while True:
                live.update(_page(_status(workspace, service, minutes * 60, rules)))
                time.sleep(seconds_between)
    status = _status(workspace, service, minutes * 60, rules)
    if as_json:
        content = {**status, "alerts": [_as_json(alert) for alert in status["alerts"]]}
        print_json(content)
    else:
        workspace.console.print(_page(status))
    if status["alerts"]:
        for alert in status["alerts"]:
            errors_console().print(line(("alert", "bold red"), f" {alert}"), soft_wrap=True)
        raise typer.Exit(FIRING)


def interval(text: str) -> float:
    """Return the seconds of an option `--every`, such as `30 s`, `6 h` or `1 d`."""
    from vita.monitoring.alerts import in_seconds

    try:
        seconds = in_seconds(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST_INTERVAL:
        raise ConfigError("--every", expected="a time such as 30 s, 30 min, 6 h or 1 d, up to a year", got=text)
    return seconds


def _status(workspace: Workspace, service: str | None, seconds: float, rules: tuple[AlertRule, ...]) -> dict[str, Any]:
    """Return the current figures: the status of the running service, and the request log."""
    from vita.evals.regression import retest_history
    from vita.gates.proposals import all_proposals
    from vita.monitoring.alerts import evaluation_times, firing
    from vita.monitoring.drift_checks import drift_figures, newest_checks
    from vita.monitoring.request_log import FIGURES, figures

    now = time.time()
    running = _running(workspace, service)
    name = running["service"] if running else service

    def at(moment: float) -> dict[str, dict[str, float | None]]:
        names = FIGURES if moment == now else [rule.figure for rule in rules]
        versions = figures(workspace.ledger, service=name, since=moment - seconds, until=moment, names=names)
        checks = newest_checks(workspace.ledger, service=name, until=moment)
        return {version: {**values, **drift_figures(checks, version)} for version, values in versions.items()}

    points = [(moment, at(moment)) for moment in evaluation_times(rules, now=now)]
    return {
        "service": name,
        "minutes": seconds / 60,
        "running": running,
        "versions": points[-1][1],
        "alerts": firing(rules, points, now=now),
        "retests": retest_history(workspace.ledger, name, newest=RETESTS_SHOWN),
        "proposals": [
            {"proposal": proposal.id, "version": proposal.version, "action": proposal.action, "reason": proposal.reason}
            for proposal, decision in all_proposals(workspace.ledger, service=name)
            if decision is None
        ],
    }


def _running(workspace: Workspace, service: str | None) -> dict[str, Any] | None:
    """Return the status of the service with this name on this machine, or None."""
    from vita.server.service.admin import ServiceHandle

    handles = [
        handle
        for handle in ServiceHandle.all(workspace.store.root / "services")
        if service in (None, handle.service, handle.url)
    ]
    if len(handles) != 1:
        return None
    try:
        return {**handles[0].call("GET", "/status").json(), "url": handles[0].url}
    except VitaError:
        return None


_FIGURES = {
    "requests": ("requests", "{:.0f}"), "error_rate": ("errors (5xx)", "{:.1%}"),
    "failure_rate": ("failures (5xx except 503)", "{:.1%}"), "shed_rate": ("rejected (429, 503)", "{:.1%}"),
    "ttft_p50": ("time to first byte, p50", "{:.3f} s"),
    "ttft_p95": ("time to first byte, p95", "{:.3f} s"),
    "latency_p50": ("latency, p50", "{:.3f} s"), "latency_p95": ("latency, p95", "{:.3f} s"),
    "tokens_per_second": ("tokens/s", "{:.1f}"),
    "length": ("length", "{:.1f}"), "refusal_rate": ("refusals", "{:.1%}"), "logprob": ("logprob", "{:.3f}"),
    "thumbs_up_rate": ("thumbs up", "{:.0%}"), "flags": ("flags", "{:.0f}"), "edits": ("edits", "{:.0f}"),
    "prompt_tokens": ("prompt tokens", "{:,.0f}"), "completion_tokens": ("completion tokens", "{:,.0f}"),
    "cost": ("cost", "{:.4g}"), "cost_per_1000_tokens": ("cost per 1,000 tokens", "{:.4g}"),
    "cost_per_1000_completion_tokens": ("cost per 1,000 completion tokens", "{:.4g}"),
    "prompt_drift": ("prompt drift", "{:.3f}"), "logprob_shift": ("log-probability shift of prompts", "{:.3f}"),
    "drift_p_value": ("drift p-value", "{:.2g}"),
}  # fmt: skip


def _page(status: dict[str, Any]) -> RenderableType:
    running = status["running"]
    minutes = "minute" if status["minutes"] == 1 else f"{status['minutes']:g} minutes"
    head = f"{status['service'] or 'all services'}, the last {minutes}"
    if running:
        ready = sum(replica["state"] == "ready" for replica in running["replicas"])
        head += f"; at {running['url']}, {ready} of {len(running['replicas'])} replicas ready, "
        head += f"{counted(running['in_flight'], 'request')} in flight"
    shares = {version["version"]: version["share"] for version in running["versions"]} if running else {}
    versions = sorted({*status["versions"], *shares})
    table = Table("", *versions, box=None, pad_edge=False)
    table.add_row("share", *(f"{shares[version]:.0%}" if version in shares else "" for version in versions))
    for name, (title, form) in _FIGURES.items():
        values = [status["versions"].get(version, {}).get(name) for version in versions]
        table.add_row(title, *("" if value is None else form.format(value) for value in values))
    firing = [Text(str(alert), style="bold red") for alert in status["alerts"]]
    proposals = [
        Text(f"proposal {row['proposal']}: {row['action']} {row['version']}: {row['reason']}", style="bold yellow")
        for row in status["proposals"]
    ]
    return Group(Text(head, style="bold"), table, *_retests(status["retests"]), *firing, *proposals)


def _retests(history: list[dict[str, Any]]) -> list[RenderableType]:
    """Return the table of the last re-tests, if there are any."""
    if not history:
        return []
    from vita.stats.intervals import Interval

    table = Table("re-test", "test", "version", "figures", "worse or failed", box=None, pad_edge=False)
    for retest in history:
        day = datetime.fromtimestamp(retest["at"], UTC).strftime("%Y-%m-%d %H:%M")
        for row in retest["versions"]:
            figures = list(row.get("figures", {}).items())[:FIGURES_SHOWN]
            text = ", ".join(f"{name} {Interval.from_json(value)}" for name, value in figures)
            bad = [failed["name"] for failed in row.get("failed", ())] + [drop["figure"] for drop in row["worse"]]
            table.add_row(day, retest["test"], row["version"], text, ", ".join(bad[:FIGURES_SHOWN]))
    return [Text(""), table]


def _as_json(alert: Alert) -> dict[str, Any]:
    return {"name": alert.rule.name, "severity": alert.rule.severity, "version": alert.version,
            "figure": alert.rule.figure, "value": alert.value}  # fmt: skip
