"""The KV cache of a batch: the keys and values of texts of any lengths, which join and leave.

    cache = RowCache(architecture)
    cache.put(3, text)                       # the keys and values of a prompt
    step = DecodingPass(cache, {3: 1})       # one token more (`vita.infer.decoding_pass`)

Texts are stored in size classes: a class holds the texts of up to 64, 128, 192, ... tokens side by side in one tensor,
and a text that outgrows its class moves to the next one. Classes are at most a quarter larger than the next smaller one
from 256 tokens on. So memory follows the lengths of the texts instead of the longest text. The kernels read keys and
values where they are stored; pages of a fixed size would have to be gathered for each step (`bench.kv_layout` compares
both).

Attention computes all slots of a class: the kernels round sums over 192 slots differently from sums over 256, also if
the others are masked, so the number of slots depends on nothing but the length of the text. If all texts are in a
single class, the number is a multiple of the slots that the kernel takes at a time: what is masked completely adds 0.

Slot s of a text holds the token at position s, and a query at position p attends to the slots up to p: what follows in
a row (removed tokens) is overwritten before any query attends to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vita.nn.architecture import Architecture
from vita.nn.cache import TextStates
from vita.nn.transformer import Transformer
from vita.spine.errors import ModelError

# L layer, C text of a class, K key head, S slot, E numbers of a key, V numbers of a value (0 in latent attention)

BLOCK = 64
"""Attention computes a multiple of as many slots."""
KERNEL_SLOTS = 512
"""Slots that the fused kernel of PyTorch takes at a time on a CPU."""


def needs_single_class(model: Transformer) -> bool:
    """Return True if a step needs all texts in one class.

    It may expand the latent vectors of all texts together; a step that is recorded on a GPU reads a single class.
    """
    return model.architecture.latent is not None or model.head_weight.device.type == "cuda"


class SizeClass:
    """Texts of up to `slots` tokens, one after the other without gaps."""

    def __init__(
        self, keys: Float[Tensor, "L C K S E"], values: Float[Tensor, "L C K S V"], *, shrinks: bool = True
    ) -> None:
        """The tensors determine sizes, dtype and device; they hold no texts.

        Without `shrinks`, memory is kept for the most texts that there were, at the same address.
        """
        self.keys, self.values, self._shrinks = keys, values, shrinks
        self.rows: list[int] = []
        """The row of each text."""

    @property
    def slots(self) -> int:
        """Maximum number of tokens of a text."""
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.keys.nbytes + self.values.nbytes

    def add(self, row: int, text: TextStates) -> None:
        """Append a text."""
        self._resize(len(self.rows) + 1)
        index, length = len(self.rows), text.length
        for states, new in ((self.keys, text.keys), (self.values, text.values)):
            states[:, index, :, :length] = new
            states[:, index, :, length:] = 0  # a masked slot is still multiplied by a weight of zero
        self.rows.append(row)

    def remove(self, row: int) -> None:
        """Remove a text; the last one takes its place."""
        index, last = self.rows.index(row), len(self.rows) - 1
        if index != last:
            for states in (self.keys, self.values):
                states[:, index] = states[:, last]
            self.rows[index] = self.rows[last]
        del self.rows[last]
        if self._shrinks and 4 * len(self.rows) <= self.keys.shape[1]:
            self._resize(len(self.rows))

    def reserve(self, texts: int) -> None:
        """Allocate memory for at least `texts` texts."""
        if texts > self.keys.shape[1]:
            self._resize(texts)

    def _resize(self, texts: int) -> None:
        """Allocate memory for `texts` texts, in steps of half, so that texts are copied a few times in total."""
        capacity = self.keys.shape[1]
        if (capacity // 4 < texts or not self._shrinks) and texts <= capacity:
            return
        new_capacity = max(texts, capacity * 3 // 2) if texts > capacity else texts
        self.keys, self.values = (
            F.pad(states[:, : len(self.rows)], (0, 0, 0, 0, 0, 0, 0, new_capacity - len(self.rows)))
            for states in (self.keys, self.values)
        )


class RowCache:
    """Keys and values of every layer for the rows of a batch."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        single: bool = False,
        shrinks: bool = True,
    ) -> None:
        """With `single`, all texts are in one class, that of the longest one.

        Without `shrinks`, a class keeps its memory and its address when texts leave.
        """
        self.context, self.single, self.shrinks = architecture.context, single, shrinks
        sizes = architecture.cache_shape
        shape = architecture.layers, 0, sizes.heads, 0
        self._empty = (
            torch.zeros(*shape, sizes.key_dim, dtype=dtype, device=device),
            torch.zeros(*shape, sizes.value_dim, dtype=dtype, device=device),
        )
        self.lengths: dict[int, int] = {}
        """Number of tokens of each row."""
        self._classes: dict[int, SizeClass] = {}
        self._class_of: dict[int, int] = {}

    @property
    def device(self) -> torch.device:
        """The device of the keys and values."""
        return self._empty[0].device

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(size_class.nbytes for size_class in self._classes.values())

    @property
    def classes(self) -> list[SizeClass]:
        """The size classes that hold texts, the smallest first."""
        return [self._classes[slots] for slots in sorted(self._classes) if self._classes[slots].rows]

    def room(self, row: int) -> int:
        """Return the number of tokens that a row may take in a pass in which it computes the slots of single tokens."""
        length = self.lengths[row]
        return self.context - length if self.single else self._slots(length + 1) - length

    def computed_slots(self, size_class: SizeClass, longest: int) -> int:
        """Return the number of slots that attention computes for a class whose longest text has `longest` tokens."""
        if not self.single:
            return size_class.slots
        block = KERNEL_SLOTS if self.device.type == "cpu" else BLOCK
        return min(size_class.slots, -(-longest // block) * block)

    def put(self, row: int, text: TextStates) -> None:
        """Copy a text into a new row."""
        self._add(row, text)
        self.lengths[row] = text.length

    def text(self, row: int) -> TextStates:
        """Return the keys and values of a row, without a copy."""
        size_class, length = self._classes[self._class_of[row]], self.lengths[row]
        index = size_class.rows.index(row)
        return TextStates(size_class.keys[:, index, :, :length], size_class.values[:, index, :, :length])

    def remove(self, row: int) -> None:
        """Remove a row."""
        self._take(row)
        del self.lengths[row]

    def truncate(self, row: int, length: int) -> None:
        """Remove the tokens of a row from the position `length` on."""
        assert length <= self.lengths[row], "a text gets longer in a pass only"
        self.lengths[row] = length

    def reserve(self, tokens: Mapping[int, int]) -> None:
        """Make room for the next tokens of some rows, whose lengths include them from then on."""
        for row, count in tokens.items():
            length = self.lengths[row] + count
            if length > self.context:
                expected = f"at most {self.context} tokens, the model's context"
                raise ModelError("cache", expected=expected, got=length)
            if length > self._class_of[row]:
                text = self.text(row)
                text = TextStates(text.keys.clone(), text.values.clone())
                self._take(row)
                self._add(row, text, slots=self._slots(length))
            self.lengths[row] = length

    def _slots(self, length: int) -> int:
        """Return the size of the class for texts of a length."""
        bits = (length - 1).bit_length()
        if self.single:
            slots = max(KERNEL_SLOTS, 1 << bits, *self._classes)
        else:
            step = max(BLOCK, 1 << max(0, bits - 3))
            slots = -(-length // step) * step
        return min(slots, -(-self.context // BLOCK) * BLOCK)

    def _add(self, row: int, text: TextStates, *, slots: int | None = None) -> None:
        slots = slots or self._slots(text.length + 1)
        if self.single and self._classes and slots not in self._classes:
            self._widen(slots)
        if slots not in self._classes:
            self._classes[slots] = self._new_class(slots)
        self._classes[slots].add(row, text)
        self._class_of[row] = slots

    def _take(self, row: int) -> None:
        """Remove a row from its class."""
        slots = self._class_of.pop(row)
        self._classes[slots].remove(row)
        if self.shrinks and not self._classes[slots].rows:
            del self._classes[slots]

    def _widen(self, slots: int) -> None:
        """Move all texts to a larger class."""
        ((_, narrow),) = self._classes.items()
        wide = self._new_class(slots)
        for row in narrow.rows:
            wide.add(row, self.text(row))
        self._classes = {slots: wide}
        self._class_of = dict.fromkeys(self._class_of, slots)

    def _new_class(self, slots: int) -> SizeClass:
        keys, values = (F.pad(states, (0, 0, 0, slots)) for states in self._empty)
        return SizeClass(keys, values, shrinks=self.shrinks)
