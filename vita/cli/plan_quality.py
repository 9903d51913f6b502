"""The expected quality of the pretraining steps of a life and their time on a GPU, for `vita plan`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita.spine.errors import VitaError

if TYPE_CHECKING:
    from vita.design.expectations import Expectation
    from vita.design.gpu_time import GpuTime
    from vita.nn.architecture import Architecture
    from vita.spine.machine import Machine
    from vita.spine.plan import Plan, Step
    from vita.spine.store import Store


@dataclass(frozen=True)
class PlannedPretraining:
    """The model and the tokens of a pretraining step that has not run."""

    architecture: Architecture
    tokens: int
    """Tokens of all steps."""
    row_length: int
    """Tokens of a row."""
    text: str
    """Kind of text: `english` or `world`."""


def planned_pretraining(
    plan: Plan, step: Step, artifacts: Mapping[str, str], store: Store, *, machine: Machine
) -> PlannedPretraining | None:
    """Return the model and the tokens of a pretraining step; None for other steps.

    `artifacts` are the steps that have a result. Without a blueprint, the settings of the step `design` decide, and a
    time budget is converted with a usual speed of this machine.
    """
    if step.stage.name != "pretrain" or (source := step.inputs.get("blueprint")) is None:
        return None
    digest = source.removeprefix("@") if source.startswith("@") else artifacts.get(source)
    try:
        if digest is not None and store.has(digest):
            return _of_blueprint(json.loads(store.read(digest, "blueprint.json")), step)
        return _of_settings(next(other for other in plan.steps if other.name == source), step, machine)
    except (VitaError, StopIteration):
        return None  # the step itself reports it


def _of_blueprint(blueprint: Mapping[str, Any], step: Step) -> PlannedPretraining:
    from vita.nn.architecture import Architecture

    text = blueprint["prediction"].get("text", "english")
    return _planned(Architecture.model_validate(blueprint["architecture"]), blueprint["training"], text, step)


def _of_settings(design_step: Step, step: Step, machine: Machine) -> PlannedPretraining:
    from vita.spine.stage import Context
    from vita.stages import design

    config: Any = design_step.config
    shape, plan = design.estimate(config, Context(Path(), lambda event, **fields: None, machine))
    return _planned(shape, plan.as_json(), config.text, step)


def _planned(shape: Architecture, training: Mapping[str, Any], text: str, step: Step) -> PlannedPretraining:
    """Return the training plan with the settings of the step that override it."""
    config: Any = step.config
    tokens = (config.steps or training["steps"]) * (config.batch_size or training["rows"]) * training["context"]
    return PlannedPretraining(shape, tokens, training["context"], text)


def planned_quality(planned: PlannedPretraining) -> Expectation | None:
    """Return the expected quality; None for encoders."""
    from vita.design.expectations import expected_quality

    if not planned.architecture.causal:
        return None
    parameters = planned.architecture.matrix_parameters()
    return expected_quality(parameters=parameters, tokens=planned.tokens, text=planned.text)


def planned_gpu_time(planned: PlannedPretraining, gpu: str) -> GpuTime:
    """Return the estimated time on one GPU; raise a `ConfigError` for a GPU without an entry."""
    from vita.design.gpu_time import gpu_time

    flops = planned.architecture.flops_per_token(planned.row_length)
    return gpu_time(gpu, flops_per_token=flops, tokens=planned.tokens)


def quality_lines(step: str, quality: Expectation) -> list[str]:
    """Return the expectation and its basis, one line each."""
    size = f"{quality.parameters:,} matrix parameters, {quality.tokens:,} tokens"
    return [f"{step}: {size}. {quality.sentence}", f"  basis: {quality.basis}"]


def gpu_line(step: str, estimate: GpuTime) -> str:
    """Return the estimated time in one line."""
    fast, slow = (seconds / 60 for seconds in estimate.seconds)
    low, high = estimate.tokens_per_second
    return (
        f"{step}: on one {estimate.gpu} about {fast:,.0f} to {slow:,.0f} minutes of training steps, {low:,.0f} to "
        f"{high:,.0f} tokens/s ({estimate.basis}); an estimate, without compilation and evaluations"
    )
