"""Removes expired rows while the service runs: in small batches in a thread, so that requests do not wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from vita.monitoring.retention import Retention, prune
from vita.server.sites.idempotency import prune_records
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger

PAUSE_SECONDS = 0.1
"""Pause between two batches, in which requests can be written."""


async def prune_regularly(
    ledger: Ledger,
    retention: Retention,
    *,
    seconds: float,
    notify: Callable[[str], None],
    idempotency_hours: float = 24.0,
) -> None:
    """Remove expired rows now and every `seconds`; retries while the ledger cannot be written."""
    while True:
        removed: Counter[str] = Counter()
        try:
            steps = prune(ledger, retention)
            while (step := await asyncio.to_thread(next, steps, None)) is not None:
                removed.update(step)
                await asyncio.sleep(PAUSE_SECONDS)
            while count := await asyncio.to_thread(prune_records, ledger, hours=idempotency_hours):
                removed["idempotency records"] += count
                await asyncio.sleep(PAUSE_SECONDS)
        except VitaError as error:
            notify(f"old requests could not be removed: {error}")
        if removed:
            notify("removed by age: " + ", ".join(f"{number:,} {table}" for table, number in removed.items()))
        await asyncio.sleep(seconds)
