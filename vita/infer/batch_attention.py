"""Attention of decoding steps, whose numbers do not depend on the other texts of the step."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from vita.nn.attention import Attention, AttentionOptions

# N text, K key head, H query head, S slot, E numbers in a head

GROUP = 8
"""Queries that attention takes together."""


def grouped_attention(
    backend: Attention,
    queries: Float[Tensor, "N H 1 E"],
    keys: Float[Tensor, "N K S E"],
    values: Float[Tensor, "N K S E"],
    visible: Bool[Tensor, "#N 1 1 S"],
    options: AttentionOptions,
    *,
    group: int = GROUP,
) -> Float[Tensor, "N H 1 E"]:
    """Compute one query per head as the queries of several positions that attend to the same keys.

    PyTorch's fused kernel gives each of its threads a piece of one buffer, whose size grows with the queries taken
    together. With one query the pieces do not begin at vectors of 64 bytes, and matrix products round differently in
    another thread, so that the numbers of a text depend on its row. The heads that share keys are taken together,
    which reads the keys once, and padded to a multiple of `group`. A group of 1 has no padding
    and no guarantee.
    """
    count, heads, _, size = queries.shape
    kv_heads = keys.shape[1]
    shared = heads // kv_heads
    padded = -(-shared // group) * group
    together = queries.reshape(count, kv_heads, shared, size)
    if padded > shared:
        together = F.pad(together, (0, 0, 0, padded - shared))
    mixed = backend(together, keys, values, visible.expand(-1, -1, padded, -1), options)
    return mixed[:, :, :shared].reshape(count, heads, 1, size)
