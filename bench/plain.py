"""A decoder in the plainest PyTorch that is still quick: what anyone would write in an afternoon.

RMSNorm, rotary positions, fused attention, SwiGLU, an untied head, cross-entropy over all logits. It is a peer to
be measured beside, and uses nothing of Vita.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention and feed-forward, each after a norm and added to what came in."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * feedforward, bias=False)
        self.down = nn.Linear(feedforward, width, bias=False)

    def forward(self, states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.before(states)).chunk(3, -1)
        )
        queries, keys = turned(queries, cosine, sine), turned(keys, cosine, sine)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        states = states + self.out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.between(states)).chunk(2, -1)
        return states + self.down(F.silu(gate) * up)


class Plain(nn.Module):
    """Token ids in, mean loss out."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, *, vocabulary: int, width: int, layers: int, heads: int, feedforward: int, context: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads, feedforward) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        size = width // heads
        angles = torch.outer(torch.arange(context).float(), 10_000.0 ** -(torch.arange(0, size, 2) / size))
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        states = self.embedding(ids)
        for block in self.blocks:
            states = block(states, self.cosine, self.sine)
        return F.cross_entropy(self.head(self.norm(states)).flatten(0, 1).float(), targets.flatten())


def turned(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding of `states` [batch, head, position, number]."""
    first, second = states.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1).type_as(states)
