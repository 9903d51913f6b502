"""Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, sec. 2.1; DeepSeek-V3, sec. 2.1.1).

Training and prompts compute keys and values of every head from the latent vectors (expanded form). A decoding step
multiplies queries and outputs instead, and attends to the latent vectors themselves, as one head of keys and values
that all query heads share (absorbed form): it reads `key_value_rank + rotated_dim` numbers per cached token.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vita.nn.architecture import Architecture
from vita.nn.attention import BACKENDS, Attention, AttentionOptions
from vita.nn.feedforward import Linear
from vita.nn.norms import RMSNorm
from vita.nn.rotary import Turn, rotate

# B batch, T position, S key position, D width, H head, R latent numbers, N unrotated numbers, P rotated numbers,
# E numbers of a query (N + P), V numbers of a value, C cached numbers (R + P), O outputs

NORM_EPS = 1e-6
"""Epsilon of the norms of latent vectors, which no configuration changes."""


class CacheWriter(Protocol):
    """The part of a KV cache that a layer uses."""

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of a layer; return all keys and values of the layer."""
        ...


class LatentSelfAttention(nn.Module):
    """Attention to keys and values that are computed from a latent vector per token."""

    q_proj: nn.Module
    q_a_proj: nn.Module
    q_a_layernorm: nn.Module
    q_b_proj: nn.Module
    kv_a_proj_with_mqa: nn.Module
    kv_a_layernorm: nn.Module
    kv_b_proj: nn.Module
    o_proj: nn.Module

    def __init__(self, architecture: Architecture, index: int, attention: str) -> None:
        super().__init__()
        latent = architecture.latent
        assert latent is not None
        self.index, self.latent, self.heads = index, latent, architecture.heads
        self.attend = BACKENDS[attention]
        self.rotates = index not in architecture.unrotated_layers
        self.options = AttentionOptions(
            architecture.score_scale or latent.head_dim**-0.5,
            architecture.attention_softcap,
            architecture.window if index in architecture.window_layers else None,
            architecture.causal,
        )
        biased = {"q_a_proj", "kv_a_proj_with_mqa"} if "qkv" in architecture.biases else set[str]()
        biased |= {"o_proj"} if "output" in architecture.biases else set()
        for name, (outputs, inputs) in latent.matrix_shapes(architecture.width, architecture.heads).items():
            self.add_module(name, Linear(inputs, outputs, bias=name in biased))
        assert isinstance(self.kv_b_proj, Linear)
        self.kv_b_proj.packable = False  # the absorbed form reads its weight
        for name, size in latent.norm_sizes().items():
            self.add_module(name, RMSNorm(size, NORM_EPS))

    def forward(
        self,
        states: Float[Tensor, "B T D"],
        turn: Turn | None,
        visible: Tensor | None,
        cache: CacheWriter | None,
        attention: Attention | None = None,
    ) -> Float[Tensor, "B T D"]:
        attend = attention or self.attend
        unrotated, rotated = self._queries(states, turn)
        cached = self._cached(states, turn)
        if cache is not None:
            cached, _ = cache.write(self.index, cached, cached[..., :0])
        if cache is not None and states.shape[1] == 1 and not self._has_bias:
            mixed = self._absorbed(unrotated, rotated, cached, visible, attend)
        else:
            mixed = self._expanded(unrotated, rotated, cached, visible, attend)
        return self.o_proj(mixed.flatten(2))

    @property
    def _has_bias(self) -> bool:
        """Return True if the update of an adapter of `kv_b_proj` has a bias, which the absorbed form leaves out."""
        update = getattr(self.kv_b_proj, "lora_B", None)
        return update is not None and update.bias is not None

    def _queries(
        self, states: Float[Tensor, "B T D"], turn: Turn | None
    ) -> tuple[Float[Tensor, "B T H N"], Float[Tensor, "B T H P"]]:
        """Return the unrotated and the rotated numbers of the queries."""
        if self.latent.query_rank is None:
            queries = self.q_proj(states)
        else:
            queries = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(states)))
        sizes = self.latent.unrotated_dim, self.latent.rotated_dim
        unrotated, rotated = queries.unflatten(-1, (self.heads, -1)).split(sizes, dim=-1)
        return unrotated, self._rotate(rotated, turn)

    def _cached(self, states: Float[Tensor, "B T D"], turn: Turn | None) -> Float[Tensor, "B 1 T C"]:
        """Return what the cache stores of each token: the normalized latent vector and the rotated key."""
        sizes = self.latent.key_value_rank, self.latent.rotated_dim
        compressed, key = self.kv_a_proj_with_mqa(states).split(sizes, dim=-1)
        key = self._rotate(key.unsqueeze(2), turn).squeeze(2)
        return torch.cat((self.kv_a_layernorm(compressed), key), dim=-1).unsqueeze(1)

    def _rotate(self, states: Float[Tensor, "B T H P"], turn: Turn | None) -> Float[Tensor, "B T H P"]:
        """Rotate by position; neighbours become halves, in queries and keys alike, which leaves scores unchanged."""
        if self.latent.interleaved:
            states = torch.cat((states[..., 0::2], states[..., 1::2]), dim=-1)
        return rotate(states, turn) if turn is not None and self.rotates else states

    def _expanded(
        self,
        unrotated: Float[Tensor, "B T H N"],
        rotated: Float[Tensor, "B T H P"],
        cached: Float[Tensor, "B2 1 S C"],
        visible: Tensor | None,
        attend: Attention,
    ) -> Float[Tensor, "B T H V"]:
        """Attend with keys and values of every head, padded to one size, which fused kernels need."""
        latent = self.latent
        compressed, key = cached.squeeze(1).split((latent.key_value_rank, latent.rotated_dim), dim=-1)
        expanded = self.kv_b_proj(compressed).unflatten(-1, (self.heads, -1))
        key_part, values = expanded.split((latent.unrotated_dim, latent.value_dim), dim=-1)
        keys = torch.cat((key_part, key.unsqueeze(2).expand(-1, -1, self.heads, -1)), dim=-1)
        queries = torch.cat((unrotated, rotated), dim=-1)
        size = max(latent.head_dim, latent.value_dim)
        inputs = [F.pad(part, (0, size - part.shape[-1])).transpose(1, 2) for part in (queries, keys, values)]
        mixed = attend(inputs[0], inputs[1], inputs[2], visible, self.options)
        return mixed[..., : latent.value_dim].transpose(1, 2)

    def _absorbed(
        self,
        unrotated: Float[Tensor, "B T H N"],
        rotated: Float[Tensor, "B T H P"],
        cached: Float[Tensor, "B2 1 S C"],
        visible: Tensor | None,
        attend: Attention,
    ) -> Float[Tensor, "B T H V"]:
        """Attend to the latent vectors: q (W c) = (q W) c, and W sum(p c) is the sum of p (W c)."""
        latent = self.latent
        key_weights: list[RowWeight] = []
        value_weights: list[RowWeight] = []
        for rows, matrix in _weights(self.kv_b_proj, unrotated.dtype):
            parts = matrix.unflatten(0, (self.heads, -1)).split((latent.unrotated_dim, latent.value_dim), dim=1)
            key_weights.append((rows, parts[0]))
            value_weights.append((rows, parts[1]))
        queries = torch.cat((_products("bthn,hnr->bthr", unrotated, key_weights), rotated), dim=-1).transpose(1, 2)
        mixed = attend(queries, cached, cached, visible, self.options)[..., : latent.key_value_rank]
        return _products("bhtr,hvr->bthv", mixed, value_weights)


RowWeight = tuple[Tensor | None, Tensor]
"""Rows and their weight; None for all rows."""


def _products(equation: str, states: Tensor, weights: list[RowWeight]) -> Tensor:
    """Return the products of all rows with the first weight, and of some rows with a weight of their own."""
    outputs = torch.einsum(equation, states, weights[0][1])
    for rows, weight in weights[1:]:
        assert rows is not None
        outputs.index_copy_(0, rows, torch.einsum(equation, states.index_select(0, rows), weight))
    return outputs


def _weights(linear: nn.Module, dtype: torch.dtype) -> list[RowWeight]:
    """Return the matrix of a projection, and the matrices of the rows of adapters in a batch."""
    if hasattr(linear, "row_variants"):
        variants = linear.row_variants()  # pyright: ignore[reportCallIssue]
        return [(rows, _weight(variant, dtype)) for rows, variant in variants]
    return [(None, _weight(linear, dtype))]


def _weight(linear: nn.Module, dtype: torch.dtype) -> Float[Tensor, "O R"]:
    """Return the matrix of a projection, with its adapter if it has one, dequantized if it is quantized."""
    if isinstance(linear, nn.Linear):
        return linear.weight.to(dtype)
    return linear.effective_weight(dtype)  # pyright: ignore[reportCallIssue]
