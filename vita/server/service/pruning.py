"""Removal of old rows by a running service: in small batches, on a thread, with pauses, so that no request waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from vita.monitoring.retention import Retention, prune
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger

PAUSE_SECONDS = 0.1
"""Between two batches, for those who write requests."""


async def prune_regularly(ledger: Ledger, retention: Retention, *, seconds: float, tell: Callable[[str], None]) -> None:
    """Remove what is too old now and every `seconds`; while the ledger cannot be written, later."""
    while True:
        removed: Counter[str] = Counter()
        try:
            steps = prune(ledger, retention)
            while (step := await asyncio.to_thread(next, steps, None)) is not None:
                removed.update(step)
                await asyncio.sleep(PAUSE_SECONDS)
        except VitaError as error:
            tell(f"old requests could not be removed: {error}")
        if removed:
            tell("removed by age: " + ", ".join(f"{number:,} {what}" for what, number in removed.items()))
        await asyncio.sleep(seconds)
