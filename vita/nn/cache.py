"""The KV cache: keys and values of earlier tokens, so that a new token costs one step instead of the whole text.

    prompt = KVCache(architecture, rows=1)                    # a text that is read by itself, in pieces of any length
    model.hidden(ids, cache=prompt)
    batch = KVCache(architecture, rows=16, free=True)         # rows that texts join and leave
    batch.put(3, prompt.text(0))

Slot s of a row holds the token at position s, and a query at position p attends to the slots up to p. Rows may
therefore have different lengths: a slot beyond the length of its row (padding, removed tokens) is overwritten before
any query attends to it. Memory is allocated in blocks and grows with the longest row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vita.nn.architecture import Architecture
from vita.spine.errors import ModelError

# L layer, B computed row, R row of the cache, N row up to the last taken one, K key head, S slot, E numbers of a key,
# V numbers of a value (0 in latent attention, which computes values from the keys), T new tokens


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
    """Keys and values of every layer for `rows` texts; each row is taken by a text, or free."""

    def __init__(
        self,
        architecture: Architecture,
        rows: int,
        *,
        free: bool = False,
        padded: bool = False,
        block: int = 64,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        """With `free`, all rows are free at first; otherwise each holds an empty text.

        With `padded`, attention always has a mask and whole blocks of slots, so that a text that is alone for a step is
        computed by the same kernels as beside others.
        """
        self.block, self.context, self.padded = block, architecture.context, padded
        sizes = architecture.cache_shape
        shape = architecture.layers, rows, sizes.heads, 0
        self.keys: Float[Tensor, "L R K S E"] = torch.zeros(*shape, sizes.key_dim, dtype=dtype, device=device)
        self.values: Float[Tensor, "L R K S V"] = torch.zeros(*shape, sizes.value_dim, dtype=dtype, device=device)
        self.lengths = [0] * rows
        """Number of tokens in each row; set an entry to a smaller number to remove tokens."""
        self.taken = [not free] * rows
        self._capacity_limit = -(-architecture.context // block) * block
        self._slots: Int[Tensor, "S"] = torch.arange(self._capacity_limit, device=device)
        self._write_index: slice | tuple[Tensor, Tensor] = slice(0)
        self._live = self._end = 0
        self._positions: Int[Tensor, "#B T"] = self._slots[None, :0]
        self._visible: Bool[Tensor, "N 1 T S"] | None = None
        self.text_length: int | None = None
        """Length of the whole text, where it is read in pieces; otherwise a text ends at its last token."""

    # -- rows that texts join and leave

    @property
    def first_free(self) -> int | None:
        """The first free row."""
        return next((row for row, taken in enumerate(self.taken) if not taken), None)

    @property
    def num_live(self) -> int:
        """Number of rows up to the last taken one."""
        return max((row + 1 for row, taken in enumerate(self.taken) if taken), default=0)

    def reserve(self, tokens: Mapping[int, int]) -> int:
        """Allocate slots for the next tokens of rows, by default 1; return how many slots to attend to.

        The lengths of the rows include these tokens from then on. A row with 0 tokens gets a slot for a token that is
        computed beside the others and not kept. Whole blocks of slots are attended to.
        """
        end = max(self.lengths) + 1
        for row, taken in enumerate(self.taken):
            self.lengths[row] += tokens.get(row, 1) if taken else 0
        end = max(end, *self.lengths)
        if end > self.context:
            raise ModelError("cache", expected=f"at most {self.context} tokens, the model's context", got=end)
        self._allocate(end)
        return -(-end // self.block) * self.block

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

    def put(self, row: int, text: TextStates) -> None:
        """Copy a text into a free row."""
        self._allocate(text.length + 1)
        self.keys[:, row, :, : text.length] = text.keys
        self.values[:, row, :, : text.length] = text.values
        self.lengths[row], self.taken[row] = text.length, True

    def clear(self, row: int) -> None:
        """Free a row. It is filled with zeros, because a masked slot is still multiplied by a weight of zero."""
        for states in (self.keys, self.values):
            states[:, row, :, : max(1, self.lengths[row])] = 0
        self.lengths[row], self.taken[row] = 0, False

    def move(self, source: int, target: int) -> None:
        """Move the text of a row to a free row."""
        self.put(target, self.text(source))
        self.clear(source)

    # -- what the layers call (`vita.nn.transformer.KeysAndValues`)

    def begin(self, rows: int, tokens: int) -> tuple[Int[Tensor, "#B T"], Bool[Tensor, "N 1 T S"] | None]:
        """Return positions and attention mask of `tokens` more tokens in each taken row."""
        self._positions, self._visible = self._begin(rows, tokens)
        return self._positions, self._visible

    def window_mask(self, window: int) -> Bool[Tensor, "N 1 T S"] | None:
        """Return the mask of the pass in which queries attend to the last `window` tokens, including their own."""
        if max(self.lengths) <= window:
            return self._visible
        positions = self._positions[: self._live, None, :, None]
        slots = self._slots[: self._end]
        visible = (slots <= positions) & (slots > positions - window)
        return visible.expand(self._live, -1, -1, -1)

    def text_lengths(self) -> Int[Tensor, "#B"]:
        """Return the length of each text, with the tokens of the pass."""
        lengths = self._positions[:, -1] + 1
        return lengths if self.text_length is None else torch.full_like(lengths, self.text_length)

    def _begin(self, rows: int, tokens: int) -> tuple[Int[Tensor, "#B T"], Bool[Tensor, "N 1 T S"] | None]:
        """Allocate `tokens` more slots in each taken row; return positions and the attention mask.

        The first `rows` rows are computed: at least up to the last taken one, and more than the cache holds if the
        caller wants products of a fixed shape. Only rows up to the last taken one are stored, and attended to.
        """
        if tokens > 1 and not all(self.taken):
            raise ModelError("cache", "free rows advance by single tokens; a text is read where every row is taken")
        self._live = self.num_live
        starts = self.lengths[: self._live]
        self._end = max(starts) + tokens
        if self._end > self.context:
            raise ModelError("cache", expected=f"at most {self.context} tokens, the model's context", got=self._end)
        self._allocate(self._end)
        self.lengths = [length + tokens if taken else 0 for length, taken in zip(self.lengths, self.taken, strict=True)]
        equal_lengths = all(length == starts[0] for length in starts)
        if equal_lengths and self._live == rows and (tokens > 1 or rows == 1) and not self.padded:
            return self._begin_unmasked(starts[0], tokens)
        if equal_lengths:
            self._write_index = slice(starts[0], self._end)
            positions = self._slots[None, starts[0] : self._end]
        else:
            positions = torch.tensor(starts, device=self._slots.device)[:, None] + self._slots[:tokens]
            self._write_index = torch.arange(self._live, device=positions.device)[:, None], positions
        # Whole blocks of slots: a longer text in another row adds masked blocks only.
        self._end = -(-self._end // self.block) * self.block
        visible = self._slots[: self._end] <= positions[:, None, :, None]
        padded = positions if equal_lengths else F.pad(positions, (0, 0, 0, rows - self._live))
        return padded, visible.expand(self._live, -1, -1, -1)

    def _begin_unmasked(self, start: int, tokens: int) -> tuple[Int[Tensor, "1 T"], Bool[Tensor, "N 1 T S"] | None]:
        """Rows of equal length, without a mask where attention is plain causal or a single query sees all slots."""
        self._write_index = slice(start, self._end)
        positions = self._slots[None, start : self._end]
        if start == 0 or tokens == 1:
            return positions, None
        visible = self._slots[: self._end] <= positions[:, None, :, None]
        return positions, visible.expand(self._live, -1, -1, -1)

    def write(
        self, layer: int, keys: Float[Tensor, "B K T E"], values: Float[Tensor, "B K T V"]
    ) -> tuple[Float[Tensor, "N K S E"], Float[Tensor, "N K S V"]]:
        """Store the new keys and values of a layer; return those of all slots, up to the last taken row."""
        all_keys, all_values = self.keys[layer], self.values[layer]
        keys, values = keys[: self._live], values[: self._live]
        if isinstance(self._write_index, slice):
            all_keys[: self._live, :, self._write_index] = keys
            all_values[: self._live, :, self._write_index] = values
        else:
            rows, positions = self._write_index
            all_keys[rows, :, positions] = keys.transpose(1, 2)
            all_values[rows, :, positions] = values.transpose(1, 2)
        return all_keys[: self._live, :, : self._end], all_values[: self._live, :, : self._end]

    def _allocate(self, slots: int) -> None:
        capacity = self.keys.shape[3]
        if slots <= capacity:
            return
        # Doubled, so that the content is copied a few times in total and not at every block. Zeros, because a masked
        # slot is still multiplied by a weight of zero, and uninitialized memory may contain NaN.
        new_capacity = min(self._capacity_limit, max(-(-slots // self.block) * self.block, 2 * capacity))
        added = new_capacity - capacity
        self.keys, self.values = (F.pad(states, (0, 0, 0, added)) for states in (self.keys, self.values))
