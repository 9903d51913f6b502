"""The words of several documents with the statistics of their n-grams, computed for all documents at once.

The counts of equal n-grams are upper bounds for a batch of documents, and exact for a single document: the filters
compute the exact value only for pages whose bound violates a rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from vita.data.curation.words import MIX_A


class WordFeatures(NamedTuple):
    """The words of a text in order."""

    lengths: Int64[np.ndarray, "W"]
    """Characters of each word."""
    hashes: UInt64[np.ndarray, "W"]
    """Equal for words that differ at most in the case of A to Z."""
    lettered: Bool[np.ndarray, "W"]
    """True for words that contain a letter; every character outside ASCII counts as a letter."""


class EqualRuns(NamedTuple):
    """Counts of equal n-grams in each document; too large if two different n-grams have the same shortened hash."""

    highest: Int64[np.ndarray, "S"]
    """Occurrences of the most frequent n-gram; 0 without n-grams."""
    repeats: Int64[np.ndarray, "S"]
    """Number of n-grams that occurred before."""


class WordRuns:
    """The words of D documents in order, with their n-grams; each statistic is computed when it is first needed."""

    def __init__(self, words: WordFeatures, stops: Int64[np.ndarray, "D"] | None = None) -> None:
        """`stops` are the indices after the last word of each document; None for one document."""
        self.words = words
        self._stops = np.array([len(words.lengths)]) if stops is None else stops
        self._starts = np.concatenate([[0], self._stops[:-1]])
        self.first, self.stop = self._starts.tolist(), self._stops.tolist()
        self._cumulative_length = np.concatenate([[0], np.cumsum(words.lengths)])
        self.characters: list[int] = self._sums(self._cumulative_length)
        """Characters of all words of each document."""
        self._runs: dict[int, UInt64[np.ndarray, "..."]] = {1: words.hashes}
        self._suspects: dict[tuple[float, ...], list[bool]] = {}
        self._lettered: list[int] | None = None
        self._distinct: dict[tuple[np.uint64, ...], list[int]] = {}

    @property
    def lettered(self) -> list[int]:
        """Return the number of words with a letter in each document."""
        if self._lettered is None:
            self._lettered = self._sums(np.concatenate([[0], np.cumsum(self.words.lettered)]))
        return self._lettered

    def distinct(self, vocabulary: tuple[np.uint64, ...]) -> list[int]:
        """Return the number of distinct words of a vocabulary of hashes in each document."""
        if vocabulary not in self._distinct:
            ordered = np.unique(np.array(vocabulary, np.uint64))
            indices = np.minimum(np.searchsorted(ordered, self.words.hashes), len(ordered) - 1)
            positions = np.flatnonzero(ordered[indices] == self.words.hashes)
            documents = np.searchsorted(self._stops, positions, side="right")
            occurs = np.zeros((len(self._stops), len(ordered)), bool)
            occurs[documents, indices[positions]] = True
            self._distinct[vocabulary] = occurs.sum(axis=1).tolist()
        return self._distinct[vocabulary]

    def runs(self, n: int) -> UInt64[np.ndarray, "..."]:
        """Return a hash of each n-gram, combined from the hashes of two shorter n-grams."""
        if n not in self._runs:
            second = n // 2
            first = n - second
            left, right = self.runs(first), self.runs(second)
            runs = left[: max(0, len(right) - first)] * MIX_A
            runs ^= runs >> np.uint64(31)
            runs += right[first:]
            self._runs[n] = runs
        return self._runs[n]

    def run_lengths(self, n: int, document: int) -> Int64[np.ndarray, "..."]:
        """Return the number of characters of each n-gram of a document."""
        cumulative = self._cumulative_length[self.first[document] : self.stop[document] + 1]
        return cumulative[n:] - cumulative[:-n]

    def frequent_run_suspects(self, limits: tuple[float, ...]) -> list[bool]:
        """Return False for documents in which no n-gram of 2, 3, ... words has more than its share of the characters.

        The bound is the number of occurrences of the most frequent n-gram times the length of the longest one.
        """
        if limits not in self._suspects:
            counts = self._stops - self._starts
            characters = np.array(self.characters)
            suspects = np.zeros(len(counts), bool)
            for n, limit in enumerate(limits, 2):
                longest = self._longest(n)
                # No n-gram is more frequent than a shorter one: this bound makes most counts unnecessary.
                uncertain = counts * longest > limit * characters
                if uncertain.any():
                    counts[uncertain] = self._equal_runs(n, uncertain).highest
                    suspects |= (counts > 1) & (counts * longest > limit * characters)
            self._suspects[limits] = suspects.tolist()
        return self._suspects[limits]

    def repeated_run_suspects(self, n: int, limit: float) -> list[bool]:
        """Return False for documents in which the words of repeated n-grams have at most a share of the characters."""
        if (n, limit) not in self._suspects:
            repeats = self._equal_runs(n, np.ones(len(self._stops), bool)).repeats
            self._suspects[n, limit] = (repeats * self._longest(n) > limit * np.array(self.characters)).tolist()
        return self._suspects[n, limit]

    def _longest(self, n: int) -> Int64[np.ndarray, "D"]:
        """Return the number of characters of the longest n-gram of each document; 0 without n-grams."""
        counts, indices = self._inside(n, np.ones(len(self._stops), bool))
        lengths = self._cumulative_length[indices + n] - self._cumulative_length[indices]
        return _by_document(np.maximum.reduceat, lengths, counts)

    def _equal_runs(self, n: int, selected: Bool[np.ndarray, "D"]) -> EqualRuns:
        """Return the counts of equal n-grams in each of the S selected documents."""
        counts, indices = self._inside(n, selected)
        keys = self.runs(n)[indices]
        if len(counts) > 1:
            # The index of the document takes the place of the lowest bits of the hash.
            bits = np.uint64((len(counts) - 1).bit_length())
            documents = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)
            keys = (keys >> bits) | (documents << (np.uint64(64) - bits))
        keys.sort()
        is_new = np.ones(len(keys), bool)
        np.not_equal(keys[1:], keys[:-1], out=is_new[1:])
        group_starts = np.flatnonzero(is_new)
        sizes = np.diff(group_starts, append=len(keys))
        # The first n-gram of a document begins a group, because the keys of two documents differ.
        ends = np.cumsum(counts)
        groups = np.diff(np.searchsorted(group_starts, ends), prepend=0)
        return EqualRuns(_by_document(np.maximum.reduceat, sizes, groups), counts - groups)

    def _inside(
        self, n: int, selected: Bool[np.ndarray, "D"]
    ) -> tuple[Int64[np.ndarray, "S"], Int64[np.ndarray, "..."]]:
        """Return the number of n-grams of each selected document, and the indices of their first words."""
        starts = self._starts[selected]
        counts = np.maximum(self._stops[selected] - starts - (n - 1), 0)
        before = np.cumsum(counts) - counts
        return counts, np.repeat(starts - before, counts) + np.arange(counts.sum())

    def _sums(self, cumulative: Int64[np.ndarray, "..."]) -> list[int]:
        return (cumulative[self._stops] - cumulative[self._starts]).tolist()


def _by_document(
    reduce: Callable[..., Int64[np.ndarray, "..."]], values: Int64[np.ndarray, "V"], counts: Int64[np.ndarray, "D"]
) -> Int64[np.ndarray, "D"]:
    """Reduce the values of each document, which has `counts` of them in order; 0 for a document without values."""
    result = np.zeros(len(counts), np.int64)
    present = counts > 0
    if present.any():
        result[present] = reduce(values, (np.cumsum(counts) - counts)[present])
    return result
