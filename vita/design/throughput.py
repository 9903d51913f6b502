"""Training throughput of this machine: a few real steps on random tokens, and the peak matmul speed.

The measurements vary between runs. They belong in the run's record, or are converted into a number of steps once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

from vita.design.forecast import MASK_RATE
from vita.design.scaling_rules import TrainingPlan
from vita.nn.architecture import Architecture
from vita.nn.init import initialize
from vita.nn.transformer import Transformer
from vita.train.hardware import choose_precision, measured_peak
from vita.train.losses import language_modelling
from vita.train.masked import masked_language_modelling
from vita.train.optim import OptimizerConfig
from vita.train.parallel.mesh import ProcessMesh
from vita.train.schedule import Schedule
from vita.train.trainer import StepBatch, Trainer, TrainerConfig

WARM_STEPS = 2
"""Warmup steps before the measurement, for memory allocation and compilation."""


@dataclass(frozen=True)
class TrainingSpeed:
    """The measured training speed of a machine."""

    seconds_per_step: float
    startup_seconds: float
    """Extra time of the first steps, mostly compilation."""
    flops_per_second: float
    """FLOP/s of training."""
    peak_flops_per_second: float
    """FLOP/s of the fastest matmul with the same precision."""
    precision: str
    compiled: bool

    tokens_per_step: int

    def with_tokens_per_step(self, tokens: int) -> TrainingSpeed:
        """Return the speed for another number of tokens per step; time is nearly proportional to tokens."""
        share = tokens / self.tokens_per_step
        return replace(self, seconds_per_step=self.seconds_per_step * share, tokens_per_step=tokens)

    @property
    def utilisation(self) -> float:
        """The MFU: training FLOP/s relative to the peak."""
        return self.flops_per_second / self.peak_flops_per_second


def measure_speed(
    shape: Architecture,
    plan: TrainingPlan,
    *,
    steps: int,
    seconds: float = 0.0,
    device: str = "cpu",
    threads: int | None = None,
) -> TrainingSpeed:
    """Measure the time per step: train a model as planned, without masks, for at least `steps` and `seconds`.

    Only the second half counts: a processor takes some seconds to reach its steady speed.
    """
    training = TrainerConfig.model_validate(
        {"schedule": Schedule.model_validate(plan.as_json()["schedule"]),
         "optimization": OptimizerConfig.model_validate(plan.as_json()["optimization"])}
    )  # fmt: skip
    model = Transformer(shape)
    initialize(model, "normal", seed=0)
    flops = shape.flops_per_token(plan.context, logits=1.0 if shape.causal else MASK_RATE)
    trainer = Trainer(
        model,
        language_modelling if shape.causal else masked_language_modelling,
        training,
        world=ProcessMesh(device=device),
        threads=threads,
        flops=float(flops * plan.tokens),
    )
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.vocabulary, (plan.rows, plan.context + 1), generator=rng)
    work = StepBatch({"ids": ids}, targets=float(plan.tokens_per_step))
    if not shape.causal:
        work = _masked_batch(ids[:, :-1])
    first = sum(_timed(trainer, work) for _ in range(WARM_STEPS))
    times: list[float] = []
    while len(times) < steps or sum(times) < seconds:
        times.append(_timed(trainer, work))
    median_seconds = median(times[len(times) // 2 :])
    precision = choose_precision(device)
    return TrainingSpeed(
        seconds_per_step=median_seconds,
        startup_seconds=max(0.0, first - WARM_STEPS * median_seconds),
        flops_per_second=flops * plan.tokens_per_step / median_seconds,
        peak_flops_per_second=measured_peak(precision.dtype, device=device),
        precision=precision.name,
        tokens_per_step=plan.tokens_per_step,
        compiled=trainer.compiled,
    )


def _masked_batch(ids: Tensor) -> StepBatch:
    """Return a batch with masked tokens at the first positions of each row; the positions do not change the time."""
    count = max(1, round(MASK_RATE * ids.shape[1]))
    slots = torch.arange(count).expand(len(ids), -1).contiguous()
    tensors = {
        "ids": ids,
        "slots": slots,
        "targets": ids[:, :count].contiguous(),
        "learn": torch.ones_like(slots).bool(),
    }
    tensors["documents"] = torch.zeros_like(ids)
    return StepBatch(tensors, targets=float(slots.numel()))


def _timed(trainer: Trainer, work: StepBatch) -> float:
    began = time.perf_counter()
    trainer.step(work)  # reads the loss back, so a device's queue is empty when it returns
    return time.perf_counter() - began
