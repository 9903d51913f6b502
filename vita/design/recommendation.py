"""The model and the training plan with the lowest predicted loss for a budget, by a fitted law and measured costs.

recommendation = recommend(Target(seconds=7200), study)
recommendation.rung.shape, recommendation.bits, recommendation.seconds
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from vita.design.cost_fit import Costs, MeasuredCost, fit_costs, left_out_cost_errors
from vita.design.forecast import effective_tokens
from vita.design.ladder import MIN_STEPS, MIN_WIDTH, Rung, rung_of, shapes_between
from vita.design.law_fit import MeasuredLoss, fit_law, left_out_errors
from vita.design.scaling_law import FittedLaw
from vita.design.scaling_rules import training_plan
from vita.nn.architecture import Architecture
from vita.spine.errors import ConfigError
from vita.stats.intervals import Interval

LARGEST_FACTOR = 30
"""Largest recommended model, relative to the largest one of the ladder."""
FAR = 100
"""Compute relative to the largest budget of the ladder from which a recommendation has a warning."""


@dataclass(frozen=True)
class Target:
    """The budget of the final run: FLOPs, or training time on this machine in seconds."""

    flops: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class LadderText:
    """The tokenized text of a ladder."""

    vocabulary: int
    context: int
    tokens: int
    """Training tokens of one pass over the text."""
    bytes_per_token: float

    def bytes_of(self, tokens: int) -> float:
        """Return the bytes of text that `tokens` are worth; repeated text counts less."""
        return effective_tokens(tokens, self.tokens) * self.bytes_per_token


@dataclass(frozen=True)
class LadderRun:
    """The results of one run of the ladder."""

    rung: Rung
    bits_per_byte: float
    seconds_per_step: float
    training_seconds: float
    cpu_seconds: float | None
    memory_bytes: float | None

    @property
    def cost(self) -> MeasuredCost:
        return MeasuredCost(self.rung, self.seconds_per_step, self.memory_bytes, self.cpu_seconds)


@dataclass(frozen=True)
class ScalingStudy:
    """The runs of a ladder with the law and the costs that are fitted to them."""

    text: LadderText
    runs: Sequence[LadderRun]
    law: FittedLaw
    costs: Costs
    errors: dict[str, list[float]] = field(default_factory=dict)
    """Relative errors of the predictions of each size by the runs of the other sizes: `loss`, `time`, `processor time`
    and `memory`."""

    @classmethod
    def of(cls, runs: Sequence[LadderRun], text: LadderText, *, seed: int = 0) -> ScalingStudy:
        """Fit law and costs to the runs, and measure the errors for sizes that are left out."""
        losses = [measured_loss(run, text) for run in runs]
        costs = [run.cost for run in runs]
        errors = {
            "loss": left_out_errors(losses),
            "time": left_out_cost_errors(
                costs,
                lambda fitted, run: fitted.seconds(run.rung) / run.rung.plan.steps,
                lambda run: run.seconds_per_step,
            ),
            "processor time": left_out_cost_errors(
                costs, lambda fitted, run: fitted.cpu_seconds(run.rung), lambda run: run.cpu_seconds
            ),
            "memory": left_out_cost_errors(
                costs, lambda fitted, run: fitted.memory_bytes(run.rung), lambda run: run.memory_bytes
            ),
        }
        return cls(text, runs, fit_law(losses, seed=seed), fit_costs(costs), errors)

    @property
    def min_width(self) -> int:
        """The width of the narrowest model of the ladder."""
        return min(run.rung.shape.width for run in self.runs)

    def bits_per_byte(self, rung: Rung) -> float:
        """Return the predicted bits per byte of a run."""
        return self.law.bits_per_byte(rung.shape.matrix_parameters(), self.text.bytes_of(rung.plan.tokens))

    def interval(self, rung: Rung) -> Interval:
        """Return the predicted bits per byte of a run, with the 95 % prediction interval."""
        return self.law.interval(rung.shape.matrix_parameters(), self.text.bytes_of(rung.plan.tokens))


def measured_loss(run: LadderRun, text: LadderText) -> MeasuredLoss:
    """Return the loss of a run with the quantities that the law depends on."""
    plan, shape = run.rung.plan, run.rung.shape
    return MeasuredLoss(shape.matrix_parameters(), text.bytes_of(plan.tokens), run.rung.flops, run.bits_per_byte)


@dataclass(frozen=True)
class Recommendation:
    """A run with its predicted loss, time and memory."""

    rung: Rung
    bits: Interval
    seconds: float
    cpu_seconds: float | None
    memory_bytes: float | None
    epochs: float
    extrapolation: float
    """FLOPs relative to the largest budget of the ladder."""
    narrow: bool = False
    """True if the ladder has models that are narrower than `MIN_WIDTH`, and this model is not."""

    @property
    def warnings(self) -> list[str]:
        """Return what makes the prediction less certain."""
        messages = []
        if self.extrapolation > FAR:
            messages.append(
                f"the budget is {self.extrapolation:,.0f} times the largest one of the ladder; add larger ones"
            )
        if self.narrow:
            messages.append(
                f"the ladder is small: it has models narrower than {MIN_WIDTH}; the loss of a run with more compute "
                "may be lower than predicted (docs/scaling.md); use larger budgets in the ladder"
            )
        if self.epochs > 4:
            messages.append(f"the text is repeated for {self.epochs:.1f} epochs; more text would help")
        return messages

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        shape, plan = self.rung.shape, self.rung.plan
        return {
            "depth": shape.layers, "width": shape.width, "parameters": shape.parameters(),
            "matrix_parameters": shape.matrix_parameters(), "context": plan.context, "tokens": plan.tokens,
            "steps": plan.steps, "tokens_per_step": plan.tokens_per_step, "epochs": round(self.epochs, 3),
            "flops": shape.flops_per_token(plan.context) * plan.tokens,
            "bits_per_byte": self.bits.as_json(), "training_seconds": round(self.seconds, 1),
            "cpu_seconds": None if self.cpu_seconds is None else round(self.cpu_seconds, 1),
            "memory_bytes": None if self.memory_bytes is None else round(self.memory_bytes),
            "warnings": self.warnings,
        }  # fmt: skip


def recommend(target: Target, study: ScalingStudy, *, without: Container[int] = ()) -> Recommendation:
    """Return the run with the lowest predicted loss.

    Models with a number of matrix parameters in `without` are omitted. Raises a `ConfigError` if the budget is too
    small for any model of the ladder.
    """
    sizes = [run.rung.shape.matrix_parameters() for run in study.runs]
    candidates = shapes_between(
        min(sizes),
        LARGEST_FACTOR * max(sizes),
        vocabulary=study.text.vocabulary,
        context=study.text.context,
        min_width=study.min_width,
    )
    rungs = [
        rung
        for shape in candidates
        if shape.matrix_parameters() not in without and (rung := rung_within(target, shape, study.costs))
    ]
    if not rungs:
        hint = "use a larger budget"
        raise ConfigError("--budget", f"is too small for {MIN_STEPS} steps of the smallest model", hint=hint)
    return predict(min(rungs, key=study.bits_per_byte), study)


def predict(rung: Rung, study: ScalingStudy) -> Recommendation:
    """Return the predictions for a run."""
    flops = rung.shape.flops_per_token(rung.plan.context) * rung.plan.tokens
    return Recommendation(
        rung,
        study.interval(rung),
        study.costs.seconds(rung),
        study.costs.cpu_seconds(rung),
        study.costs.memory_bytes(rung),
        rung.plan.tokens / study.text.tokens,
        flops / max(run.rung.flops for run in study.runs),
        study.min_width < MIN_WIDTH <= rung.shape.width,
    )


def rung_within(target: Target, shape: Architecture, costs: Costs) -> Rung | None:
    """Return the run of a shape within the budget; None if it allows fewer than `MIN_STEPS` steps."""
    if target.flops is not None:
        return rung_of(shape, target.flops)
    assert target.seconds is not None
    rung = Rung(0.0, shape, training_plan(shape, tokens=10 * shape.matrix_parameters()))
    for _ in range(4):  # the batch size, and with it the speed, depends on the number of tokens
        tokens = rung.plan.tokens * target.seconds / costs.seconds(rung)
        rung = Rung(0.0, shape, training_plan(shape, tokens=max(1, round(tokens))))
    flops = float(shape.flops_per_token(shape.context) * rung.plan.tokens)
    return Rung(flops, shape, rung.plan) if rung.plan.steps >= MIN_STEPS else None
