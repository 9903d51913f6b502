"""The Grafana dashboard of a service, as the JSON document that Grafana imports.

    json.dumps(dashboard(MetricQueries("cat", routes=routes)))

The data source is a variable, so that the document is independent of an installation of Grafana.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vita.monitoring.metric_queries import WINDOW, MetricQueries

_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 3
"""Size of a panel in the grid of 24 columns, and the panels of a row."""
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 39
"""Version of the dashboard format (Grafana 10.1 and later read it)."""


@dataclass(frozen=True)
class DashboardPanel:
    """One chart: its title, its unit in Grafana, and its queries with their legends."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    about: str = ""


def dashboard(queries: MetricQueries) -> dict[str, Any]:
    """Return the dashboard of a service."""
    layout: list[dict[str, Any]] = []
    top, number = 0, 1
    for title, panels in _rows(queries).items():
        layout.append(_row(title, number=number, top=top))
        top, number = top + 1, number + 1
        for index, panel in enumerate(panels):
            line, column = divmod(index, _COLUMNS)
            layout.append(_panel(panel, number=number, x=column * _WIDTH, y=top + line * _HEIGHT))
            number += 1
        top += -(-len(panels) // _COLUMNS) * _HEIGHT
    return {
        "uid": "vita-" + hashlib.sha256(queries.service.encode()).hexdigest()[:12],
        "title": f"Vita: {queries.service}",
        "tags": ["vita"],
        "timezone": "browser",
        "editable": True,
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_data_source_variable()]},
        "annotations": {"list": []},
        "panels": layout,
    }


def dashboard_queries(document: dict[str, Any]) -> Iterator[str]:
    """Yield every query of a dashboard."""
    for panel in document["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def _rows(queries: MetricQueries) -> dict[str, list[DashboardPanel]]:
    """Return the title of each row with its panels."""
    figures, metric = queries.figures, queries.metric

    def per_version(title: str, unit: str, *names: str, about: str = "") -> DashboardPanel:
        several = len(names) > 1
        legends = (f"{{{{version}}}} {name}" if several else "{{version}}" for name in names)
        return DashboardPanel(title, unit, tuple(zip((figures[name] for name in names), legends, strict=True)), about)

    def engine(name: str, title: str, unit: str) -> DashboardPanel:
        return DashboardPanel(title, unit, ((metric(name, prefix="vita_"), "{{replica}}"),))

    def quantiles(title: str, histogram: str) -> DashboardPanel:
        expressions = [queries.quantile(histogram, part, prefix="vita_") for part in (0.5, 0.95)]
        return DashboardPanel(title, "s", tuple(zip(expressions, ("{{version}} p50", "{{version}} p95"), strict=True)))

    return {
        "Traffic": [
            per_version("Requests", "reqps", "request_rate", about="Requests that need a model; `none`: no replica"),
            DashboardPanel("Traffic shares", "percentunit", ((metric("share"), "{{version}}"),)),
            DashboardPanel("Requests in flight", "short", ((metric("in_flight"), "in flight"),)),
        ],
        "Errors": [
            per_version("Failures (5xx except 503)", "percentunit", "failure_rate"),
            per_version("Rejected (429, 503)", "percentunit", "shed_rate"),
            DashboardPanel(
                "Retries and lost requests", "short",
                ((f"sum by (reason) (increase({metric('retries_total')}[{WINDOW}]))", "retry: {{reason}}"),
                 (f"sum by (reason) (increase({metric('lost_total')}[{WINDOW}]))", "lost: {{reason}}")),
            ),
        ],
        "Latency": [
            per_version("Time to first byte", "s", "ttft_p50", "ttft_p95"),
            per_version("Latency", "s", "latency_p50", "latency_p95"),
            quantiles("Time between tokens", "inter_token_latency_seconds"),
        ],
        "Quality": [
            per_version("Thumbs up", "percentunit", "thumbs_up_rate"),
            per_version("Flags, edits and votes", "short", "flags", "edits", "votes_won"),
            per_version("Refusals", "percentunit", "refusal_rate"),
        ],
        "Drift": [
            per_version("Prompt drift", "short", "prompt_drift", about="Distance of the embeddings from the reference"),
            per_version("Log-probability shift of prompts", "short", "logprob_shift", about="Nats per token"),
            per_version("Drift p-value", "short", "drift_p_value", about="Over all checks with the reference"),
        ],
        "Tokens and cost": [
            per_version("Tokens in the last hour", "short", "prompt_tokens", "completion_tokens"),
            per_version("Tokens per second of a request", "short", "tokens_per_second"),
            per_version(
                "Cost per 1,000 tokens", "short", "cost_per_1000_tokens", "cost_per_1000_completion_tokens",
                about="Needs the setting price_per_replica_hour of the service",
            ),
        ],
        "Replicas": [
            DashboardPanel("Ready replicas", "short", ((f"sum by (version) ({metric('replica_up')})", "{{version}}"),)),
            engine("requests_waiting", "Waiting sequences", "short"),
            engine("kv_cache_usage", "KV cache", "percentunit"),
        ],
    }  # fmt: skip


def _row(title: str, *, number: int, top: int) -> dict[str, Any]:
    position = {"h": 1, "w": 24, "x": 0, "y": top}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": position, "panels": []}


def _panel(panel: DashboardPanel, *, number: int, x: int, y: int) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query, "legendFormat": legend, "range": True}
        for index, (query, legend) in enumerate(panel.queries)
    ]
    minimum = None if "shift" in panel.title else 0
    defaults = {"unit": panel.unit, "min": minimum, "custom": {"fillOpacity": 10, "showPoints": "never"}}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                    "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": targets,
    }  # fmt: skip


def _data_source_variable() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "label": "Data source", "query": "prometheus", "hide": 0}
