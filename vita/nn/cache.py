"""The KV cache: keys and values of earlier tokens, so that a new token costs one step instead of the whole text.

    prompt = KVCache(architecture, rows=1)                    # a text that is read in pieces of any length
    model.hidden(ids, cache=prompt)
    prompt.text(0)                                            # its keys and values

Slot s of a row holds the token at position s, and a query at position p attends to the slots up to p. Rows may
therefore have different lengths: a slot beyond the length of its row (padding, removed tokens) is overwritten before
any query attends to it. Memory is allocated in blocks and grows with the longest row. The rows of a batch, which texts
join and leave, are in `vita.infer.row_cache`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vita.nn.architecture import Architecture
from vita.spine.errors import ModelError

# L layer, B row, K key head, S slot, E numbers of a key, V numbers of a value (0 in latent attention, which computes
# values from the keys), T new tokens


@dataclass(frozen=True)
class TextStates:
    """The keys and values of a text in every layer."""

    keys: Float[Tensor, "L K S E"]
    values: Float[Tensor, "L K S V"]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.keys.nbytes + self.values.nbytes


class KVCache:
    """Keys and values of every layer for `rows` texts, which advance together."""

    def __init__(
        self,
        architecture: Architecture,
        rows: int,
        *,
        block: int = 64,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        """Each row holds an empty text at first."""
        self.block, self.context = block, architecture.context
        sizes = architecture.cache_shape
        shape = architecture.layers, rows, sizes.heads, 0
        self.keys: Float[Tensor, "L B K S E"] = torch.zeros(*shape, sizes.key_dim, dtype=dtype, device=device)
        self.values: Float[Tensor, "L B K S V"] = torch.zeros(*shape, sizes.value_dim, dtype=dtype, device=device)
        self.lengths = [0] * rows
        """Number of tokens in each row; set an entry to a smaller number to remove tokens."""
        self._capacity_limit = -(-architecture.context // block) * block
        self._slots: Int[Tensor, "S"] = torch.arange(self._capacity_limit, device=device)
        self._write_index: slice | tuple[Tensor, Tensor] = slice(0)
        self._end = 0
        self._positions: Int[Tensor, "#B T"] = self._slots[None, :0]
        self._visible: Bool[Tensor, "B 1 T S"] | None = None
        self.text_length: int | None = None
        """Length of the whole text, where it is read in pieces; otherwise a text ends at its last token."""

    def text(self, row: int, start: int = 0) -> TextStates:
        """The keys and values of a row from the position `start` on, without a copy."""
        length = self.lengths[row]
        return TextStates(self.keys[:, row, :, start:length], self.values[:, row, :, start:length])

    def extend(self, row: int, text: TextStates) -> None:
        """Append the keys and values of the next tokens of a row, as if they were computed here."""
        start, end = self.lengths[row], self.lengths[row] + text.length
        self._allocate(end)
        self.keys[:, row, :, start:end] = text.keys
        self.values[:, row, :, start:end] = text.values
        self.lengths[row] = end

    # -- what the layers call (`vita.nn.transformer.KeysAndValues`)

    def begin(self, rows: int, tokens: int) -> tuple[Int[Tensor, "#B T"], Bool[Tensor, "B 1 T S"] | None]:
        """Return positions and attention mask of `tokens` more tokens in each row."""
        self._positions, self._visible = self._begin(rows, tokens)
        return self._positions, self._visible

    def window_mask(self, window: int) -> Bool[Tensor, "B 1 T S"] | None:
        """Return the mask of the pass in which queries attend to the last `window` tokens, including their own."""
        if max(self.lengths) <= window:
            return self._visible
        positions = self._positions[:, None, :, None]
        slots = self._slots[: self._end]
        visible = (slots <= positions) & (slots > positions - window)
        return visible.expand(len(self.lengths), -1, -1, -1)

    def text_lengths(self) -> Int[Tensor, "#B"]:
        """Return the length of each text, with the tokens of the pass."""
        lengths = self._positions[:, -1] + 1
        return lengths if self.text_length is None else torch.full_like(lengths, self.text_length)

    def _begin(self, rows: int, tokens: int) -> tuple[Int[Tensor, "#B T"], Bool[Tensor, "B 1 T S"] | None]:
        """Allocate `tokens` more slots in each row; return positions and the attention mask.

        There is no mask where attention is plain causal, or a single query sees all slots.
        """
        starts = self.lengths
        if rows != len(starts):
            raise ModelError("cache", expected=f"{len(starts)} rows", got=rows)
        self._end = max(starts) + tokens
        if self._end > self.context:
            raise ModelError("cache", expected=f"at most {self.context} tokens, the model's context", got=self._end)
        self._allocate(self._end)
        self.lengths = [length + tokens for length in starts]
        if all(length == starts[0] for length in starts):
            self._write_index = slice(starts[0], self._end)
            positions = self._slots[None, starts[0] : self._end]
            if starts[0] == 0 or tokens == 1:
                return positions, None
        else:
            positions = torch.tensor(starts, device=self._slots.device)[:, None] + self._slots[:tokens]
            self._write_index = torch.arange(rows, device=positions.device)[:, None], positions
            self._end = -(-self._end // self.block) * self.block
        visible = self._slots[: self._end] <= positions[:, None, :, None]
        return positions, visible.expand(rows, -1, -1, -1)

    def write(
        self, layer: int, keys: Float[Tensor, "B K T E"], values: Float[Tensor, "B K T V"]
    ) -> tuple[Float[Tensor, "B K S E"], Float[Tensor, "B K S V"]]:
        """Store the new keys and values of a layer; return those of all slots."""
        all_keys, all_values = self.keys[layer], self.values[layer]
        if isinstance(self._write_index, slice):
            all_keys[:, :, self._write_index] = keys
            all_values[:, :, self._write_index] = values
        else:
            rows, positions = self._write_index
            all_keys[rows, :, positions] = keys.transpose(1, 2)
            all_values[rows, :, positions] = values.transpose(1, 2)
        return all_keys[:, :, : self._end], all_values[:, :, : self._end]

    def _allocate(self, slots: int) -> None:
        capacity = self.keys.shape[3]
        if slots <= capacity:
            return
        # Doubled, so that the content is copied a few times in total and not at every block. Zeros, because a masked
        # slot is still multiplied by a weight of zero, and uninitialized memory may contain NaN.
        new_capacity = min(self._capacity_limit, max(-(-slots // self.block) * self.block, 2 * capacity))
        added = new_capacity - capacity
        self.keys, self.values = (F.pad(states, (0, 0, 0, added)) for states in (self.keys, self.values))
