"""The expected quality of the pretraining steps of a life, for `vita plan`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita.spine.errors import VitaError

if TYPE_CHECKING:
    from vita.design.expectations import Expectation
    from vita.spine.machine import Machine
    from vita.spine.plan import Plan, Step
    from vita.spine.store import Store


def planned_quality(
    plan: Plan, step: Step, artifacts: Mapping[str, str], store: Store, *, machine: Machine
) -> Expectation | None:
    """Return the expected quality of a pretraining step; None for other steps and for encoders.

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


def _of_blueprint(blueprint: Mapping[str, Any], step: Step) -> Expectation | None:
    from vita.nn.architecture import Architecture

    text = blueprint["prediction"].get("text", "english")
    return _expectation(Architecture.model_validate(blueprint["architecture"]), blueprint["training"], text, step)


def _of_settings(design_step: Step, step: Step, machine: Machine) -> Expectation | None:
    from vita.spine.stage import Context
    from vita.stages import design

    config: Any = design_step.config
    shape, plan = design.estimate(config, Context(Path(), lambda event, **fields: None, machine))
    return _expectation(shape, plan.as_json(), config.text, step)


def _expectation(shape: Any, training: Mapping[str, Any], text: str, step: Step) -> Expectation | None:
    """Return the expectation of a training plan with the settings of the step that override it."""
    from vita.design.expectations import expected_quality

    config: Any = step.config
    if not shape.causal:
        return None
    tokens = (config.steps or training["steps"]) * (config.batch_size or training["rows"]) * training["context"]
    return expected_quality(parameters=shape.matrix_parameters(), tokens=tokens, text=text)


def quality_lines(step: str, quality: Expectation) -> list[str]:
    """Return the expectation and its basis, one line each."""
    size = f"{quality.parameters:,} matrix parameters, {quality.tokens:,} tokens"
    return [f"{step}: {size}. {quality.sentence}", f"  basis: {quality.basis}"]
