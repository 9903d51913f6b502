"""Adapters in a model: attaching them, freezing the base, a copy that shares the base, and merging.

attach(model, LoraConfig.of(settings), seed=0)       # the base is frozen, the update starts at 0
reference = shared_copy(model)                       # frozen tensors are shared, trainable ones copied
merge(model)                                         # back to plain linear layers, base + adapter
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import xxhash
from torch import nn

from vita.nn.adapters.config import LoraConfig
from vita.nn.adapters.layers import AdaptedLinear, LowRankFactor, plain_linear
from vita.nn.adapters.names import module_names
from vita.nn.adapters.quantization import QuantizedLinear
from vita.nn.adapters.settings import EMBEDDINGS, Quantization
from vita.nn.adapters.stacked import (
    PROJECTIONS,
    dequantize_stacks,
    expert_stacks,
    merge_updates,
    new_update,
    quantize_stacks,
    stacked_updates,
)
from vita.nn.frozen_linear import FrozenLinear
from vita.nn.init import generator
from vita.nn.packed import dense
from vita.nn.transformer import Transformer
from vita.spine.errors import ModelError

M = TypeVar("M", bound=nn.Module)
TARGETS, SAVED = "adapter.target_modules", "adapter.modules_to_save"
PARAMETERS = "adapter.target_parameters"
HEAD = "lm_head"
MIXTURE_PARTS = (".router", ".experts.")
"""Parts of a mixture of experts, which peft adapts in another way (`target_parameters`)."""


@dataclass(frozen=True)
class BaseQuantization:
    """The number format of the frozen matrices."""

    kind: Quantization = "none"
    double: bool = True

    def as_json(self) -> dict[str, object] | None:
        """Return the entry of `vita.json`; None without quantization."""
        if self.kind == "none":
            return None
        return {"format": self.kind, **({"double": self.double} if self.kind == "nf4" else {})}

    @classmethod
    def from_json(cls, value: Mapping[str, object] | None) -> BaseQuantization:
        """Read the entry of `vita.json`."""
        if not value:
            return cls()
        return cls(cast(Quantization, str(value["format"])), bool(value.get("double", True)))


@dataclass(frozen=True)
class Adapter:
    """The adapter of a model, stored as `model.adapter`."""

    config: LoraConfig
    quantization: BaseQuantization = BaseQuantization()
    seed: int = 0
    """Seed of the initial weights and of dropout."""

    @property
    def method(self) -> str:
        """The usual name of the method, with the number format of a quantized base."""
        names = {"none": "", "nf4": "Q", "int8": "Q"}
        bits = {"none": "", "nf4": " (4 bits)", "int8": " (8 bits)"}
        return f"{names[self.quantization.kind]}{self.config.method}{bits[self.quantization.kind]}"


def adapter_of(model: nn.Module) -> Adapter | None:
    """Return the adapter of a model, or None."""
    return getattr(model, "adapter", None)


def attach(
    model: Transformer, config: LoraConfig, *, quantization: BaseQuantization | None = None, seed: int = 0
) -> None:
    """Freeze a model and attach an adapter whose update is 0; raise a `ModelError` if it selects no module."""
    quantization = quantization or BaseQuantization()
    model.split_projections()
    _check_embeddings(model, config)
    linears = dict(adaptable_linears(model))
    selected = [name for name, in_file in linears.items() if config.selects(in_file) or config.selects(name)]
    parameters = [
        (name, parameter)
        for name in expert_stacks(model)
        for parameter in PROJECTIONS
        if config.selects_parameter(f"{name}.{parameter}")
    ]
    if config.target_parameters and not parameters:
        hint = "only mixtures of experts have them: mlp.experts.gate_up_proj and mlp.experts.down_proj"
        raise ModelError(PARAMETERS, "selects no parameter of the model", got=list(config.target_parameters), hint=hint)
    if not (selected or parameters) and (config.target_modules is not None or not config.modules_to_save):
        endings = sorted({name.rpartition(".")[2] for pair in linears.items() for name in pair})
        hint = f"the linear modules of this model are {', '.join(endings)}"
        raise ModelError(TARGETS, "selects no module of the model", got=config.target_modules, hint=hint)
    model.requires_grad_(False)
    if quantization.kind != "none":
        quantize_linears(model, config, quantization)
    for name in selected:
        wrap_linear(model, name, config, seed=seed)
    for name, parameter in parameters:
        _adapt_experts(model, name, parameter, config, seed=seed)
    _train_in_full(model, config)
    object.__setattr__(model, "adapter", Adapter(config, quantization, seed))


def wrap_linear(model: Transformer, name: str, config: LoraConfig, *, seed: int = 0) -> None:
    """Replace a linear layer of the decoder by one with an adapter."""
    names = module_names(model).of_part(name).name, name
    base = model.get_submodule(name)
    assert isinstance(base, nn.Linear | FrozenLinear)
    device = next(tensor.device for tensors in (base.parameters(), base.buffers()) for tensor in tensors)
    with device:
        layer = AdaptedLinear(
            base,
            rank=config.rank_of(*names),
            scale=config.scale_of(*names),
            dropout=config.dropout,
            dora=config.use_dora,
            bias=config.lora_bias,
        )
    if device.type != "meta":
        layer.start(generator(seed, f"{name}.lora_A"))
    _replace(model, name, layer)


def _adapt_experts(model: Transformer, name: str, parameter: str, config: LoraConfig, *, seed: int) -> None:
    """Add an adapter to a stacked parameter of experts."""
    if config.use_dora or config.dropout or config.lora_bias:
        raise ModelError(PARAMETERS, "cannot be combined with DoRA, dropout or `lora_bias`, as in peft")
    full_name, stack = f"{name}.{parameter}", expert_stacks(model)[name]
    device = model.head_weight.device
    with device:
        update = new_update(stack, parameter, rank=config.rank_of(full_name), scale=config.scale_of(full_name))
    if device.type != "meta":
        update.start(generator(seed, f"{full_name}.lora_A"))
    setattr(stack, PROJECTIONS[parameter], update)


def adaptable_linears(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the name of each linear layer below the head, and the name of its module in the files."""
    for name, in_file in all_linears(model):
        if name.startswith("model.layers.") and not any(part in name for part in MIXTURE_PARTS):
            yield name, in_file


def all_linears(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield each linear layer, with or without an adapter, and the name of its module in the files."""
    names = module_names(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | FrozenLinear | AdaptedLinear) and not name.endswith(".quantized"):
            yield name, names.of_part(name).name


def adapted_linears(model: nn.Module) -> dict[str, AdaptedLinear]:
    """Return the layers with an adapter, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def quantize_linears(model: Transformer, config: LoraConfig, quantization: BaseQuantization) -> None:
    """Quantize the frozen matrices of the layers; embedding, head and norms keep full precision."""
    for name, in_file in list(all_linears(model)):
        if not name.startswith("model.layers.") or name.endswith(".router"):
            continue
        linear = model.get_submodule(name)
        if isinstance(linear, nn.Linear) and not config.saves(in_file):
            _replace(model, name, QuantizedLinear.of(linear, quantization.kind, double=quantization.double))
    quantize_stacks(model, quantization.kind, double=quantization.double)


def dequantize_linears(model: nn.Module, *, dtype: torch.dtype = torch.float32) -> None:
    """Replace quantized matrices by dense ones with the same values, which are faster and larger."""
    for name, module in list(model.named_modules()):
        if isinstance(module, AdaptedLinear) and module.quantized is not None:
            module.weight = nn.Parameter(module.dense(dtype), requires_grad=False)
            module.quantized = None
        elif isinstance(module, QuantizedLinear) and not name.endswith(".quantized"):  # the layer or stack replaces it
            _replace(model, name, plain_linear(module.dense(dtype), module.bias, trainable=False))
    dequantize_stacks(model, dtype)


@torch.no_grad()
def merge(model: Transformer) -> None:
    """Add the adapter to the matrices, in place; the model has plain linear layers again and is trainable."""
    for name, layer in adapted_linears(model).items():
        dtype = layer.weight.dtype if layer.quantized is None else torch.float32
        bias = layer.merged_bias()
        _replace(
            model,
            name,
            plain_linear(layer.merged().to(dtype), None if bias is None else bias.to(dtype), trainable=True),
        )
    dequantize_linears(model)
    merge_updates(model)
    model.requires_grad_(True)
    object.__setattr__(model, "adapter", None)


def shared_copy(model: M) -> M:
    """Return a copy that shares frozen tensors with `model` and has its own trainable ones.

    Training `model` does not change the copy. A model without frozen parameters is copied in full.
    """
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    if shared:
        shared |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, cast(dict[int, object], shared))


def reference_copy(model: M) -> M:
    """Return a frozen model with the current weights: `shared_copy` for inference."""
    reference = shared_copy(model)
    reference.requires_grad_(False)
    return reference


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Compute without the updates of the adapter in the block, as the base does."""
    layers = [*adapted_linears(model).values(), *stacked_updates(model).values()]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


@contextmanager
def dropout(model: nn.Module, *seed: int) -> Iterator[None]:
    """Apply the dropout of the adapter in the block; the masks depend on the numbers in `seed`."""
    layers = {name: layer for name, layer in adapted_linears(model).items() if layer.dropout}
    for name, layer in layers.items():
        layer.dropout_seed = _mask_seed(name, seed)
    try:
        yield
    finally:
        for layer in layers.values():
            layer.dropout_seed = None


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def has_dropout(model: nn.Module) -> bool:
    """Return whether a layer with an adapter has dropout."""
    return any(layer.dropout for layer in adapted_linears(model).values())


# -- helpers


def _mask_seed(name: str, numbers: tuple[int, ...]) -> int:
    text = "/".join([name, *map(str, numbers)])
    return xxhash.xxh3_64_intdigest(text.encode()) >> 1


def _check_embeddings(model: Transformer, config: LoraConfig) -> None:
    """Refuse low rank for embedding and head, and full training of one of them if they share their weights."""
    targets = config.target_modules if isinstance(config.target_modules, tuple) else ()
    for target in targets:
        last = target.rpartition(".")[2]
        if last in (*EMBEDDINGS, HEAD):
            hint = f"train it in full: `modules_to_save: [{last}]`"
            raise ModelError(TARGETS, f"`{last}` cannot have a low-rank adapter", hint=hint)
    tied = [name for name in config.modules_to_save if name.rpartition(".")[2] in ("embed_tokens", "wte", HEAD)]
    if tied and model.architecture.tied and not hasattr(model, "score"):
        problem = f"`{tied[0]}` cannot be trained: embedding and output head of this model share their weights"
        raise ModelError(SAVED, problem, hint="leave it out, or untie the model first")


def _train_in_full(model: Transformer, config: LoraConfig) -> None:
    """Make `modules_to_save` and the selected biases trainable."""
    matched = set[str]()
    names = module_names(model)
    for name, module in model.named_modules():
        in_file = names.of_part(name).name
        for saved in config.modules_to_save:
            if in_file.endswith(saved):
                for part in module.modules():
                    for parameter_name in list(part._parameters):
                        _make_trainable(part, parameter_name)
                matched.add(saved)
    if missing := [name for name in config.modules_to_save if name not in matched]:
        raise ModelError(SAVED, "is not a module of the model", got=missing[0])
    if config.bias == "lora_only":
        for layer in adapted_linears(model).values():
            _make_trainable(layer, "bias")
    if config.bias == "all":
        for module in model.modules():
            if not isinstance(module, LowRankFactor):
                _make_trainable(module, "bias")


def _make_trainable(module: nn.Module, name: str) -> None:
    """Replace a frozen parameter by a trainable copy, because other models may share it."""
    parameter = module._parameters.get(name)
    if parameter is not None and not parameter.requires_grad:
        setattr(module, name, nn.Parameter(dense(parameter.detach()).clone()))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
