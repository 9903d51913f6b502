"""A thread that measures the replica time of a service and exports its drift; a locked ledger delays only itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vita.server.service.replica_use import ReplicaUse

LOOK_SECONDS, LEDGER_SECONDS = 1.0, 15.0
"""Interval of the measurement, and of the accesses to the ledger."""


class MonitoringThread:
    """Measures until `close`, which writes the last measurement."""

    def __init__(self, use: ReplicaUse, export: Callable[[], None]) -> None:
        """`export` reads the ledger and updates metrics."""
        self._use, self._export = use, export
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service monitoring", daemon=True)
        self._thread.start()

    def close(self, *, seconds: float = 2.0) -> None:
        """End the thread; waits no longer than `seconds` for a locked ledger."""
        self._stop.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        accessed = float("-inf")
        while not self._stop.is_set():
            self._use.measure(time.time())
            if time.monotonic() - accessed >= LEDGER_SECONDS:
                accessed = time.monotonic()
                self._use.write()
                self._export()
            self._stop.wait(LOOK_SECONDS)
        self._use.measure(time.time())
        self._use.write()
