"""Events of a run: `emit(event, **fields)` reaches every sink.

The JSON-lines sink writes every event to a file; the screen (`progress.py`) shows the latest state; experiment
trackers (`trackers.py`) receive the metrics.
Events: `step` (a stage begins or ends), `progress` (done, total, unit, any figures), `note` (a sentence
for the user), `metrics` (figures at a training step).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Emit = Callable[..., None]


@runtime_checkable
class Sink(Protocol):
    """Receives every event."""

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Events:
    """Hands each event to its sinks, with the fields that all of them share."""

    def __init__(self, sinks: Iterable[Sink] = (), **shared: Any) -> None:
        self.sinks, self.shared = list(sinks), shared

    def emit(self, event: str, **fields: Any) -> None:
        """Tell every sink."""
        told = {**self.shared, **fields}
        for sink in self.sinks:
            sink(event, told)

    def bind(self, **shared: Any) -> Events:
        """The same sinks, with more shared fields."""
        return Events(self.sinks, **{**self.shared, **shared})

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()


class JsonLines:
    """Appends every event to a file, one JSON object a line, with the time in seconds since 1970."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"at": round(time.time(), 3), "event": event, **fields}, default=str) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
