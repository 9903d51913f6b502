"""Screens of batches: filters applied after them have the results of filters applied to every page."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vita.data.content import normalize_text
from vita.data.curation.filter_screens import SCREENS
from vita.data.curation.filters import DEFAULT_FILTERS, FILTERS, FilterChain, FilterUse
from vita.data.curation.page_batch import PageBatch
from vita.data.curation.page_features import PageFeatures
from vita.data.records import Document

PROSE = """The harbour lies below the old town. In the morning the boats come back with what the night gave them.
People wait on the stones, some to buy and some to be with those who have been out on the water since dusk.
When the last boat is in, the women who mend the nets sit down along the wall that keeps the sea out of the market.
"""
PIECES = [
    "the", "of", "boats", "12", "--", "#tag", "wait...", "end…", "\n", "\n\n", "\n- item", "\n• item", "\ufeff", "æ",
    "the same words again and again", "漢字かな", "\u00a0", "\u2028", "terms of use",
    "lorem ipsum", "uses cookies", "x" * 90,
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join)
USES: list[Any] = [
    *DEFAULT_FILTERS,
    {"length": {"min_words": 3, "max_words": 20}},
    {"gopher_quality": {"max_symbol_ratio": 0.02, "min_mean_word_length": 2, "min_alpha_ratio": 0.3}},
    {"gopher_quality": {"max_bullet_line_ratio": 0.3, "max_ellipsis_line_ratio": 0.2, "min_stop_words": 1}},
    {"gopher_quality": {"stop_words": ("boats", "again"), "min_stop_words": 1}},
    {"repetition": {"max_top_ngram_ratio": (0.3, 0.3), "max_duplicate_ngram_ratio": (0.5,)}},
    {"boilerplate": {"max_notice_ratio": 0}},
    "fineweb",
]


def chain_of(*uses: Any) -> FilterChain:
    return FilterChain([FilterUse.model_validate(use) for use in uses])


def documents(texts: list[str], language: str | None = "en") -> list[tuple[Document, bytes]]:
    """Return documents as the first pass normalizes them."""
    pairs = map(normalize_text, texts)
    return [
        (Document(str(number), text, "s", None, {"language": language}), data)
        for number, (text, data) in enumerate(pairs)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("use", USES, ids=str)
@settings(max_examples=15, deadline=None)
@given(texts=st.lists(TEXTS, min_size=2, max_size=5))
def test_a_batch_has_the_results_of_single_pages(use: Any, texts: list[str]) -> None:
    pages, chain = documents(texts), chain_of(use)
    assert chain.verdicts(PageBatch(pages)) == [chain(PageFeatures(*page)) for page in pages]


def test_a_chain_returns_the_reason_of_its_first_filter() -> None:
    pages = documents([PROSE, "", "漢字" * 60, PROSE + "lorem ipsum", "of the " * 80, PROSE * 3])
    chain = chain_of(*DEFAULT_FILTERS, "fineweb")
    verdicts = chain.verdicts(PageBatch(pages))
    reasons = [None, "length.short", "fineweb.punctuated_lines", "boilerplate.placeholder"]
    reasons += ["gopher_quality.mean_word_length", "repetition.lines"]
    assert [verdict and verdict[0] for verdict in verdicts] == reasons
    assert verdicts == [chain(PageFeatures(*page)) for page in pages]


def test_screens_decide_prose_in_every_language_with_stop_words() -> None:
    german = "Der Hafen liegt unter der Stadt, und die Boote sind mit dem Fang nicht vor dem Abend da. " * 2
    batch = PageBatch([*documents([PROSE] * 3), *documents([german.replace("da. ", "da.\n", 1)], "de")])
    for name in DEFAULT_FILTERS:
        use = FilterUse.model_validate(name if name != "length" else {"length": {"min_words": 20}})
        kept = SCREENS[name](batch, **use.settings).tolist()
        assert kept[:3] == [True] * 3
        assert kept[3] == (name != "repetition")  # its two lines have the same words


def test_a_screen_has_the_settings_of_its_filter() -> None:
    assert SCREENS.keys() <= set(FILTERS.names())
    for name in SCREENS:
        SCREENS[name](PageBatch(documents(["a", "b"])), **FilterUse(name=name).settings)
