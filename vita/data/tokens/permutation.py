"""A pseudorandom permutation without a list: the image of position `i` of `n` is computed directly.

A Feistel network over the next power of four mixes the bits of `i`; a result outside 0..n-1 is mixed again until
it falls inside (cycle walking), which keeps it a permutation of exactly n. Its keys come from a seed and an epoch,
so that the order is a pure function of both: nothing is stored, and resuming is arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

ROUNDS = 8


def shuffled(sequence: int, count: int, *, size: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Return (epoch, items) for the next `count` items of an endless sequence; each epoch has all `size` items."""
    stop = sequence + count
    while sequence < stop:
        epoch, position = divmod(sequence, size)
        end = min(position + stop - sequence, size)
        yield epoch, _permutation(size, seed, epoch)(np.arange(position, end))
        sequence += end - position


def step_items(step: int, *, rows: int, size: int, seed: int) -> list[int]:
    """Return the items of a training step, over all processes: `rows` per step, shuffled in each epoch.

    Batches and the listing of their documents use this function, so that both have the same order.
    """
    return [item for _, items in shuffled(step * rows, rows, size=size, seed=seed) for item in items.tolist()]


class Permutation:
    """A permutation of 0..size-1 keyed by (seed, epoch)."""

    def __init__(self, size: int, *, seed: int, epoch: int = 0) -> None:
        self.size = size
        bits = max(2, (max(size, 2) - 1).bit_length())
        self._half = np.uint64((bits + 1) // 2)
        self._mask = np.uint64((1 << int(self._half)) - 1)
        digest = hashlib.shake_256(f"{seed}/{epoch}".encode()).digest(8 * ROUNDS)
        self._keys = np.frombuffer(digest, dtype="<u8")

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the new position of each position."""
        targets = self._mix(positions.astype(np.uint64))
        while (outside := targets >= self.size).any():
            targets[outside] = self._mix(targets[outside])
        return targets.astype(np.int64)

    def _mix(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_scramble(right + key) & self._mask)
        return (left << self._half) | right


@lru_cache(maxsize=8)
def _permutation(size: int, seed: int, epoch: int) -> Permutation:
    return Permutation(size, seed=seed, epoch=epoch)


def _scramble(value: np.ndarray) -> np.ndarray:
    """Apply the finalizer of splitmix64 (Steele et al. 2014): every input bit affects every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
