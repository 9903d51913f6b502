"""Attention: a table of ways to compute it, all of which mean the same.

Queries see the keys that `visible` marks; without it they see causally. `sdpa` is PyTorch's fused kernel and the
default, `plain` spells the formula out: slower, for proof and for looking inside.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vita.spine.parts import Parts

# B batch, H query heads, K key heads (H is a multiple), T queries, S keys, D numbers in a head
Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

BACKENDS = Parts[Attention]("attention")


@BACKENDS.add("sdpa")
def sdpa(
    queries: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B K S D"],
    values: Float[Tensor, "B K S D"],
    visible: Bool[Tensor, "#B 1 T S"] | None = None,
) -> Float[Tensor, "B H T D"]:
    """PyTorch's fused attention."""
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
    """softmax(Q K^T / sqrt(D)) V, as written (Vaswani et al. 2017, eq. 1)."""
    weights = logits(queries, keys, visible).softmax(-1)
    return (weights @ _for_each_query_head(values, queries.shape[1]).float()).type_as(queries)


def logits(
    queries: Float[Tensor, "B H T D"], keys: Float[Tensor, "B K S D"], visible: Bool[Tensor, "#B 1 T S"] | None = None
) -> Float[Tensor, "B H T S"]:
    """Scaled scores in fp32, minus infinity where a key is hidden."""
    scores = queries.float() @ _for_each_query_head(keys, queries.shape[1]).float().mT * queries.shape[-1] ** -0.5
    if visible is None:
        visible = causal(queries.shape[2], device=queries.device)
    return scores.masked_fill(~visible, float("-inf"))


def causal(length: int, *, device: torch.device | None = None) -> Bool[Tensor, "1 1 T T"]:
    """Each position sees itself and those before."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


def causal_within(documents: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """Each position sees itself and those before in the same document: equal numbers are one document."""
    same = documents[:, :, None] == documents[:, None, :]
    return same[:, None] & causal(documents.shape[1], device=documents.device)


def _for_each_query_head(states: Float[Tensor, "B K S D"], heads: int) -> Float[Tensor, "B H S D"]:
    return states.repeat_interleave(heads // states.shape[1], dim=1)
