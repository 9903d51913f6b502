"""The request log: request, version and outcome, written asynchronously.

Rows go through a bounded queue to one thread, which writes them in batches. When the database is too slow, rows are
dropped and counted; requests are not affected. Content is stored only when the service logs content and the client
consents. Addresses, numbers and secrets are redacted first.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from vita.monitoring.request_log import monitored, requests
from vita.server.gateway.redaction import redact_all
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger

LogLevel = Literal["none", "metadata", "content"]
_BATCH = 200
_RETRY_SECONDS = 5.0
_END = object()


@dataclass(frozen=True)
class StoragePolicy:
    """The parts of a request that the log may store."""

    level: LogLevel
    redact: bool

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row with only the data that may be stored."""
        stored = {**row, **monitored(row["figures"])}
        if self.level != "content" or not stored["consent"]:
            return {**stored, "asked": {}, "answered": {}, "has_content": False}
        if self.redact:
            stored |= {name: redact_all(stored[name]) for name in ("asked", "answered")}
        return {**stored, "has_content": bool(stored["asked"] or stored["answered"])}


class RequestLog:
    """Writes rows of `requests` in a separate thread."""

    def __init__(self, ledger: Ledger, policy: StoragePolicy, *, room: int = 10_000) -> None:
        self._ledger, self.policy = ledger, policy
        self._rows: queue.Queue[Any] = queue.Queue(maxsize=room)
        self.dropped = 0
        """Number of rows that were lost because the database was too slow or refused them."""
        self._thread = threading.Thread(target=self._write, name="request log", daemon=True)
        self._thread.start()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row to the queue."""
        if self.policy.level == "none":
            return
        try:
            self._rows.put_nowait(dict(row))
        except queue.Full:
            self.dropped += 1

    def add_refused(self, row: Mapping[str, Any]) -> None:
        """Add the row of a request that reached no replica; such rows use at most half of the queue."""
        if self._rows.qsize() < self._rows.maxsize // 2:
            self.add(row)
        elif self.policy.level != "none":
            self.dropped += 1

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait until all earlier rows are written; returns False on timeout."""
        written = threading.Event()
        try:
            self._rows.put(written, timeout=seconds)
        except queue.Full:
            return False
        return written.wait(seconds)

    def close(self) -> None:
        """Write the remaining rows and end the thread."""
        try:
            self._rows.put(_END, timeout=30)
        except queue.Full:
            return
        self._thread.join(timeout=30)

    def _write(self) -> None:
        running = True
        while running:
            batch = [self._rows.get()]
            while len(batch) < _BATCH and not self._rows.empty():
                batch.append(self._rows.get_nowait())
            running = _END not in batch
            rows = [self.policy.row(row) for row in batch if isinstance(row, dict)]
            if rows:
                self._insert(rows)
            for waiting in batch:
                if isinstance(waiting, threading.Event):
                    waiting.set()

    def _insert(self, rows: list[dict[str, Any]], deadline: float | None = None) -> None:
        """Insert rows; if that fails, insert the halves until `deadline`, so that one invalid row loses no others."""
        deadline = time.monotonic() + _RETRY_SECONDS if deadline is None else deadline
        try:
            with self._ledger.transaction() as database:
                database.execute(sa.insert(requests), rows)
        except VitaError:
            if len(rows) == 1 or time.monotonic() > deadline:
                self.dropped += len(rows)
                return
            middle = len(rows) // 2
            self._insert(rows[:middle], deadline)
            self._insert(rows[middle:], deadline)
