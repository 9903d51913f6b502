"""Attention with masks of blocks on a GPU: FlexAttention (Dong et al. 2024).

A dense mask of T x T keys takes more memory than the activations of a long row, and the fused kernels of a GPU do not
take it. Here a mask is a list of the blocks of 128 x 128 scores that contain visible keys. Blocks without one are not
computed, and the mask inside of a block is computed from the document numbers. `plain` with a dense mask is the
reference. FlexAttention has no backward pass on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vita.nn.attention import BACKENDS, PLAIN, AttentionOptions, sdpa

# B batch, H query heads, K key heads, T positions, D numbers in a head, Q blocks of queries and of keys

BLOCK = 128
"""Queries and keys of a block."""
MIN_HEAD_DIM = 16
"""Smallest head that the kernels of a GPU compute."""


class VisibleBlocks(NamedTuple):
    """The visible keys of each block of queries."""

    blocks: Any
    """A `torch.nn.attention.flex_attention.BlockMask`."""


class KeyRange(NamedTuple):
    """The first and the last visible key of each query; visible keys are contiguous."""

    first: Int[Tensor, "B T"]
    last: Int[Tensor, "B T"]


def key_range(documents: Int[Tensor, "B T"], *, causal: bool, window: int | None) -> KeyRange:
    """Return the visible keys within documents, whose tokens are contiguous.

    With a window, a query attends to keys less than `window` positions before it; without `causal` also to those less
    than `window` positions after it.
    """
    length = documents.shape[1]
    index = torch.arange(length, device=documents.device).expand_as(documents)
    changes = documents[:, 1:] != documents[:, :-1]
    edge = torch.ones_like(documents[:, :1], dtype=torch.bool)
    first = torch.where(torch.cat((edge, changes), 1), index, 0).cummax(1).values
    last = index
    if not causal:
        ends = torch.where(torch.cat((changes, edge), 1), index, length)
        last = ends.flip(1).cummin(1).values.flip(1)
    if window is not None:
        first = torch.maximum(first, index - window + 1)
        last = last if causal else torch.minimum(last, index + window - 1)
    return KeyRange(first, last)


def block_maps(keys: KeyRange) -> tuple[Bool[Tensor, "B Q Q"], Bool[Tensor, "B Q Q"]]:
    """Return the blocks with visible and hidden scores, and those with visible scores only."""
    length = keys.first.shape[1]
    starts = torch.arange(0, length, BLOCK, device=keys.first.device)
    ends = (starts + BLOCK).clamp(max=length) - 1
    # First and last key grow with the query, so those of the first and the last query of a block are its limits.
    lowest, highest = keys.first[:, starts, None], keys.last[:, ends, None]
    some = (ends >= lowest) & (starts <= highest)
    every = (starts >= keys.first[:, ends, None]) & (ends <= keys.last[:, starts, None])
    complete = (ends - starts == BLOCK - 1)[:, None] & (ends - starts == BLOCK - 1)
    return some & ~(every & complete), every & complete


def visible_blocks(documents: Int[Tensor, "B T"], *, causal: bool, window: int | None = None) -> VisibleBlocks:
    """Return the mask of attention within documents."""
    from torch.nn.attention.flex_attention import BlockMask

    length = documents.shape[1]
    keys = key_range(documents, causal=causal, window=window)
    partial, full = block_maps(keys)

    def is_visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= keys.first[row, query]) & (key <= keys.last[row, query])

    blocks = BlockMask.from_kv_blocks(
        *_indices(partial), *_indices(full), BLOCK_SIZE=BLOCK, mask_mod=is_visible, seq_lengths=(length, length)
    )
    return VisibleBlocks(blocks)


def _indices(blocks: Bool[Tensor, "B Q Q"]) -> tuple[Int[Tensor, "B 1 Q"], Int[Tensor, "B 1 Q Q"]]:
    """Return the number of marked blocks of each row, and their indices followed by those of the others."""
    order = torch.argsort((~blocks).int(), dim=-1, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[:, None], order.int()[:, None]


@BACKENDS.add("flex")
def flex(
    queries: Tensor, keys: Tensor, values: Tensor, visible: Any = None, options: AttentionOptions = PLAIN
) -> Tensor:
    """Compute the same as `sdpa`, [B, H, T, D]; `visible` may be `VisibleBlocks`."""
    if not isinstance(visible, VisibleBlocks):
        return sdpa(queries, keys, values, visible, options)
    from torch.nn.attention.flex_attention import flex_attention

    # Uncompiled, FlexAttention computes all scores.
    alone = queries.is_cuda and not torch.compiler.is_compiling()
    kernel = _compiled_kernel() if alone else flex_attention
    limit = None if options.softcap is None else _limit(options.softcap)
    shares = queries.shape[1] != keys.shape[1]
    scaled: dict[str, Any] = {"score_mod": limit, "scale": options.scale, "enable_gqa": shares}
    return kernel(queries, keys, values, block_mask=visible.blocks, **scaled)


@lru_cache
def _compiled_kernel() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _limit(softcap: float) -> Callable[..., Tensor]:
    """Return the limit of scores as a function of FlexAttention."""

    def limited(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return limited
