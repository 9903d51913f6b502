"""The isoFLOP ladder: small training runs of several sizes at several compute budgets (Hoffmann et al. 2022, sec. 3.2).

    rungs = ladder([3e12, 6e12, 1.2e13], sizes=4, vocabulary=1024, context=256)
    life = ladder_life("notes", rungs, sources=["notes/"], vocabulary=1024)     # the content of a life file

Each run is a step of a life, so that a finished run is never repeated, and a killed one continues from its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita.design.scaling_rules import WIDTH_PER_LAYER, TrainingPlan, shape_of_depth, training_plan
from vita.nn.architecture import Architecture
from vita.spine.errors import ConfigError

TOKENS_PER_PARAMETER = (80.0, 3.0)
"""Tokens per matrix parameter of the smallest and of the largest model at a budget; the optimum lies between them."""
LADDER_FRACTIONS = (1 / 100, 1 / 40, 1 / 16)
"""Budgets of the ladder relative to the target budget; four sizes take about two fifths of its compute."""
WIDTHS_PER_LAYER = (32, 96)
"""Range of the width per layer; ratios from 40 to 100 are about equally good (Kaplan et al. 2020)."""
MIN_WIDTH = 128
"""Minimum width where the budgets allow it: models with two layers and four heads or more, like those that the law is
for. A law from narrower ones was wrong by 4 % at 2.5 times the compute (docs/experiments.md)."""
NARROWEST_WIDTH = 64
"""Minimum width for smaller budgets."""
MIN_STEPS = 100
"""Minimum number of optimizer steps of a run: the noise of a shorter one is larger than the differences of sizes."""


@dataclass(frozen=True)
class Rung:
    """One run of the ladder: a model and its training plan for a compute budget."""

    flops: float
    """The compute budget of the run, in FLOPs."""
    shape: Architecture
    plan: TrainingPlan

    @property
    def name(self) -> str:
        """The name of the run, such as `w64-l2-3e12`."""
        return f"w{self.shape.width}-l{self.shape.layers}-{compact(self.flops)}"


def ladder(budgets: Iterable[float], *, sizes: int, vocabulary: int, context: int) -> list[Rung]:
    """Return `sizes` runs for each budget, smallest model first.

    The sizes of a budget have evenly spaced logarithms of the tokens per parameter, within `TOKENS_PER_PARAMETER`. All
    models have `MIN_WIDTH` if each budget allows it. Raises a `ConfigError` if a budget has too few sizes.
    """
    ordered = sorted(budgets)
    candidates = [_candidates(flops, MIN_WIDTH, vocabulary=vocabulary, context=context) for flops in ordered]
    if not all(_brackets_optimum(choices, sizes) for choices in candidates):
        candidates = [_candidates(flops, NARROWEST_WIDTH, vocabulary=vocabulary, context=context) for flops in ordered]
    first, last = map(math.log, TOKENS_PER_PARAMETER)
    ratios = [math.exp(first + (last - first) * (index + 0.5) / sizes) for index in range(sizes)]
    rungs: list[Rung] = []
    for flops, choices in zip(ordered, candidates, strict=True):
        if len(choices) < sizes:
            got = f"{len(choices)} sizes at {compact(flops)} FLOPs"
            hint = "use larger budgets, fewer sizes or a smaller vocabulary"
            raise ConfigError("ladder", expected=f"{sizes} sizes with {MIN_STEPS} steps or more", got=got, hint=hint)
        rungs_of_budget: list[Rung] = []
        for ratio in ratios:
            rung = min(choices, key=lambda rung: _distance(rung, ratio))
            choices.remove(rung)
            rungs_of_budget.append(rung)
        rungs += sorted(rungs_of_budget, key=lambda rung: rung.shape.matrix_parameters())
    return rungs


def _brackets_optimum(choices: Sequence[Rung], sizes: int) -> bool:
    """Return True if there are enough sizes, and small ones among them."""
    ratios = [rung.plan.tokens / rung.shape.matrix_parameters() for rung in choices]
    return len(choices) >= sizes and max(ratios) >= math.sqrt(math.prod(TOKENS_PER_PARAMETER)) / 2


def _candidates(flops: float, min_width: int, *, vocabulary: int, context: int) -> list[Rung]:
    """Return the runs of all suitable shapes at a budget."""
    # A model with r tokens per parameter has about the root of C / 6r parameters.
    low, high = (math.sqrt(flops / (6 * ratio)) for ratio in TOKENS_PER_PARAMETER)
    shapes = shapes_between(low / 2, high * 2, vocabulary=vocabulary, context=context, min_width=min_width)
    return [rung for shape in shapes if (rung := rung_of(shape, flops)) and _is_usual(rung)]


def _is_usual(rung: Rung) -> bool:
    """Return True if the tokens per parameter are within twice the range of a ladder."""
    most, fewest = TOKENS_PER_PARAMETER
    return fewest / 2 <= rung.plan.tokens / rung.shape.matrix_parameters() <= 2 * most


def rung_of(shape: Architecture, flops: float) -> Rung | None:
    """Return the run of a shape at a budget; None if the budget allows fewer than `MIN_STEPS` steps."""
    plan = training_plan(shape, tokens=max(1, round(flops / shape.flops_per_token(shape.context))))
    return Rung(flops, shape, plan) if plan.steps >= MIN_STEPS else None


def shapes_between(
    low: float, high: float, *, vocabulary: int, context: int, min_width: int = MIN_WIDTH
) -> list[Architecture]:
    """Return the shapes with a number of matrix parameters between `low` and `high`, smallest first.

    Widths are multiples of 32, or of 64 from 256 on, and within `WIDTHS_PER_LAYER` times the depth.
    """
    shapes: list[Architecture] = []
    for depth in range(1, 129):
        narrowest, widest = (limit * depth for limit in WIDTHS_PER_LAYER)
        for width in [*range(min_width, 256, 32), *range(256, widest + 1, 64)]:
            count = 12 * depth * width**2 + vocabulary * width  # without the rounding of the feed-forward size
            if not narrowest <= width <= widest or not low / 2 <= count <= high * 2:
                continue
            shape = shape_of_depth(depth, vocabulary=vocabulary, context=context, width=width)
            if low <= shape.matrix_parameters() <= high:
                shapes.append(shape)
    return sorted(shapes, key=Architecture.matrix_parameters)


def _distance(rung: Rung, tokens_per_parameter: float) -> float:
    """Return the distance of a run from a number of tokens per parameter and from the usual ratio of width to depth."""
    ratio = rung.plan.tokens / rung.shape.matrix_parameters()
    proportion = rung.shape.width / (WIDTH_PER_LAYER * rung.shape.layers)
    return abs(math.log(ratio / tokens_per_parameter)) + 0.1 * abs(math.log(proportion))


def compact(number: float) -> str:
    """Return a number in short scientific notation, such as `1.2e13`."""
    mantissa, _, exponent = f"{number:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


# -- the life of a ladder

DATA_STEPS = ("curate", "tokenize")


def ladder_life(
    name: str,
    rungs: Sequence[Rung],
    *,
    sources: Sequence[str],
    vocabulary: int,
    settings: Mapping[str, Any],
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of the life file of a ladder; the steps of a run are `design-RUN` to `pretrain-RUN`.

    `settings` are those of all stages, and `training` those of pretraining.
    """
    stages: dict[str, Any] = {
        "curate": {"sources": [{"path": source} for source in sources]},
        "tokenize": {"vocabulary": vocabulary},
    }
    for rung in rungs:
        plan = rung.plan
        stages[f"design-{rung.name}"] = {
            "stage": "design", "depth": rung.shape.layers, "width": rung.shape.width, "steps": plan.steps,
            "context": plan.context, "tokens_per_step": plan.tokens_per_step, "timed_steps": 0,
        }  # fmt: skip
        stages[f"initialize-{rung.name}"] = {"stage": "initialize"}
        stages[pretrain_step(rung)] = {"stage": "pretrain", **training}
    about = f"The isoFLOP ladder of `vita scaling`: {len(rungs)} runs."
    return {"name": name, "about": about, "settings": dict(settings), "stages": stages}


def pretrain_step(rung: Rung) -> str:
    """Return the name of the step that trains the model of a run."""
    return f"pretrain-{rung.name}"
