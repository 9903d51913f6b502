"""A text seen as arrays: its words' lengths, hashes and letters, and its lines; computed once, shared by all filters.

Words are what stands between white space (of Unicode, such as no-break spaces), so that a rule counts what a person
would; scripts that put no spaces between words have their own rule in `scripts`. The arrays come from vectorised
passes over the UTF-8 bytes in blocks; a compiled kernel could take the place of `_measure` without a filter noticing.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from vita.data.curation.scripts import has_unspaced, main_script, unspaced_words, with_ascii_blanks
from vita.data.records import Document

BLOCK_BYTES = 2**20
"""Bytes measured at once; bounds the memory of the arrays for very long documents."""


class Words(NamedTuple):
    """The words of a text in order."""

    lengths: Int64[np.ndarray, "W"]
    """Characters of each."""
    hashes: UInt64[np.ndarray, "W"]
    """Equal for words that differ at most in the case of A to Z."""
    lettered: Bool[np.ndarray, "W"]
    """Whether it holds a letter; every character outside ASCII counts as one."""


class Page:
    """A document and what the filters want to know of it."""

    def __init__(self, document: Document, data: bytes | None = None) -> None:
        self.document = document
        self.data = document.text.encode("utf-8", errors="replace") if data is None else data
        self._runs: dict[int, UInt64[np.ndarray, "..."]] = {}

    @property
    def text(self) -> str:
        return self.document.text

    @cached_property
    def words(self) -> Words:
        """The words between white space; in scripts without spaces these are whole phrases (see `word_count`)."""
        parts = [_measure(block) for block in _blocks(self.data)]
        if len(parts) == 1:
            return parts[0]
        return Words(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def words_up_to(self, limit: int) -> int:
        """Count the words up to about `limit`, so that long texts cost nothing; a larger number means at least it."""
        split = self.data.split(None, limit) if self.data.isascii() else self.text.split(None, limit)
        if len(split) >= limit or self.data.isascii() or not has_unspaced(self.data):
            return len(split)
        return self.word_count

    @cached_property
    def word_count(self) -> int:
        """Number of words, estimated from the characters in scripts without spaces between words."""
        if self.data.isascii() or not has_unspaced(self.data):
            return len(self.words.lengths)
        return unspaced_words(self.text)

    @cached_property
    def script(self) -> str:
        """The script of most letters (see `scripts.main_script`)."""
        # Each character outside ASCII takes at least one byte more: here they are too few to matter.
        return "LATIN" if len(self.data) < 1.2 * len(self.text) else main_script(self.text)

    @cached_property
    def running_length(self) -> Int64[np.ndarray, "..."]:
        """Characters of the words before each word, and of all at the end."""
        return np.concatenate([[0], np.cumsum(self.words.lengths)])

    def run_lengths(self, n: int) -> Int64[np.ndarray, "..."]:
        """Characters of the words of each run of `n` words."""
        return self.running_length[n:] - self.running_length[:-n]

    def runs(self, n: int) -> UInt64[np.ndarray, "..."]:
        """A hash of each run of `n` words, made of those of two shorter runs."""
        if n == 1:
            return self.words.hashes
        if n not in self._runs:
            second = n // 2
            first = n - second
            left, right = self.runs(first), self.runs(second)
            runs = left[: max(0, len(right) - first)] * _MIX_A
            runs ^= runs >> np.uint64(31)
            runs += right[first:]
            self._runs[n] = runs
        return self._runs[n]

    @cached_property
    def characters(self) -> int:
        """Characters of all words."""
        return int(self.running_length[-1])

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank, without the space around them."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """What stands between blank lines."""
        return [part for part in map(str.strip, re.split(r"\n\s*\n", self.text)) if part]

    @cached_property
    def lowered(self) -> bytes:
        """The UTF-8 with A to Z made small."""
        return self.data.lower()


@lru_cache
def hash_of(word: str) -> np.uint64:
    """The hash that `Words.hashes` gives this word."""
    return _measure(word.encode())[1][0]


def repeated_share(pieces: list[str]) -> tuple[float, float]:
    """(share of pieces, share of their characters) that repeat an earlier piece."""
    counts = Counter(pieces)
    if len(counts) == len(pieces):
        return 0.0, 0.0
    repeats = sum(len(piece) * (count - 1) for piece, count in counts.items() if count > 1)
    return 1 - len(counts) / len(pieces), repeats / max(1, sum(map(len, pieces)))


# -- the vectorised pass

_HASHED_BYTES = 64
"""Longer words are hashed by their beginning and length, so that one endless word costs no more than another."""
_FIRST_BYTES: UInt64[np.ndarray, "9"] = np.array([2 ** (8 * count) - 1 for count in range(9)], np.uint64)
_MIX_A, _MIX_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def _measure(data: bytes) -> Words:
    """The words of a block, whose bytes are read eight at a time: most words are one read."""
    data = data if data.isascii() else with_ascii_blanks(data)
    codes = np.frombuffer(data, np.uint8)
    blank = np.ones(len(codes) + 2, np.int8)
    np.less_equal(codes, 32, out=blank[1:-1], casting="unsafe")
    edges = np.flatnonzero(blank[1:] != blank[:-1])
    starts, ends = edges[0::2].copy(), edges[1::2].copy()
    size = ends - starts
    eights = np.ndarray((len(data) + 1,), "<u8", data.lower() + bytes(8), strides=(1,))
    read = eights[starts] & _FIRST_BYTES[np.minimum(size, 8)]
    hashes = (read ^ size.astype(np.uint64)) * _MIX_A
    lettered = _has_letter(read)
    rest = np.flatnonzero(size > 8)
    for offset in range(8, _HASHED_BYTES, 8):
        if not len(rest):
            break
        left = size[rest] - offset
        read = eights[starts[rest] + offset] & _FIRST_BYTES[np.minimum(left, 8)]
        mixed = hashes[rest]
        hashes[rest] = (mixed ^ (mixed >> np.uint64(32)) ^ read) * _MIX_B
        if not lettered[rest].all():
            lettered[rest] |= _has_letter(read)
        rest = rest[left > 8]
    hashes ^= hashes >> np.uint64(29)
    lengths = size if data.isascii() else size - _continuation_bytes(codes, starts, ends)
    return Words(lengths, hashes, lettered)


def _has_letter(eight: UInt64[np.ndarray, "W"]) -> Bool[np.ndarray, "W"]:
    """Whether one of eight bytes is a to z or outside ASCII, all eight compared in one word of arithmetic."""
    low = eight & np.uint64(0x7F7F7F7F7F7F7F7F)
    from_a = low + np.uint64(0x1F1F1F1F1F1F1F1F)  # bit 7 of a byte is set from `a` on
    past_z = low + np.uint64(0x0505050505050505)  # and here from `{` on
    return (((from_a & ~past_z) | eight) & np.uint64(0x8080808080808080)) != 0


def _continuation_bytes(
    codes: UInt8[np.ndarray, "N"], starts: Int64[np.ndarray, "W"], ends: Int64[np.ndarray, "W"]
) -> Int64[np.ndarray, "W"]:
    """Of each word, the bytes that only continue a character."""
    before = np.concatenate([[0], np.cumsum((codes & 0xC0) == 0x80)])
    return before[ends] - before[starts]


def _blocks(data: bytes) -> list[bytes]:
    """`data` cut at white space into blocks."""
    if len(data) <= BLOCK_BYTES:
        return [data]
    blocks, start = [], 0
    while start < len(data):
        end = min(start + BLOCK_BYTES, len(data))
        if end < len(data):
            cut = max(data.rfind(b" ", start, end), data.rfind(b"\n", start, end))
            end = cut + 1 if cut > start else end
        blocks.append(data[start:end])
        start = end
    return blocks
