"""The adapter folder of peft: `adapter_config.json` and `adapter_model.safetensors`.

    load_adapter(model, files)                 # attaches the adapter of a folder to its base model
    save_adapter(model, folder, base="...")

The name of a tensor is `base_model.model.`, the name of the module in the files of the base, and the part of the
adapter: `lora_A.weight` (rank, inputs), `lora_B.weight` (outputs, rank), `lora_magnitude_vector` (DoRA), or the
parameters of a module that is trained in full.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vita.nn.adapters.attach import (
    HEAD,
    Adapter,
    BaseQuantization,
    adaptable_linears,
    adapted_linears,
    adapter_of,
    all_linears,
    attach,
    trainable,
)
from vita.nn.adapters.config import LoraConfig
from vita.nn.adapters.fused import join_updates
from vita.nn.adapters.layers import AdaptedLinear
from vita.nn.adapters.names import PeftModule, module_names
from vita.nn.adapters.stacked import PROJECTIONS, expert_stacks, stacked_updates
from vita.nn.transformer import Transformer
from vita.spine.disk import write_atomically
from vita.spine.errors import ModelError
from vita.spine.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, ModelFiles

PREFIX = "base_model.model."
PICKLE = "adapter_model.bin"
A, B, B_BIAS, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector"
EMBEDDING_PARTS = ("lora_embedding_A", "lora_embedding_B")
BASE_LAYER = "base_layer."
"""The name of a frozen layer inside a layer with an adapter, in peft; a trained bias has it in its name."""


def load_adapter(model: Transformer, files: ModelFiles, *, quantization: BaseQuantization | None = None) -> None:
    """Attach the adapter in a folder to its base model; raise a `ModelError` if they do not fit."""
    config = LoraConfig.read(files)
    where = str(files.path(ADAPTER_WEIGHTS))
    updates, parameters = _read_tensors(files, where)
    model.split_projections()
    names = {in_file for _, in_file in adaptable_linears(model)}
    experts = _take_experts(model, config, updates)
    if HEAD in updates:
        hint = "merge the adapter with peft (`merge_and_unload`) and open the merged model"
        raise ModelError(f"{where}: {HEAD}", "adapts the output head with low rank, which is not supported", hint=hint)
    if unknown := sorted(updates.keys() - names):
        hint = "the adapter belongs to another base model, or adapts a kind of module that is not supported"
        raise ModelError(f"{where}: {unknown[0]}", "is not a linear module of the base model", hint=hint)
    if config.target_modules is not None:
        expected = {name for name in names if config.selects(name)}
        if missing := sorted(expected - updates.keys()):
            raise ModelError(f"{where}: {missing[0]}", "has no tensors, and `target_modules` selects it")
    targets = tuple(sorted(updates)) if updates or not experts else None
    selected = replace(config, target_modules=targets, exclude_modules=None, layers_to_transform=None)
    attach(model, selected, quantization=quantization)
    for name, update in updates.items():
        _load_update(model, module_names(model).named(name), update, where)
    _load_experts(model, experts, where)
    _load_parameters(model, parameters, where)
    if config.target_modules is not None:
        object.__setattr__(model, "adapter", Adapter(config, quantization or BaseQuantization()))


def save_adapter(model: Transformer, folder: Path, *, base: str | None) -> None:
    """Write the adapter of a model in float32; `base` is the base model, for `base_model_name_or_path`."""
    adapter = adapter_of(model)
    assert adapter is not None, "the model has no adapter"
    folder.mkdir(parents=True, exist_ok=True)
    config, tensors = join_updates(model, adapter.config, adapted_linears(model))
    tensors |= _full_parameters(model)
    all_tensors = {**tensors, **_expert_tensors(model)}
    contiguous = {
        PREFIX + name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in all_tensors.items()
    }
    data = save(contiguous, metadata={"format": "pt"})
    write_atomically(folder / ADAPTER_WEIGHTS, data)
    targets = _endings({name.removesuffix(f".{A}") for name in tensors if name.endswith(f".{A}")}, model)
    if not _selects_exactly(config, {name.removesuffix(f".{A}") for name in tensors if name.endswith(f".{A}")}, model):
        config = replace(config, target_modules=tuple(targets))
    text = json.dumps(config.as_peft(base=base, targets=targets), indent=2, sort_keys=True)
    write_atomically(folder / ADAPTER_CONFIG, f"{text}\n".encode())


# -- reading


def _read_tensors(files: ModelFiles, where: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Return the tensors of each module with an update, and the parameters that were trained in full."""
    path = files.path(ADAPTER_WEIGHTS)
    if not path.is_file():
        if files.path(PICKLE).is_file():
            hint = "pickles can run code and are not read; save the adapter with `safe_serialization=True`"
            raise ModelError(where, f"is missing, and {PICKLE} is a pickle", hint=hint)
        raise ModelError(where, "is missing")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(where, f"cannot be read, possibly truncated: {error}") from None
    updates: dict[str, dict[str, Tensor]] = defaultdict(dict)
    parameters: dict[str, Tensor] = {}
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix(PREFIX)
        part = next((part for part in (A, B, B_BIAS, MAGNITUDE) if name.endswith(f".{part}")), None)
        if name == full_name:
            raise ModelError(f"{where}: {name}", expected=f"a name that begins with {PREFIX}", got=name)
        if any(embedding in name for embedding in EMBEDDING_PARTS):
            hint = "merge the adapter with peft (`merge_and_unload`) and open the merged model"
            raise ModelError(f"{where}: {name}", "adapts an embedding with low rank, which is not supported", hint=hint)
        if part:
            updates[name.removesuffix(f".{part}")][part] = tensor
        elif ".lora_" in name:
            raise ModelError(f"{where}: {name}", "is a kind of adapter that is not supported")
        else:
            parameters[name.replace(f".{BASE_LAYER}", ".")] = tensor
    return dict(updates), parameters


def _take_experts(
    model: Transformer, config: LoraConfig, updates: dict[str, dict[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """Remove the updates of experts from `updates`; return them by the name of their parameter in peft.

    peft nests one wrapper per parameter: that of the first one is innermost, and called `base_layer`.
    """
    experts: dict[str, dict[str, Tensor]] = {}
    for name in expert_stacks(model):
        selected = [
            f"{name}.{parameter}" for parameter in PROJECTIONS if config.selects_parameter(f"{name}.{parameter}")
        ]
        wrappers = [f"{name}.{BASE_LAYER}".removesuffix("."), name] if len(selected) > 1 else [name]
        for parameter, wrapper in zip(selected, wrappers, strict=False):
            if wrapper in updates:
                experts[parameter] = updates.pop(wrapper)
    return experts


def _load_experts(model: Transformer, experts: Mapping[str, Mapping[str, Tensor]], where: str) -> None:
    for parameter, update in stacked_updates(model).items():
        for factor, target in ((A, update.A), (B, update.B)):
            at = f"{where}: {PREFIX}{parameter}.{factor}"
            if factor not in experts.get(parameter, {}):
                raise ModelError(at, "is missing", hint=f"see {ADAPTER_CONFIG}")
            copy_tensor(update.from_file(factor, experts[parameter][factor]), target, at)


def _expert_tensors(model: Transformer) -> dict[str, Tensor]:
    """Return the tensors of the adapters of experts under the names of peft."""
    tensors: dict[str, Tensor] = {}
    for name, stack in expert_stacks(model).items():
        updates = [update for attribute in PROJECTIONS.values() if (update := getattr(stack, attribute)) is not None]
        for index, update in enumerate(updates):
            wrapper = name if index == len(updates) - 1 else f"{name}.{BASE_LAYER}".removesuffix(".")
            tensors |= {f"{wrapper}.{factor}": tensor for factor, tensor in update.to_file().items()}
    return tensors


def _load_update(model: Transformer, module: PeftModule, update: Mapping[str, Tensor], where: str) -> None:
    """Copy the tensors of one module of the files; each part gets A, and its rows of B and of the magnitude."""
    layers = [model.get_submodule(part) for part in module.parts]
    for index, layer in enumerate(layers):
        assert isinstance(layer, AdaptedLinear)
        targets: dict[str, Tensor | None] = {
            A: layer.lora_A.weight,
            B: layer.lora_B.weight,
            B_BIAS: layer.lora_B.bias,
            MAGNITUDE: layer.lora_magnitude_vector if layer.dora else None,
        }
        for part, target in targets.items():
            tensor, at = update.get(part), f"{where}: {PREFIX}{module.name}.{part}"
            if (tensor is None) != (target is None):
                problem = "is missing" if tensor is None else "is not part of this kind of adapter"
                raise ModelError(at, problem, hint=f"see {ADAPTER_CONFIG}")
            if tensor is not None and target is not None:
                copy_tensor(tensor if part == A else module.split(tensor)[index], target, at)


def _load_parameters(model: Transformer, parameters: Mapping[str, Tensor], where: str) -> None:
    """Copy the parameters that were trained in full."""
    targets = {name: parameter for name, parameter in trainable(model).items() if ".lora_" not in name}
    weights, loaded = module_names(model).weights, set[str]()
    for name, tensor in parameters.items():
        for parameter, part in weights.to_own(name, tensor):
            at = f"{where}: {PREFIX}{name}"
            if parameter not in targets:
                hint = "neither `modules_to_save` nor `bias` selects it, or it is no module of the base model"
                raise ModelError(at, "is unexpected", hint=hint)
            copy_tensor(part, targets[parameter], at)
            loaded.add(parameter)
    if missing := sorted(targets.keys() - loaded):
        name = weights.file_name(missing[0])
        raise ModelError(f"{where}: {PREFIX}{name}", "is missing", hint=f"{ADAPTER_CONFIG} selects it")


@torch.no_grad()
def copy_tensor(tensor: Tensor, target: Tensor, where: str) -> None:
    """Copy a tensor of a file; raise a `ModelError` for another shape or for integers."""
    if tensor.shape != target.shape:
        raise ModelError(where, expected=f"shape {tuple(target.shape)}", got=tuple(tensor.shape))
    if not tensor.is_floating_point():
        raise ModelError(where, expected="floating-point numbers", got=str(tensor.dtype))
    target.copy_(tensor)


def _selects_exactly(config: LoraConfig, selected: Set[str], model: Transformer) -> bool:
    """Return whether the configuration selects these modules of the files, and no others."""
    return {in_file for _, in_file in adaptable_linears(model) if config.selects(in_file)} == selected


def _endings(selected: Set[str], model: Transformer) -> list[str]:
    """Return the last parts of the selected names if they select nothing else, otherwise the whole names."""
    endings = {name.rpartition(".")[2] for name in selected}
    unselected = {in_file for _, in_file in all_linears(model)} - selected
    return sorted(selected if endings & {name.rpartition(".")[2] for name in unselected} else endings)


def _full_parameters(model: Transformer) -> dict[str, Tensor]:
    """Return the parameters that are trained in full, under the names of peft."""
    parameters = {name: parameter.detach() for name, parameter in trainable(model).items() if ".lora_" not in name}
    names = module_names(model)
    adapted = {names.of_part(name).name for name in adapted_linears(model)}
    tensors: dict[str, Tensor] = {}
    for name, tensor in names.to_files(parameters).items():
        module, _, last = name.rpartition(".")
        tensors[f"{module}.{BASE_LAYER if module in adapted else ''}{last}"] = tensor
    return tensors
