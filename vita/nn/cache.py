"""The KV cache: keys and values of earlier tokens, so that a new token costs one step instead of the whole sequence.

Slot s of a row holds the token at position s, and a query at position p attends to the slots up to p. Rows may
therefore have different lengths: a slot beyond the length of a row (padding, removed tokens) is never attended to,
because it is overwritten before any query reaches it. Memory is allocated in blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vita.nn.architecture import Architecture
from vita.spine.errors import ModelError

# L layer, B row, K key head, S slot, E numbers in a head, T new tokens


class Cache:
    """The keys and values of every layer for `rows` sequences."""

    def __init__(
        self,
        architecture: Architecture,
        rows: int,
        *,
        block: int = 256,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        self.block, self.context = block, architecture.context
        shape = architecture.layers, rows, architecture.kv_heads, 0, architecture.head_dim
        self.keys: Float[Tensor, "L B K S E"] = torch.empty(shape, dtype=dtype, device=device)
        self.values: Float[Tensor, "L B K S E"] = torch.empty(shape, dtype=dtype, device=device)
        self.slots: Int[Tensor, "S"] = torch.arange(architecture.context, device=device)
        self._write_index: slice | tuple[Tensor, Tensor] = slice(0)
        self._end = 0
        self.lengths = [0] * rows

    @property
    def lengths(self) -> list[int]:
        """Number of tokens in each row; assign it to remove tokens."""
        return list(self._lengths)

    @lengths.setter
    def lengths(self, lengths: Sequence[int]) -> None:
        self._lengths = list(lengths)
        # Also on the device, so that rows of unequal lengths advance without a transfer per token.
        self._starts = torch.tensor(self._lengths, device=self.keys.device)[:, None]

    def begin(self, tokens: int) -> tuple[Int[Tensor, "#B T"], Bool[Tensor, "B 1 T S"] | None]:
        """Allocate `tokens` more slots in each row; return their positions and their attention mask."""
        self._end = max(self._lengths) + tokens
        if self._end > self.context:
            raise ModelError("cache", expected=f"at most {self.context} tokens, the model's context", got=self._end)
        self._allocate(self._end)
        start = self._lengths[0]
        equal_lengths = all(length == start for length in self._lengths)
        if equal_lengths:
            self._write_index = slice(start, self._end)
            positions = self.slots[None, start : self._end]
        else:
            positions = self._starts + self.slots[:tokens]
            self._write_index = torch.arange(len(self._lengths), device=positions.device)[:, None], positions
        self._lengths = [length + tokens for length in self._lengths]
        self._starts += tokens
        # None if the mask is plain causal or empty: faster kernels.
        plain_causal = equal_lengths and (tokens == 1 or start == 0)
        return positions, None if plain_causal else self._visible(positions)

    def write(
        self, layer: int, keys: Float[Tensor, "B K T E"], values: Float[Tensor, "B K T E"]
    ) -> tuple[Float[Tensor, "B K S E"], Float[Tensor, "B K S E"]]:
        """Store the new keys and values of a layer; return all keys and values of the layer."""
        layer_keys, layer_values = self.keys[layer], self.values[layer]
        if isinstance(self._write_index, slice):
            layer_keys[:, :, self._write_index] = keys
            layer_values[:, :, self._write_index] = values
        else:
            rows, positions = self._write_index
            layer_keys[rows, :, positions] = keys.transpose(1, 2)
            layer_values[rows, :, positions] = values.transpose(1, 2)
        return layer_keys[:, :, : self._end], layer_values[:, :, : self._end]

    def select(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order; a repeated row is copied."""
        chosen = torch.tensor(rows, device=self.keys.device)
        self.keys, self.values = self.keys[:, chosen], self.values[:, chosen]
        self.lengths = [self._lengths[row] for row in rows]

    def _visible(self, positions: Int[Tensor, "#B T"]) -> Bool[Tensor, "B 1 T S"]:
        visible = self.slots[: self._end] <= positions[:, None, :, None]
        return visible.expand(len(self._lengths), -1, -1, -1)

    def _allocate(self, slots: int) -> None:
        capacity = self.keys.shape[3]
        if slots <= capacity:
            return
        new_capacity = min(self.context, -(-slots // self.block) * self.block)
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            # Zeros, because a masked slot is still multiplied by zero, and uninitialized memory may contain NaN.
            new = old.new_zeros(*old.shape[:3], new_capacity, old.shape[4])
            new[:, :, :, :capacity] = old
            setattr(self, name, new)
