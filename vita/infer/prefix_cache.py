"""Keys and values of the beginnings of prompts, so that a prompt that begins like an earlier one is read faster.

    cache = PrefixCache(capacity=256 * 2**20)
    names = cache.names(ids)
    blocks = cache.longest(names, tokens=len(ids))      # the blocks that are stored, from the start of the text on
    cache.add(names[n], states)                         # the states of block n

The name of a block is a hash of its tokens and of the name of the block before, as in vLLM: equal names mean equal
texts from the first token on. Long prompts are read in pieces of one block, so that a prompt has the same bits with and
without the cache. The block that was not used for the longest time is removed first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

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

    def longest(self, names: Sequence[bytes], *, tokens: int) -> list[TextStates]:
        """Return the stored blocks at the start of a prompt of `tokens` tokens.

        The block with the last token is left out, because the output at this token is needed.
        """
        blocks: list[TextStates] = []
        for name in names[: (tokens - 1) // self.length]:
            block = self._blocks.get(name)
            if block is None:
                break
            self._blocks.move_to_end(name)
            blocks.append(block)
        self.queried_tokens += tokens
        self.reused_tokens += len(blocks) * self.length
        return blocks

    def add(self, name: bytes, states: TextStates) -> None:
        """Store a copy of a block."""
        if name in self._blocks or states.nbytes > self.capacity:
            return
        while self.size + states.nbytes > self.capacity:
            _, oldest = self._blocks.popitem(last=False)
            self.size -= oldest.nbytes
        keys, values = (part.clone(memory_format=torch.contiguous_format) for part in (states.keys, states.values))
        self._blocks[name] = TextStates(keys, values)
        self.size += states.nbytes

    def names(self, ids: Sequence[int], *, salt: bytes = b"") -> list[bytes]:
        """Return the name of each complete block; models with different salts share no blocks."""
        names: list[bytes] = []
        for end in range(self.length, len(ids) + 1, self.length):
            tokens = b"".join(token.to_bytes(4, "little") for token in ids[end - self.length : end])
            names.append(hashlib.sha256((names[-1] if names else salt) + tokens).digest())
        return names
