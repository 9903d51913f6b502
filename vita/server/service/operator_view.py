"""The content of the operator page: the status of a service and its figures, as text for the template."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from vita.evals.regression import retest_history
from vita.gates.proposals import Proposal, all_proposals
from vita.monitoring.alerts import AlertRule, evaluation_times, firing
from vita.monitoring.drift_checks import drift_figures, newest_checks
from vita.monitoring.request_log import FIGURES, figures
from vita.spine.ledger import Ledger
from vita.spine.plain_text import counted
from vita.stats.intervals import Interval

WINDOW_SECONDS = 3600.0
ROWS = 10
"""Number of re-tests that are shown."""
SHOWN = {
    "requests": ("requests", "{:,.0f}"), "failure_rate": ("failures (5xx except 503)", "{:.1%}"),
    "shed_rate": ("rejected (429, 503)", "{:.1%}"), "ttft_p95": ("time to first byte, p95", "{:.3f} s"),
    "latency_p50": ("latency, p50", "{:.3f} s"), "latency_p95": ("latency, p95", "{:.3f} s"),
    "tokens_per_second": ("tokens/s", "{:.1f}"), "refusal_rate": ("refusals", "{:.1%}"),
    "thumbs_up_rate": ("thumbs up", "{:.0%}"), "flags": ("flags", "{:.0f}"), "edits": ("edits", "{:.0f}"),
    "votes_won": ("votes won", "{:.0f}"), "cost_per_1000_tokens": ("cost per 1,000 tokens", "{:.4g}"),
    "prompt_drift": ("prompt drift", "{:.3f}"), "drift_p_value": ("drift p-value", "{:.2g}"),
}  # fmt: skip
"""Figure -> its name and its format."""


def operator_view(
    ledger: Ledger, status: Mapping[str, Any], rules: Sequence[AlertRule], *, now: float | None = None
) -> dict[str, Any]:
    """Return the values of the template `operator.html.jinja`; reads the ledger."""
    moment, service = time.time() if now is None else now, status["service"]
    points = [(at, _figures_at(ledger, service, at)) for at in evaluation_times(rules, now=moment)]
    measured, shares = points[-1][1], {version["version"]: version["share"] for version in status["versions"]}
    versions = sorted({*measured, *shares})
    rows = [("traffic", ["" if version not in shares else f"{shares[version]:.0%}" for version in versions])]
    for name, (title, form) in SHOWN.items():
        values = [measured.get(version, {}).get(name) for version in versions]
        rows.append((title, ["" if value is None else form.format(value) for value in values]))
    ready = sum(replica["state"] == "ready" for replica in status["replicas"])
    summary = (
        f"{ready} of {len(status['replicas'])} replicas ready, {counted(status['in_flight'], 'request')} in flight"
    )
    proposals = [proposal for proposal, decision in all_proposals(ledger, service=service) if decision is None]
    return {
        "service": service,
        "summary": summary,
        "alerts": [str(alert) for alert in firing(rules, points, now=moment)],
        "proposals": [_proposal(proposal) for proposal in proposals],
        "versions": versions,
        "figures": rows,
        "has_canary": len(status["versions"]) > 1,
        "replicas": status["replicas"],
        "drift": [_drift_row(check) for check in newest_checks(ledger, service=service)],
        "retests": _retest_rows(ledger, service),
        "time": _moment(moment),
    }


def _figures_at(ledger: Ledger, service: str, moment: float) -> dict[str, dict[str, float | None]]:
    versions = figures(ledger, service=service, since=moment - WINDOW_SECONDS, until=moment, names=FIGURES)
    checks = newest_checks(ledger, service=service, until=moment)
    return {version: {**values, **drift_figures(checks, version)} for version, values in versions.items()}


def _proposal(proposal: Proposal) -> dict[str, Any]:
    content = proposal.figures
    lines = [f"{row['criterion']}: {row['verdict']} ({row['reason']})" for row in content.get("failed", ())]
    lines += [row["message"] for row in content.get("worse", ())]
    title = f"{proposal.id}: {proposal.action} {proposal.version}, after {proposal.test}"
    return {"number": proposal.id, "title": title, "reason": proposal.reason, "figures": lines}


def _drift_row(check: Mapping[str, Any]) -> list[str]:
    drift, shift = (Interval.from_json(check["figures"][name]) for name in ("prompt_drift", "logprob_shift"))
    p_value = f"{check['figures']['drift_p_value']:.2g}"
    return [_moment(check["at"]), check["version"], str(drift), f"{shift} nats per token", p_value]


def _retest_rows(ledger: Ledger, service: str) -> list[list[str]]:
    """Return the re-tests, the newest first."""
    rows = []
    for retest in reversed(retest_history(ledger, service, newest=ROWS)):
        for version in retest["versions"]:
            shown = list(version.get("figures", {}).items())[:3]
            values = ", ".join(f"{name} {Interval.from_json(value)}" for name, value in shown)
            bad = [row["name"] for row in version.get("failed", ())] + [row["figure"] for row in version["worse"]]
            rows.append([_moment(retest["at"]), retest["test"], version["version"], values, ", ".join(bad[:3])])
    return rows


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
