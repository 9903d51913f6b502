"""Exports the newest drift in the ledger as metrics."""

from __future__ import annotations

from vita.monitoring.drift_checks import DRIFT_FIGURES, drift_figures, newest_checks
from vita.server.gateway.telemetry import Telemetry
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger


def export_drift(telemetry: Telemetry, ledger: Ledger, service: str) -> None:
    """Update the gauges of drift; they stay as they are while the ledger cannot be read."""
    try:
        checks = newest_checks(ledger, service=service)
    except VitaError:
        telemetry.ledger_errors.inc()
        return
    for check in checks:
        figures = drift_figures([check], check["version"])
        for name in DRIFT_FIGURES:
            if (value := figures[name]) is not None:
                telemetry.drift[name].labels(check["version"]).set(value)
