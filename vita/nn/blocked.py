"""Attention for compiled training on a CPU: PyTorch's fused kernel forward, and backward as a few large products.

PyTorch's own fused backward spends most of a training step there in bfloat16. This one makes the weights again from the
kept log-sums (Dao 2023, alg. 2), some queries at a time so that what causality hides is mostly never computed, and
leaves all between the products to the compiler. Uncompiled it is no faster, so it is a backend of its own: `blocked`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vita.nn.attention import BACKENDS

# B batch, H query heads, K key heads, T positions, D numbers in a head, N all heads of all rows

BLOCKS = 4
"""Parts into which the queries are cut: with four, five eighths of the square are computed where half is needed."""


@BACKENDS.add("blocked")
def blocked(
    queries: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B K T D"],
    values: Float[Tensor, "B K T D"],
    visible: Bool[Tensor, "#B 1 T T"] | None = None,
) -> Float[Tensor, "B H T D"]:
    """The same as `sdpa`, for queries and keys of the same positions."""
    shared = queries.shape[1] // keys.shape[1]
    if shared > 1:
        keys, values = keys.repeat_interleave(shared, dim=1), values.repeat_interleave(shared, dim=1)
    hidden = None if visible is None else queries.new_zeros(visible.shape).masked_fill(~visible, float("-inf"))
    return _Attention.apply(queries, keys, values, hidden)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> Tensor:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        mixed, log_sums = fused(queries, keys, values, 0.0, hidden is None, attn_mask=hidden)
        ctx.save_for_backward(queries, keys, values, hidden, mixed, log_sums)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        queries, keys, values, hidden, mixed, log_sums = ctx.saved_tensors
        (gradient,) = gradients
        shape, scale = queries.shape, queries.shape[-1] ** -0.5
        length = shape[2]
        # A row's weights sum to one, so what the softmax subtracts is the output times its gradient.
        common = (gradient.float() * mixed.float()).sum(-1).flatten(0, 1).unsqueeze(-1)
        log_sums = log_sums.flatten(0, 1).unsqueeze(-1)
        queries, keys, values, gradient = (one.flatten(0, 1) for one in (queries, keys, values, gradient))
        size = -(-length // BLOCKS)
        by_queries, by_keys, by_values = [], [], []
        for start in range(0, length, size):
            stop = min(start + size, length)
            rows, seen = slice(start, stop), slice(0, stop)
            scores = torch.bmm(queries[:, rows], keys[:, seen].mT).float() * scale
            weights = torch.exp(scores + _bias(hidden, shape, start, stop, device=scores.device) - log_sums[:, rows])
            by_weights = torch.bmm(gradient[:, rows], values[:, seen].mT).float()
            by_scores = (weights * (by_weights - common[:, rows]) * scale).to(queries.dtype)
            by_queries.append(torch.bmm(by_scores, keys[:, seen]))
            by_keys.append(torch.bmm(by_scores.mT, queries[:, rows]))
            by_values.append(torch.bmm(weights.to(queries.dtype).mT, gradient[:, rows]))
        summed = (_summed(by_keys, size), _summed(by_values, size))
        return torch.cat(by_queries, 1).view(shape), summed[0].view(shape), summed[1].view(shape), None


def _bias(
    hidden: Tensor | None, shape: torch.Size, start: int, stop: int, *, device: torch.device
) -> Float[Tensor, "#N Q S"]:
    """Zero where a query of the block sees a key, minus infinity elsewhere."""
    if hidden is None:
        return torch.full((1, stop - start, stop), float("-inf"), device=device).triu(start + 1)
    block = hidden[:, :, start:stop, :stop].float()
    return block.expand(shape[0], shape[1], -1, -1).flatten(0, 1)


def _summed(parts: list[Float[Tensor, "N _ D"]], size: int) -> Float[Tensor, "N T D"]:
    """The sum of parts that all begin at the first key, each longer than the one before, block by block."""
    blocks = []
    for place in range(len(parts)):
        block = slice(place * size, (place + 1) * size)
        total = parts[place][:, block].float()
        for part in parts[place + 1 :]:
            total = total + part[:, block].float()
        blocks.append(total.to(parts[0].dtype))
    return torch.cat(blocks, 1)
