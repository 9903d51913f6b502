"""The one loop all training stages share: batches in, a trained model out, and exactly that however often it is killed.

    trainer = Trainer(model, language_modelling, training, world=world, threads=machine.threads)
    learnt = train(trainer, batches=lambda step: StepBatch(...), folder=context.scratch, emit=context.emit)

`batches` is a pure function of the step (and of the weights, where the model makes its own), so going on after a crash
is: load the last checkpoint, cut the metrics back to it, and ask for the next step. Metrics go to `metrics.jsonl`, one
line for each step and one clean curve.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from vita.spine.disk import explain_disk, write_atomically
from vita.spine.errors import StoreError
from vita.spine.events import Emit
from vita.spine.interrupts import Interruption, deferred_interrupts
from vita.train.checkpoint import Checkpoint, Checkpoints
from vita.train.hardware import matmul_peak, peak_memory, reset_peak_memory
from vita.train.trainer import StepBatch, StepResult, Trainer

METRICS, CHECKPOINTS = "metrics.jsonl", "checkpoints"
OF_THE_CLOCK = ("tokens_per_second", "mfu")
"""Figures in `metrics.jsonl` that differ from run to run; `TrainResult.curve` leaves them out."""
TELL_SECONDS = 0.25
CONTINUES = "the same command continues from its checkpoint"
PROBE_STEPS = 20
"""A run of fewer steps is not worth the second that measuring the machine's peak takes."""


@dataclass(frozen=True)
class EvalHook:
    """Something to look at every so many steps, and after the last; what it tells goes into the metrics.

    It sees the trainer and must not change it.
    """

    every: int
    tell: Callable[[Trainer], Mapping[str, float]]
    at_start: bool = False
    """Also before the first step."""


@dataclass(frozen=True)
class TrainResult:
    """What a whole run gave."""

    steps: int
    left_out: int
    """Steps that were not taken, for a loss or gradient that could not be used."""
    curve: list[dict[str, Any]]
    """The metrics of every step but those of the clock: the same after any number of crashes."""
    record: dict[str, Any] = field(default_factory=dict)
    """What differs from run to run: speeds, machine, restarts."""


def train(
    trainer: Trainer,
    batches: Callable[[int], StepBatch],
    *,
    folder: Path,
    emit: Emit,
    looks: Sequence[EvalHook] = (),
    tokens_per_step: int = 0,
    flops_per_token: float = 0.0,
    enough: Callable[[Mapping[str, Any]], bool] = lambda row: False,
    checkpoint_seconds: float = 30.0,
    checkpoint_steps: int = 1,
    keep: int = 2,
) -> TrainResult:
    """Train to the end of the schedule, from the last whole checkpoint in `folder` where there is one.

    Every process calls it; the leading one writes. `enough` is asked about the metrics of the last step, and ends the
    run before its time. `checkpoint_seconds` decides how much work a crash costs, and nothing about the result.

    SIGINT or SIGTERM in any process ends the run after the current step (after the next multiple of
    `checkpoint_steps`) with a checkpoint and a `KeyboardInterrupt`; a second signal ends it at once.
    """
    with deferred_interrupts() as interruption:
        return _train(
            trainer,
            batches,
            interruption=interruption,
            folder=folder,
            emit=emit,
            looks=looks,
            tokens_per_step=tokens_per_step,
            flops_per_token=flops_per_token,
            enough=enough,
            checkpoint_seconds=checkpoint_seconds,
            checkpoint_steps=checkpoint_steps,
            keep=keep,
        )


def _train(
    trainer: Trainer,
    batches: Callable[[int], StepBatch],
    *,
    interruption: Interruption,
    folder: Path,
    emit: Emit,
    looks: Sequence[EvalHook],
    tokens_per_step: int,
    flops_per_token: float,
    enough: Callable[[Mapping[str, Any]], bool],
    checkpoint_seconds: float,
    checkpoint_steps: int,
    keep: int,
) -> TrainResult:
    checkpoints = Checkpoints(folder / CHECKPOINTS, keep=keep)
    resumed = _resume(trainer, checkpoints, emit)
    metrics = _MetricsFile(folder / METRICS, upto=trainer.done if resumed else -1, writes=trainer.world.leads)
    pace = _Throughput(trainer, tokens_per_step=tokens_per_step, flops_per_token=flops_per_token)
    _say_how(trainer, pace, emit)
    steps = trainer.training.schedule.steps
    saved = time.monotonic()
    try:
        if trainer.done == 0:
            metrics.add({"step": 0, **_seen(trainer, [look for look in looks if look.at_start])})
        while trainer.done < steps and not _agreed(trainer, enough(metrics.last)):
            outcome = trainer.step(batches(trainer.done))
            pace.mark()
            row = {"step": trainer.done, **_figures(outcome, trainer), **pace.figures()}
            row |= _seen(trainer, [look for look in looks if trainer.done % look.every == 0 or trainer.done == steps])
            metrics.add(row)
            _tell(emit, row, outcome, trainer, pace)
            boundary = trainer.done % checkpoint_steps == 0 and trainer.done < steps
            if boundary and _any_process(trainer, interruption.requested):
                _save(trainer, checkpoints, metrics)
                checkpoints.wait()
                emit("note", text=f"stopped after step {trainer.done} of {steps}; {CONTINUES}")
                raise KeyboardInterrupt
            if _agreed(trainer, boundary and time.monotonic() - saved >= checkpoint_seconds):
                _save(trainer, checkpoints, metrics)
                saved = time.monotonic()
        _save(trainer, checkpoints, metrics)
        checkpoints.wait()
        if _any_process(trainer, interruption.requested):
            raise KeyboardInterrupt
    finally:
        checkpoints.settle()  # a run that is stopped loses no checkpoint that was on its way
        metrics.close()
    curve = [{name: value for name, value in row.items() if name not in OF_THE_CLOCK} for row in metrics.rows()]
    record = {**trainer.numerics(), **pace.record(), "resumed_at_step": resumed}
    return TrainResult(trainer.done, trainer.guard.left_out, curve, record)


# -- going on


def _resume(trainer: Trainer, checkpoints: Checkpoints, emit: Emit) -> int | None:
    """Put the trainer where the last whole checkpoint left it; its step, or None at the beginning."""
    found = checkpoints.newest()
    for problem in checkpoints.passed_over:
        emit("note", text=f"passed over a damaged checkpoint: {problem}")
    if found is None:
        return None
    _compare_numerics(found, trainer, emit)
    trainer.load(found.tensors, found.state)
    emit("note", text=f"goes on after step {trainer.done} of {trainer.training.schedule.steps}")
    return trainer.done


def _compare_numerics(found: Checkpoint, trainer: Trainer, emit: Emit) -> None:
    before, now = found.state["numerics"], trainer.numerics()
    changed = [f"{name}: {before.get(name)} -> {value}" for name, value in now.items() if before.get(name) != value]
    if changed:
        emit("note", text=f"goes on under other conditions ({'; '.join(changed)}): the last bits may differ")


def _agreed(trainer: Trainer, here: bool) -> bool:
    """What the leader says, in all processes: its clock and its metrics decide."""
    return _any_process(trainer, here and trainer.world.leads)


def _any_process(trainer: Trainer, here: bool) -> bool:
    """Whether `here` is true in any process; the same answer in all of them."""
    if trainer.world.size == 1:
        return here
    vote = torch.tensor(float(here), device=trainer.world.device)
    return bool(trainer.world.total(vote).item())


def _save(trainer: Trainer, checkpoints: Checkpoints, metrics: _MetricsFile) -> None:
    tensors = trainer.tensors()
    if trainer.world.leads:
        metrics.sync()
        checkpoints.save(trainer.done, tensors, {**trainer.state(), "numerics": trainer.numerics()})


# -- telling


def _figures(outcome: StepResult, trainer: Trainer) -> dict[str, Any]:
    rate = trainer.training.optimization.matrix_rate * outcome.rate_share
    figures: dict[str, Any] = {"loss": outcome.loss, "learning_rate": rate, "gradient_norm": outcome.gradient_norm}
    if outcome.left_out:
        figures["left_out"] = outcome.left_out
    return {**figures, **outcome.figures}


def _seen(trainer: Trainer, looks: Sequence[EvalHook]) -> dict[str, float]:
    return {name: value for look in looks for name, value in look.tell(trainer).items()}


def _say_how(trainer: Trainer, pace: _Throughput, emit: Emit) -> None:
    how = "compiled" if trainer.compiled else "not compiled"
    text = f"matrices are multiplied in {trainer.precision.name} ({trainer.precision.why}), {how}"
    emit("note", text=text + (f"; this machine's peak is {pace.peak / 1e9:,.0f} GFLOP/s" if pace.peak else ""))


def _tell(emit: Emit, row: Mapping[str, Any], outcome: StepResult, trainer: Trainer, pace: _Throughput) -> None:
    steps = trainer.training.schedule.steps
    if outcome.left_out:
        emit("note", text=f"step {trainer.done} was left out, for {outcome.left_out}")
    if trainer.done % (steps // 1000 + 1) == 0 or trainer.done == steps:
        emit("metrics", **{name: value for name, value in row.items() if name != "left_out"})
    if pace.time_to_tell() or trainer.done == steps:
        shown = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "step"}
        left = {"seconds_left": pace.seconds_left(steps - trainer.done)}
        emit(
            "progress", done=trainer.done, total=steps, unit="steps", **(shown | left | {"loss": pace.smooth(outcome)})
        )


class _Throughput:
    """How fast it goes."""

    def __init__(self, trainer: Trainer, *, tokens_per_step: int, flops_per_token: float) -> None:
        self.tokens, self.flops = tokens_per_step, tokens_per_step * flops_per_token / trainer.world.size
        probes = self.flops > 0 and trainer.training.schedule.steps - trainer.done >= PROBE_STEPS
        self.device = trainer.world.device
        self.peak = matmul_peak(trainer.precision.dtype, device=self.device) if probes else 0.0
        reset_peak_memory(self.device)  # after the measurement above, whose matrices are no part of the training
        self._began = self._last = time.perf_counter()
        self._told = 0.0
        self._first: float | None = None
        self._steps: list[float] = []
        self._losses: deque[float] = deque(maxlen=20)

    def mark(self) -> None:
        """A step has ended."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now - self._began
        else:
            self._steps.append(now - self._last)
        self._last = now

    def figures(self) -> dict[str, float]:
        if not self._steps or not self.tokens:
            return {}
        seconds = self._steps[-1]
        answer = {"tokens_per_second": round(self.tokens / seconds, 1)}
        return answer | ({"mfu": round(self.flops / seconds / self.peak, 4)} if self.peak else {})

    def seconds_left(self, steps: int) -> float:
        return round(steps * median(self._steps[-50:] or [0.0]), 1)

    def smooth(self, outcome: StepResult) -> float:
        """The loss over some steps, which is easier to watch than each one's."""
        self._losses.append(outcome.loss)
        return round(sum(self._losses) / len(self._losses), 4)

    def time_to_tell(self) -> bool:
        if self._last - self._told < TELL_SECONDS:
            return False
        self._told = self._last
        return True

    def record(self) -> dict[str, Any]:
        """The whole run's figures."""
        if not self._steps:
            return {}
        seconds = median(self._steps)
        answer: dict[str, Any] = {
            "seconds_to_first_step": round(self._first or 0.0, 3),
            "seconds_per_step": round(seconds, 5),
            "training_seconds": round(self._last - self._began, 3),
            "peak_memory_bytes": peak_memory(self.device),
        }
        if self.tokens:
            answer["tokens_per_second"] = round(self.tokens / seconds, 1)
        if self.peak:
            answer |= {"matmul_peak": round(self.peak), "mfu": round(self.flops / seconds / self.peak, 4)}
        return answer


# -- metrics


class _MetricsFile:
    """The metrics' file: cut back to step `upto`, then added to."""

    def __init__(self, path: Path, *, upto: int, writes: bool) -> None:
        self.path, self.writes = path, writes
        self._rows = [row for row in _read(path) if row["step"] <= upto] if writes else []
        if writes:
            with _disk(path):
                # Cut back in one move: a crash in the middle must not cost the rows that no checkpoint brings back.
                write_atomically(path, "".join(json.dumps(row) + "\n" for row in self._rows).encode())
                self._file = path.open("a", encoding="utf-8")

    def add(self, row: dict[str, Any]) -> None:
        """Append a row; one that says nothing but its step is left out."""
        if not self.writes or len(row) == 1:
            return
        self._rows.append(row)
        with _disk(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def rows(self) -> list[dict[str, Any]]:
        return self._rows

    @property
    def last(self) -> dict[str, Any]:
        return self._rows[-1] if self._rows else {}

    def sync(self) -> None:
        """Have the rows on the disk before a checkpoint that counts on them."""
        if self.writes:
            with _disk(self.path):
                self._file.flush()
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self.writes:
            with _disk(self.path):
                self._file.close()


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """What the disk refuses, in one clear line."""
    try:
        yield
    except OSError as error:
        raise explain_disk(error, path) or StoreError(str(path), f"cannot be written: {error}") from None


def _read(path: Path) -> list[dict[str, Any]]:
    """Whole lines of the file; a crash may have cut the last one short."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
