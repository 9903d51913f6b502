"""The training loop of all training stages; an interrupted run resumes to the same result.

    trainer = Trainer(model, language_modelling, training, world=world, threads=machine.threads)
    result = train(trainer, batches=lambda step: StepBatch(...), folder=context.scratch, emit=context.emit)

`batches` is a pure function of the step (and of the weights, for samples of the model), so a run resumes by loading the
last checkpoint, truncating the metrics to its step, and requesting the next batch. Metrics are written to
`metrics.jsonl`, one line per step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vita.spine.errors import ConfigError, StoreError
from vita.spine.events import Emit
from vita.spine.interrupts import Interruption, deferred_interrupts
from vita.train.checkpoint import Checkpoint, Checkpoints
from vita.train.checkpoint import read as read_checkpoint
from vita.train.loss_target import TRAINING_SECONDS, TrainingClock, reached_target
from vita.train.metrics_file import MetricsFile
from vita.train.prefetch import PrefetchedBatches
from vita.train.run_control import Action, RunControl, wait_for_control
from vita.train.run_files import CHECKPOINTS, METRICS
from vita.train.stop_rules import StopRule, stop_reason
from vita.train.throughput import Throughput
from vita.train.trainer import StepBatch, StepResult, Trainer

TIMING_METRICS = ("tokens_per_second", "mfu", "memory_bytes", TRAINING_SECONDS)
"""Figures in `metrics.jsonl` that differ from run to run; `TrainResult.curve` leaves them out."""
CONTINUES = "the same command continues from its checkpoint"


@dataclass(frozen=True)
class EvalHook:
    """An evaluation every `every` steps and after the last step, whose figures are added to the metrics.

    It must not change the trainer.
    """

    every: int
    evaluate: Callable[[Trainer], Mapping[str, float]]
    at_start: bool = False
    """Evaluate also before the first step."""


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run."""

    steps: int
    skipped_steps: int
    """Number of steps without an update, because the loss or the gradient was unusable."""
    curve: list[dict[str, Any]]
    """The metrics of every step without timings; they are equal after any number of crashes."""
    record: dict[str, Any] = field(default_factory=dict)
    """Values that differ between runs: speeds, machine, restarts."""
    stop_reason: str | None = None
    """The reason of the rule that ended the run before the end of the schedule, if one did."""


def train(
    trainer: Trainer,
    batches: Callable[[int], StepBatch],
    *,
    folder: Path,
    emit: Emit,
    hooks: Sequence[EvalHook] = (),
    tokens_per_step: int = 0,
    prefetch: bool = False,
    flops_per_token: float = 0.0,
    should_stop: Callable[[Mapping[str, Any]], bool] = lambda row: False,
    stop_rules: Sequence[StopRule] = (),
    target_loss: float | None = None,
    start_from: Path | None = None,
    checkpoint_seconds: float = 30.0,
    checkpoint_steps: int = 1,
    keep: int = 2,
) -> TrainResult:
    """Train to the end of the schedule, from the last intact checkpoint in `folder` if there is one.

    Every process calls it; the leading process writes. The run ends early when `should_stop` returns True for the
    metrics of the last step, or a rule of `stop_rules` applies. Without a checkpoint in `folder`, the run starts with
    the checkpoint in `start_from`. The record has the training time of the first evaluation whose held-out loss is at
    most `target_loss`. `checkpoint_seconds` limits the work that a crash costs and does not affect the
    result. Another process can pause and stop the run (`vita.train.run_control`). With `prefetch`, the next batch is
    prepared in a thread on a GPU; it requires that `batches` depends on the step only.

    SIGINT or SIGTERM in any process ends the run after the current step (after the next multiple of
    `checkpoint_steps`) with a checkpoint and a `KeyboardInterrupt`; a second signal ends it at once.
    """
    steps, device = trainer.training.schedule.steps, trainer.world.device
    with deferred_interrupts() as interruption, ExitStack() as resources:
        if prefetch and torch.device(device).type == "cuda":
            batches = resources.enter_context(PrefetchedBatches(batches, steps=steps, device=device))
        return _train(
            trainer,
            batches,
            interruption=interruption,
            folder=folder,
            emit=emit,
            hooks=hooks,
            tokens_per_step=tokens_per_step,
            flops_per_token=flops_per_token,
            should_stop=should_stop,
            stop_rules=stop_rules,
            target_loss=target_loss,
            start_from=start_from,
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
    hooks: Sequence[EvalHook],
    tokens_per_step: int,
    flops_per_token: float,
    should_stop: Callable[[Mapping[str, Any]], bool],
    stop_rules: Sequence[StopRule],
    target_loss: float | None,
    start_from: Path | None,
    checkpoint_seconds: float,
    checkpoint_steps: int,
    keep: int,
) -> TrainResult:
    checkpoints = Checkpoints(folder / CHECKPOINTS, keep=keep, world=trainer.world)
    resumed = _resume(trainer, checkpoints, emit)
    if resumed is None and start_from is not None:
        _start_from(start_from, trainer, emit)
    control = RunControl(folder) if trainer.world.leads else None
    metrics = MetricsFile(folder / METRICS, upto=trainer.done if resumed else -1, writes=trainer.world.leads)
    throughput = Throughput(trainer, tokens_per_step=tokens_per_step, flops_per_token=flops_per_token)
    clock = TrainingClock(trainer.world.device, seconds=metrics.last.get(TRAINING_SECONDS, 0.0))
    _report_setup(trainer, throughput, emit)
    steps = trainer.training.schedule.steps
    saved = time.monotonic()
    stopped: str | None = None
    try:
        if resumed is None:
            metrics.add({"step": trainer.done, **_evaluate(trainer, [hook for hook in hooks if hook.at_start])})
        while trainer.done < steps:
            stopped = stop_reason(stop_rules, metrics.rows())
            if _leader_decides(trainer, should_stop(metrics.last) or stopped is not None):
                break
            clock.start()
            result = trainer.step(batches(trainer.done))
            due_hooks = [hook for hook in hooks if trainer.done % hook.every == 0 or trainer.done == steps]
            clock.stop(wait=bool(due_hooks))
            throughput.end_step()
            metrics_row = {"step": trainer.done, **_step_metrics(result, trainer), **throughput.figures()}
            metrics_row |= {TRAINING_SECONDS: round(clock.seconds, 3), **_evaluate(trainer, due_hooks)}
            metrics.add(metrics_row)
            _report_step(emit, metrics_row, result, trainer, throughput)
            boundary = trainer.done % checkpoint_steps == 0 and trainer.done < steps
            action = control.action() if control else None
            if boundary and _any_process(trainer, interruption.requested or action == "stop"):
                _save(trainer, checkpoints, metrics)
                _end(trainer, checkpoints, emit)
            due = action == "pause" or time.monotonic() - saved >= checkpoint_seconds
            if _leader_decides(trainer, boundary and due):
                _save(trainer, checkpoints, metrics)
                if _leader_decides(trainer, action == "pause"):
                    checkpoints.wait()
                    _pause(trainer, control, interruption, emit)
                    if _any_process(trainer, interruption.requested or _action(control) == "stop"):
                        _end(trainer, checkpoints, emit)
                    throughput.end_pause()
                saved = time.monotonic()
        _save(trainer, checkpoints, metrics)
        checkpoints.wait()
        if _any_process(trainer, interruption.requested):
            raise KeyboardInterrupt
    finally:
        checkpoints.settle()  # complete a checkpoint write that is in progress
        metrics.close()
    curve = [{name: value for name, value in row.items() if name not in TIMING_METRICS} for row in metrics.rows()]
    record = {
        **trainer.numerics(),
        "micro_batch_tokens": trainer.micro_tokens,
        **throughput.record(),
        "resumed_at_step": resumed,
    }
    if target_loss is not None and (reached := reached_target(metrics.rows(), target=target_loss)):
        record["target"] = reached
    if stopped is not None:
        emit("note", text=f"stopped by a rule after step {trainer.done} of {steps}: {stopped}", level="status")
    return TrainResult(trainer.done, trainer.step_filter.skipped, curve, record, stopped)


# -- resuming


def _resume(trainer: Trainer, checkpoints: Checkpoints, emit: Emit) -> int | None:
    """Restore the trainer from the last intact checkpoint; return its step, or None without a checkpoint."""
    checkpoint = checkpoints.newest()
    for problem in checkpoints.passed_over:
        emit("note", text=f"skipped a damaged checkpoint: {problem}", level="warning")
    if checkpoint is None:
        return None
    _compare_numerics(checkpoint, trainer, emit)
    trainer.load(checkpoint.parts(trainer.tensor_layouts(), trainer.world), checkpoint.state)
    emit("note", text=f"resumes after step {trainer.done} of {trainer.training.schedule.steps}", level="status")
    return trainer.done


def _compare_numerics(checkpoint: Checkpoint, trainer: Trainer, emit: Emit) -> None:
    before, now = checkpoint.state["numerics"], trainer.numerics()
    changed = [f"{name}: {before[name]} -> {value}" for name, value in now.items() if before.get(name, value) != value]
    if changed:
        emit(
            "note",
            text=f"the environment has changed ({'; '.join(changed)}): results may differ in the last bits",
            level="warning",
        )


def _leader_decides(trainer: Trainer, condition: bool) -> bool:
    """Return the leader's `condition` in all processes: its clock and its metrics decide."""
    return _any_process(trainer, condition and trainer.world.leads)


def _any_process(trainer: Trainer, condition: bool) -> bool:
    """Return True in all processes if `condition` is true in any of them."""
    return trainer.world.any(condition)


def _save(trainer: Trainer, checkpoints: Checkpoints, metrics: MetricsFile) -> None:
    if trainer.world.leads:
        metrics.sync()
    state = {**trainer.state(), "numerics": trainer.numerics()}
    checkpoints.save(trainer.done, trainer.tensors(), state, trainer.tensor_layouts())


def _start_from(folder: Path, trainer: Trainer, emit: Emit) -> None:
    """Load a checkpoint of another run."""
    checkpoint, steps = read_checkpoint(folder, world=trainer.world), trainer.training.schedule.steps
    step = checkpoint.state["step"]
    if step >= steps:
        hint = "set more `steps`; they count from the beginning of the run that wrote the checkpoint"
        raise ConfigError("start_from", expected=f"a checkpoint before step {steps}", got=f"step {step}", hint=hint)
    _compare_numerics(checkpoint, trainer, emit)
    try:
        trainer.load(checkpoint.parts(trainer.tensor_layouts(), trainer.world), checkpoint.state)
    except (KeyError, ValueError, RuntimeError, StoreError) as error:
        hint = "the model and the optimizer must be those of the run that wrote it"
        problem = f"the checkpoint does not fit the model or the optimizer ({' '.join(str(error).split())[:120]})"
        raise ConfigError("start_from", problem, hint=hint) from None
    emit("note", text=f"starts from a checkpoint after step {step}", level="status")


# -- pause and stop


def _action(control: RunControl | None) -> Action | None:
    return control.action() if control else None


def _pause(trainer: Trainer, control: RunControl | None, interruption: Interruption, emit: Emit) -> None:
    """Wait until the request to pause is withdrawn, or the run is interrupted."""
    emit("note", text=f"paused after step {trainer.done}; `vita runs resume` continues", level="status")
    if control:
        control.mark_paused(True)
    try:
        while _leader_decides(trainer, _action(control) == "pause"):
            if _any_process(trainer, interruption.requested):
                return
            wait_for_control()
    finally:
        if control:
            control.mark_paused(False)
    emit("note", text=f"continues after step {trainer.done}", level="status")


def _end(trainer: Trainer, checkpoints: Checkpoints, emit: Emit) -> None:
    """End the run, whose checkpoint is written."""
    checkpoints.wait()
    steps = trainer.training.schedule.steps
    emit("note", text=f"stopped after step {trainer.done} of {steps}; {CONTINUES}", level="status")
    raise KeyboardInterrupt


# -- metrics and progress


def _step_metrics(result: StepResult, trainer: Trainer) -> dict[str, Any]:
    rate = trainer.training.optimization.matrix_rate * result.lr_scale
    figures: dict[str, Any] = {"loss": result.loss, "learning_rate": rate, "gradient_norm": result.gradient_norm}
    if result.skip_reason:
        figures["skip_reason"] = result.skip_reason
    return {**figures, **result.figures}


def _evaluate(trainer: Trainer, hooks: Sequence[EvalHook]) -> dict[str, float]:
    return {name: value for hook in hooks for name, value in hook.evaluate(trainer).items()}


def _report_setup(trainer: Trainer, throughput: Throughput, emit: Emit) -> None:
    mode = "compiled" if trainer.compiled else "not compiled"
    text = f"matrices are multiplied in {trainer.precision.name} ({trainer.precision.why}), {mode}"
    emit(
        "note",
        text=text + (f"; this machine's peak is {throughput.peak / 1e9:,.0f} GFLOP/s" if throughput.peak else ""),
    )


def _report_step(
    emit: Emit, row: Mapping[str, Any], result: StepResult, trainer: Trainer, throughput: Throughput
) -> None:
    steps = trainer.training.schedule.steps
    if result.skip_reason:
        emit("note", text=f"step {trainer.done} was skipped: {result.skip_reason}", level="warning")
    if trainer.done % (steps // 1000 + 1) == 0 or trainer.done == steps:
        numbers = {name: value for name, value in row.items() if isinstance(value, (int, float))}
        emit("metrics", **numbers, skipped_steps=trainer.step_filter.skipped)
    if throughput.progress_is_due() or trainer.done == steps:
        metrics = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "step"}
        remaining = {"seconds_left": throughput.seconds_left(steps - trainer.done)}
        emit(
            "progress",
            done=trainer.done,
            total=steps,
            unit="steps",
            **(metrics | remaining | {"loss": throughput.smoothed_loss(result)}),
        )
