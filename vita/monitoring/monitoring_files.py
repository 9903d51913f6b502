"""Writes the configuration of Prometheus and the Grafana dashboard of a service to a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from vita.monitoring.alerts import AlertRule
from vita.monitoring.grafana_dashboard import dashboard
from vita.monitoring.metric_queries import MetricQueries
from vita.monitoring.prometheus_files import DEFAULT_ALERTS, prometheus_file, rules_file
from vita.spine.disk import full_disk_explained, write_atomically

CONFIGURATION, RULES, DASHBOARD = "prometheus.yml", "rules.yml", "dashboard.json"


def write_monitoring_files(
    folder: Path, queries: MetricQueries, *, target: str, rules: Sequence[AlertRule], has_keys: bool
) -> list[Path]:
    """Write the three files, and return their paths; earlier files of these names are replaced."""
    texts = {
        CONFIGURATION: prometheus_file(queries.service, target, rules=RULES, has_keys=has_keys),
        RULES: rules_file(queries, rules or DEFAULT_ALERTS),
        DASHBOARD: json.dumps(dashboard(queries), indent=1) + "\n",
    }
    with full_disk_explained(folder):
        for name, text in texts.items():
            write_atomically(folder / name, text.encode())
    return [folder / name for name in texts]
