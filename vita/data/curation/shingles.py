"""Shingle sets and MinHash bands of documents, for the search of near duplicates.

A shingle is a run of `size` words (see `word_batch`), represented by a 32-bit hash.

The signature is a one-permutation MinHash (Li, Owen and Zhang 2012): the hashes of a document are distributed to bins,
and the smallest of each bin is its value. Empty bins take the value of another bin (optimal densification, Shrivastava
2017). Consecutive values form bands, and documents that share a band are compared (locality-sensitive hashing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt32

from vita.data.curation.word_batch import WordBatch
from vita.data.curation.words import MIX_A, MIX_B

BINS = 256
"""Number of values in a signature."""
_DOCUMENTS_AT_ONCE = 512
"""Documents whose signatures are computed at once; limits the memory of the arrays."""
_MIN_DETECTION = 0.9999
"""Probability with which a pair of documents at the threshold must share a band."""


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


def shingle_sets(batch: WordBatch, *, size: int) -> ShingleSets:
    """Return the distinct shingles of the documents of a batch."""
    grams = batch.ngrams(size)
    documents = batch.documents[grams.starts].astype(np.uint64)
    keys = np.sort((documents << np.uint64(32)) | (grams.hashes >> np.uint64(32)))
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
    counts = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=batch.num_documents)
    return ShingleSets(keys.astype(np.uint32), counts)


def concatenate(sets: Sequence[ShingleSets]) -> ShingleSets:
    """Return the shingles of all batches in order."""
    return ShingleSets(*(np.concatenate(columns) for columns in zip(*sets, strict=True)))


def signatures(shingles: ShingleSets) -> UInt32[np.ndarray, "D 256"]:
    """Return the smallest hash of each bin; rows of documents without shingles are all equal to `EMPTY`."""
    result = np.empty((len(shingles.counts), BINS), np.uint32)
    first = 0
    for start in range(0, len(result), _DOCUMENTS_AT_ONCE):
        counts = shingles.counts[start : start + _DOCUMENTS_AT_ONCE]
        stop = first + int(counts.sum())
        result[start : start + len(counts)] = _signatures(ShingleSets(shingles.hashes[first:stop], counts))
        first = stop
    return result


def _signatures(shingles: ShingleSets) -> UInt32[np.ndarray, "D 256"]:
    slots = np.repeat(np.arange(len(shingles.counts)) * BINS, shingles.counts)
    slots += shingles.hashes >> np.uint32(24)
    is_first = np.ones(len(slots), bool)
    np.not_equal(slots[1:], slots[:-1], out=is_first[1:])
    values = np.full(len(shingles.counts) * BINS, EMPTY, np.uint32)
    values[slots[is_first]] = shingles.hashes[is_first] & np.uint32(0xFFFFFF)
    filled = values.copy()
    is_missing = (values == EMPTY).reshape(-1, BINS)
    is_missing[shingles.counts == 0] = False
    missing = np.flatnonzero(is_missing)
    for donor in _DONORS:
        if not len(missing):
            break
        bins = missing & (BINS - 1)
        donated = values[missing - bins + donor[bins]]
        filled[missing] = donated
        missing = missing[donated == EMPTY]
    return filled.reshape(-1, BINS)


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
