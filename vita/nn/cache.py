"""Keys and values kept while generating, so that a token costs one step and not the whole text.

One rule carries everything: slot s of a row holds the token at position s, and a query at position p sees the slots
up to p. Rows may therefore have any lengths: what stands in a slot beyond a row's length (padding, a text taken back)
is never seen, since the slot is written again before any query gets that far. Memory is taken in blocks.
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
    """What `rows` texts have said so far, as keys and values of every layer."""

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
        self._at: slice | tuple[Tensor, Tensor] = slice(0)
        self._end = 0
        self.lengths = [0] * rows

    @property
    def lengths(self) -> list[int]:
        """Tokens that each row holds; set it to take tokens back."""
        return list(self._lengths)

    @lengths.setter
    def lengths(self, lengths: Sequence[int]) -> None:
        self._lengths = list(lengths)
        # On the device too, so that rows of unequal lengths advance there without a transfer for each token.
        self._starts = torch.tensor(self._lengths, device=self.keys.device)[:, None]

    def begin(self, tokens: int) -> tuple[Int[Tensor, "#B T"], Bool[Tensor, "B 1 T S"] | None]:
        """Makes room for `tokens` more in each row; answers with their positions and what they may see."""
        self._end = max(self._lengths) + tokens
        if self._end > self.context:
            raise ModelError("cache", expected=f"at most {self.context} tokens, the model's context", got=self._end)
        self._make_room(self._end)
        start = self._lengths[0]
        even = all(length == start for length in self._lengths)
        if even:
            self._at = slice(start, self._end)
            positions = self.slots[None, start : self._end]
        else:
            positions = self._starts + self.slots[:tokens]
            self._at = torch.arange(len(self._lengths), device=positions.device)[:, None], positions
        self._lengths = [length + tokens for length in self._lengths]
        self._starts += tokens
        # None where every slot, or plainly the causal ones, may be seen: the faster kernels.
        simple = even and (tokens == 1 or start == 0)
        return positions, None if simple else self._visible(positions)

    def write(
        self, layer: int, keys: Float[Tensor, "B K T E"], values: Float[Tensor, "B K T E"]
    ) -> tuple[Float[Tensor, "B K S E"], Float[Tensor, "B K S E"]]:
        """Keeps the new keys and values of a layer and gives all that it holds."""
        kept_keys, kept_values = self.keys[layer], self.values[layer]
        if isinstance(self._at, slice):
            kept_keys[:, :, self._at] = keys
            kept_values[:, :, self._at] = values
        else:
            rows, positions = self._at
            kept_keys[rows, :, positions] = keys.transpose(1, 2)
            kept_values[rows, :, positions] = values.transpose(1, 2)
        return kept_keys[:, :, : self._end], kept_values[:, :, : self._end]

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows only, in this order; a row given twice is copied."""
        chosen = torch.tensor(rows, device=self.keys.device)
        self.keys, self.values = self.keys[:, chosen], self.values[:, chosen]
        self.lengths = [self._lengths[row] for row in rows]

    def _visible(self, positions: Int[Tensor, "#B T"]) -> Bool[Tensor, "B 1 T S"]:
        seen = self.slots[: self._end] <= positions[:, None, :, None]
        return seen.expand(len(self._lengths), -1, -1, -1)

    def _make_room(self, slots: int) -> None:
        held = self.keys.shape[3]
        if slots <= held:
            return
        wanted = min(self.context, -(-slots // self.block) * self.block)
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            # Zeros, since a hidden slot is still multiplied, by nothing, and an arbitrary one may hold NaN.
            new = old.new_zeros(*old.shape[:3], wanted, old.shape[4])
            new[:, :, :, :held] = old
            setattr(self, name, new)
