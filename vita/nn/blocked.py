"""Attention for compiled training on a CPU: PyTorch's fused kernel forward, and a few large matmuls backward.

In bfloat16 on a CPU, PyTorch's fused backward takes most of a training step. This backward recomputes the weights from
the saved log-sums (Dao 2023, alg. 2), one block of queries at a time, so that most masked scores are not computed;
the compiler fuses the operations between the matmuls. Uncompiled it is not faster, so it is a separate backend.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vita.nn.attention import BACKENDS, PLAIN, AttentionOptions, attend_in_blocks, has_short_window, plain

# B batch, H query heads, K key heads, T positions, D numbers in a head, N all heads of all rows

BLOCKS = 4
"""Number of query blocks: with four blocks, 5/8 of the score matrix is computed, while causality needs 1/2."""


@BACKENDS.add("blocked")
def blocked(
    queries: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B K T D"],
    values: Float[Tensor, "B K T D"],
    visible: Bool[Tensor, "#B 1 T T"] | None = None,
    options: AttentionOptions = PLAIN,
) -> Float[Tensor, "B H T D"]:
    """Compute the same as `sdpa`, for queries and keys of the same positions."""
    if options.softcap is not None:
        return plain(queries, keys, values, visible, options)
    if visible is not None and has_short_window(queries.shape[2], keys.shape[2], options.window):
        return attend_in_blocks(queries, keys, values, visible, options)
    shared = queries.shape[1] // keys.shape[1]
    if shared > 1:
        keys, values = keys.repeat_interleave(shared, dim=1), values.repeat_interleave(shared, dim=1)
    hidden = None if visible is None else queries.new_zeros(visible.shape).masked_fill(~visible, float("-inf"))
    scale = queries.shape[-1] ** -0.5 if options.scale is None else options.scale
    return _Attention.apply(queries, keys, values, hidden, scale, options.causal)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        hidden: Tensor | None,
        scale: float,
        causal: bool,
    ) -> Tensor:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        mixed, log_sums = fused(queries, keys, values, 0.0, causal and hidden is None, attn_mask=hidden, scale=scale)
        ctx.scale, ctx.causal = scale, causal
        ctx.save_for_backward(queries, keys, values, hidden, mixed, log_sums)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        queries, keys, values, hidden, mixed, log_sums = ctx.saved_tensors
        (gradient,) = gradients
        shape, scale = queries.shape, ctx.scale
        length = shape[2]
        # The weights of a row sum to one, so the term that the softmax subtracts is the output times its gradient.
        common = (gradient.float() * mixed.float()).sum(-1).flatten(0, 1).unsqueeze(-1)
        log_sums = log_sums.flatten(0, 1).unsqueeze(-1)
        queries, keys, values, gradient = (tensor.flatten(0, 1) for tensor in (queries, keys, values, gradient))
        size = -(-length // BLOCKS)
        by_queries, by_keys, by_values = [], [], []
        for start in range(0, length, size):
            stop = min(start + size, length)
            rows, prefix = slice(start, stop), slice(0, stop if ctx.causal else length)
            scores = torch.bmm(queries[:, rows], keys[:, prefix].mT).float() * scale
            if ctx.causal or hidden is not None:
                scores = scores + _bias(hidden, shape, start, stop, keys=prefix.stop, device=scores.device)
            weights = torch.exp(scores - log_sums[:, rows])
            by_weights = torch.bmm(gradient[:, rows], values[:, prefix].mT).float()
            by_scores = (weights * (by_weights - common[:, rows]) * scale).to(queries.dtype)
            by_queries.append(torch.bmm(by_scores, keys[:, prefix]))
            by_keys.append(torch.bmm(by_scores.mT, queries[:, rows]))
            by_values.append(torch.bmm(weights.to(queries.dtype).mT, gradient[:, rows]))
        summed = (
            (_summed(by_keys, size), _summed(by_values, size)) if ctx.causal else (_total(by_keys), _total(by_values))
        )
        return torch.cat(by_queries, 1).view(shape), summed[0].view(shape), summed[1].view(shape), None, None, None


def _bias(
    hidden: Tensor | None, shape: torch.Size, start: int, stop: int, *, keys: int, device: torch.device
) -> Float[Tensor, "#N Q S"]:
    """Return zero where a query of the block attends to a key, minus infinity elsewhere."""
    if hidden is None:
        return torch.full((1, stop - start, stop), float("-inf"), device=device).triu(start + 1)
    block = hidden[:, :, start:stop, :keys].float()
    return block.expand(shape[0], shape[1], -1, -1).flatten(0, 1)


def _total(parts: list[Float[Tensor, "N T D"]]) -> Float[Tensor, "N T D"]:
    return torch.stack([part.float() for part in parts]).sum(0).to(parts[0].dtype)


def _summed(parts: list[Float[Tensor, "N _ D"]], size: int) -> Float[Tensor, "N T D"]:
    """Sum parts of increasing length that all start at the first key, block by block."""
    blocks = []
    for index in range(len(parts)):
        block = slice(index * size, (index + 1) * size)
        total = parts[index][:, block].float()
        for part in parts[index + 1 :]:
            total = total + part[:, block].float()
        blocks.append(total.to(parts[0].dtype))
    return torch.cat(blocks, 1)
