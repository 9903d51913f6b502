"""Differentiable communication along an axis of the mesh, as functional collectives that `torch.compile` can trace.

Functions get the name of a process group, which can be copied with a module.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed import _functional_collectives

functional: Any = _functional_collectives
"""Functional collectives; their annotations exclude the names of groups, which they accept."""


def copy_to_axis(values: Tensor, group: str) -> Tensor:
    """Return the same values; their gradients are summed over the axis (Shoeybi et al. 2019, sec. 3, operator f)."""
    return _Copy.apply(values, group)


def sum_over_axis(values: Tensor, group: str) -> Tensor:
    """Return the sum over the axis; gradients pass unchanged (Shoeybi et al. 2019, sec. 3, operator g)."""
    return _Sum.apply(values, group)


def gather_replicated(values: Tensor, group: str, *, index: int, count: int) -> Tensor:
    """Return the parts of all processes, joined in the last dimension, for a computation that all of them repeat.

    The gradient of a part is a slice of that of the result, because all processes compute the same gradient.
    """
    return _GatherReplicated.apply(values, group, index, count)


def gather_distinct(values: Tensor, group: str, *, dimension: int, count: int) -> Tensor:
    """Return the parts of all processes, joined in `dimension`, for a computation that differs among them.

    The gradient of a part is the sum of the gradients of all processes.
    """
    return _GatherDistinct.apply(values, group, dimension, count)


def exchange_rows(values: Tensor, group: str, *, sent: list[int], received: list[int]) -> Tensor:
    """Send consecutive rows to the processes of the axis, and return the rows that they send."""
    return _Exchange.apply(values, group, sent, received)


def exchange_parts(values: Tensor, group: str) -> Tensor:
    """Send row i to process i of the axis; return the rows that the processes send, without a gradient."""
    return functional.wait_tensor(functional.all_to_all_single(values.contiguous(), None, None, group))


def all_reduce(values: Tensor, group: str, operation: str = "sum") -> Tensor:
    """Return the reduction over the processes of the axis, without a gradient."""
    return functional.wait_tensor(functional.all_reduce(values.contiguous(), operation, group))


def _all_gather(values: Tensor, group: str, dimension: int, count: int) -> Tensor:
    gathered = functional.wait_tensor(functional.all_gather_tensor(values.contiguous(), 0, group))
    return torch.cat(gathered.chunk(count), dim=dimension) if dimension else gathered


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: str) -> Tensor:
        ctx.group = group
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return all_reduce(gradients[0], ctx.group), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: str) -> Tensor:
        return all_reduce(values, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _GatherReplicated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: str, index: int, count: int) -> Tensor:
        ctx.index, ctx.count = index, count
        return _all_gather(values, group, values.ndim - 1, count)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return gradients[0].chunk(ctx.count, dim=-1)[ctx.index].contiguous(), None, None, None


class _GatherDistinct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: str, dimension: int, count: int) -> Tensor:
        ctx.group, ctx.dimension, ctx.count = group, dimension, count
        return _all_gather(values, group, dimension, count)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        parts = torch.cat(gradients[0].chunk(ctx.count, dim=ctx.dimension))
        reduced = functional.reduce_scatter_tensor(parts.contiguous(), "sum", 0, ctx.group)
        return functional.wait_tensor(reduced), None, None, None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: str, sent: list[int], received: list[int]) -> Tensor:
        ctx.group, ctx.sent, ctx.received = group, sent, received
        exchanged = functional.all_to_all_single(values.contiguous(), received, sent, group)
        return functional.wait_tensor(exchanged)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        exchanged = functional.all_to_all_single(gradients[0].contiguous(), ctx.sent, ctx.received, ctx.group)
        return functional.wait_tensor(exchanged), None, None, None
