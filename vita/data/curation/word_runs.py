"""The words of several documents with the statistics of their n-grams, computed for all documents at once.

A filter computes the value of a rule only for pages that violate it, or whose bound does.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from vita.data.curation.words import MIX_A, MIX_B

_SLOT_BITS = 8
"""Bits of the hash in the bound of the most frequent n-gram: 256 slots for each document."""


class WordFeatures(NamedTuple):
    """The words of a text in order."""

    lengths: Int64[np.ndarray, "W"]
    """Characters of each word."""
    hashes: UInt64[np.ndarray, "W"]
    """Equal for words that differ at most in the case of A to Z."""
    lettered: Bool[np.ndarray, "W"]
    """True for words that contain a letter; every character outside ASCII counts as a letter."""


class EqualRuns(NamedTuple):
    """Counts of equal n-grams in each document."""

    highest: Int64[np.ndarray, "D"]
    """Occurrences of the most frequent n-gram; 0 without n-grams."""
    longest: Int64[np.ndarray, "D"]
    """Characters of the longest of the most frequent n-grams; 0 if no n-gram is repeated."""
    repeated: Int64[np.ndarray, "D"]
    """Characters of the n-grams that occurred before."""


class WordRuns:
    """The words of D documents in order, with their n-grams; each statistic is computed when it is first needed."""

    def __init__(self, words: WordFeatures, stops: Int64[np.ndarray, "D"] | None = None) -> None:
        """`stops` are the indices after the last word of each document; None for one document."""
        self.words = words
        self.stops = np.array([len(words.lengths)]) if stops is None else stops
        self._starts = np.concatenate([[0], self.stops[:-1]])
        self.counts = self.stops - self._starts
        """Number of words of each document."""
        self._cumulative_length = np.concatenate([[0], np.cumsum(words.lengths)])
        self.characters: Int64[np.ndarray, "D"] = self._sums(self._cumulative_length)
        """Characters of all words of each document."""
        self._runs: dict[int, UInt64[np.ndarray, "..."]] = {1: words.hashes}
        self._documents = np.repeat(np.arange(len(self.counts)), self.counts)
        self._marks = np.repeat(np.arange(len(self.counts), dtype=np.uint64) * MIX_B, self.counts)
        """A number of the document of each word: n-grams of different documents have different keys."""
        self._flags: dict[tuple[float, ...], Bool[np.ndarray, "D"]] = {}
        self._distinct: dict[tuple[np.uint64, ...], Int64[np.ndarray, "D"]] = {}

    def words_of(self, document: int) -> slice:
        """Return the indices of the words of a document."""
        return slice(int(self._starts[document]), int(self.stops[document]))

    @cached_property
    def lettered(self) -> Int64[np.ndarray, "D"]:
        """Return the number of words with a letter in each document."""
        return self._sums(np.concatenate([[0], np.cumsum(self.words.lettered)]))

    def distinct(self, vocabulary: tuple[np.uint64, ...]) -> Int64[np.ndarray, "D"]:
        """Return the number of distinct words of a vocabulary of hashes in each document."""
        if vocabulary not in self._distinct:
            ordered = np.unique(np.array(vocabulary, np.uint64))
            # Most words differ in the highest byte of the hash, which a table finds faster than a search.
            is_highest_byte = np.zeros(256, bool)
            is_highest_byte[(ordered >> np.uint64(56)).astype(np.int64)] = True
            hashes = self.words.hashes
            positions = np.flatnonzero(is_highest_byte[(hashes >> np.uint64(56)).astype(np.uint8)])
            indices = np.minimum(np.searchsorted(ordered, hashes[positions]), len(ordered) - 1)
            is_word = ordered[indices] == hashes[positions]
            positions, indices = positions[is_word], indices[is_word]
            occurs = np.zeros((len(self.stops), len(ordered)), bool)
            occurs[self._documents[positions], indices] = True
            self._distinct[vocabulary] = occurs.sum(axis=1)
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
        inside = self.words_of(document)
        cumulative = self._cumulative_length[inside.start : inside.stop + 1]
        return cumulative[n:] - cumulative[:-n]

    def has_frequent_runs(self, limits: tuple[float, ...]) -> Bool[np.ndarray, "D"]:
        """Return True for documents in which the most frequent n-gram of 2, 3, ... words has more than its share.

        The share is that of its occurrences in the characters; an n-gram that occurs once is not frequent.
        """
        if limits not in self._flags:
            counts = self.counts
            has_frequent = np.zeros(len(counts), bool)
            for n, limit in enumerate(limits, 2):
                # No n-gram is more frequent than a shorter one. These bounds make most counts unnecessary.
                longest = self._longest(n)
                if (counts * longest > limit * self.characters).any():
                    counts = np.minimum(counts, self._highest_bound(n))
                if (uncertain := counts * longest > limit * self.characters).any():
                    runs = self._equal_runs(n, uncertain)
                    counts = np.where(uncertain, runs.highest, counts)
                    shares = runs.highest * runs.longest / np.maximum(self.characters, 1)
                    has_frequent |= (runs.highest > 1) & (shares > limit)
            self._flags[limits] = has_frequent
        return self._flags[limits]

    def may_have_repeated_runs(self, n: int, limit: float) -> Bool[np.ndarray, "D"]:
        """Return False for documents in which the words of repeated n-grams have at most a share of the characters.

        The bound counts words that are in several n-grams as often.
        """
        if (n, limit) not in self._flags:
            self._flags[n, limit] = self._equal_runs(n).repeated > limit * self.characters
        return self._flags[n, limit]

    def _highest_bound(self, n: int) -> Int64[np.ndarray, "D"]:
        """Return an upper bound of the occurrences of the most frequent n-gram of each document.

        It is the largest number of n-grams with equal highest bits of the hash.
        """
        keys = self.runs(n)
        slots = (keys >> np.uint64(64 - _SLOT_BITS)).astype(np.int64)
        slots += self._documents[: len(keys)] << _SLOT_BITS
        sizes = np.bincount(slots, minlength=len(self.counts) << _SLOT_BITS)
        return sizes.reshape(len(self.counts), -1).max(axis=1)

    def _longest(self, n: int) -> Int64[np.ndarray, "D"]:
        """Return the number of characters of the longest n-gram of each document; 0 without n-grams."""
        lengths = self._cumulative_length[n:] - self._cumulative_length[:-n]
        lengths *= self._documents[n - 1 :] == self._documents[: len(lengths)]
        longest = np.zeros(len(self.counts), np.int64)
        present = self.counts >= n
        if present.any():
            longest[present] = np.maximum.reduceat(lengths, self._starts[present])
        return longest

    def _equal_runs(self, n: int, selected: Bool[np.ndarray, "D"] | None = None) -> EqualRuns:
        """Return the counts of equal n-grams in each document, or in the selected ones; they are 0 for the others."""
        keys = self.runs(n)
        keys = keys ^ self._marks[: len(keys)]
        if selected is None or selected.all():
            first = _with_equal_slots(keys)
        else:
            first = np.flatnonzero(np.repeat(selected, self.counts)[: len(keys)])
            first = first[_with_equal_slots(keys[first])]
        first = first[self._documents[first] == self._documents[first + n - 1]]
        first = first[np.argsort(keys[first])]
        keys = keys[first]
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
        sizes = np.diff(starts, append=len(keys))
        starts, sizes = starts[sizes > 1], sizes[sizes > 1]
        first = first[starts]
        documents = self._documents[first]
        result = EqualRuns(*(np.zeros(len(self.counts), np.int64) for _ in EqualRuns._fields))
        result.highest[(self.counts >= n) & (selected is None or selected)] = 1
        np.maximum.at(result.highest, documents, sizes)
        lengths = self._cumulative_length[first + n] - self._cumulative_length[first]
        np.add.at(result.repeated, documents, (sizes - 1) * lengths)
        is_highest = sizes == result.highest[documents]
        np.maximum.at(result.longest, documents[is_highest], lengths[is_highest])
        return result

    def _sums(self, cumulative: Int64[np.ndarray, "..."]) -> Int64[np.ndarray, "D"]:
        return cumulative[self.stops] - cumulative[self._starts]


def _with_equal_slots(keys: UInt64[np.ndarray, "K"]) -> Int64[np.ndarray, "P"]:
    """Return the positions of the keys that may equal another one, in a fraction of the time of a sort.

    Each key writes its position into the slot of its highest bits; keys of a slot with another position share it.
    """
    bits = max(12, (8 * len(keys)).bit_length())
    slots = (keys >> np.uint64(64 - bits)).astype(np.int64)
    positions = np.arange(len(keys), dtype=np.int32)
    last_of_slot = np.empty(2**bits, np.int32)
    last_of_slot[slots] = positions
    last = last_of_slot[slots]
    earlier = np.flatnonzero(last != positions)
    shares_slot = np.zeros(len(keys), bool)
    shares_slot[earlier] = shares_slot[last[earlier]] = True
    return np.flatnonzero(shares_slot)
