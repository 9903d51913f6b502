"""The record of deployments, written asynchronously.

    journal = Journal(ledger, notify); journal.add(row); await journal.flush(2.0)

One thread writes the rows in order. While the ledger is locked or unreachable, a row is retried and the service
continues: only `flush` waits, with a timeout.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from vita.monitoring.request_log import deployments
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger

PAUSE_SECONDS = 1.0
"""Pause between two attempts to write a row."""


class Journal:
    """Writes rows of `deployments` in a separate thread."""

    def __init__(self, ledger: Ledger, notify: Callable[[str], None]) -> None:
        """`notify` receives a line when writes to the ledger start to fail, and one when they work again."""
        self._ledger, self._notify = ledger, notify
        self._rows: queue.SimpleQueue[dict[str, Any] | threading.Event | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="deployment journal", daemon=True)
        self._thread.start()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row to the queue."""
        self._rows.put(dict(row))

    async def flush(self, seconds: float) -> bool:
        """Wait until all earlier rows are written; returns False after `seconds`."""
        written = threading.Event()
        self._rows.put(written)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not written.is_set() and loop.time() < end:
            await asyncio.sleep(0.01)
        return written.is_set()

    async def close(self, *, seconds: float) -> None:
        """Write the remaining rows within `seconds` and end the thread."""
        if not await self.flush(seconds):
            self._notify("the end of the service could not be recorded: the ledger cannot be written")
        self._closing.set()
        self._rows.put(None)

    def _write(self) -> None:
        while (item := self._rows.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
            else:
                self._insert(item)

    def _insert(self, row: dict[str, Any]) -> None:
        failed = False
        while True:
            try:
                with self._ledger.transaction() as database:
                    database.execute(sa.insert(deployments).values(row))
                break
            except VitaError as error:
                if not failed:
                    self._notify(f"{row['version']}: `{row['action']}` is not recorded yet, and tried again: {error}")
                failed = True
                if self._closing.wait(PAUSE_SECONDS):
                    return
        if failed:
            self._notify(f"{row['version']}: `{row['action']}` is recorded now")
