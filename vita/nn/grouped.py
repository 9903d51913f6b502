"""Products of tokens with the experts that they are routed to, without dropped tokens.

    groups = group_by_expert(chosen, count=8)
    inputs = groups.dispatch(tokens)                  # tokens, sorted by expert
    outputs = grouped_linear(inputs, weight, groups)  # one product per expert
    per_slot = groups.collect(outputs)                # [tokens, active experts, width]

Each expert multiplies a contiguous slice of the sorted tokens. On a GPU all slices are multiplied by one kernel
(`torch.nn.functional.grouped_mm`). `grouped_linear_reference` is the plain loop over experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

# N tokens, K active experts of a token, P = N K pairs of token and expert, E experts, D width, I inputs, O outputs

ALIGNMENT = 16
"""Bytes to which the rows of the operands of `grouped_mm` are aligned."""


@dataclass(frozen=True)
class Groups:
    """The pairs of token and expert, sorted by expert."""

    order: Int[Tensor, "P"]
    """Index of the pair (token x K + slot) at each sorted position."""
    inverse: Int[Tensor, "P"]
    """Sorted position of each pair."""
    loads: Int[Tensor, "E"]
    """Number of pairs of each expert."""
    slots: int
    """Active experts of a token."""

    @cached_property
    def sizes(self) -> list[int]:
        """Number of pairs of each expert, on the host."""
        return self.loads.tolist()

    def dispatch(self, tokens: Float[Tensor, "N D"]) -> Float[Tensor, "P D"]:
        """Return the tokens of all pairs, sorted by expert."""
        return _Dispatch.apply(tokens, self)

    def collect(self, outputs: Float[Tensor, "P D"]) -> Float[Tensor, "N K D"]:
        """Return the outputs in the order of tokens and slots: the inverse of `dispatch`."""
        return _Collect.apply(outputs, self).unflatten(0, (-1, self.slots))


def group_by_expert(chosen: Int[Tensor, "N K"], *, count: int) -> Groups:
    """Return the pairs of token and expert, sorted by expert and then by token."""
    pairs = chosen.flatten()
    order = pairs.argsort(stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    loads = (pairs[:, None] == torch.arange(count, device=pairs.device)).sum(0)
    return Groups(order, inverse, loads, chosen.shape[1])


def grouped_linear(
    inputs: Float[Tensor, "P I"], weight: Float[Tensor, "E O I"], groups: Groups
) -> Float[Tensor, "P O"]:
    """Multiply the slice of each expert by the matrix of the expert."""
    weight = weight.to(inputs.dtype)
    if uses_grouped_kernel(inputs, weight):
        return grouped_linear_kernel(inputs, weight, groups)
    return _GroupedLinear.apply(inputs, weight, groups.sizes)


def frozen_grouped_linear(
    inputs: Float[Tensor, "P I"], dense: Callable[[torch.dtype], Float[Tensor, "E O I"]], groups: Groups
) -> Float[Tensor, "P O"]:
    """Multiply by matrices that `dense` returns, which are not kept for the backward pass but computed again."""
    return _FrozenGroupedLinear.apply(inputs, dense, groups)


def uses_grouped_kernel(inputs: Tensor, weight: Tensor) -> bool:
    """Return True if one kernel multiplies all slices: bfloat16 on a GPU with tensor cores, and aligned rows."""
    if inputs.device.type != "cuda" or inputs.dtype != torch.bfloat16 or not hasattr(F, "grouped_mm"):
        return False
    aligned = all(size * inputs.element_size() % ALIGNMENT == 0 for size in weight.shape[1:])
    return aligned and torch.cuda.get_device_capability(inputs.device) >= (8, 0)


def grouped_linear_kernel(inputs: Tensor, weight: Tensor, groups: Groups) -> Tensor:
    """Multiply all slices with PyTorch's grouped product, whose operand holds columns of outputs."""
    ends = groups.loads.cumsum(0).to(torch.int32)
    return F.grouped_mm(inputs, weight.mT, offs=ends)


def grouped_linear_reference(inputs: Tensor, weight: Tensor, groups: Groups) -> Tensor:
    """Multiply slice by slice with ordinary products: the reference of the other implementations."""
    slices = inputs.split(groups.sizes)
    return torch.cat([F.linear(part, matrix) for part, matrix in zip(slices, weight.unbind(), strict=True)])


class _GroupedLinear(torch.autograd.Function):
    """The loop over experts that writes into one output, and one gradient of all experts."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.sizes = sizes
        outputs = inputs.new_empty(len(inputs), weight.shape[1])
        for expert, rows in _slices(sizes):
            torch.mm(inputs[rows], weight[expert].mT, out=outputs[rows])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        inputs, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        by_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        by_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for expert, rows in _slices(ctx.sizes):
            if by_inputs is not None:
                torch.mm(gradient[rows], weight[expert], out=by_inputs[rows])
            if by_weight is not None:
                torch.mm(gradient[rows].mT, inputs[rows], out=by_weight[expert])
        return by_inputs, by_weight, None


class _FrozenGroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, dense: Callable[[torch.dtype], Tensor], groups: Groups) -> Tensor:
        ctx.dense, ctx.groups = dense, groups
        return grouped_linear(inputs, dense(inputs.dtype), groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0].contiguous()
        return grouped_linear(gradient, ctx.dense(gradient.dtype).mT.contiguous(), ctx.groups), None, None


def _slices(sizes: list[int]) -> list[tuple[int, slice]]:
    """Return the rows of each expert that has any."""
    slices, start = [], 0
    for expert, size in enumerate(sizes):
        if size:
            slices.append((expert, slice(start, start + size)))
        start += size
    return slices


class _Dispatch(torch.autograd.Function):
    """Copies of tokens in sorted order; the gradient of a token is summed in the order of its slots."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, groups: Groups) -> Tensor:
        ctx.groups = groups
        return tokens[groups.order // groups.slots]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        groups = ctx.groups
        return gradients[0][groups.inverse].unflatten(0, (-1, groups.slots)).sum(1), None


class _Collect(torch.autograd.Function):
    """A permutation, whose gradient is the inverse permutation."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, groups: Groups) -> Tensor:
        ctx.groups = groups
        return outputs[groups.inverse]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.groups.order], None
