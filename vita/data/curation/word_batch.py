"""The words of a batch of documents as hashes, from which n-grams are computed for all documents at once.

Words are runs of letters and digits without regard to case and punctuation; in scripts without spaces between words,
each character is a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from vita.data.curation.scripts import has_unspaced, separate_unspaced
from vita.data.curation.words import MIX_A, MIX_B, hash_words, word_boundaries

_PUNCTUATION = re.compile(rb"\xc2[\x80-\xbf]|\xe2[\x80-\xaf].|\xe3\x80.|\xef[\xb8-\xbd].|\xf0\x9f..", re.DOTALL)
"""UTF-8 of U+0080-00BF, U+2000-2BFF, U+3000-303F, U+FE00-FF7F and U+1F000-1FFFF: punctuation, symbols and emoji."""


class WordBatch(NamedTuple):
    """The words of several documents in order."""

    hashes: UInt64[np.ndarray, "W"]
    documents: Int64[np.ndarray, "W"]
    """Index of the document of each word, in ascending order."""
    num_documents: int

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> WordBatch:
        """Return the words of texts, which are in the form of `comparable_bytes`."""
        plain = list(map(_plain_words, texts))
        data = b"\n".join(plain)
        starts, stops = word_boundaries(np.frombuffer(data, np.uint8))
        ends = np.cumsum([len(words) + 1 for words in plain])
        counts = np.diff(np.searchsorted(starts, ends), prepend=0)
        documents = np.repeat(np.arange(len(texts)), counts)
        return cls(hash_words(data, starts, stops - starts), documents, len(texts))

    def select(self, mask: Bool[np.ndarray, "D"]) -> WordBatch:
        """Return the words of the documents in the mask, with new document indices."""
        if mask.all():
            return self
        inside = mask[self.documents]
        indices = np.cumsum(mask) - 1
        return WordBatch(self.hashes[inside], indices[self.documents[inside]], int(mask.sum()))

    def ngrams(self, n: int) -> NGrams:
        """Return the n-grams inside the documents; equal runs of words have equal hashes."""
        count = max(0, len(self.hashes) - n + 1)
        inside = self.documents[:count] == self.documents[len(self.documents) - count :]
        return NGrams(_runs(self.hashes, n)[inside] * MIX_B, np.flatnonzero(inside))


class NGrams(NamedTuple):
    """The n-grams of a batch in order."""

    hashes: UInt64[np.ndarray, "G"]
    starts: Int64[np.ndarray, "G"]
    """Index of the first word of each n-gram."""


def _runs(hashes: UInt64[np.ndarray, "W"], n: int) -> UInt64[np.ndarray, "R"]:
    """Return a hash of each run of `n` words, combined from two shorter runs."""
    if n == 1:
        return hashes
    second = n // 2
    first = n - second
    right = _runs(hashes, second)
    left = right if first == second else _runs(hashes, first)
    runs = left[: max(0, len(right) - first)] * MIX_A
    runs ^= runs >> np.uint64(31)
    runs += right[first:]
    return runs


def _plain_words(text: bytes) -> bytes:
    """Return the words separated by spaces."""
    if not text.isascii():
        text = _PUNCTUATION.sub(b" ", text)
        if has_unspaced(text):
            text = separate_unspaced(text.decode("utf-8")).encode("utf-8")
    return text.translate(_WORD_BYTES)


_WORD_BYTES = bytes(code if code >= 128 or chr(code).isalnum() else 32 for code in range(256))
"""Translation of ASCII characters that are neither letters nor digits to spaces."""
