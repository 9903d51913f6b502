"""A batch of small documents with arrays of all their words and lines, from which filters screen them together.

Words and lines are those of `PageFeatures`. A batch of small documents takes a fraction of the time of single ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from vita.data.curation.page_features import PageFeatures, measure_words
from vita.data.curation.scripts import LEAD_BYTES, with_ascii_blanks
from vita.data.curation.word_runs import WordRuns
from vita.data.records import Document


class Lines(NamedTuple):
    """The lines of a batch that are not blank, in order."""

    first_words: Int64[np.ndarray, "L"]
    """Index of the first word of each line."""
    last_words: Int64[np.ndarray, "L"]
    counts: Int64[np.ndarray, "D"]
    """Number of lines of each document."""


class PageBatch:
    """D documents with their UTF-8, which is normalized (see `normalize_text`)."""

    def __init__(self, documents: Sequence[tuple[Document, bytes]]) -> None:
        self.documents = documents
        plain = [data if data.isascii() else with_ascii_blanks(data) for _, data in documents]
        self.data = b"\n".join(plain)
        """The UTF-8 of all documents with one line feed between them, and with spaces for blanks outside ASCII."""
        self.codes: UInt8[np.ndarray, "N"] = np.frombuffer(self.data, np.uint8)
        self._ends = np.cumsum([len(data) + 1 for data in plain])
        words, self.word_starts, self.word_stops = measure_words(self.data)
        self.runs = WordRuns(words, np.searchsorted(self.word_starts, self._ends))

    def page(self, index: int) -> PageFeatures:
        """Return the features of a document."""
        return PageFeatures(*self.documents[index], batch=self.runs, index=index)

    def count(self, positions: Int64[np.ndarray, "P"]) -> Int64[np.ndarray, "D"]:
        """Return how many of the positions in `data`, in ascending order, are in each document."""
        return np.diff(np.searchsorted(positions, self._ends), prepend=0)

    def count_byte(self, code: int) -> Int64[np.ndarray, "D"]:
        """Return how often a byte occurs in each document."""
        return self.count(np.flatnonzero(self.codes == code))

    @cached_property
    def may_have_unspaced(self) -> Bool[np.ndarray, "D"]:
        """Return False for documents without characters of scripts that have no spaces between words."""
        if self.data.isascii():
            return np.zeros(len(self.documents), bool)
        positions = np.flatnonzero(self.codes >= 0xE0)
        return self.count(positions[_IS_LEAD[self.codes[positions]]]) > 0

    @cached_property
    def lines(self) -> Lines:
        """Return the lines that are not blank."""
        num_words = len(self.word_starts)
        after_line_end = np.searchsorted(self.word_starts, np.flatnonzero(self.codes == ord("\n")))
        first = np.concatenate([[0], after_line_end, [num_words]])
        first = first[:-1][first[1:] != first[:-1]]
        last = np.append(first[1:], num_words)[: len(first)] - 1
        return Lines(first, last, np.diff(np.searchsorted(first, self.runs.stops), prepend=0))

    def count_lines(self, selected: Bool[np.ndarray, "L"]) -> Int64[np.ndarray, "D"]:
        """Return the number of selected lines of each document."""
        return np.diff(np.searchsorted(np.flatnonzero(selected), np.cumsum(self.lines.counts)), prepend=0)

    @cached_property
    def lowered(self) -> bytes:
        """Return `data` with A to Z in lower case."""
        return self.data.lower()


_IS_LEAD = np.zeros(256, bool)
_IS_LEAD[list(LEAD_BYTES)] = True
