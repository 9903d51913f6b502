"""Filters of prose: the rules of Gopher (Rae et al. 2021, table A1) on length, words, symbols, lists and repetition.

They count words between white space: on tokens that split off punctuation, the same thresholds would drop good prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Int64, UInt64
from pydantic import AfterValidator

from vita.data.curation.filter_table import FILTERS, Count, DropReason, Quantity, Ratio
from vita.data.curation.page_features import PageFeatures, repeated_share
from vita.data.curation.scripts import is_alphabetic, scripts_of
from vita.data.curation.stop_words import ENGLISH, stop_words_of


def _single_word(text: str) -> str:
    if len(text.split()) != 1 or text != text.strip():
        raise ValueError(f"expected one word without white space, got {text!r}")
    return text


StopWord = Annotated[str, AfterValidator(_single_word)]


@FILTERS.add("length")
def length(page: PageFeatures, *, min_words: Count = 50, max_words: Count = 0) -> DropReason | None:
    """Drop pages with too few or, if `max_words` is not 0, too many words (Gopher: 50 to 100,000)."""
    if (words := page.words_up_to(min_words)) < min_words:
        return DropReason("short", f"{words} words, under {min_words}")
    if max_words and (words := page.word_count) > max_words:
        return DropReason("long", f"{words} words, over {max_words}")
    return None


@FILTERS.add("gopher_quality")
def gopher_quality(
    page: PageFeatures,
    *,
    min_mean_word_length: Quantity = 3.0,
    max_mean_word_length: Quantity = 10.0,
    max_symbol_ratio: Quantity = 0.1,
    max_bullet_line_ratio: Ratio = 0.9,
    max_ellipsis_line_ratio: Ratio = 0.3,
    min_alpha_ratio: Ratio = 0.8,
    stop_words: tuple[StopWord, ...] | None = None,
    min_stop_words: Count = 2,
) -> DropReason | None:
    """Drop pages that are not prose, by word length, symbols, lists, ellipses, letters and distinct stop words.

    Word length is checked only for alphabets with spaces between words. By default, the stop words are those of the
    identified language, if it has a list (see `stop_words`); they are checked only for text in their script.
    """
    words = page.word_count
    if not words or not page.characters:
        return DropReason("no_words", "no words")
    mean = page.characters / words
    if is_alphabetic(page.script) and not min_mean_word_length <= mean <= max_mean_word_length:
        return DropReason("mean_word_length", f"{mean:.1f} characters")
    if (share := page.lettered_words / page.num_words) < min_alpha_ratio:
        return DropReason("few_letters", f"{share:.2f} of the words have a letter, under {min_alpha_ratio}")
    for symbol in ("#", "...", "…"):
        share = page.text.count(symbol) / words
        if symbol == "#" and share > max_symbol_ratio:
            share -= sum(map(len, _HEADING.findall(page.text))) / words  # Markdown headings are not hashtags
        if share > max_symbol_ratio:
            return DropReason("symbols", f"{share:.2f} of `{symbol}` per word, over {max_symbol_ratio}")
    if share := _share_above(max_bullet_line_ratio, page.lines, lambda line: line.startswith(BULLETS)):
        return DropReason("bullets", f"{share:.2f} of the lines, over {max_bullet_line_ratio}")
    if share := _share_above(max_ellipsis_line_ratio, page.lines, lambda line: line.endswith(ELLIPSES)):
        return DropReason("ellipses", f"{share:.2f} of the lines, over {max_ellipsis_line_ratio}")
    return _few_stop_words(page, stop_words, min_stop_words)


@FILTERS.add("repetition")
def repetition(
    page: PageFeatures,
    *,
    max_duplicate_line_ratio: Ratio = 0.30,
    max_duplicate_line_char_ratio: Ratio = 0.20,
    max_duplicate_paragraph_ratio: Ratio = 0.30,
    max_duplicate_paragraph_char_ratio: Ratio = 0.20,
    max_top_ngram_ratio: tuple[Quantity, ...] = (0.20, 0.18, 0.16),
    max_duplicate_ngram_ratio: tuple[Ratio, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10),
) -> DropReason | None:
    """Drop pages with too many repeated lines, paragraphs or n-grams (Gopher's repetition rules).

    `max_top_ngram_ratio`: characters in the most frequent n-gram of 2, 3 and 4 words; `max_duplicate_ngram_ratio`:
    characters in words covered by n-grams of 5 to 10 words that occurred before. Both are ratios to the characters of
    all words.
    """
    for unit, max_ratio, max_char_ratio in (
        ("lines", max_duplicate_line_ratio, max_duplicate_line_char_ratio),
        ("paragraphs", max_duplicate_paragraph_ratio, max_duplicate_paragraph_char_ratio),
    ):
        if len(set(page.lines)) == len(page.lines):
            break  # a repeated paragraph has repeated lines
        share, characters = repeated_share(page.lines if unit == "lines" else page.paragraphs)
        if share > max_ratio:
            return DropReason(unit, f"{share:.2f} repeat an earlier one, over {max_ratio}")
        if characters > max_char_ratio:
            return DropReason(f"{unit}_characters", f"{characters:.2f} are in repeated {unit}, over {max_char_ratio}")
    return _top_runs(page, max_top_ngram_ratio) or _repeated_runs(page, max_duplicate_ngram_ratio)


# -- rules of a page


def _few_stop_words(page: PageFeatures, stop_words: tuple[str, ...] | None, minimum: int) -> DropReason | None:
    """Return a reason if there are fewer than `minimum` distinct stop words; by default those of the language."""
    words = stop_words_of(page.document.metadata.get("language")) if stop_words is None else stop_words
    if not words or (page.script and page.script not in scripts_of(words)):
        return None  # the language has no list, or the text is in another script
    distinct = page.distinct_words(words, limit=minimum)
    if distinct >= minimum:
        return None
    # Technical English is sometimes taken for another language.
    if stop_words is None and page.distinct_words(ENGLISH, limit=minimum) >= minimum:
        return None
    return DropReason("stop_words", f"{distinct} of {len(words)} kinds, under {minimum}")


BULLETS = ("•", "‣", "▶", "◀", "◦", "■", "□", "▪", "▫", "–", "- ", "* ")
_HEADING = re.compile(r"^#{1,6}(?= \S)", re.MULTILINE)
ELLIPSES = ("...", "…")


def _share_above(limit: float, lines: list[str], predicate: Callable[[str], bool]) -> float | None:
    """Return the share of the lines for which the predicate is true if it is above the limit, else None."""
    possible = total = len(lines)
    for line in lines:
        if not predicate(line):
            possible -= 1
            if possible <= limit * total:
                return None
    return possible / total if total and possible / total > limit else None


# -- runs of words


def _top_runs(page: PageFeatures, most: tuple[float, ...]) -> DropReason | None:
    """Gopher's "top n-gram" for n = 2, 3, ...; an n-gram that occurs once repeats nothing."""
    if not page.has_frequent_runs(most):
        return None
    for n, limit in enumerate(most, 2):
        runs = page.runs(n)
        if len(runs) and (frequency := _highest_count(runs)) > 1:
            share = frequency * _longest_with_count(runs, page.run_lengths(n), frequency) / page.characters
            if share > limit:
                return DropReason(f"top_{n}_words", f"{share:.2f} of the characters, over {limit}")
    return None


def _repeated_runs(page: PageFeatures, most: tuple[float, ...]) -> DropReason | None:
    """Gopher's "duplicate n-grams" for n = 5, 6, ..."""
    words = page.num_words
    if not most or words <= 5 or not page.may_have_repeated_runs(5, min(most)):
        return None
    for n, limit in enumerate(most, 5):
        if words <= n:
            return None
        share = page.words.lengths[_covered(_repeat_starts(page.runs(n)), n, words)].sum() / page.characters
        if share > limit:
            return DropReason(f"repeated_{n}_words", f"{share:.2f} of the characters, over {limit}")
        if share <= min(most):
            return None  # a longer run repeats only where a shorter one does, so no share can be larger
    return None


def _highest_count(runs: UInt64[np.ndarray, "R"]) -> int:
    ordered = np.sort(runs)
    group_ends = np.flatnonzero(ordered[1:] != ordered[:-1])
    if not len(group_ends):
        return len(runs)
    sizes = group_ends[1:] - group_ends[:-1]
    return int(max(group_ends[0] + 1, len(runs) - 1 - group_ends[-1], sizes.max(initial=0)))


def _longest_with_count(runs: UInt64[np.ndarray, "R"], lengths: Int64[np.ndarray, "R"], count: int) -> int:
    _, first, counts = np.unique(runs, return_index=True, return_counts=True)
    return int(lengths[first[counts == count]].max())


def _repeat_starts(runs: UInt64[np.ndarray, "R"]) -> Int64[np.ndarray, "P"]:
    """Return the start index of each run that occurred before."""
    order = np.argsort(runs, kind="stable")
    ordered = runs[order]
    return order[1:][ordered[1:] == ordered[:-1]]


def _covered(starts: Int64[np.ndarray, "P"], n: int, words: int) -> Bool[np.ndarray, "W"]:
    """Return a mask of the words inside the runs of `n` words that begin at `starts`."""
    change = np.zeros(words + 1, np.int64)
    change[starts] += 1  # at most one run begins at an index, so no index repeats
    change[starts + n] -= 1
    return np.cumsum(change)[:-1] > 0
