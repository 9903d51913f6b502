"""How fast this machine trains a shape: a few real steps on made-up tokens, and the fastest matrix product.

Numbers from here differ from run to run. They belong in the run's record, or are turned into a number of steps once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median

import torch

from vita.design.scaling_rules import TrainingPlan
from vita.nn.architecture import Architecture
from vita.nn.init import initialize
from vita.nn.transformer import Transformer
from vita.train.hardware import choose_precision, matmul_peak
from vita.train.losses import language_modelling
from vita.train.optim import Optimization
from vita.train.parallel import World
from vita.train.schedule import Schedule
from vita.train.trainer import Trainer, Training, Work

WARM_STEPS = 2
"""Steps before the clock starts, in which memory is found and, where it pays, the model is compiled."""


@dataclass(frozen=True)
class Speed:
    """What a machine does with a plan."""

    seconds_per_step: float
    startup_seconds: float
    """Of the first steps, beyond what they would take later: compiling, mostly."""
    flops_per_second: float
    """Of the training itself."""
    peak_flops_per_second: float
    """Of the fastest matrix product in the same numbers."""
    precision: str
    compiled: bool

    tokens_per_step: int

    def with_tokens_per_step(self, tokens: int) -> Speed:
        """The same speed for steps of another size: time goes with the tokens, nearly."""
        share = tokens / self.tokens_per_step
        return replace(self, seconds_per_step=self.seconds_per_step * share, tokens_per_step=tokens)

    @property
    def utilisation(self) -> float:
        """The share of the machine's peak that training reaches."""
        return self.flops_per_second / self.peak_flops_per_second


def measure_speed(
    shape: Architecture,
    plan: TrainingPlan,
    *,
    steps: int,
    seconds: float = 0.0,
    device: str = "cpu",
    threads: int | None = None,
) -> Speed:
    """Train a model of this shape as the plan would, rows unmasked, for `steps` and `seconds` at least; time them.

    What counts is the later half: a processor takes some seconds until it is as fast as it stays.
    """
    training = Training.model_validate(
        {"schedule": Schedule.model_validate(plan.as_json()["schedule"]),
         "optimization": Optimization.model_validate(plan.as_json()["optimization"])}
    )  # fmt: skip
    model = Transformer(shape)
    initialize(model, "normal", seed=0)
    flops = shape.flops_per_token(plan.context)
    trainer = Trainer(
        model,
        language_modelling,
        training,
        world=World(device=device),
        threads=threads,
        flops=float(flops * plan.tokens),
    )
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.vocabulary, (plan.rows, plan.context + 1), generator=chance)
    work = Work({"ids": ids}, targets=float(plan.tokens_per_step))
    first = sum(_timed(trainer, work) for _ in range(WARM_STEPS))
    times: list[float] = []
    while len(times) < steps or sum(times) < seconds:
        times.append(_timed(trainer, work))
    usual = median(times[len(times) // 2 :])
    precision = choose_precision(device)
    return Speed(
        seconds_per_step=usual,
        startup_seconds=max(0.0, first - WARM_STEPS * usual),
        flops_per_second=flops * plan.tokens_per_step / usual,
        peak_flops_per_second=matmul_peak(precision.dtype, device=device),
        precision=precision.name,
        tokens_per_step=plan.tokens_per_step,
        compiled=trainer.compiled,
    )


def _timed(trainer: Trainer, work: Work) -> float:
    began = time.perf_counter()
    trainer.step(work)  # reads the loss back, so a device's queue is empty when it returns
    return time.perf_counter() - began
