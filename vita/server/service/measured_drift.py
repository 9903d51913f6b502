"""Exports the newest drift in the ledger as metrics; a thread reads it, so that a locked ledger delays nothing."""

from __future__ import annotations

import asyncio

from vita.monitoring.drift_checks import DRIFT_FIGURES, drift_figures, newest_checks
from vita.server.gateway.telemetry import Telemetry
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger

LOOK_SECONDS = 15.0


async def export_drift(telemetry: Telemetry, ledger: Ledger, service: str) -> None:
    """Update the gauges of drift until cancelled."""
    while True:
        try:
            checks = await asyncio.to_thread(newest_checks, ledger, service=service)
        except VitaError:
            telemetry.ledger_errors.inc()
            checks = []
        for check in checks:
            figures = drift_figures([check], check["version"])
            for name in DRIFT_FIGURES:
                if (value := figures[name]) is not None:
                    telemetry.drift[name].labels(check["version"]).set(value)
        await asyncio.sleep(LOOK_SECONDS)
