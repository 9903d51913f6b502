"""Word boundaries and eight-byte chunks of words, for vectorized hashing of all words of a text.

Words are runs of bytes above the space character. Most words take one read of eight bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

HASHED_BYTES = 64
"""Longer words are hashed by their beginning and length, which limits the time for very long words."""
MIX_A, MIX_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_FIRST_BYTES: UInt64[np.ndarray, "9"] = np.array([2 ** (8 * count) - 1 for count in range(9)], np.uint64)


def word_boundaries(codes: UInt8[np.ndarray, "N"]) -> tuple[Int64[np.ndarray, "W"], Int64[np.ndarray, "W"]]:
    """Return the start and stop index of each word; bytes up to 32 (the space character) separate words."""
    blank = np.ones(len(codes) + 2, np.int8)
    np.less_equal(codes, 32, out=blank[1:-1], casting="unsafe")
    boundaries = np.flatnonzero(blank[1:] != blank[:-1])
    return boundaries[0::2].copy(), boundaries[1::2].copy()


def word_chunks(
    data: bytes, starts: Int64[np.ndarray, "W"], sizes: Int64[np.ndarray, "W"]
) -> Iterator[tuple[Int64[np.ndarray, "P"] | None, UInt64[np.ndarray, "P"]]]:
    """Yield the bytes of all words in chunks of eight, padded with zeros: (indices of the words, their next bytes).

    The first chunk contains all words, and its indices are None. Later chunks contain only the longer words.
    """
    chunks = np.ndarray((len(data) + 1,), "<u8", data + bytes(8), strides=(1,))
    yield None, chunks[starts] & _FIRST_BYTES[np.minimum(sizes, 8)]
    pending = np.flatnonzero(sizes > 8)
    for offset in range(8, HASHED_BYTES, 8):
        if not len(pending):
            return
        remaining = sizes[pending] - offset
        yield pending, chunks[starts[pending] + offset] & _FIRST_BYTES[np.minimum(remaining, 8)]
        pending = pending[remaining > 8]


def update_hashes(
    hashes: UInt64[np.ndarray, "W"], indices: Int64[np.ndarray, "P"], chunk: UInt64[np.ndarray, "P"]
) -> None:
    """Add the next bytes of some words to their hashes, in place."""
    previous = hashes[indices]
    hashes[indices] = (previous ^ (previous >> np.uint64(32)) ^ chunk) * MIX_B


def hash_words(data: bytes, starts: Int64[np.ndarray, "W"], sizes: Int64[np.ndarray, "W"]) -> UInt64[np.ndarray, "W"]:
    """Return a 64-bit hash of each word."""
    hashes = np.zeros(len(starts), np.uint64)
    for indices, chunk in word_chunks(data, starts, sizes):
        if indices is None:
            hashes = (chunk ^ sizes.astype(np.uint64)) * MIX_A
        else:
            update_hashes(hashes, indices, chunk)
    hashes ^= hashes >> np.uint64(29)
    return hashes
