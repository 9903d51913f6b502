"""Sums of rows with the same index, in a fixed order and in parallel: the gradient of an embedding on a GPU.

PyTorch's deterministic kernel for this (`index_put` with accumulation) adds all rows of an index one after the other.
A frequent token then determines the time of the whole sum. Here the rows are sorted by index, the rows of an index are
divided into pieces of at most `PIECE` rows, and the sums of the pieces are added. Both levels use `segment_reduce`,
which has a fixed order. No size depends on the values, so the host does not wait for the device.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

# N rows, D width, V number of indices, P pieces

PIECE = 32
"""Maximum number of rows that are added one after the other."""


def sums_in_order(tensor: Tensor) -> bool:
    """Return True if sums over rows of this tensor need `sum_rows`: on a GPU, with deterministic algorithms.

    On a CPU PyTorch's own kernels have a fixed order.
    """
    return tensor.is_cuda and torch.are_deterministic_algorithms_enabled()


def add_rows(
    total: Float[Tensor, "V D"], index: Int[Tensor, "N"], values: Float[Tensor, "N D"]
) -> Float[Tensor, "V D"]:
    """Return `total` with each row of `values` added to the row of its index."""
    if sums_in_order(values):
        return total + sum_rows(values, index, len(total))
    return total.index_add(0, index, values)


def sum_rows(values: Float[Tensor, "N D"], index: Int[Tensor, "N"], size: int) -> Float[Tensor, "V D"]:
    """Return the sum of the rows of each index below `size`; an index without rows gets zeros.

    Numbers of 16 bits are added in float32.
    """
    count = len(index)
    if not count:
        return values.new_zeros(size, values.shape[1])
    ordered, order = torch.sort(index, stable=True)
    within_index = torch.arange(count, device=index.device) - torch.searchsorted(ordered, ordered)
    piece = (within_index % PIECE == 0).cumsum(0) - 1  # the piece of each sorted row
    pieces = min(count, size + count // PIECE)  # each index has at most 1 + rows / PIECE pieces
    starts = torch.searchsorted(piece, torch.arange(pieces + 1, device=index.device))
    precise = values.to(torch.promote_types(values.dtype, torch.float32))
    partial_sums = _segment_sums(precise[order], starts)
    # Unused pieces start behind the last row and belong to no index.
    piece_index = torch.where(starts[:-1] < count, ordered[starts[:-1].clamp(max=count - 1)], size)
    ends = torch.searchsorted(piece_index, torch.arange(size + 1, device=index.device))
    return _segment_sums(partial_sums, ends).to(values.dtype)


def _segment_sums(values: Float[Tensor, "N D"], offsets: Int[Tensor, "S"]) -> Float[Tensor, "_ D"]:
    return torch.segment_reduce(values, "sum", offsets=offsets, axis=0, initial=0.0, unsafe=True)


def embed(ids: Int[Tensor, "*N"], weight: Float[Tensor, "V D"]) -> Float[Tensor, "*N D"]:
    """Look up rows of `weight`; the gradient is summed by `sum_rows`."""
    return _Embed.apply(ids, weight)


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.size = len(weight)
        ctx.save_for_backward(ids)
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor | None]:
        if not ctx.needs_input_grad[1]:
            return None, None
        (ids,) = ctx.saved_tensors
        return None, sum_rows(gradients[0].flatten(0, -2), ids.flatten(), ctx.size)
