"""Events of a run: `emit(event, **fields)` reaches every sink.

The JSON-lines sink writes every event to a file; the screen (`progress.py`) shows the latest state; experiment
trackers (`trackers.py`) receive the metrics.
Events: `step` (a stage begins or ends), `progress` (done, total, unit, any metrics), `note` (a message for the user),
`metrics` (metrics at a training step).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Emit = Callable[..., None]
LOG_BYTES = 10_000_000
"""Size in bytes at which an event log is rotated."""


@runtime_checkable
class Sink(Protocol):
    """Receives every event."""

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Events:
    """Pass each event to all sinks, with shared fields."""

    def __init__(self, sinks: Iterable[Sink] = (), **shared: Any) -> None:
        self.sinks, self.shared = list(sinks), shared

    def emit(self, event: str, **fields: Any) -> None:
        """Send an event to every sink."""
        all_fields = {**self.shared, **fields}
        for sink in self.sinks:
            sink(event, all_fields)

    def bind(self, **shared: Any) -> Events:
        """Return events with the same sinks and additional shared fields."""
        return Events(self.sinks, **{**self.shared, **shared})

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()


class JsonLines:
    """Append events to a file, one JSON object per line, with the time in seconds since 1970.

    A cached step writes nothing, so that a life without work does not change the file. A file of more than `limit`
    bytes is renamed to `FILE.1`, which replaces an earlier one, and a new file is started.
    """

    def __init__(self, path: Path, *, limit: int = LOG_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._limit = path, limit
        self._beginning: tuple[float, Mapping[str, Any]] | None = None
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "step" and fields.get("state") == "begins":
            self._beginning = (time.time(), dict(fields))
            return
        if event == "step" and fields.get("state") == "known":
            self._beginning = None
            return
        if self._beginning is not None:
            began_at, beginning = self._beginning
            self._beginning = None
            self._write(began_at, "step", beginning)
        self._write(time.time(), event, fields)

    def close(self) -> None:
        self._file.close()

    def _write(self, timestamp: float, event: str, fields: Mapping[str, Any]) -> None:
        if self._file.tell() > self._limit:
            self._file.close()
            if self._path.exists() and self._path.stat().st_size > self._limit:  # another process may have renamed it
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps({"at": round(timestamp, 3), "event": event, **fields}, default=str) + "\n")
        self._file.flush()
