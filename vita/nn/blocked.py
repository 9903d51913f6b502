"""Attention for compiled training on a CPU: a few large matmuls per block of queries, forward and backward.

PyTorch's fused kernel computes products of single heads with small tiles, and with a mask it computes all scores, also
those after the query. Here a block of queries is multiplied by the keys up to its end, for all heads of all rows in a
batch; the compiler fuses the operations between the matmuls. The backward pass recomputes the weights from the saved
log-sums (Dao 2023, alg. 2). Uncompiled it is not faster, so it is a separate backend.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vita.nn.attention import (
    BACKENDS,
    PLAIN,
    SHORTEST_BLOCK,
    AttentionOptions,
    attend_in_blocks,
    has_short_window,
    plain,
    sdpa,
)

# B batch, H query heads, K key heads, T positions, D numbers in a head, N all heads of all rows

MOST_BLOCKS = 8
"""Maximum number of query blocks: with eight, 9/16 of the score matrix is computed, while causality needs 1/2."""


def block_size(length: int) -> int:
    """Return the queries of a block; blocks of fewer than `SHORTEST_BLOCK` queries are slower than their savings."""
    return max(SHORTEST_BLOCK, -(-length // MOST_BLOCKS))


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
    if not torch.is_grad_enabled():  # an evaluation, which is not compiled
        return sdpa(queries, keys, values, visible, options)
    shared = queries.shape[1] // keys.shape[1]
    if shared > 1:
        keys, values = keys.repeat_interleave(shared, dim=1), values.repeat_interleave(shared, dim=1)
    scale = queries.shape[-1] ** -0.5 if options.scale is None else options.scale
    return _Attention.apply(queries, keys, values, visible, scale, options.causal)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        visible: Tensor | None,
        scale: float,
        causal: bool,
    ) -> Tensor:
        mixed, log_sums = _forward(queries, keys, values, visible, scale, causal)
        ctx.scale, ctx.causal = scale, causal
        ctx.save_for_backward(queries, keys, values, visible, mixed, log_sums)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        queries, keys, values, visible, mixed, log_sums = ctx.saved_tensors
        (gradient,) = gradients
        shape, scale = queries.shape, ctx.scale
        length = shape[2]
        # The weights of a row sum to one, so the term that the softmax subtracts is the output times its gradient.
        common = (gradient.float() * mixed.float()).sum(-1).flatten(0, 1).unsqueeze(-1)
        queries, keys, values, gradient = (tensor.flatten(0, 1) for tensor in (queries, keys, values, gradient))
        size = block_size(length)
        by_queries, by_keys, by_values = [], [], []
        for start in range(0, length, size):
            stop = min(start + size, length)
            rows, prefix = slice(start, stop), slice(0, stop if ctx.causal else length)
            scores = _scores(queries[:, rows], keys[:, prefix], scale)
            if ctx.causal or visible is not None:
                scores = _hide(scores, visible, shape, start)
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


def _forward(
    queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None, scale: float, causal: bool
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "N T 1"]]:
    """Return the weighted sums of the values, and the logarithms of the sums of the exponentials of the scores."""
    shape = queries.shape
    length = shape[2]
    queries, keys, values = (tensor.flatten(0, 1) for tensor in (queries, keys, values))
    size = block_size(length)
    mixed, log_sums = [], []
    for start in range(0, length, size):
        stop = min(start + size, length)
        rows, prefix = slice(start, stop), slice(0, stop if causal else length)
        scores = _scores(queries[:, rows], keys[:, prefix], scale)
        if causal or visible is not None:
            scores = _hide(scores, visible, shape, start)
        peak = scores.amax(-1, keepdim=True)
        exponentials = torch.exp(scores - peak)
        total = exponentials.sum(-1, keepdim=True)
        weighted = torch.bmm(exponentials.to(queries.dtype), values[:, prefix])
        mixed.append((weighted.float() / total).to(queries.dtype))
        log_sums.append(peak + torch.log(total))
    return torch.cat(mixed, 1).view(shape), torch.cat(log_sums, 1)


def _scores(queries: Float[Tensor, "N Q D"], keys: Float[Tensor, "N S D"], scale: float) -> Float[Tensor, "N Q S"]:
    return torch.bmm(queries, keys.mT).float() * scale


def _hide(
    scores: Float[Tensor, "N Q S"], visible: Bool[Tensor, "#B 1 T T"] | None, shape: torch.Size, start: int
) -> Float[Tensor, "N Q S"]:
    """Set the scores of keys that the queries of a block, from position `start` on, do not attend to, to -infinity."""
    stop, keys = start + scores.shape[1], scores.shape[2]
    if visible is not None:
        block = visible[:, :, start:stop, :keys]
        by_head = scores.unflatten(0, (shape[0], shape[1]))
        return torch.where(block, by_head, float("-inf")).flatten(0, 1)
    positions = torch.arange(keys, device=scores.device)
    return torch.where(positions[start:stop, None] >= positions, scores, float("-inf"))


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
