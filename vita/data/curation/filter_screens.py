"""Screens: fast checks of a batch of documents that find those which a filter certainly keeps.

    SCREENS["length"](batch, min_words=50, max_words=0)        # array([True, False, ...])

A screen compares bounds of the values that its filter compares. The filter itself decides about the other documents,
so screens do not change results. A filter needs no screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import Bool

from vita.data.curation.gopher_filters import BULLETS, ELLIPSES
from vita.data.curation.page_batch import PageBatch
from vita.data.curation.page_features import vocabulary_hashes
from vita.data.curation.stop_words import stop_words_of
from vita.data.curation.web_filters import NOTICES, PLACEHOLDER
from vita.data.curation.words import MIX_A

KeepMask = Bool[np.ndarray, "D"]
Screen = Callable[..., KeepMask]


def length(batch: PageBatch, *, min_words: int, max_words: int) -> KeepMask:
    """Screen for `length`."""
    words = batch.runs.counts
    mask = (words >= min_words) & ~batch.may_have_unspaced
    return mask & (words <= max_words) if max_words else mask


def gopher_quality(
    batch: PageBatch,
    *,
    min_mean_word_length: float,
    max_mean_word_length: float,
    max_symbol_ratio: float,
    max_bullet_line_ratio: float,
    max_ellipsis_line_ratio: float,
    min_alpha_ratio: float,
    stop_words: tuple[str, ...] | None,
    min_stop_words: int,
) -> KeepMask:
    """Screen for `gopher_quality`."""
    runs, lines = batch.runs, batch.lines
    words = np.maximum(runs.counts, 1)
    mean = runs.characters / words
    mask = (runs.counts > 0) & ~batch.may_have_unspaced
    mask &= (mean >= min_mean_word_length) & (mean <= max_mean_word_length)
    mask &= runs.lettered / words >= min_alpha_ratio
    for symbols in (batch.count_byte(ord("#")), batch.count_byte(ord(".")) // 3, batch.count_byte("…".encode()[-1])):
        mask &= symbols / words <= max_symbol_ratio
    bullets = _BULLET_BYTES[batch.codes[batch.word_starts[lines.first_words]]]
    mask &= batch.count_lines(bullets) <= max_bullet_line_ratio * lines.counts
    ends = batch.word_stops[lines.last_words]
    ellipses = np.isin(batch.codes[ends - 2] * np.int64(256) + batch.codes[ends - 1], _ELLIPSIS_ENDS)
    mask &= batch.count_lines(ellipses) <= max_ellipsis_line_ratio * lines.counts
    return mask & _has_stop_words(batch, stop_words, min_stop_words)


def repetition(
    batch: PageBatch,
    *,
    max_duplicate_line_ratio: float,
    max_duplicate_line_char_ratio: float,
    max_duplicate_paragraph_ratio: float,
    max_duplicate_paragraph_char_ratio: float,
    max_top_ngram_ratio: tuple[float, ...],
    max_duplicate_ngram_ratio: tuple[float, ...],
) -> KeepMask:
    """Screen for `repetition`; documents with equal lines are not kept by it."""
    mask = _has_distinct_lines(batch)
    mask &= ~batch.runs.has_frequent_runs(max_top_ngram_ratio)
    if max_duplicate_ngram_ratio:
        mask &= ~batch.runs.may_have_repeated_runs(5, min(max_duplicate_ngram_ratio))
    return mask


def boilerplate(batch: PageBatch, *, max_notice_ratio: float) -> KeepMask:
    """Screen for `boilerplate`."""
    positions = [position for phrase in (PLACEHOLDER, *NOTICES) for position in _positions(batch.lowered, phrase)]
    return (batch.count(np.sort(np.array(positions, np.int64))) == 0) & (max_notice_ratio >= 0)


SCREENS: Mapping[str, Screen] = {
    "length": length,
    "gopher_quality": gopher_quality,
    "repetition": repetition,
    "boilerplate": boilerplate,
}
"""The screen of each filter that has one; its keyword arguments are the settings of the filter."""


def _has_stop_words(batch: PageBatch, stop_words: tuple[str, ...] | None, minimum: int) -> KeepMask:
    """Return True for documents with `minimum` of the stop words of their language, or of `stop_words`."""
    languages = [stop_words or document.metadata.get("language") for document, _ in batch.documents]
    mask = np.zeros(len(languages), bool)
    for language in dict.fromkeys(languages):
        vocabulary = stop_words_of(language) if stop_words is None else stop_words
        selected = np.array([language == other for other in languages])
        has_words = batch.runs.distinct(vocabulary_hashes(vocabulary)) >= minimum if vocabulary else selected
        mask |= selected & has_words
    return mask


def _has_distinct_lines(batch: PageBatch) -> KeepMask:
    """Return False for documents of which two lines have the same words, in any order."""
    lines = batch.lines
    if not len(lines.first_words):
        return np.ones(len(lines.counts), bool)
    documents = np.repeat(np.arange(len(lines.counts)), lines.counts)
    keys = np.add.reduceat(batch.runs.words.hashes, lines.first_words) + documents.astype(np.uint64) * MIX_A
    order = np.argsort(keys)
    equal = keys[order[1:]] == keys[order[:-1]]
    mask = np.ones(len(lines.counts), bool)
    mask[documents[order[1:][equal]]] = False
    return mask


def _positions(data: bytes, phrase: bytes) -> Iterator[int]:
    """Yield the positions at which a phrase occurs."""
    position = data.find(phrase)
    while position >= 0:
        yield position
        position = data.find(phrase, position + 1)


_BULLET_BYTES = np.zeros(256, bool)
_BULLET_BYTES[[bullet.encode()[0] for bullet in BULLETS]] = True
_ELLIPSIS_ENDS = [int.from_bytes(ellipsis.encode()[-2:], "big") for ellipsis in ELLIPSES]
"""The last two bytes of each form of an ellipsis."""
