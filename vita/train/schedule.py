"""How the learning rate goes over a run: pure functions of the step, as shares of the peak rate.

`share(schedule, step)` rises linearly over `warmup` steps and then follows the named course. Nothing here is a state,
so a resumed run finds its rate by arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pydantic import Field, field_validator

from vita.spine.config import Settings
from vita.spine.parts import Parts

Course = Callable[[float, "Schedule"], float]
"""(how much of the run after warmup is done, from 0 to 1; settings) -> share of the peak."""

COURSES = Parts[Course]("schedule")


class Schedule(Settings):
    """The learning rate's way through a run."""

    steps: int = Field(ge=1)
    """Optimizer steps in all."""
    name: str = "warmup_stable_decay"
    """The course after warmup: warmup_stable_decay, cosine, linear or constant."""
    warmup: int = Field(default=0, ge=0)
    """Steps over which the rate rises from nothing."""
    decay: float = Field(default=0.6, ge=0, le=1)
    """Last part of the steps over which warmup_stable_decay falls."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Share of the peak that the course falls towards; reached one step after the last."""

    @field_validator("name")
    @classmethod
    def _known(cls, value: Any) -> Any:
        COURSES[value]
        return value


def share(schedule: Schedule, step: int) -> float:
    """Which share of the peak rate `step` (counted from 0) takes."""
    warmup = min(schedule.warmup, schedule.steps - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return COURSES[schedule.name]((step - warmup) / (schedule.steps - warmup), schedule)


@COURSES.add("warmup_stable_decay")
def warmup_stable_decay(done: float, schedule: Schedule) -> float:
    """At the peak, then straight down over the last `decay` of the run (Hu et al. 2024, sec. 4.2)."""
    after_warmup = schedule.steps - min(schedule.warmup, schedule.steps - 1)
    falling = min(1.0, schedule.decay * schedule.steps / after_warmup)
    return 1.0 if done <= 1 - falling else _between(1.0, schedule.final, (done - (1 - falling)) / falling)


@COURSES.add("cosine")
def cosine(done: float, schedule: Schedule) -> float:
    """Half a wave from the peak to `final` (Loshchilov & Hutter 2017, eq. 5)."""
    return _between(1.0, schedule.final, (1 - math.cos(math.pi * done)) / 2)


@COURSES.add("linear")
def linear(done: float, schedule: Schedule) -> float:
    """Straight down from the peak to `final`."""
    return _between(1.0, schedule.final, done)


@COURSES.add("constant")
def constant(done: float, schedule: Schedule) -> float:
    """The peak throughout."""
    return 1.0


def _between(start: float, end: float, part: float) -> float:
    return start + (end - start) * part
