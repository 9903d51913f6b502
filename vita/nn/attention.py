"""Attention: a registry of equivalent backends.

Queries attend to the keys that `visible` marks; without it attention is causal, or to all keys by the options. `sdpa`
is PyTorch's fused kernel and the default, `plain` is the formula: slower, for tests, for inspection and for scores with
a limit. A window is part of `visible`, which the decoder computes. Its size in `AttentionOptions` is for callers that
build masks of their own, and for the computation in blocks of queries, each with the keys of its windows only.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vita.spine.registry import Registry

# B batch, H query heads, K key heads (H is a multiple), T queries, S keys, D numbers in a head


class AttentionOptions(NamedTuple):
    """Options of the attention of a layer."""

    scale: float | None = None
    """Factor of the scores; 1 / sqrt(D) by default."""
    softcap: float | None = None
    """Limit c of the scores: c tanh(score / c)."""
    window: int | None = None
    """Keys that a query attends to, including its own."""
    causal: bool = True
    """Queries attend to earlier keys only, where no mask is passed."""


PLAIN = AttentionOptions()
"""Attention of most families: scores scaled by 1 / sqrt(D), without a limit or a window."""


class Attention(Protocol):
    """An attention function."""

    def __call__(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        visible: Any = None,
        options: AttentionOptions = PLAIN,
        /,
    ) -> Tensor:
        """Return the weighted sums of the values, [B, H, T, D].

        `visible` is None, a mask [B, 1, T, S], or for `flex` also `vita.nn.flex.VisibleBlocks`.
        """
        ...


BACKENDS = Registry[Attention]("attention", plural="attention_backends")


@BACKENDS.add("sdpa")
def sdpa(
    queries: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B K S D"],
    values: Float[Tensor, "B K S D"],
    visible: Bool[Tensor, "#B 1 T S"] | None = None,
    options: AttentionOptions = PLAIN,
) -> Float[Tensor, "B H T D"]:
    """Compute attention with PyTorch's fused kernel, which has no limit of scores: these take the formula."""
    if options.softcap is not None:
        return plain(queries, keys, values, visible, options)
    if visible is not None and has_short_window(queries.shape[2], keys.shape[2], options.window):
        return attend_in_blocks(queries, keys, values, visible, options)
    return scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=visible,
        is_causal=options.causal and visible is None and queries.shape[2] > 1,
        scale=options.scale,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


@BACKENDS.add("plain")
def plain(
    queries: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B K S D"],
    values: Float[Tensor, "B K S D"],
    visible: Bool[Tensor, "#B 1 T S"] | None = None,
    options: AttentionOptions = PLAIN,
) -> Float[Tensor, "B H T D"]:
    """Compute softmax(Q K^T / sqrt(D)) V (Vaswani et al. 2017, eq. 1)."""
    weights = logits(queries, keys, visible, options).softmax(-1)
    return (weights @ _repeat_for_query_heads(values, queries.shape[1]).float()).type_as(queries)


def logits(
    queries: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B K S D"],
    visible: Bool[Tensor, "#B 1 T S"] | None = None,
    options: AttentionOptions = PLAIN,
) -> Float[Tensor, "B H T S"]:
    """Return the scaled and limited scores in fp32; masked keys get minus infinity."""
    scale = queries.shape[-1] ** -0.5 if options.scale is None else options.scale
    scores = queries.float() @ _repeat_for_query_heads(keys, queries.shape[1]).float().mT * scale
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    if visible is None:
        if queries.shape[2] == 1 or not options.causal:
            return scores
        visible = causal(queries.shape[2], device=queries.device)
    return scores.masked_fill(~visible, float("-inf"))


SHORTEST_BLOCK = 128
"""Fewest queries of a block: smaller products are slower than the scores that they save."""


def has_short_window(queries: int, keys: int, window: int | None) -> bool:
    """Return True if blocks of queries need less than half of all keys."""
    if window is None or queries != keys:
        return False
    return 2 * (window + max(window, SHORTEST_BLOCK)) <= queries


def attend_in_blocks(
    queries: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B K T D"],
    values: Float[Tensor, "B K T D"],
    visible: Bool[Tensor, "#B 1 T T"],
    options: AttentionOptions,
) -> Float[Tensor, "B H T D"]:
    """Compute attention with windows in blocks of queries: T (block + window) scores instead of T^2."""
    window, length = options.window, queries.shape[2]
    assert window is not None
    block = max(window, SHORTEST_BLOCK)
    parts = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        first, last = max(0, start - window + 1), stop if options.causal else min(length, stop + window - 1)
        part = scaled_dot_product_attention(
            queries[:, :, start:stop],
            keys[:, :, first:last],
            values[:, :, first:last],
            attn_mask=visible[:, :, start:stop, first:last],
            scale=options.scale,
            enable_gqa=queries.shape[1] != keys.shape[1],
        )
        parts.append(part)
    return torch.cat(parts, dim=2)


def causal(length: int, *, device: torch.device | None = None) -> Bool[Tensor, "1 1 T T"]:
    """Return the causal mask: each position attends to itself and earlier positions."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


def in_window(
    length: int, window: int, *, device: torch.device | None = None, two_sided: bool = False
) -> Bool[Tensor, "1 1 T T"]:
    """Return the mask of keys less than `window` positions before the query; later keys are included.

    With `two_sided`, later keys are included only at less than `window` positions, too.
    """
    index = torch.arange(length, device=device)
    distance = index[:, None] - index
    return ((distance.abs() if two_sided else distance) < window)[None, None]


def within(documents: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """Return the mask of keys in the document of the query; positions with equal numbers belong to one document."""
    return (documents[:, :, None] == documents[:, None, :])[:, None]


def causal_within(documents: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """Return the causal mask within documents."""
    return within(documents) & causal(documents.shape[1], device=documents.device)


def positions_within(documents: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Return the position of each token in its document, for documents that follow one another in a row."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return index - torch.where(starts, index, 0).cummax(1).values


def _repeat_for_query_heads(states: Float[Tensor, "B K S D"], heads: int) -> Float[Tensor, "B H S D"]:
    return states.repeat_interleave(heads // states.shape[1], dim=1)
