"""Attention: a registry of equivalent backends.

Queries attend to the keys that `visible` marks; without it attention is causal. `sdpa` is PyTorch's fused kernel and
the default, `plain` is the formula: slower, for tests and for inspection.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vita.spine.registry import Registry

# B batch, H query heads, K key heads (H is a multiple), T queries, S keys, D numbers in a head
Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

BACKENDS = Registry[Attention]("attention", plural="attention_backends")


@BACKENDS.add("sdpa")
def sdpa(
    queries: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B K S D"],
    values: Float[Tensor, "B K S D"],
    visible: Bool[Tensor, "#B 1 T S"] | None = None,
) -> Float[Tensor, "B H T D"]:
    """Compute attention with PyTorch's fused kernel."""
    return scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=visible,
        is_causal=visible is None and queries.shape[2] > 1,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


@BACKENDS.add("plain")
def plain(
    queries: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B K S D"],
    values: Float[Tensor, "B K S D"],
    visible: Bool[Tensor, "#B 1 T S"] | None = None,
) -> Float[Tensor, "B H T D"]:
    """Compute softmax(Q K^T / sqrt(D)) V (Vaswani et al. 2017, eq. 1)."""
    weights = logits(queries, keys, visible).softmax(-1)
    return (weights @ _repeat_for_query_heads(values, queries.shape[1]).float()).type_as(queries)


def logits(
    queries: Float[Tensor, "B H T D"], keys: Float[Tensor, "B K S D"], visible: Bool[Tensor, "#B 1 T S"] | None = None
) -> Float[Tensor, "B H T S"]:
    """Return the scaled scores in fp32; masked keys get minus infinity."""
    scores = queries.float() @ _repeat_for_query_heads(keys, queries.shape[1]).float().mT * queries.shape[-1] ** -0.5
    if visible is None:
        visible = causal(queries.shape[2], device=queries.device)
    return scores.masked_fill(~visible, float("-inf"))


def causal(length: int, *, device: torch.device | None = None) -> Bool[Tensor, "1 1 T T"]:
    """Return the causal mask: each position attends to itself and earlier positions."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


def causal_within(documents: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """Return the causal mask within documents; positions with equal numbers belong to one document."""
    same_document = documents[:, :, None] == documents[:, None, :]
    return same_document[:, None] & causal(documents.shape[1], device=documents.device)


def _repeat_for_query_heads(states: Float[Tensor, "B K S D"], heads: int) -> Float[Tensor, "B H S D"]:
    return states.repeat_interleave(heads // states.shape[1], dim=1)
