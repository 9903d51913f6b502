"""Experiment trackers: optional sinks that send the metrics of a run to TensorBoard, MLflow or Weights & Biases.

    vita live life.yaml --tracker mlflow

A tracker is a function `(title, folder) -> Sink`. It is added with `@TRACKERS.add(name)`, or by another package under
the entry-point group `vita.trackers`. A metric is named `STEP/METRIC` (`pretrain/loss`) and is logged against the
optimizer step of its own stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from vita.spine.errors import MissingExtra, VitaError
from vita.spine.events import Sink
from vita.spine.registry import Registry

TRACKERS: Registry[Callable[[str, Path], Sink]] = Registry("tracker")
"""Name -> (title, folder) -> sink."""


@TRACKERS.add("tensorboard")
def tensorboard(title: str, folder: Path) -> Sink:
    """Log scalars for TensorBoard to `folder/tensorboard/title`."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise MissingExtra("tracker tensorboard", "tensorboard") from None
    logs = folder / "tensorboard" / title
    logs.mkdir(parents=True, exist_ok=True)
    writer = EventFileWriter(str(logs))

    def write(stage: str, step: int, figures: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=f"{stage}/{name}", simple_value=value) for name, value in figures.items()]
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    return MetricsSink("tensorboard", write, writer.close, errors=OSError, destination=str(logs))


@TRACKERS.add("mlflow")
def mlflow(title: str, folder: Path) -> Sink:
    """Log metrics to MLflow's configured tracking URI, or without one to the SQLite file `folder/mlflow/mlflow.db`.

    MLflow no longer accepts a plain folder (a `file:` URI) as tracking URI.
    """
    try:
        import mlflow as library
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise MissingExtra("tracker mlflow", "mlflow") from None
    with explained("mlflow", MlflowException):
        artifacts = None
        if not library.is_tracking_uri_set():
            local = (folder / "mlflow").resolve()
            local.mkdir(parents=True, exist_ok=True)
            library.set_tracking_uri(f"sqlite:///{local / 'mlflow.db'}")
            artifacts = (local / "artifacts").as_uri()
        if library.get_experiment_by_name(PROJECT) is None:
            library.create_experiment(PROJECT, artifact_location=artifacts)
        library.set_experiment(PROJECT)
        library.start_run(run_name=title)

    def write(stage: str, step: int, figures: Mapping[str, float]) -> None:
        library.log_metrics({f"{stage}/{name}": value for name, value in figures.items()}, step=step)

    uri = _without_password(library.get_tracking_uri())
    return MetricsSink("mlflow", write, library.end_run, errors=MlflowException, destination=uri)


@TRACKERS.add("wandb")
def wandb(title: str, folder: Path) -> Sink:
    """Log metrics to Weights & Biases, offline in `folder/wandb` unless its own settings choose another mode."""
    try:
        import wandb as library
        from wandb.errors import Error
    except ImportError:
        raise MissingExtra("tracker wandb", "wandb") from None
    folder.mkdir(parents=True, exist_ok=True)
    with explained("wandb", Error):
        chosen = library.setup().settings
        offline = "mode" not in chosen.model_fields_set
        run = library.init(project=PROJECT, name=title, dir=str(folder), mode="offline" if offline else None)
    stages = set[str]()

    def write(stage: str, step: int, figures: Mapping[str, float]) -> None:
        # W&B drops rows whose global step decreases, and each stage counts its steps from 1: the step is a metric.
        if stage not in stages:
            stages.add(stage)
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        run.log({f"{stage}/{name}": value for name, value in {**figures, "step": step}.items()})

    destination = f"{folder / 'wandb'} (offline; `wandb sync` uploads it)" if offline else str(run.url or PROJECT)
    return MetricsSink("wandb", write, run.finish, errors=Error, destination=destination)


PROJECT = "vita"
"""The MLflow experiment and the Weights & Biases project."""


class MetricsSink:
    """Pass the numbers of `metrics` events to `write(stage, step, figures)`; ignore all other events."""

    def __init__(
        self,
        tracker: str,
        write: Callable[[str, int, Mapping[str, float]], object],
        close: Callable[[], object],
        *,
        errors: type[Exception],
        destination: str = "",
    ) -> None:
        """`destination` is the folder or address that the tracker writes to, for the user."""
        self.tracker, self.destination = tracker, destination
        self._tracker, self._write, self._close, self._errors = tracker, write, close, errors

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        if event != "metrics" or not isinstance(fields.get("step"), int):
            return
        figures = {
            name: float(value)
            for name, value in fields.items()
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        with explained(self._tracker, self._errors):
            self._write(str(fields.get("life_step", "run")), fields["step"], figures)

    def close(self) -> None:
        with explained(self._tracker, self._errors):
            self._close()


def _without_password(uri: str) -> str:
    """Return an address without its user name and password."""
    parts = urlsplit(uri)
    return uri if "@" not in parts.netloc else urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextmanager
def explained(tracker: str, errors: type[Exception]) -> Iterator[None]:
    """Translate errors of the library (an unreachable server, a wrong setting) into a one-line `VitaError`."""
    try:
        yield
    except errors as error:
        hint = "correct the tracker's settings or run without it; training continues from its last checkpoint"
        text = " ".join(str(error).split())
        raise VitaError(f"tracker {tracker}", text[:300] or type(error).__name__, hint=hint) from None
