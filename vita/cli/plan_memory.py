"""The predicted memory of the tuning steps of a life, for `vita plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vita.spine.errors import VitaError
from vita.spine.plain_text import counted

if TYPE_CHECKING:
    from vita.nn.transformer import Transformer
    from vita.spine.machine import Machine
    from vita.spine.plan import Step
    from vita.spine.store import Store


def planned_memory(
    step: Step, artifacts: Mapping[str, str], store: Store, *, machine: Machine
) -> dict[str, Any] | None:
    """Return the predicted memory of a tuning step by purpose, in bytes; None if its model is not known yet.

    `artifacts` are the steps that have a result.
    """
    source = step.inputs.get("model")
    if source is None or not hasattr(step.config, "adapter"):
        return None
    digest = source.removeprefix("@") if source.startswith("@") else artifacts.get(source)
    if digest is None or not store.has(digest):
        return None
    from vita.data.tokens.truncation import ROW_TOKENS
    from vita.design.tuning_memory import tuning_memory
    from vita.stages.kinds import Model
    from vita.train.hardware import choose_precision

    config: Any = step.config
    try:
        model = _planned_model(store.open(digest, Model).path, config)
    except VitaError:
        return None  # the step itself reports it
    longer = _first(config, "longer_context")
    context = longer or model.architecture.context
    length = min(_first(config, "max_length", "sequence_length") or longer or ROW_TOKENS, context)
    tokens = min((_first(config, "batch_size", "prompts_per_step") or 1) * length, config.planned_micro_tokens)
    number_bytes = choose_precision(machine.device, config.precision).dtype.itemsize
    memory = tuning_memory(
        model, tokens=max(tokens, length), number_bytes=number_bytes, recomputes=config.recompute_activations
    )
    cache = model.architecture.cache_bytes_per_token()
    return {"method": _method(model), "tokens": max(tokens, length), "kv_cache_per_token": cache, **memory}


def memory_line(step: str, memory: Mapping[str, Any]) -> str:
    """Return the prediction in one line."""
    names = ("weights", "gradients", "optimizer", "activations", "logits", "dequantized")
    parts = ", ".join(f"{name} {memory[name] / 1e9:.2f}" for name in names if memory[name])
    tokens = counted(memory["tokens"], "token")
    text = f"{step}: {memory['method']}, about {memory['total'] / 1e9:.2f} GB ({parts}) with micro-batches of {tokens}"
    return f"{text}; KV cache in 16 bits {memory['kv_cache_per_token'] / 1e3:.1f} kB per token"


def _planned_model(folder: Any, config: Any) -> Transformer:
    """Return the model of a step without values, with the adapter that the step trains."""
    from vita.design.tuning_memory import meta_model
    from vita.infer.pretrained import architecture_of
    from vita.nn.adapters.attach import BaseQuantization, attach
    from vita.nn.adapters.config import LoraConfig
    from vita.spine.model_files import ModelFiles, description
    from vita.stages.tuning import adapter_settings

    files = ModelFiles.of(folder)
    model = meta_model(architecture_of(files), adapter_settings(files, config.adapter))
    if files.is_adapter and config.adapter != "none":
        quantization = BaseQuantization.from_json(description(files.folder).get("quantization"))
        attach(model, LoraConfig.read(files), quantization=quantization)
    return model


def _method(model: Transformer) -> str:
    from vita.nn.adapters.attach import adapter_of

    adapter = adapter_of(model)
    return "all weights" if adapter is None else adapter.method


def _first(config: Any, *names: str) -> int | None:
    """Return the first of these settings that is set."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), None)
