"""A simple and fast decoder in plain PyTorch, as a peer for benchmarks.

It has RMSNorm, rotary positions, fused attention, SwiGLU, an untied head, and cross-entropy over all logits. It uses
no code of Vita.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention and feed-forward, each with a preceding norm and a residual connection."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feedforward_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * feedforward, bias=False)
        self.down = nn.Linear(feedforward, width, bias=False)

    def forward(self, states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(states)).chunk(3, -1)
        )
        queries, keys = apply_rotary(queries, cosine, sine), apply_rotary(keys, cosine, sine)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        states = states + self.out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.feedforward_norm(states)).chunk(2, -1)
        return states + self.down(F.silu(gate) * up)


class Plain(nn.Module):
    """A decoder that takes token ids and returns the mean loss."""

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


def apply_rotary(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply the rotary embedding to `states` [batch, head, position, dimension]."""
    first, second = states.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1).type_as(states)
