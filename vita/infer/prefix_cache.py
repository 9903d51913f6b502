"""Keys and values of the beginnings of prompts, so that a prompt that begins like an earlier one is read faster.

    cache = PrefixCache(capacity=256 * 2**20)
    states = cache.longest(ids)                     # the blocks that are stored, from the start of the text on
    cache.add(ids[: (n + 1) * length], states)      # the states of block n

The name of a block is a hash of its tokens and of the name of the block before, as in vLLM: equal names mean equal
texts from the first token on. Long prompts are read in pieces of one block, so that a prompt has the same bits with and
without the cache. The block that was not used for the longest time is removed first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch

from vita.nn.cache import TextStates

CPU_BLOCK, GPU_BLOCK = 128, 512
"""Tokens of a block: as few as are read about as fast as more."""


def block_length(device: torch.device) -> int:
    """Return the number of tokens that are read in one pass, at the start of which a prompt may continue another."""
    return CPU_BLOCK if device.type == "cpu" else GPU_BLOCK


class PrefixCache:
    """Blocks of one model; used by one thread."""

    def __init__(self, capacity: int, *, length: int = CPU_BLOCK) -> None:
        """`capacity` is in bytes; with 0, nothing is stored. `length` is the number of tokens of a block."""
        self.capacity, self.length, self.size = capacity, length, 0
        self.queried_tokens = self.reused_tokens = 0
        """Tokens of the prompts that were looked up, and those of them that were stored."""
        self._blocks: OrderedDict[bytes, TextStates] = OrderedDict()

    def longest(self, ids: Sequence[int]) -> list[TextStates]:
        """Return the stored blocks at the start of a prompt, without its last token, whose output is needed."""
        blocks: list[TextStates] = []
        for name in self._names(ids[:-1]):
            block = self._blocks.get(name)
            if block is None:
                break
            self._blocks.move_to_end(name)
            blocks.append(block)
        self.queried_tokens += len(ids)
        self.reused_tokens += len(blocks) * self.length
        return blocks

    def add(self, ids: Sequence[int], states: TextStates) -> None:
        """Store a copy of the last block of `ids`, whose states are `states`."""
        *_, name = self._names(ids)
        if name in self._blocks:
            return
        size = sum(part.numel() * part.element_size() for part in (states.keys, states.values))
        if size > self.capacity:
            return
        while self.size + size > self.capacity:
            _, oldest = self._blocks.popitem(last=False)
            self.size -= sum(part.numel() * part.element_size() for part in (oldest.keys, oldest.values))
        self._blocks[name] = TextStates(
            states.keys.clone(memory_format=torch.contiguous_format),
            states.values.clone(memory_format=torch.contiguous_format),
        )
        self.size += size

    def _names(self, ids: Sequence[int]) -> Iterator[bytes]:
        """Yield the name of each complete block."""
        name = b""
        for end in range(self.length, len(ids) + 1, self.length):
            tokens = b"".join(token.to_bytes(4, "little") for token in ids[end - self.length : end])
            name = hashlib.sha256(name + tokens).digest()
            yield name
