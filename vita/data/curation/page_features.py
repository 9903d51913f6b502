"""Page features as arrays: lengths, hashes and letters of the words, and the lines; computed once for all filters.

Words are separated by Unicode white space, including no-break spaces, so that a rule counts words as a person does.
Scripts without spaces between words have their own rule in `scripts`. The arrays are computed by vectorized passes over
blocks of the UTF-8 bytes; a compiled kernel could replace `_measure` without a change to any filter.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from vita.data.curation.scripts import has_unspaced, main_script, unspaced_words, with_ascii_blanks
from vita.data.curation.word_runs import WordFeatures, WordRuns
from vita.data.curation.words import MIX_A, update_hashes, word_boundaries, word_chunks
from vita.data.records import Document

BLOCK_BYTES = 2**20
"""Bytes per block; limits the memory of the arrays for very long documents."""


class PageFeatures:
    """A document with the features that the filters use, computed when needed.

    `batch` contains the words of several documents, among them those of this one, which has the index `index`.
    """

    def __init__(
        self, document: Document, data: bytes | None = None, *, batch: WordRuns | None = None, index: int = 0
    ) -> None:
        self.document = document
        self.data = document.text.encode("utf-8", errors="replace") if data is None else data
        self._words, self._index = batch, index

    @property
    def text(self) -> str:
        return self.document.text

    @property
    def words(self) -> WordFeatures:
        """Return the words between white space, or phrases in scripts without spaces (see `word_count`)."""
        inside = self._batch.words_of(self._index)
        return WordFeatures(*(column[inside] for column in self._batch.words))

    @property
    def num_words(self) -> int:
        """Return the number of words between white space."""
        return int(self._batch.counts[self._index])

    @property
    def _batch(self) -> WordRuns:
        if self._words is None:
            parts = [_measure(block) for block in _blocks(self.data)]
            columns = zip(*parts, strict=True)
            self._words = WordRuns(parts[0] if len(parts) == 1 else WordFeatures(*map(np.concatenate, columns)))
        return self._words

    def words_up_to(self, limit: int) -> int:
        """Count the words up to about `limit` to save time on long texts; a number above `limit` is a lower bound."""
        words = self.data.split(None, limit) if self.data.isascii() else self.text.split(None, limit)
        if len(words) >= limit or self.data.isascii() or not has_unspaced(self.data):
            return len(words)
        return self.word_count

    def distinct_words(self, vocabulary: tuple[str, ...], *, limit: int) -> int:
        """Count how many words of the vocabulary occur; a number from `limit` on is a lower bound."""
        if len(self._batch.counts) > 1:
            return int(self._batch.distinct(vocabulary_hashes(vocabulary))[self._index])
        count = 0
        for value in vocabulary_hashes(vocabulary):
            if count >= limit:
                break
            count += bool((self.words.hashes == value).any())
        return count

    @cached_property
    def word_count(self) -> int:
        """Return the number of words, estimated from the characters in scripts without spaces."""
        if self.data.isascii() or not has_unspaced(self.data):
            return self.num_words
        return unspaced_words(self.text)

    @cached_property
    def script(self) -> str:
        """Return the script of most letters (see `scripts.main_script`)."""
        # Each character outside ASCII takes at least one more byte; below this ratio there are too few to matter.
        return "LATIN" if len(self.data) < 1.2 * len(self.text) else main_script(self.text)

    def run_lengths(self, n: int) -> Int64[np.ndarray, "..."]:
        """Return the number of characters of each n-gram."""
        return self._batch.run_lengths(n, self._index)

    def runs(self, n: int) -> UInt64[np.ndarray, "..."]:
        """Return a hash of each n-gram of words."""
        inside = self._batch.words_of(self._index)
        return self._batch.runs(n)[inside.start : max(inside.start, inside.stop - n + 1)]

    def has_frequent_runs(self, limits: tuple[float, ...]) -> bool:
        """Return True if the most frequent n-gram of 2, 3, ... words has more than its share of the characters."""
        return bool(self._batch.has_frequent_runs(limits)[self._index])

    def may_have_repeated_runs(self, n: int, limit: float) -> bool:
        """Return False if the words of repeated n-grams have at most this share of the characters."""
        return bool(self._batch.may_have_repeated_runs(n, limit)[self._index])

    @property
    def characters(self) -> int:
        """Return the characters of all words."""
        return int(self._batch.characters[self._index])

    @property
    def lettered_words(self) -> int:
        """Return the number of words with a letter."""
        return int(self._batch.lettered[self._index])

    @cached_property
    def lines(self) -> list[str]:
        """Return the lines that are not blank, without surrounding white space."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Return the paragraphs, separated by blank lines."""
        return [part for part in map(str.strip, re.split(r"\n\s*\n", self.text)) if part]

    @cached_property
    def lowered(self) -> bytes:
        """Return the UTF-8 bytes with A to Z in lower case."""
        return self.data.lower()


@lru_cache
def vocabulary_hashes(vocabulary: tuple[str, ...]) -> tuple[np.uint64, ...]:
    """Return the hashes of words as in `WordFeatures.hashes`."""
    return tuple(_measure(word.encode())[1][0] for word in vocabulary)


def repeated_share(pieces: list[str]) -> tuple[float, float]:
    """Return the share of pieces, and the share of their characters, that repeat an earlier piece."""
    counts = Counter(pieces)
    if len(counts) == len(pieces):
        return 0.0, 0.0
    repeats = sum(len(piece) * (count - 1) for piece, count in counts.items() if count > 1)
    return 1 - len(counts) / len(pieces), repeats / max(1, sum(map(len, pieces)))


# -- the vectorised pass


def _measure(data: bytes) -> WordFeatures:
    """Measure the words of a block."""
    return measure_words(data if data.isascii() else with_ascii_blanks(data))[0]


def measure_words(data: bytes) -> tuple[WordFeatures, Int64[np.ndarray, "W"], Int64[np.ndarray, "W"]]:
    """Measure the words of UTF-8 without white space outside ASCII; return them with their start and stop bytes.

    Bytes are read in chunks of eight, so that most words take one read.
    """
    codes = np.frombuffer(data, np.uint8)
    starts, stops = word_boundaries(codes)
    size = stops - starts
    hashes, lettered = np.zeros(0, np.uint64), np.zeros(0, bool)
    for indices, chunk in word_chunks(data.lower(), starts, size):
        if indices is None:
            hashes = (chunk ^ size.astype(np.uint64)) * MIX_A
            lettered = _has_letter(chunk)
        else:
            update_hashes(hashes, indices, chunk)
            if not lettered[indices].all():
                lettered[indices] |= _has_letter(chunk)
    hashes ^= hashes >> np.uint64(29)
    lengths = size if data.isascii() else size - _continuation_bytes(codes, starts)
    return WordFeatures(lengths, hashes, lettered), starts, stops


def _has_letter(chunk: UInt64[np.ndarray, "W"]) -> Bool[np.ndarray, "W"]:
    """Return True where one of eight bytes is a to z or outside ASCII; all eight bytes are compared at once."""
    low = chunk & np.uint64(0x7F7F7F7F7F7F7F7F)
    from_a = low + np.uint64(0x1F1F1F1F1F1F1F1F)  # bit 7 of a byte is set from `a` on
    past_z = low + np.uint64(0x0505050505050505)  # and here from `{` on
    return (((from_a & ~past_z) | chunk) & np.uint64(0x8080808080808080)) != 0


def _continuation_bytes(codes: UInt8[np.ndarray, "N"], starts: Int64[np.ndarray, "W"]) -> Int64[np.ndarray, "W"]:
    """Return the number of UTF-8 continuation bytes of each word."""
    is_continuation = codes.view(np.int8) < -64  # 0x80 to 0xBF
    positions = np.flatnonzero(is_continuation)
    if len(positions) > len(starts):
        return np.add.reduceat(is_continuation, starts, dtype=np.int64)  # there are none between words
    return np.bincount(np.searchsorted(starts, positions, side="right") - 1, minlength=len(starts))


def _blocks(data: bytes) -> list[bytes]:
    """Split `data` at white space into blocks."""
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
