"""The configuration of a trainer from the settings of a stage."""

from __future__ import annotations

import math

from vita.train.optim import OptimizerConfig
from vita.train.schedule import Schedule
from vita.train.settings import StepSettings, TrainingSettings, TuningSettings
from vita.train.trainer import TrainerConfig

DEFAULT_DECAY = Schedule.model_fields["decay"].default


def trainer_config(
    settings: TrainingSettings, *, schedule: Schedule, optimization: OptimizerConfig, outliers: bool = True
) -> TrainerConfig:
    """Return the configuration of the trainer; the settings of a step are taken from `settings`."""
    step = {name: getattr(settings, name) for name in StepSettings.model_fields}
    return TrainerConfig(schedule=schedule, optimization=optimization, outliers=outliers, **step)


def schedule_of(settings: TrainingSettings, steps: int) -> Schedule:
    """Return the schedule over `steps` with the fractions of the settings for warmup and decay."""
    decay = DEFAULT_DECAY if settings.decay_fraction is None else settings.decay_fraction
    warmup = round((settings.warmup_fraction or 0.0) * steps)
    return Schedule(steps=steps, name=settings.schedule, warmup=warmup, decay=decay)


def steps_of(*, steps: int | None, epochs: float, examples: float, batch_size: float) -> int:
    """Return the number of optimizer steps: `steps` if set, otherwise the steps of `epochs` over the examples."""
    return steps or max(1, math.ceil(epochs * examples / batch_size))


RATES = ("matrix_rate", "embedding_rate", "head_rate", "scalar_rate")


def scale_rates(rule: OptimizerConfig, learning_rate: float | str, *, auto_share: float = 1.0) -> OptimizerConfig:
    """Return the optimizers with `learning_rate` for the matrices of the layers; other rates keep their ratio to it.

    `auto` scales the rates by `auto_share`. A share is rounded to 12 digits, so that 0.0024 is exactly 0.12 of 0.02.
    """
    share, changes = auto_share, dict[str, float]()
    if not isinstance(learning_rate, str):
        share, changes = float(f"{learning_rate / rule.matrix_rate:.12g}"), {"matrix_rate": learning_rate}
    return rule.model_copy(update={name: getattr(rule, name) * share for name in RATES} | changes)


def single_rate(rate: float) -> OptimizerConfig:
    """Return AdamW with one learning rate for all parameters."""
    return OptimizerConfig(matrices="adamw", matrix_rate=rate, embedding_rate=rate, head_rate=rate, scalar_rate=rate)


def preference_training(settings: TuningSettings, *, pairs: int, auto: float) -> TrainerConfig:
    """Return the configuration for preference training: AdamW with one learning rate, which is `auto` by default."""
    assert settings.batch_size is not None
    steps = steps_of(steps=settings.steps, epochs=settings.epochs, examples=pairs, batch_size=settings.batch_size)
    rate = auto if isinstance(settings.learning_rate, str) else settings.learning_rate
    return trainer_config(
        settings.model_copy(update={"compile": "no"}),  # rows are as wide as a step's longest pair
        schedule=schedule_of(settings, steps),
        optimization=single_rate(rate),
        outliers=False,
    )
