"""Properties of models that are known before a life runs, and the refusal of steps that cannot use such a model.

A stage declares in `NEEDS` what the artifact of a slot must be able to do:

    NEEDS = {"model": (generates_text,)}         # a function: traits -> the reason why not, or None

It may also define `unsupported(config, traits)`, for needs that depend on its settings, and `traits(config, inputs)`,
if its output has other traits than its first input. Traits of an artifact come from its kind (`Artifact.traits`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from vita.spine.errors import PlanError, VitaError
from vita.spine.stage import Stage
from vita.spine.store import Artifact, Store, Traits


class PlannedStep(Protocol):
    """A step of a plan (`vita.spine.plan.Step`)."""

    @property
    def name(self) -> str: ...
    @property
    def stage(self) -> Stage: ...
    @property
    def config(self) -> Any: ...
    @property
    def inputs(self) -> Mapping[str, str]: ...


def check_steps(steps: Iterable[PlannedStep], store: Store, *, artifacts: Mapping[str, str] | None = None) -> None:
    """Raise a `PlanError` for the first step that cannot use its inputs, as far as these are known.

    `artifacts` are the digests of steps that have a result.
    """
    known: dict[str, Traits | None] = {}
    for step in steps:
        kinds = {slot.name: slot.kind for slot in step.stage.slots}
        inputs = {
            slot: _of_digest(source[1:], kinds[slot], store) if source.startswith("@") else known.get(source)
            for slot, source in step.inputs.items()
        }
        check_step(step, inputs)
        digest = (artifacts or {}).get(step.name)
        actual = _of_digest(digest, step.stage.output_kind, store) if digest else None
        known[step.name] = actual or _of_output(step, inputs)


def check_step(step: PlannedStep, inputs: Mapping[str, Traits | None]) -> None:
    """Raise a `PlanError` if the stage of a step cannot use inputs with these traits, by slot."""
    if step.stage.input_problem is not None and (problem := step.stage.input_problem(step.config, inputs)) is not None:
        raise PlanError(step.name, problem)
    traits = {slot: values for slot, values in inputs.items() if values is not None}
    reasons = [
        reason
        for slot, needs in step.stage.needs.items()
        if slot in traits
        for need in needs
        if (reason := need(traits[slot])) is not None
    ]
    if not reasons and step.stage.unsupported is not None:
        reason = step.stage.unsupported(step.config, traits)
        reasons = [reason] if reason else []
    if reasons:
        hint = "remove the step, or use another model"
        raise PlanError(step.name, f"the stage `{step.stage.name}` cannot use this model: {reasons[0]}", hint=hint)


def _of_output(step: PlannedStep, inputs: Mapping[str, Traits | None]) -> Traits | None:
    if step.stage.traits is not None:
        return step.stage.traits(step.config, inputs)
    order = [slot.name for slot in step.stage.slots]
    return next((inputs[slot] for slot in order if inputs.get(slot) is not None), None)


def _of_digest(digest: str, kind: type[Artifact], store: Store) -> Traits | None:
    if not store.has(digest):
        return None  # the step that needs it reports it
    try:
        return store.open(digest, kind).traits
    except VitaError:
        return None
