"""Filters of web pages: rules of C4 (Raffel et al. 2020, section 2.2) and FineWeb (Penedo et al. 2024, section 3.6).

C4 removes single lines; these filters keep or drop whole pages. The thresholds are those with which FineWeb was built.
"""

from __future__ import annotations

import re

from vita.data.curation.filter_table import FILTERS, Count, DropReason, Quantity, Ratio
from vita.data.curation.page_features import PageFeatures, repeated_share

TERMINAL_PUNCTUATION = (
    ".",
    "!",
    "?",
    '"',
    "'",
    "”",
    "’",
    "…",
    "。",
    "！",
    "？",
    "।",
    "؟",
    "۔",
    "։",
    "።",
    "၊",
    "။",
    "៕",
)
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？।؟۔։።။៕]")
PLACEHOLDER = b"lorem ipsum"
NOTICES = (
    b"enable javascript",
    b"terms of use",
    b"privacy policy",
    b"cookie policy",
    b"use of cookies",
    b"uses cookies",
)


@FILTERS.add("boilerplate")
def boilerplate(page: PageFeatures, *, max_notice_ratio: Quantity = 0.3) -> DropReason | None:
    """Drop placeholder text, and pages that are mostly web notices (phrases of C4, which removed only the lines)."""
    if PLACEHOLDER in page.lowered:
        return DropReason("placeholder", "contains `lorem ipsum`")
    notices = sum(page.lowered.count(phrase) for phrase in NOTICES)
    if notices > max_notice_ratio * len(page.lines):
        return DropReason("notices", f"{notices} web notices in {len(page.lines)} lines")
    return None


@FILTERS.add("c4")
def c4(
    page: PageFeatures,
    *,
    min_sentences: Count = 5,
    min_words_per_line: Count = 3,
    max_word_length: Count = 1000,
    drop_curly_brackets: bool = True,
    terminal_punctuation: bool = False,
) -> DropReason | None:
    """Drop pages with too few sentences in lines of prose, and pages with curly brackets, which are often code.

    Lines of prose have `min_words_per_line` words, no word over `max_word_length` characters and no web notice. With
    `terminal_punctuation`, they end with punctuation (C4's rule; it drops most pages, and FineWeb did not use it).
    """
    if drop_curly_brackets and "{" in page.text:
        return DropReason("curly_bracket", "contains `{`")
    sentences = 0
    for line in page.lines:
        if terminal_punctuation and not line.endswith(TERMINAL_PUNCTUATION):
            continue
        if _is_prose(line, min_words_per_line, max_word_length):
            sentences += len(_SENTENCE_END.findall(line))
            if sentences >= min_sentences:
                return None
    return DropReason("few_sentences", f"{sentences} sentences, under {min_sentences}")


@FILTERS.add("fineweb")
def fineweb(
    page: PageFeatures,
    *,
    min_punctuated_line_ratio: Ratio = 0.12,
    short_line_characters: Count = 30,
    max_short_line_ratio: Ratio = 0.67,
    max_duplicate_line_char_ratio: Ratio = 0.01,
    max_line_word_ratio: Quantity = 0.3,
) -> DropReason | None:
    """Drop pages that are lists or fragments: few lines end with punctuation, most are short, or many repeat.

    `max_line_word_ratio` is the number of line ends divided by the number of words.
    """
    lines = page.lines
    if not lines:
        return DropReason("no_lines", "no lines")
    share = sum(line.endswith(TERMINAL_PUNCTUATION) for line in lines) / len(lines)
    if share < min_punctuated_line_ratio:
        return DropReason("punctuated_lines", f"{share:.2f} of the lines, under {min_punctuated_line_ratio}")
    share = sum(len(line) <= short_line_characters for line in lines) / len(lines)
    if share > max_short_line_ratio:
        return DropReason("short_lines", f"{share:.2f} of the lines, over {max_short_line_ratio}")
    if (share := repeated_share(lines)[1]) > max_duplicate_line_char_ratio:
        return DropReason("duplicate_lines", f"{share:.3f} of the characters, over {max_duplicate_line_char_ratio}")
    if (share := page.text.count("\n") / max(1, page.word_count)) > max_line_word_ratio:
        return DropReason("line_ends", f"{share:.2f} per word, over {max_line_word_ratio}")
    return None


def _is_prose(line: str, min_words: int, max_word_length: int) -> bool:
    words = line.split()
    if len(words) < min_words and line.isascii():
        return False  # other scripts may have no spaces
    if len(line) > max_word_length and max(map(len, words)) > max_word_length:
        return False
    lowered = line.lower()
    return "javascript" not in lowered and not any(notice.decode() in lowered for notice in NOTICES)
