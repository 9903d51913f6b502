"""Shingle sets and MinHash bands of documents, for the search of near duplicates.

A shingle is a run of `size` words, represented by a 32-bit hash. Words are runs of letters and digits without regard to
case and punctuation; in scripts without spaces between words, each character is a word.

The signature is a one-permutation MinHash (Li, Owen and Zhang 2012): the hashes of a document are distributed to bins,
and the smallest of each bin is its value. Empty bins take the value of another bin (optimal densification, Shrivastava
2017). Consecutive values form bands, and documents that share a band are compared (locality-sensitive hashing).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt32

from vita.data.curation.scripts import has_unspaced, separate_unspaced
from vita.data.curation.words import MIX_A, MIX_B, hash_words, word_boundaries

BINS = 256
"""Number of values in a signature."""
BATCH_BYTES = 2**21
"""Bytes of text that are processed at once; limits the memory of the arrays."""
_MIN_DETECTION = 0.9999
"""Probability with which a pair of documents at the threshold must share a band."""
_PUNCTUATION = re.compile(rb"\xc2[\x80-\xbf]|\xe2[\x80-\xaf].|\xe3\x80.|\xef[\xb8-\xbd].|\xf0\x9f..", re.DOTALL)
"""UTF-8 of U+0080-00BF, U+2000-2BFF, U+3000-303F, U+FE00-FF7F and U+1F000-1FFFF: punctuation, symbols and emoji."""


@dataclass(frozen=True)
class SketchOptions:
    """The size of shingles in words, and the threshold that determines the bands."""

    size: int
    threshold: float

    @property
    def rows(self) -> int:
        """Number of values in a band."""
        return rows_per_band(self.threshold)


class ShingleSets(NamedTuple):
    """The distinct shingles of several documents."""

    hashes: UInt32[np.ndarray, "S"]
    """The hashes of all documents, in ascending order within a document."""
    counts: Int64[np.ndarray, "D"]
    """Number of distinct shingles of each document."""


def shingle_sets(texts: Sequence[bytes], *, size: int) -> ShingleSets:
    """Return the shingles of texts, which are in the form of `comparable_bytes`."""
    plain = list(map(_plain_words, texts))
    data = b"\n".join(plain)
    starts, stops = word_boundaries(np.frombuffer(data, np.uint8))
    hashes = hash_words(data, starts, stops - starts)
    ends = np.cumsum([len(words) + 1 for words in plain])
    document = np.searchsorted(ends, starts, side="right")
    runs = len(hashes) - size + 1
    if runs <= 0:
        return ShingleSets(np.zeros(0, np.uint32), np.zeros(len(texts), np.int64))
    combined = hashes[:runs].copy()
    for offset in range(1, size):
        combined *= MIX_A
        combined ^= combined >> np.uint64(31)
        combined += hashes[offset : offset + runs]
    combined *= MIX_B
    inside = document[:runs] == document[size - 1 :]  # a shingle does not extend over two documents
    keys = (document[:runs].astype(np.uint64) << np.uint64(32)) | (combined >> np.uint64(32))
    keys = np.sort(keys[inside])
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
    counts = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(texts))
    return ShingleSets(keys.astype(np.uint32), counts)


class SketchWriter:
    """Collects documents and computes their shingles in batches."""

    def __init__(self, options: SketchOptions) -> None:
        self._options = options
        self._sets: list[ShingleSets] = []
        self._texts: list[bytes] = []
        self._bytes = 0

    def add(self, comparable: bytes) -> None:
        """Add a document in the form of `comparable_bytes`."""
        self._texts.append(comparable)
        self._bytes += len(comparable)
        if self._bytes >= BATCH_BYTES:
            self._flush()

    def finish(self) -> ShingleSets:
        """Return the shingles of all documents in order."""
        self._flush()
        return ShingleSets(*(np.concatenate(columns) for columns in zip(*self._sets, strict=True)))

    def _flush(self) -> None:
        if self._texts:
            self._sets.append(shingle_sets(self._texts, size=self._options.size))
        self._texts, self._bytes = [], 0


def _plain_words(text: bytes) -> bytes:
    """Return the words separated by spaces."""
    if not text.isascii():
        text = _PUNCTUATION.sub(b" ", text)
        if has_unspaced(text):
            text = separate_unspaced(text.decode("utf-8")).encode("utf-8")
    return text.translate(_WORD_BYTES)


_WORD_BYTES = bytes(code if code >= 128 or chr(code).isalnum() else 32 for code in range(256))
"""Translation of ASCII characters that are neither letters nor digits to spaces."""


def signatures(shingles: ShingleSets) -> UInt32[np.ndarray, "D 256"]:
    """Return the smallest hash of each bin; rows of documents without shingles are all equal to `EMPTY`."""
    documents = np.repeat(np.arange(len(shingles.counts)), shingles.counts)
    bins = shingles.hashes >> np.uint32(24)
    is_first = np.ones(len(bins), bool)
    is_first[1:] = (bins[1:] != bins[:-1]) | (documents[1:] != documents[:-1])
    values = np.full((len(shingles.counts), BINS), EMPTY, np.uint32)
    values[documents[is_first], bins[is_first]] = shingles.hashes[is_first] & np.uint32(0xFFFFFF)
    filled = values.copy()
    rows, missing = np.nonzero((values == EMPTY) & (shingles.counts > 0)[:, None])
    for donor in _DONORS:
        if not len(rows):
            break
        donated = values[rows, donor[missing]]
        filled[rows, missing] = donated
        rows, missing = rows[donated == EMPTY], missing[donated == EMPTY]
    return filled


EMPTY = np.uint32(0xFFFFFFFF)
"""Value of a bin without a shingle."""
_DONORS = [np.random.default_rng(seed).permutation(BINS) for seed in range(64)] + [
    np.roll(np.arange(BINS), shift) for shift in range(1, BINS)
]
"""For each attempt, the bin from which an empty bin takes its value; the last attempts reach every bin."""


def rows_per_band(threshold: float) -> int:
    """Return the largest number of rows with which a pair with Jaccard index `threshold` almost always shares a band.

    With r rows and b bands, the probability is 1 - (1 - threshold^r)^b (Leskovec et al., Mining of Massive Datasets,
    section 3.4).
    """
    rows = 1
    while rows < 16 and 1 - (1 - threshold ** (rows + 1)) ** (BINS // (rows + 1)) >= _MIN_DETECTION:
        rows += 1
    return rows


def band_keys(values: UInt32[np.ndarray, "D 256"], *, rows: int) -> UInt32[np.ndarray, "B D"]:
    """Return a hash of each band of `rows` values; equal hashes are candidates, which are verified."""
    bands = values[:, : BINS // rows * rows].reshape(len(values), -1, rows)
    keys = np.zeros(bands.shape[:2], np.uint64)
    for row in range(rows):
        keys = (keys ^ bands[:, :, row]) * MIX_A
        keys ^= keys >> np.uint64(32)
    return np.ascontiguousarray((keys * MIX_B >> np.uint64(32)).astype(np.uint32).T)
