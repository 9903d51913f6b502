"""Files for Prometheus: the scrape job of a service, recording rules for its figures, and alerts.

    rules_file(queries, rules=read_rules("alerts.yaml"))     # text in YAML, for `rule_files`

Recording rules have the names `vita:FIGURE`. The alert rules of `vita monitor --alerts` become alerts over them, with
the same names, limits and durations; alerts about the service itself are always included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from vita.monitoring.alerts import AlertRule
from vita.monitoring.metric_queries import WINDOW, MetricQueries, quoted
from vita.spine.config import alternatives
from vita.spine.errors import ConfigError

DEFAULT_ALERTS = (
    AlertRule.model_validate(
        {"name": "failures", "figure": "failure_rate", "above": 0.01, "for": "5 min", "severity": "page"}
    ),
    AlertRule.model_validate({"name": "rejections", "figure": "shed_rate", "above": 0.05, "for": "10 min"}),
    AlertRule.model_validate({"name": "slow", "figure": "ttft_p95", "above": 5, "for": "10 min", "at_least": 20}),
    AlertRule.model_validate({"name": "disliked", "figure": "thumbs_up_rate", "below": 0.6, "for": "1 h"}),
    AlertRule.model_validate({"name": "drift", "figure": "drift_p_value", "below": 0.01}),
)
"""The alert rules of a service without its own alert rules."""


def record_name(figure: str) -> str:
    """Return the name of the recording rule of a figure."""
    return f"vita:{figure}"


def rules_file(queries: MetricQueries, rules: Sequence[AlertRule] = DEFAULT_ALERTS) -> str:
    """Return the rule file of a service."""
    records = [{"record": record_name(name), "expr": query} for name, query in queries.figures.items()]
    figures = {"name": f"{queries.service}: figures", "interval": "30s", "rules": records}
    alerts = [*(_alert(rule, queries) for rule in rules), *_service_alerts(queries)]
    return _yaml({"groups": [figures, {"name": f"{queries.service}: alerts", "rules": alerts}]})


def prometheus_file(service: str, target: str, *, rules: str, has_keys: bool) -> str:
    """Return a configuration of Prometheus that scrapes a service at `target` (HOST:PORT) and loads a rule file.

    With keys, Prometheus sends the API key in the file `metrics.key`, which needs the scope `admin`.
    """
    job: dict[str, Any] = {"job_name": service, "static_configs": [{"targets": [target]}]}
    if has_keys:
        job["authorization"] = {"credentials_file": "metrics.key"}
    return _yaml(
        {
            "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
            "rule_files": [rules],
            "scrape_configs": [job],
        }
    )


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _alert(rule: AlertRule, queries: MetricQueries) -> dict[str, Any]:
    """Return an alert rule of `vita monitor` as one of Prometheus."""
    if rule.figure not in queries.figures:
        raise ConfigError(
            f"alert `{rule.name}`", f"`{rule.figure}` has no metric in Prometheus", hint=alternatives(queries.figures)
        )
    filters = [f"version={quoted(rule.version)}"] if rule.version else []
    side, word = (f"> {rule.above:g}", "above") if rule.above is not None else (f"< {rule.below:g}", "below")
    expression = f"{queries.metric(record_name(rule.figure), *filters, prefix='')} {side}"
    if rule.at_least > 1:
        expression = f"({expression}) and on (job, version) ({queries.requests_in_window} >= {rule.at_least})"
    summary = f"{rule.figure} of {{{{ $labels.version }}}} is {{{{ $value }}}}, {word} {side[2:]}"
    return _alert_rule(rule.name, expression, rule.seconds, rule.severity, summary)


def _service_alerts(queries: MetricQueries) -> list[dict[str, Any]]:
    """Return the alerts about the service itself."""
    metric = queries.metric
    # Without any replica, there is no series of `replica_up`.
    ready = f"(sum by (job) ({metric('replica_up')}) or 0 * (sum by (job) ({metric('up', prefix='')}) > 0))"
    lost, lost_before = (f"sum by (job) ({metric('lost_total')}{offset})" for offset in ("", f" offset {WINDOW}"))
    return [
        _alert_rule("service down", metric("up", prefix="") + " == 0", 60, "page", "the service does not respond"),
        _alert_rule("no replica ready", f"{ready} == 0", 60, "page", "no replica is ready"),
        _alert_rule(
            "replica not ready", metric("replica_up") + " == 0", 600, "warn",
            "replica {{ $labels.replica }} of {{ $labels.version }} is not ready",
        ),
        # The first increase of a counter is its creation, which `increase` does not see.
        _alert_rule(
            "accepted requests lost",
            f"({lost} - {lost_before}) > 0 or ({lost} unless {lost_before}) > 0",
            0, "page", "{{ $value }} accepted requests failed",
        ),
        _alert_rule(
            "request log incomplete", f"delta({metric('log_dropped')}[{WINDOW}]) > 0", 0, "warn",
            "{{ $value }} entries of the request log were lost",
        ),
        _alert_rule(
            "ledger unavailable", f"increase({metric('ledger_errors_total')}[{WINDOW}]) > 0", 300, "warn",
            "the ledger cannot be read",
        ),
        _alert_rule(
            "KV cache full", f"{queries.metric('kv_cache_usage', prefix='vita_')} > 0.95", 600, "note",
            "the KV cache of replica {{ $labels.replica }} is full",
        ),
    ]  # fmt: skip


def _alert_rule(name: str, expression: str, seconds: float, severity: str, summary: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": name, "expr": expression, "labels": {"severity": severity}}
    if seconds:
        rule["for"] = f"{seconds:.0f}s"
    return {**rule, "annotations": {"summary": summary}}
