"""The forecast of a layout of several processes for the training steps of a life, for `vita plan --world-size`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vita.spine.errors import VitaError

if TYPE_CHECKING:
    from vita.design.parallel_forecast import LayoutForecast
    from vita.nn.architecture import Architecture
    from vita.spine.machine import Machine
    from vita.spine.plan import Step
    from vita.spine.store import Store


def trains_in_parallel(step: Step) -> bool:
    """Return True for a step that several processes run together."""
    return step.stage.parallel and hasattr(step.config, "parallel")


def planned_layout(
    step: Step, artifacts: Mapping[str, str], store: Store, *, processes: int, machine: Machine
) -> LayoutForecast | None:
    """Return the forecast of a training step; None if its blueprint and its model are not known yet.

    Raises `ConfigError` if the setting `parallel` does not fit the number of processes, the model or the batch.
    """
    from vita.data.tokens.truncation import ROW_TOKENS
    from vita.design.parallel_forecast import Workload, forecast_layout
    from vita.train.hardware import choose_precision

    config: Any = step.config
    blueprint = _blueprint(step, artifacts, store)
    architecture = _architecture(step, artifacts, store, blueprint)
    if architecture is None:
        return None
    batch = blueprint["training"] if blueprint else {}
    settings = (getattr(config, name, None) for name in ("max_length", "sequence_length"))
    chosen = next((length for length in settings if isinstance(length, int)), None)
    workload = Workload(
        rows=config.batch_size or batch.get("rows", processes),
        row_length=batch.get("context") or chosen or min(architecture.context, ROW_TOKENS),
        micro_batch_tokens=config.planned_micro_tokens,
        number_bytes=choose_precision(machine.device, config.precision).dtype.itemsize,
        muon=getattr(config, "optimizer", "adamw") == "muon",
    )
    return forecast_layout(architecture, config.parallel, workload, processes=processes)


def layout_lines(step: str, forecast: LayoutForecast) -> list[str]:
    """Return the forecast in two lines: memory and communication of a process."""
    from vita.reporting.wording import size

    axes = " x ".join(f"{axis} {size}" for axis, size in forecast.sizes.items() if size > 1) or "one process"
    memory, sent = (_sizes(part) for part in (forecast.memory, forecast.communication))
    return [
        f"{step} ({axes}): about {size(forecast.memory['total'])} per process ({memory})",
        f"{step}: each process sends about {size(forecast.communication['total'])} per step ({sent})",
    ]


def _sizes(parts: Mapping[str, int]) -> str:
    from vita.reporting.wording import size

    shown = [f"{name} {size(amount)}" for name, amount in parts.items() if name != "total" and amount]
    return ", ".join(shown) or "nothing"


def _blueprint(step: Step, artifacts: Mapping[str, str], store: Store) -> dict[str, Any] | None:
    from vita.stages.kinds import Blueprint

    digest = _digest(step, "blueprint", artifacts)
    if digest is None or not store.has(digest):
        return None
    return json.loads((store.open(digest, Blueprint).path / "blueprint.json").read_text(encoding="utf-8"))


def _architecture(
    step: Step, artifacts: Mapping[str, str], store: Store, blueprint: Mapping[str, Any] | None
) -> Architecture | None:
    from vita.infer.pretrained import architecture_of
    from vita.nn.architecture import Architecture
    from vita.spine.config import build
    from vita.spine.model_files import ModelFiles
    from vita.stages.kinds import Model

    if blueprint is not None:
        return build(Architecture, blueprint["architecture"], where="blueprint.architecture")
    digest = _digest(step, "model", artifacts)
    if digest is None or not store.has(digest):
        return None
    try:
        return architecture_of(ModelFiles.of(store.open(digest, Model).path))
    except VitaError:
        return None  # the step itself reports it


def _digest(step: Step, name: str, artifacts: Mapping[str, str]) -> str | None:
    source = step.inputs.get(name)
    if source is None:
        return None
    return source.removeprefix("@") if source.startswith("@") else artifacts.get(source)
