"""Tensor parallelism: processes divide heads, feed-forward networks and the vocabulary (Shoeybi et al. 2019).

Projections that read the residual stream are divided by rows, and those that write to it by columns, so that attention
and feed-forward need one sum over the axis each. Norms, routers and biases of the residual stream are the same in all
processes. The vocabulary is divided where the axis divides it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vita.nn.adapters.attach import adapter_of
from vita.nn.architecture import Architecture
from vita.nn.experts import ExpertStack
from vita.nn.feedforward import FeedForward, Linear
from vita.nn.transformer import Embedding, SelfAttention, Transformer
from vita.spine.errors import ConfigError
from vita.train.parallel.boxes import AxisSlice
from vita.train.parallel.collectives import copy_to_axis, sum_over_axis
from vita.train.parallel.mesh import ProcessMesh, local_shard
from vita.train.parallel.vocabulary import Vocabulary

AXIS = "tensor"


@dataclass
class DividedParameters:
    """The parameters of a model that an axis divides."""

    slices: dict[str, tuple[AxisSlice, ...]]
    """Divisions by name; other parameters are the same in all processes of the axis."""
    partial: tuple[str, ...] = ()
    """Parameters of which each process has a part of the gradient, although they are the same in all processes."""

    def joined(self, other: DividedParameters) -> DividedParameters:
        """Return the divisions of both."""
        names = dict.fromkeys([*self.slices, *other.slices])
        slices = {name: (*self.slices.get(name, ()), *other.slices.get(name, ())) for name in names}
        return DividedParameters(slices, (*self.partial, *other.partial))


def divide_tensors(model: Transformer, world: ProcessMesh) -> DividedParameters:
    """Reduce the parameters of a model to the part of this process, in place, and add the communication."""
    count = world.sizes[AXIS]
    if count == 1:
        return DividedParameters({})
    _check(model, count)
    group, index = world.group_name(AXIS), world.coordinates[AXIS]
    divided = DividedParameters({})

    def divide(name: str, module: nn.Module, dimension: int, parameters: tuple[str, ...] = ("weight",)) -> None:
        for parameter in parameters:
            if getattr(module, parameter, None) is not None:
                slice_parameter(module, parameter, dimension, index=index, count=count)
                divided.slices[f"{name}.{parameter}"] = (AxisSlice(dimension, AXIS),)

    for name, module in model.named_modules():
        if isinstance(module, SelfAttention):
            for part in ("q_proj", "k_proj", "v_proj"):
                divide(f"{name}.{part}", module.get_submodule(part), 0, ("weight", "bias"))
            _sum_outputs(module.o_proj, group)
            divide(f"{name}.o_proj", module.o_proj, 1)
            norms = ("q_norm", "k_norm") if module.qk_norm == "head" else ()
            divided.partial += tuple(f"{name}.{norm}.weight" for norm in norms)
            module.register_forward_pre_hook(_copy_first_argument(group))
        elif isinstance(module, FeedForward):
            for part in ("gate_proj", "up_proj") if module.gated else ("up_proj",):
                divide(f"{name}.{part}", module.get_submodule(part), 0, ("weight", "bias"))
            _sum_outputs(module.down_proj, group)
            divide(f"{name}.down_proj", module.down_proj, 1)
            module.register_forward_pre_hook(_copy_first_argument(group))
        elif isinstance(module, ExpertStack):
            for part in ("gate_proj", "up_proj") if module.gated else ("up_proj",):
                divide(f"{name}.{part}", module.get_submodule(part), 1)
            divide(f"{name}.down_proj", module.down_proj, 2)
            module.register_forward_pre_hook(_copy_first_argument(group))
            module.register_forward_hook(_sum_output(group))
    if model.architecture.vocabulary % count == 0:
        _divide_vocabulary(model, divide, Vocabulary(group, index, count))
    return divided


def slice_parameter(module: nn.Module, name: str, dimension: int, *, index: int, count: int) -> None:
    """Replace a parameter by part `index` of `count` equal parts of a dimension."""
    parameter: nn.Parameter = getattr(module, name)
    part = parameter.detach().chunk(count, dim=dimension)[index].clone()
    setattr(module, name, nn.Parameter(part, requires_grad=parameter.requires_grad))


def _divide_vocabulary(model: Transformer, divide: Callable[..., None], vocabulary: Vocabulary) -> None:
    embedding = model.model.embed_tokens
    embedding.__class__ = DividedEmbedding
    assert isinstance(embedding, DividedEmbedding)
    embedding.vocabulary = vocabulary
    divide("model.embed_tokens", embedding, 0)
    if hasattr(model, "lm_head"):
        divide("lm_head", model.lm_head, 0, ("weight", "bias"))
    model.divided_vocabulary = vocabulary


class DividedEmbedding(Embedding):
    """The rows of the embedding that a process holds; other tokens come from other processes."""

    vocabulary: Vocabulary

    def forward(self, input: Tensor) -> Tensor:
        """Look up the tokens of this process, and add the vectors of all processes, of which all but one are zero."""
        local, is_local = self.vocabulary.local_ids(input, rows=len(self.weight))
        states = super().forward(local) * is_local[..., None].to(self.weight.dtype)
        return sum_over_axis(states, self.vocabulary.group)


class SummedLinear(Linear):
    """A projection whose inputs are divided among processes: its products are summed, and the bias is added once."""

    group: str

    def forward(self, input: Tensor) -> Tensor:
        products = sum_over_axis(nn.functional.linear(input, self.weight), self.group)
        return products if self.bias is None else products + self.bias.to(products.dtype)


def _sum_outputs(linear: nn.Module, group: str) -> None:
    linear.__class__ = SummedLinear
    assert isinstance(linear, SummedLinear)
    linear.group = group


def _copy_first_argument(group: str) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (copy_to_axis(inputs[0], group), *inputs[1:])

    return hook


def _sum_output(group: str) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return sum_over_axis(output, group)

    return hook


def complete_gradients(names: tuple[str, ...], parameters: Mapping[str, Tensor], world: ProcessMesh) -> None:
    """Sum the gradients of parameters of which each process of the axis has a part."""
    present = [parameters[name].grad for name in names if name in parameters]
    gradients = [local_shard(gradient) for gradient in present if gradient is not None]
    if not gradients:
        return
    total = world.total_along(torch.cat([gradient.reshape(-1) for gradient in gradients]), AXIS)
    for gradient, part in zip(gradients, total.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _check(model: Transformer, count: int) -> None:
    """Raise `ConfigError` if the axis cannot divide the model."""
    architecture: Architecture = model.architecture
    where = "parallel.tensor"
    if adapter_of(model) is not None:
        raise ConfigError(
            where, "a model with an adapter cannot be divided", hint="use `shard`, or set `adapter: none`"
        )
    if architecture.latent is not None:
        raise ConfigError(where, "multi-head latent attention cannot be divided", hint="use `shard`")
    if architecture.qk_norm == "projection":
        raise ConfigError(where, "norms over all heads of a token cannot be divided", hint="use `shard`")
    sizes = {"heads": architecture.heads, "key-value heads": architecture.kv_heads}
    experts = architecture.experts
    sizes["feed-forward units"] = architecture.feedforward
    if experts is not None:
        sizes["units of an expert"] = experts.feedforward
        if experts.shared:
            sizes["units of the shared experts"] = experts.shared
    for name, size in sizes.items():
        if size % count:
            raise ConfigError(where, expected=f"a divisor of the model's {size} {name}", got=count)
