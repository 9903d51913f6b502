"""Learning rate schedules: pure functions of the step that return a fraction of the peak rate.

`lr_multiplier(schedule, step)` rises linearly over `warmup` steps and then follows the named function. Schedules have
no state: a resumed run computes its rate from the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pydantic import Field, field_validator

from vita.spine.config import Settings
from vita.spine.registry import Registry

ScheduleFunction = Callable[[float, "Schedule"], float]
"""(progress after warmup, from 0 to 1; settings) -> fraction of the peak."""

SCHEDULES = Registry[ScheduleFunction]("schedule")


class Schedule(Settings):
    """The learning rate schedule of a run."""

    steps: int = Field(ge=1)
    """Number of optimizer steps."""
    name: str = "warmup_stable_decay"
    """Schedule after the warmup: warmup_stable_decay, cosine, linear or constant."""
    warmup: int = Field(default=0, ge=0)
    """Number of warmup steps, over which the learning rate rises from 0."""
    decay: float = Field(default=0.6, ge=0, le=1)
    """Fraction of the steps at the end over which warmup_stable_decay falls."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Final learning rate as a fraction of the peak; reached one step after the last."""

    @field_validator("name")
    @classmethod
    def _known(cls, value: Any) -> Any:
        SCHEDULES[value]
        return value


def lr_multiplier(schedule: Schedule, step: int) -> float:
    """Return the learning rate at `step` (counted from 0) as a fraction of the peak rate."""
    warmup = min(schedule.warmup, schedule.steps - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return SCHEDULES[schedule.name]((step - warmup) / (schedule.steps - warmup), schedule)


@SCHEDULES.add("warmup_stable_decay")
def warmup_stable_decay(progress: float, schedule: Schedule) -> float:
    """Constant at the peak, then linear decay over the last `decay` of the run (Hu et al. 2024, sec. 4.2)."""
    after_warmup = schedule.steps - min(schedule.warmup, schedule.steps - 1)
    decay = min(1.0, schedule.decay * schedule.steps / after_warmup)
    return 1.0 if progress <= 1 - decay else _between(1.0, schedule.final, (progress - (1 - decay)) / decay)


@SCHEDULES.add("cosine")
def cosine(progress: float, schedule: Schedule) -> float:
    """Half a cosine from the peak to `final` (Loshchilov & Hutter 2017, eq. 5)."""
    return _between(1.0, schedule.final, (1 - math.cos(math.pi * progress)) / 2)


@SCHEDULES.add("linear")
def linear(progress: float, schedule: Schedule) -> float:
    """Linear decay from the peak to `final`."""
    return _between(1.0, schedule.final, progress)


@SCHEDULES.add("constant")
def constant(progress: float, schedule: Schedule) -> float:
    """Constant at the peak."""
    return 1.0


def _between(start: float, end: float, fraction: float) -> float:
    return start + (end - start) * fraction
