"""What happens, told once: `emit(event, **fields)` reaches every sink.

The JSON-lines sink keeps everything; the screen (see `progress.py`) shows the last state; TensorBoard,
MLflow and Weights & Biases are optional sinks for metrics, brought by the extras of those names.
Events: `step` (a stage begins or ends), `progress` (done, total, unit, any figures), `note` (a sentence
for the user), `metrics` (figures at a training step).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vita.spine.errors import MissingExtra
from vita.spine.parts import Parts

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


TRACKERS: Parts[Callable[[str, Path], Sink]] = Parts("tracker")
"""Optional sinks for metrics: name -> (title, folder) -> sink."""


@TRACKERS.add("tensorboard")
def tensorboard(title: str, folder: Path) -> Sink:
    """Scalars for TensorBoard, in `folder/tensorboard/title`."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise MissingExtra("tracker tensorboard", "tensorboard") from None
    place = folder / "tensorboard" / title
    place.mkdir(parents=True, exist_ok=True)
    writer = EventFileWriter(str(place))

    def write(step: int, figures: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    return _Metrics(write, writer.close)


@TRACKERS.add("mlflow")
def mlflow(title: str, folder: Path) -> Sink:
    """Metrics to MLflow; its own settings say where the server is, else `folder/mlflow`."""
    try:
        import mlflow as library  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtra("tracker mlflow", "mlflow") from None
    if not library.is_tracking_uri_set():
        library.set_tracking_uri((folder / "mlflow").resolve().as_uri())
    library.set_experiment("vita")
    library.start_run(run_name=title)
    return _Metrics(lambda step, figures: library.log_metrics(dict(figures), step=step), library.end_run)


@TRACKERS.add("wandb")
def wandb(title: str, folder: Path) -> Sink:
    """Metrics to Weights & Biases, offline unless its own settings say otherwise."""
    try:
        import wandb as library  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtra("tracker wandb", "wandb") from None
    run = library.init(project="vita", name=title, dir=str(folder), mode="offline")
    return _Metrics(lambda step, figures: run.log(dict(figures), step=step), run.finish)


class _Metrics:
    """A sink that passes on the figures of `metrics` events and leaves the rest."""

    def __init__(self, write: Callable[[int, Mapping[str, float]], None], close: Callable[[], None]) -> None:
        self._write, self._close = write, close

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "metrics" and isinstance(fields.get("step"), int):
            name = fields.get("life_step", "run")
            figures = {
                f"{name}/{key}": float(value)
                for key, value in fields.items()
                if key != "step" and isinstance(value, (int, float)) and not isinstance(value, bool)
            }
            self._write(fields["step"], figures)

    def close(self) -> None:
        self._close()
